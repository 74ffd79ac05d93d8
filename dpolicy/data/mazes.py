"""Data sets of the mazes: a planner that knows the shortest ways, followed with noise."""

from functools import cache, partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Transition
from dpolicy.envs import Maze
from dpolicy.envs import mazes as layouts

_AT_ONCE = 64  # episodes of one compiled program
_ERRANDS = 64  # goals that an episode is given at most, one after another
_STEPS = 200  # of an episode whose goals follow one another
_BODY = 0.3  # half the width of what must pass beside a wall for a straight line to be a way, in cells
_SAMPLES = 64  # points at which a line is looked at


class _Kind(NamedTuple):
    """How the episodes of a data set are made.

    Attributes:
        steps: The most of an episode; None is the maze's own time limit.
        noise: Standard deviation on the actions.
        errands: Goals of an episode, one after another; with the last one it ends.
        reach: Goals are drawn within so many moves of where the way to them begins; None for any.
    """

    steps: int | None
    noise: float
    errands: int
    reach: int | None = None


KINDS = {
    "navigate": _Kind(_STEPS, 0.3, _ERRANDS),
    "play": _Kind(None, 0.3, 1),
    "diverse": _Kind(None, 0.3, 1),
    "expert": _Kind(None, 0.1, 2),
    "stitch": _Kind(20, 0.3, 1, reach=4),
}


def _in_sight(rows: tuple[str, ...]) -> np.ndarray:
    """Between which free cells' middles a straight line keeps clear of walls, `[n, n]`."""
    free, cells = layouts.open_cells(rows), layouts.free_cells(rows) + 0.5
    clear = np.ones((len(cells), len(cells)), bool)
    for share in np.linspace(0.0, 1.0, _SAMPLES):
        line = cells[:, None] + share * (cells[None] - cells[:, None])
        for corner in ((-_BODY, -_BODY), (-_BODY, _BODY), (_BODY, -_BODY), (_BODY, _BODY)):
            at = np.floor(line + np.asarray(corner)).astype(int)
            clear &= free[at[..., 0], at[..., 1]]
    return clear


@cache
def aims(rows: tuple[str, ...]) -> np.ndarray:
    """Where to aim from a cell on the way to another, `[n to, n from]`, as numbers of `layouts.free_cells`.

    The way is a shortest one by breadth-first search, of equal moves the one that comes closest to its end; the aim is
    the farthest cell on it to which a straight line keeps clear of walls.
    """
    moves, near, sight = layouts.distances(rows), layouts.neighbours(rows), _in_sight(rows)
    cells = layouts.free_cells(rows)
    straight = np.linalg.norm(cells[:, None] - cells[None], axis=-1)
    # [to, from, over]: a neighbour that is one move closer.
    closer = near[None] & (moves[:, None, :] == moves[:, :, None] - 1)
    onward = np.where(closer, straight[:, None, :], np.inf).argmin(axis=-1)
    here = np.arange(len(cells))
    onward[here, here] = here
    aim = at = onward
    for _ in range(int(moves.max())):
        at = np.take_along_axis(onward, at, axis=1)
        aim = np.where(sight[here[None], at], at, aim)
    return aim


class _Map(eqx.Module):
    """The planner's tables as arrays: the number of each cell, `[w, h]`, where to aim, and the cells' middles."""

    number: Int[Array, "w h"]
    aim: Int[Array, "n n"]
    middles: Float[Array, "n 2"]

    @classmethod
    def of(cls, env: Maze) -> "_Map":
        cells = layouts.free_cells(env.rows)
        number = np.zeros(env.size, int)
        number[tuple(cells.T)] = np.arange(len(cells))
        return cls(jnp.asarray(number), jnp.asarray(aims(env.rows)), env.centre(cells))


def _steered(env: Maze, towards: Float[Array, "2"], velocity: Float[Array, "2"]) -> Action:
    """The action that moves straight towards a place with all speed, and stops there; before noise and clipping."""
    wanted = towards * env.speed / jnp.maximum(jnp.max(jnp.abs(towards)), env.speed)
    if env.inertia is not None:
        wanted = (wanted - env.inertia * velocity) / (1.0 - env.inertia)
    return wanted / env.speed


