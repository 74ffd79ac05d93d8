"""The Multi-Goal report: the paper's Table 1 and Figure 2, measured on trained policies (arXiv 2603.04790, 4.1)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpolicy._types import Action, Key, Observation
from dpolicy.envs import Environment, MultiGoal, unwrapped
from dpolicy.reports.modes import Modes, find_modes
from dpolicy.train.intervals import interval_text

Policy = Callable[[Observation, Key], Action]


class Rollouts(NamedTuple):
    """Episodes from one start, or from the environment's own.

    Attributes:
        returns: Undiscounted return of each episode, `[n]`.
        goals: Share of the episodes that ended in each goal, `[goals]`; what is missing from 1 ended in none.
        actions: The first action of each, as the environment executed it, `[n, 2]`.
        paths: Positions after each of the policy's steps, constant after the episode's end, `[n, horizon + 1, 2]`.
    """

    returns: Array
    goals: Array
    actions: Array
    paths: Array


def plane_of(env: Environment) -> MultiGoal:
    """The Multi-Goal plane inside an environment's wrappers.

    Raises:
        ValueError: Where there is another environment.
    """
    plane = unwrapped(env)
    if not isinstance(plane, MultiGoal):
        raise ValueError(f"env must be Multi-Goal, wrapped or not, got {env.spec.name}.")
    return plane


def rollouts(
    env: Environment, policy: Policy, start: Float[Array, " 2"] | None, key: Key, episodes: int
) -> Rollouts:
    """Run `episodes` episodes of `policy` until a goal or the horizon, from `start` or (None) as `env` starts."""
    plane = plane_of(env)
    if start is not None:
        env = eqx.tree_at(unwrapped, env, plane.starting_at(start))

    def episode(key: Key) -> tuple[Any, ...]:
        reset_key, key = jax.random.split(key)
        state, obs = env.reset(reset_key)
        first = obs[-2:]

        def one(carry: Any, key: Key) -> tuple[Any, Any]:
            state, obs, total, running = carry
            act_key, step_key = jax.random.split(key)
            action = policy(obs, act_key)
            new_state, new_obs, reward, terminated = env.step(state, action, step_key)
            keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(running, a, b), new, old)
            state, obs = keep((new_state, new_obs), (state, obs))
            total = total + jnp.where(running, reward, 0.0)
            return (state, obs, total, running & ~terminated), (jnp.clip(action[:2], -1, 1), obs[-2:])

        carry = (state, obs, jnp.zeros(()), jnp.asarray(True))
        (_, obs, total, running), (actions, path) = jax.lax.scan(
            one, carry, jax.random.split(key, env.spec.time_limit)
        )
        distance = jnp.linalg.norm(obs[None, -2:] - plane.goals, axis=-1)
        reached = ~running & (jnp.arange(len(plane.goals)) == jnp.argmin(distance))
        return total, reached, actions[0], jnp.concatenate([first[None], path])

    returns, reached, actions, paths = jax.vmap(episode)(jax.random.split(key, episodes))
    return Rollouts(returns, jnp.mean(reached, axis=0), actions, paths)


class Measured(NamedTuple):
    """One way of acting, measured at every saddle point for every seed.

    Attributes:
        label: What acted.
        steps: Environment steps that each seed was trained for; None where that is not known.
        returns: Mean return, `[seeds, saddles]`.
        everywhere: Mean return from the environment's own starts, on which the policy was trained, `[seeds]`.
        goals: Share of episodes per goal, `[seeds, saddles, goals]`.
        modes: Modes of the first action, by seed and saddle.
        actions: First actions, `[seeds, saddles, n, 2]`.
        paths: Positions from the origin, `[seeds, n, horizon + 1, 2]`.
    """

    label: str
    steps: int | None
    returns: np.ndarray
    everywhere: np.ndarray
    goals: np.ndarray
    modes: list[list[Modes]]
    actions: np.ndarray
    paths: np.ndarray


def measure(
    label: str,
    env: Environment,
    states: Any,
    policy_of: Callable[[Any], Policy],
    *,
    seed: int = 0,
    episodes: int = 1_000,
    steps: int | None = None,
    alive: np.ndarray | None = None,
) -> Measured:
    """Measure a vmapped sweep of policies from each saddle point, and from where it was trained to start.

    Args:
        label: Name of the row.
        env: The environment they were trained on: Multi-Goal, wrapped or not. Of a chunk the first action is
            measured, of a stack the newest frame.
        states: Training states with a leading axis of seeds.
        policy_of: Turns one seed's state into `(obs, key) -> action`.
        seed: Of the rollouts.
        episodes: Rollouts per seed and start.
        steps: Environment steps of its training, to be shown.
        alive: Which seeds to report; all unless given.
    """

    saddles = plane_of(env).saddle_points

    def everything(state: Any, key: Key) -> tuple[Rollouts, Array]:
        policy = policy_of(state)
        *keys, own = jax.random.split(key, len(saddles) + 1)
        found = jax.vmap(lambda start, key: rollouts(env, policy, start, key, episodes))(
            saddles, jnp.stack(keys)
        )
        return found, jnp.mean(rollouts(env, policy, None, own, episodes).returns)

    seeds = jax.tree.leaves(states)[0].shape[0]
    keys = jax.random.split(jax.random.key(seed), seeds)
    found = jax.device_get(jax.jit(jax.vmap(everything))(states, keys))
    kept = np.arange(seeds) if alive is None else np.flatnonzero(alive)
    (returns, goals, actions, paths), everywhere = jax.tree.map(lambda leaf: np.asarray(leaf)[kept], found)
    modes = [[find_modes(cloud) for cloud in of_seed] for of_seed in actions]
    return Measured(label, steps, returns.mean(axis=-1), everywhere, goals, modes, actions, paths[:, 0])


class Block(NamedTuple):
    """A table: its title, its columns and its rows of text."""

    title: str
    header: list[str]
    rows: list[list[str]]


def blocks(rows: list[Measured], env: MultiGoal) -> list[Block]:
    """The measurements as tables: rewards (mean over seeds, 95 % bootstrap interval), goals reached, modes."""
    places = [f"({x:g}, {y:g})" for x, y in np.asarray(env.saddle_points)]
    reward, modes, goals = [], [], []
    for row in rows:
        columns = [*row.returns.T, row.everywhere]
        steps = "-" if row.steps is None else f"{row.steps:,}"
        reward.append([row.label, steps, *(interval_text(column, digits=3) for column in columns)])
        counts = [", ".join(str(of_seed[i].count) for of_seed in row.modes) for i in range(len(places))]
        modes.append([row.label, *counts])
        goals.append([row.label, *("/".join(f"{100 * x:.0f}" for x in of_seed[0]) for of_seed in row.goals)])
    seeds = [f"seed {seed}" for seed in range(len(rows[0].goals))]
    return [
        Block(
            "Reward of an episode, from each saddle point and from all starts of training: mean, 95 % interval",
            ["policy", "steps a seed", *places, "all starts"],
            reward,
        ),
        Block("Goals reached from (0, 0), % of episodes: E/W/N/S", ["policy", *seeds], goals),
        Block(
            "Modes of the first action, per seed: peaks of a density fitted to it, of which one goal may have several",
            ["policy", *places],
            modes,
        ),
    ]


def table(rows: list[Measured], env: MultiGoal) -> str:
    """The measurements as Markdown."""
    lines = []
    for block in blocks(rows, env):
        lines += [f"{block.title}:", ""]
        lines += [f"| {' | '.join(cells)} |" for cells in (block.header, ["---"] * len(block.header))]
        lines += [f"| {' | '.join(cells)} |" for cells in block.rows] + [""]
    return "\n".join(lines).rstrip() + "\n"


def as_json(rows: list[Measured]) -> list[dict[str, Any]]:
    """The measurements as plain numbers, per seed and saddle point (or all starts)."""
    return [
        {
            "policy": row.label,
            "steps": row.steps,
            "returns": row.returns.tolist(),
            "all_starts": row.everywhere.tolist(),
            "goals": row.goals.tolist(),
            "modes": [[m.count for m in of_seed] for of_seed in row.modes],
            "components": [[m.components for m in of_seed] for of_seed in row.modes],
            "entropy": [[m.entropy for m in of_seed] for of_seed in row.modes],
        }
        for row in rows
    ]
