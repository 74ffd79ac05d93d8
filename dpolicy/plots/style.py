"""One look for every figure: plain figures on the Agg canvas, without pyplot and its global state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpolicy import _checks
from dpolicy._files import as_path, check_target, replacing

# Okabe & Ito (2008): told apart by readers with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
SUFFIXES = (".png", ".pdf", ".svg")


def line_style(index: int) -> tuple[str, str]:
    """Colour and dash of the curve with this index; the first 28 differ."""
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 5.0, height: float = 3.4
) -> tuple[Any, Any]:
    """A figure and its axes.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        width: Of a panel, in inches.
        height: Of a panel, in inches.

    Returns:
        A `matplotlib.figure.Figure` on an Agg canvas, and its axes, an object array `[rows, columns]`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        tidy(panel)
    return figure, axes


def tidy(axes: Any) -> None:
    """Take away what carries no information: the upper and right border; put a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def labels(names: Sequence[str]) -> list[str]:
    """The names with a number behind those that repeat, so that a legend has no two equal entries."""
    count: dict[str, int] = {}
    out: list[str] = []
    for name in names:
        label = name
        while label in out or names.count(label) > 1 or (label != name and label in names):
            count[name] = count.get(name, 0) + 1
            label = f"{name} ({count[name]})"
        out.append(label)
    return out


def check_path(path: Path | str) -> Path:
    """The path of a figure to be written.

    Raises:
        ValueError: Unless its suffix is one of `SUFFIXES`; if it is a directory, or where nothing may be written.
    """
    path = as_path("the figure's path", path)
    _checks.one_of("the figure's suffix", path.suffix, SUFFIXES)
    check_target(path)
    return path


def save(figure: Any, path: Path | str) -> Path:
    """Write a figure, creating its directory; the same figure gives the same bytes."""
    import matplotlib

    path = check_path(path)
    date = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}[path.suffix]
    with matplotlib.rc_context({"svg.hashsalt": "dpolicy"}), replacing(path) as beside:
        figure.savefig(beside, dpi=150, metadata=date, format=path.suffix[1:])
    return path


def step_unit(last: float) -> tuple[float, str]:
    """Factor and label for an axis of steps that ends at `last`."""
    for size, text in ((1e6, "million steps"), (1e3, "thousand steps")):
        if last >= 2 * size:
            return size, text
    return 1.0, "steps"


def band(axes: Any, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> None:
    """A shaded interval around a curve; points without bounds are left out."""
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
