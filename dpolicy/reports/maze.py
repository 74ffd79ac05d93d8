"""The report on a maze: how often the goal is reached, and by which routes."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from rich.console import Console
from rich.table import Table

from dpolicy._types import Action, Key, Observation
from dpolicy.envs import Environment, Maze, mazes, unwrapped
from dpolicy.plots import maze_figure
from dpolicy.train import Run, policy_of
from dpolicy.train.intervals import interval_text

Policy = Callable[[Observation, Key], Action]


class Walks(NamedTuple):
    """Episodes in a maze.

    Attributes:
        success: Whether the goal was reached.
        lengths: Steps of each.
        routes: The gate that was entered first, -1 for none.
        paths: Positions after each of the policy's steps, constant after the episode's end.
    """

    success: Bool[Array, "*batch n"]
    lengths: Int[Array, "*batch n"]
    routes: Int[Array, "*batch n"]
    paths: Float[Array, "*batch n time 2"]


def maze_of(env: Environment) -> Maze:
    """The maze inside an environment's wrappers.

    Raises:
        ValueError: Where there is another environment.
    """
    maze = unwrapped(env)
    if not isinstance(maze, Maze):
        raise ValueError(f"env must be a maze, wrapped or not, got {env.spec.name}.")
    return maze


def walks(env: Environment, policy: Policy, key: Key, episodes: int) -> Walks:
    """Run `episodes` episodes of `policy`. What is passed within an action chunk is not seen."""
    maze = maze_of(env)
    newest = lambda obs: obs[-maze.spec.obs_size :][:2]

    def episode(key: Key) -> Any:
        reset_key, key = jax.random.split(key)
        state, obs = env.reset(reset_key)

        def one(carry: Any, key: Key) -> Any:
            state, obs, running = carry
            act_key, step_key = jax.random.split(key)
            new_state, new_obs, _, terminated = env.step(state, policy(obs, act_key), step_key)
            keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(running, a, b), new, old)
            state, obs = keep((new_state, new_obs), (state, obs))
            return (state, obs, running & ~terminated), (newest(obs), running)

        keys = jax.random.split(key, env.spec.time_limit)
        (_, _, running), (path, taken) = jax.lax.scan(one, (state, obs, jnp.asarray(True)), keys)
        path = jnp.concatenate([newest(obs)[None], path])
        return Walks(~running, jnp.sum(taken), maze.route(path), path)

    return jax.vmap(episode)(jax.random.split(key, episodes))


def measure(
    env: Environment,
    states: Any,
    policy_of_state: Callable[[Any], Policy],
    *,
    episodes: int = 200,
    seed: int = 0,
) -> Walks:
    """Walks of a vmapped sweep of policies, `[seeds, n, ...]`.

    Args:
        env: A maze, wrapped or not.
        states: Training states with a leading axis of seeds.
        policy_of_state: Turns one seed's state into `(obs, key) -> action`.
        episodes: For each seed.
        seed: Of the walks.
    """
    keys = jax.random.split(jax.random.key(seed), jax.tree.leaves(states)[0].shape[0])
    one = lambda state, key: walks(env, policy_of_state(state), key, episodes)
    return jax.device_get(jax.jit(jax.vmap(one))(states, keys))


def shares(found: Walks, gates: int) -> np.ndarray:
    """Share of the episodes that reached the goal by each route, `[seeds, gates]`."""
    reached = np.asarray(found.routes)[..., None] == np.arange(gates)
    return (reached & np.asarray(found.success)[..., None]).mean(axis=1)


HEADER = ("policy", "success %", "steps of those that arrive", "share of episodes by route, %, for each seed")


def row(label: str, found: Walks, env: Maze) -> list[str]:
    """A row of the table, text in the columns of `HEADER`: means over seeds with 95 % bootstrap intervals."""
    gates = [letter for letter in mazes.GATES if letter in "".join(env.rows)]
    routes = shares(found, len(gates))
    lengths = np.where(found.success, found.lengths, np.nan)
    arrived = ~np.isnan(lengths).all(axis=1)
    steps = interval_text(np.nanmean(lengths[arrived], axis=1), digits=3) if arrived.any() else "-"
    each = ", ".join("/".join(f"{100 * share:.0f}" for share in of_seed) for of_seed in routes)
    return [
        label,
        interval_text(100 * np.mean(found.success, axis=1), digits=3),
        steps,
        f"{'/'.join(gates)}: {each}",
    ]


def markdown(rows: list[list[str]]) -> str:
    """Rows as a Markdown table under `HEADER`."""
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADER, ["---"] * len(HEADER), *rows)]
    return "\n".join(lines) + "\n"


def report(run: Run, directory: Path, *, progress: bool = True, episodes: int = 200) -> list[list[str]]:
    """Walk the maze `episodes` times with each seed's policy, as it evaluates and as it explores.

    Writes `maze.md` (success, steps, shares of the routes), `maze.json` (the same for each seed) and `routes.png`.
    """
    maze = maze_of(run.env)
    alive = np.flatnonzero(np.asarray(run.state.alive))
    rows, panels, numbers = [], [], []
    for mode in ("evaluate", "explore"):
        found = measure(run.env, run.state, partial(policy_of, run.algorithm, mode=mode), episodes=episodes)
        found = jax.tree.map(lambda leaf: np.asarray(leaf)[alive], found)
        label = f"{run.algorithm_name}, {mode}"
        rows.append(row(label, found, maze))
        panels.append((f"{label}: seed {alive[0]}", list(found.paths[0][:40])))
        numbers.append(
            {
                "policy": label,
                "success": found.success.mean(axis=1).tolist(),
                "routes": shares(found, len(maze.gates)).tolist(),
            }
        )
    (directory / "maze.md").write_text(markdown(rows), encoding="utf-8")
    (directory / "maze.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    maze_figure(maze, panels, directory / "routes.png", title=f"{maze.spec.name}, a colour for each route")
    shown = Table(title=f"{maze.spec.name}: {episodes} episodes of each seed", title_justify="left")
    for name in HEADER:
        shown.add_column(name)
    for cells in rows:
        shown.add_row(*cells)
    Console().print(shown)
    return rows
