"""Mazes drawn: walls, trajectories by route, and what a function of positions says everywhere."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Observation, Scalar
from dpolicy.envs import Maze, mazes
from dpolicy.plots.style import COLOURS, check_path, new_figure, save


def draw_maze(axes: Any, env: Maze) -> None:
    """Draw walls, start (S), goal (a disc of its radius) and the gates' letters, with equal scales and no axes.

    Args:
        axes: Of matplotlib.
        env: The maze.
    """
    width, height = np.asarray(env.size) / 2
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-width, width), ylim=(-height, height), aspect="equal", xticks=[], yticks=[])
    walls = np.ma.masked_equal(~mazes.open_cells(env.rows).T, False)
    extent = (-width, width, -height, height)
    axes.imshow(walls, origin="lower", extent=extent, cmap="Greys_r", vmin=-0.6, vmax=3, zorder=1)
    goal = np.asarray(env.goal)
    ring = np.linspace(0, 2 * np.pi, 60)
    radius = float(env.goal_radius)
    axes.plot(
        goal[0] + radius * np.cos(ring),
        goal[1] + radius * np.sin(ring),
        color="black",
        linewidth=1.2,
        zorder=4,
    )
    axes.text(*goal, "G", ha="center", va="center", fontsize=8, zorder=5)
    axes.text(*np.asarray(env.start), "S", ha="center", va="center", fontsize=8, zorder=5)
    for letter, gate in zip(mazes.GATES, np.asarray(env.gates), strict=False):
        axes.text(*gate, letter, ha="center", va="center", fontsize=8, zorder=5)


def draw_paths(axes: Any, env: Maze, paths: Sequence[Float[np.ndarray | Array, "_ o"]]) -> None:
    """Draw trajectories, a colour for each route (the gate that is entered first), grey where there is none.

    Args:
        axes: Of matplotlib.
        env: The maze.
        paths: Observations of each in turn; their first two numbers are drawn.
    """
    for path in paths:
        line = np.asarray(path)[:, :2]
        route = int(env.route(jnp.asarray(line)))
        colour = "0.55" if route < 0 else COLOURS[route % len(COLOURS)]
        axes.plot(line[:, 0], line[:, 1], color=colour, linewidth=0.8, alpha=0.6, zorder=3)


def draw_values(
    axes: Any,
    env: Maze,
    value: Callable[[Observation], Scalar],
    *,
    points: int = 6,
    limits: tuple[float, float] | None = None,
) -> Any:
    """Draw a function of the observation as colours over the free cells, such as a critic's value of a policy's action.

    Args:
        axes: Of matplotlib.
        env: The maze; with inertia the velocity is zero.
        value: `(obs) -> scalar` for ONE observation, e.g. `lambda obs: q(obs, policy(obs, key))`; it is compiled here.
        points: Along a cell's side.
        limits: Values of the first and the last colour; by default the least and the greatest that are met.

    Returns:
        The image, for `figure.colorbar`.

    Raises:
        ValueError: For a value that is no scalar.
    """
    _checks.function("value", value, "(obs) -> scalar")
    _checks.count("points", points)
    width, height = env.size
    x = (np.arange(width * points) + 0.5) / points - width / 2
    y = (np.arange(height * points) + 0.5) / points - height / 2
    at = jnp.asarray(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), float)
    seen = lambda position: value(env.reset_at(position)[1])
    found = jax.jit(jax.vmap(lambda position: jnp.asarray(_checks.returned("value", seen(position)))))(at)
    free = np.repeat(np.repeat(mazes.open_cells(env.rows).T, points, axis=0), points, axis=1)
    shown = np.ma.masked_array(np.asarray(found).reshape(len(y), len(x)), ~free)
    low, high = (shown.min(), shown.max()) if limits is None else limits
    extent = (-width / 2, width / 2, -height / 2, height / 2)
    return axes.imshow(shown, origin="lower", extent=extent, cmap="viridis", vmin=low, vmax=high, zorder=0)


def maze_figure(
    env: Maze,
    panels: Sequence[tuple[str, Sequence[Any]]],
    path: Path | str,
    *,
    title: str = "",
    across: int = 3,
) -> Path:
    """Draw the maze once for each panel, with trajectories coloured by route.

    Args:
        env: The maze.
        panels: For each its title and its trajectories, as `draw_paths` takes them.
        path: The figure: .png, .pdf or .svg.
        title: Above all panels.
        across: Panels in a row, at most.

    Returns:
        The path.

    Raises:
        ValueError: For another suffix, or no panels.
    """
    path = check_path(path)
    _checks.count("panels", len(panels))
    _checks.count("across", across)
    across = min(across, len(panels))
    down = -(-len(panels) // across)
    width, height = env.size
    figure, axes = new_figure(down, across, width=4.2, height=4.2 * height / width + 0.45)
    for ax in axes.ravel()[len(panels) :]:
        ax.set_axis_off()
    for ax, (label, paths) in zip(axes.ravel(), panels, strict=False):
        draw_maze(ax, env)
        draw_paths(ax, env, paths)
        ax.set_title(label, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    return save(figure, path)
