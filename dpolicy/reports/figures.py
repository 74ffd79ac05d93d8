"""The pictures of the Multi-Goal report."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dpolicy.envs import MultiGoal
from dpolicy.reports.multigoal import Measured

PANELS = 4  # in a row, so that none is too small to read


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=140)
    return path


def _arena(axes: Axes, env: MultiGoal) -> None:
    """Reward contours of resting, the goals, and equal scales."""
    axis, values = env.contours()
    axes.contour(axis, axis, np.asarray(values), levels=14, cmap="Greys_r", linewidths=0.6, alpha=0.8)
    for x, y in np.asarray(env.goals):
        axes.plot(x, y, marker="o", color="tab:red", markersize=9, markeredgecolor="white", zorder=5)
    axes.set(xlim=(-env.box, env.box), ylim=(-env.box, env.box), aspect="equal")


def trajectories(rows: list[Measured], env: MultiGoal, path: Path, *, paths_per_seed: int = 40) -> Path:
    """Paths from the origin over the reward contours, one panel per policy, one colour per seed (Figure 2, left)."""
    across = min(len(rows), PANELS)
    down = -(-len(rows) // across)
    figure = Figure(figsize=(3.4 * across, 3.8 * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    for axes, row in zip(panels, rows, strict=False):
        _arena(axes, env)
        for seed, paths in enumerate(row.paths):
            for line in paths[:paths_per_seed]:
                axes.plot(line[:, 0], line[:, 1], color=f"C{seed % 10}", linewidth=0.7, alpha=0.5)
        trained = "" if row.steps is None else f"\n{row.steps:,} steps a seed"
        axes.set_title(f"{row.label}{trained}", fontsize=10)
    seeds, episodes = len(rows[0].paths), min(paths_per_seed, rows[0].paths.shape[1])
    figure.suptitle(
        f"Multi-Goal: {episodes} episodes from (0, 0) of each of {seeds} seed{'s' * (seeds > 1)}, a colour for "
        "each seed;\nlines: reward, red: goals",
        fontsize=11,
    )
    return _save(figure, path)


def first_actions(rows: list[Measured], env: MultiGoal, path: Path, *, seed: int = 0) -> Path:
    """The first action's distribution at each saddle point, one row per policy, for one seed (Figure 2, right).

    Crosses mark the modes of the fitted mixture density; the square is the action box.
    """
    places = np.asarray(env.saddle_points)
    figure = Figure(figsize=(3.1 * len(places), 3.0 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(places), squeeze=False)
    for row, line in zip(rows, grid, strict=True):
        for i, axes in enumerate(line):
            cloud, modes = row.actions[seed, i], row.modes[seed][i]
            axes.scatter(cloud[:, 0], cloud[:, 1], s=4, alpha=0.25, linewidths=0, color="tab:blue")
            axes.plot(modes.positions[:, 0], modes.positions[:, 1], "x", color="black", markersize=8)
            axes.axhline(0, color="0.85", linewidth=0.6, zorder=0)
            axes.axvline(0, color="0.85", linewidth=0.6, zorder=0)
            axes.plot([-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1], color="0.6", linewidth=0.8)
            axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
            plural = "s" if modes.count > 1 else ""
            axes.set_title(f"at ({places[i][0]:g}, {places[i][1]:g}): {modes.count} mode{plural}", fontsize=9)
        line[0].set_ylabel(row.label, fontsize=10)
    samples = rows[0].actions.shape[2]
    figure.suptitle(
        f"Multi-Goal: first action from the saddle points, seed {seed}, {samples:,} samples each;\n"
        "crosses: modes of the density fitted to them, square: all that the environment executes",
        fontsize=11,
    )
    return _save(figure, path)
