"""A square table of numbers as colours with the numbers written in: which things are alike."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpolicy.plots.style import check_path, new_figure, save


def heat_map(
    panels: Sequence[tuple[str, np.ndarray, Sequence[Sequence[str]]]],
    names: Sequence[str],
    path: Path | str,
    *,
    title: str = "",
    limit: float = 1.0,
) -> Path:
    """Draw square tables side by side, blue for positive and red for negative numbers.

    Args:
        panels: For each its title, the numbers `[n, n]` (nan is left grey), and the text in each cell.
        names: What rows and columns are called, n of them.
        path: The figure: .png, .pdf or .svg.
        title: Above all panels.
        limit: Number at which a colour is full.

    Returns:
        The path.

    Raises:
        ValueError: For another suffix, or a table that is not n by n.
    """
    path = check_path(path)
    n = len(names)
    for label, values, text in panels:
        if np.shape(values) != (n, n) or [len(row) for row in text] != [n] * n:
            raise ValueError(f"{label} must be a table of {n} by {n}, got {list(np.shape(values))}.")
    side = max(2.6, 0.8 * n + 1.0)
    figure, axes = new_figure(1, len(panels), width=side + 0.4, height=side)
    for index, ((label, values, text), ax) in enumerate(zip(panels, axes[0], strict=True)):
        ax.grid(False)
        ax.set_facecolor("0.9")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        shown = np.ma.masked_invalid(np.asarray(values, float))
        ax.imshow(shown, cmap="RdBu", vmin=-limit, vmax=limit)
        for i, j in np.ndindex(n, n):
            dark = np.isfinite(values[i, j]) and abs(values[i, j]) > 0.65 * limit
            ax.text(
                j, i, text[i][j], ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )
        ax.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
        ax.set_yticks(range(n), [""] * n if index else names, fontsize=8)
        ax.set_title(label, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    return save(figure, path)