# Compiled once for all kinds of a maze: their numbers of errands and steps are arguments.
@eqx.filter_jit
def _played(
    env: Maze,
    starts: Int[Array, " n"],
    goals: Int[Array, "n g"],
    errands: Array,
    steps: Array,
    noise: Array,
    keys: Array,
) -> tuple[Transition, Bool[Array, "n time"]]:
    """Episodes that run errands, and which of their steps were taken before the last one was done."""
    known, most = _Map.of(env), max(_STEPS, env.spec.time_limit)

    def episode(start: Array, goals: Array, key: Key) -> tuple[Transition, Array]:
        place_key, run_key = jax.random.split(key)
        spread = env.start_range * jax.random.uniform(place_key, (2,), minval=-1.0, maxval=1.0)

        def one(carry: tuple[Array, ...], count: Array) -> tuple[tuple[Array, ...], tuple[Transition, Array]]:
            state, obs, errand, going = carry
            goal = goals[jnp.minimum(errand, errands - 1)]
            cell = env.cell(obs[:2])
            aim = known.middles[known.aim[goal, known.number[cell[0], cell[1]]]]
            draw = jax.random.normal(jax.random.fold_in(run_key, count), (2,))
            action = jnp.clip(_steered(env, aim - obs[:2], state[2:]) + noise * draw, -1.0, 1.0)
            new, next_obs, reward, terminated = env.step(state, action, run_key)
            met = jnp.sum((next_obs[:2] - known.middles[goal]) ** 2) < env.goal_radius**2
            errand = errand + met
            goes_on = (errand < errands) & (count + 1 < steps)
            truncated = ~goes_on & ~terminated
            seen = Transition(obs, action, reward, next_obs, terminated, truncated)
            return (new, next_obs, errand, going & goes_on), (seen, going)

        begin = (*env.reset_at(known.middles[start] + spread), jnp.zeros((), jnp.int32), jnp.asarray(True))
        return jax.lax.scan(one, begin, jnp.arange(most))[1]

    return jax.vmap(episode)(starts, goals, keys)


