"""Figures: learning curves and the style that every figure of the library shares."""

from dpolicy.plots.curves import Curve as Curve
from dpolicy.plots.curves import curve as curve
from dpolicy.plots.curves import learning_curve as learning_curve
from dpolicy.plots.matrix import heat_map as heat_map
from dpolicy.plots.mazes import draw_maze as draw_maze
from dpolicy.plots.mazes import draw_paths as draw_paths
from dpolicy.plots.mazes import draw_values as draw_values
from dpolicy.plots.mazes import maze_figure as maze_figure
from dpolicy.plots.style import COLOURS as COLOURS
from dpolicy.plots.style import band as band
from dpolicy.plots.style import labels as labels
from dpolicy.plots.style import line_style as line_style
from dpolicy.plots.style import new_figure as new_figure
from dpolicy.plots.style import save as save
from dpolicy.plots.style import tidy as tidy