def _errands(kind: str, env: Maze, first: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Starts `[n]` and goals `[n, g]` of the next episodes, as numbers of free cells."""
    rows, plan = env.rows, KINDS[kind]
    at = lambda cell: layouts.cell_index(rows, cell)
    start, goal = at(layouts.marked(rows, layouts.START)), at(layouts.marked(rows, layouts.GOAL))
    gates = np.array([at(cell) for cell in layouts.gates(rows)])
    cells = len(layouts.free_cells(rows))
    if kind == "expert":
        routes = (first + np.arange(_AT_ONCE)) % len(gates)
        return np.full(_AT_ONCE, start), np.stack([gates[routes], np.full(_AT_ONCE, goal)], axis=1)
    if kind == "play":
        ends = np.array([rng.choice([start, goal, *gates], 2, replace=False) for _ in range(_AT_ONCE)])
        return ends[:, 0], ends[:, 1:]
    moves = layouts.distances(rows)
    starts, goals = rng.integers(cells, size=_AT_ONCE), []
    for begin in starts:
        way = [begin]
        for _ in range(plan.errands):
            near = (moves[way[-1]] > 0) & (moves[way[-1]] <= (plan.reach or cells))
            way.append(rng.choice(np.flatnonzero(near)))
        goals.append(way[1:])
    return starts, np.array(goals)


def maze_data(
    kind: str,
    layout: str | Maze = "four",
    *,
    steps: int = 20_000,
    seed: int = 0,
    noise: Number | None = None,
) -> Transition:
    """A data set of a maze: a planner that knows the shortest ways, followed with noise on its actions.

    The planner aims at the farthest cell of the way that it sees, at full speed, a = (aim - s) / max(|aim - s|_max, u),
    and what is executed and stored is clip(a + noise eps, -1, 1), eps ~ N(0, I).

    | kind | episodes | noise |
    |---|---|---|
    | navigate | from anywhere to goals anywhere, one after another, 200 steps | 0.3 |
    | play | between two of the places start, goal and gates | 0.3 |
    | diverse | from anywhere to a goal anywhere | 0.3 |
    | expert | from the start through a gate to the goal, all gates in turn: routes in equal shares | 0.1 |
    | stitch | from anywhere to a goal at most 4 moves away, at most 20 steps | 0.3 |

    In no episode of "stitch" is the goal reached from the start, where they are farther apart than 20 steps go; all
    together they cover the way.

    The rows are in the order of time, episode after episode, exactly `steps` of them. Rewards are the maze's own: every
    row that arrives at the maze's goal has its reward and is `terminated`, also where the episode of the data went on
    from there, as it does for other goals. Where an episode of the data ends without that, and in the last row, it is
    `truncated`.

    Args:
        kind: One of the table's.
        layout: A name of `dpolicy.envs.mazes.LAYOUTS`, rows of text, or a `Maze` with settings of its own.
        steps: Rows.
        seed: Of everything that is drawn.
        noise: Standard deviation of the noise; None is the table's.

    Raises:
        ValueError: For an unknown kind or layout, a number out of its range, or a kind that needs gates in a maze
            without any.
    """
    _checks.one_of("kind", kind, tuple(KINDS))
    env = layout if isinstance(layout, Maze) else Maze(layout)
    _checks.count("steps", steps)
    _checks.integer("seed", seed, 0, 2**32 - 1)
    plan = KINDS[kind]
    noise = plan.noise if noise is None else noise
    _checks.non_negative("noise", noise)
    if kind in ("expert", "play") and not layouts.gates(env.rows):
        raise ValueError(
            f"kind must be one of navigate, diverse, stitch in a maze without gates, got {kind!r}."
        )
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    limit = env.spec.time_limit if plan.steps is None else plan.steps
    parts: list[Transition] = []
    rows = episodes = 0
    while rows < steps:
        starts, goals = _errands(kind, env, episodes, rng)
        keys = jax.vmap(partial(jax.random.fold_in, key))(episodes + jnp.arange(_AT_ONCE))
        goals = np.pad(goals, ((0, 0), (0, _ERRANDS - plan.errands)))
        numbers = map(jnp.asarray, (starts, goals, plan.errands, limit, float(noise)))
        seen, going = _played(env, *numbers, keys)
        kept = np.asarray(going)
        parts.append(jax.tree.map(lambda leaf, kept=kept: np.asarray(leaf)[kept], seen))
        rows, episodes = rows + int(kept.sum()), episodes + _AT_ONCE
    data = jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)[:steps]), *parts)
    return eqx.tree_at(lambda d: d.truncated, data, data.truncated.at[-1].set(~data.terminated[-1]))


def relabelled(data: Transition, env: Maze) -> Transition:
    """The same steps for another task of the maze: its goal, radius and reward (`Maze` with another G, say).

    Rewards and terminations are those of arriving at the goal of `env`. A row that ended the task for which it was
    recorded, and does not end this one, is `truncated`, unless the next row goes on from where it led to.

    Raises:
        ValueError: For what is no data set, no maze, or observations of another size.
    """
    _checks.instance("data", data, Transition, "a Transition")
    _checks.instance("env", env, Maze, "a Maze")
    if data.next_obs.shape[-1] != env.spec.obs_size:
        raise ValueError(
            f"data must have observations of size {env.spec.obs_size} ({env.spec.name}), got {data.next_obs.shape[-1]}."
        )
    arrived = jax.vmap(env.arrived)(data.next_obs[:, :2])
    goes_on = jnp.append(jnp.all(data.next_obs[:-1] == data.obs[1:], axis=1), False)
    cut = data.truncated | (data.terminated & ~goes_on)
    ends = (env.rewarded(arrived), arrived, cut & ~arrived)
    return eqx.tree_at(lambda d: (d.reward, d.terminated, d.truncated), data, ends)
