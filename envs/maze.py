"""A point mass in a maze: walls, one goal, and routes to it that are equally long."""

from typing import Literal

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Observation, Scalar
from dpolicy.envs import mazes
from dpolicy.envs.protocol import Environment, Spec, check_action, clip_action

MARGIN = 1e-3  # of a cell: how far before a wall a mass comes to rest, so that rounding leaves it in its cell


def slide(
    free: Bool[Array, "w h"], place: Float[Array, "2"], move: Float[Array, "2"]
) -> tuple[Float[Array, "2"], Bool[Array, "2"]]:
    """Where a straight move leads among walls without friction, and which coordinates a wall has stopped.

    The move crosses at most one face of its cell in each coordinate. They are taken in the order in which the straight
    line meets them: behind a free cell the move goes on in that cell; before a wall the coordinate stops, `MARGIN` in
    front of it, and the other one goes on along the wall. So nothing passes a wall, nor a corner that the line would
    not pass.

    Args:
        free: Which cells are free, by column and row; those at the border are walls.
        place: Where the move begins, in a free cell; cell (i, j) is [i, i + 1) x [j, j + 1).
        move: Its length in each coordinate, below 1.
    """
    cell = jnp.floor(place).astype(jnp.int32)
    forward = move > 0
    face = cell + forward
    target = place + move
    crosses = jnp.where(forward, target >= face, target < face)
    time = jnp.where(crosses, (face - place) / jnp.where(crosses, move, 1.0), jnp.inf)
    onward = jnp.where(forward, 1, -1)
    second = time[0] > time[1]
    hit = jnp.zeros(2, bool)
    for axis in (second.astype(jnp.int32), 1 - second.astype(jnp.int32)):
        along = jnp.arange(2) == axis
        entered = cell + jnp.where(along, onward, 0)
        met = jnp.any(crosses & along)
        open_ = free[entered[0], entered[1]]
        hit = hit | (along & met & ~open_)
        cell = jnp.where(met & open_, entered, cell)
    stopped = face - jnp.where(forward, MARGIN, -MARGIN)
    return jnp.where(hit, stopped, target), hit


class Maze(Environment):
    """Reach the goal: a point mass between walls, with a sparse reward.

    With the action a in [-1, 1]^2, inertia m and speed u (in cells a step), velocity and place follow

        v' = m v + (1 - m) u clip(a, -1, 1),   s' = s + v',

    where a wall stops the coordinate that meets it, whose velocity becomes zero, and the other one slides on (`slide`;
    no step passes a wall, however fast). Without inertia (the default) the action is the velocity and the observation
    the position (2 numbers); with inertia it is position and velocity (4 numbers). Positions are in cells from the
    middle of the maze, x to the east, y to the north. Where |s' - goal| < goal_radius the episode terminates, with

        reward = [success] - 1   (`reward="cost"`: -1 a step until the goal)   or   [success]   (`reward="success"`).

    In the layout "four" four corridors lead from the start (west) to the goal (east). Both coordinates are limited
    alike, so what a way takes is its length in the maximum norm, which is the same for all four. So it is in "large",
    whose corridors wind and have dead ends. Terminating is success: evaluations tell the rate (`evaluate/success`).

    Source: our own; after the mazes of D4RL (arXiv 2004.07219) and OGBench (arXiv 2410.20092), whose single tasks have
    the reward "cost", too.

    Args:
        layout: A name in `dpolicy.envs.mazes.LAYOUTS`, or rows of text: # wall, . free, S start, G goal, a to h gates,
            the cells by which routes are told apart.
        inertia: m, the share of the velocity that a step keeps.
        speed: u, cells that a step moves by at full action in each coordinate.
        goal_radius: Distance within which the goal is reached, in cells.
        reward: "cost" or "success".
        starts: "start" for places around the start, "anywhere" for the free cells alike.
        start_range: Starts are uniform within this distance of the cell's centre, in each coordinate.
        time_limit: Steps after which an episode is cut; None is the layout's own (100 of "four", 250 of "large" and of
            your own).

    Speed, inertia above zero, radius and start range are arrays and may be mapped over by `vmap`; the rest is static.

    Raises:
        ValueError: For a value out of its range, an unknown layout, or one without a way to the goal.
    """

    spec: Spec
    inertia: Float[Array, "*batch"] | None
    speed: Float[Array, "*batch"]
    goal_radius: Float[Array, "*batch"]
    start_range: Float[Array, "*batch"]
    rows: tuple[str, ...] = eqx.field(static=True)
    reward: str = eqx.field(static=True)
    starts: str = eqx.field(static=True)

    def __init__(
        self,
        layout: str = "four",
        *,
        inertia: Number = 0.0,
        speed: Number = 0.4,
        goal_radius: Number = 0.5,
        reward: Literal["cost", "success"] = "cost",
        starts: Literal["start", "anywhere"] = "start",
        start_range: Number = 0.25,
        time_limit: int | None = None,
    ):
        self.rows = mazes.rows_of(layout)
        _checks.in_range("inertia", inertia, 0.0, 0.99)
        _checks.in_range("speed", speed, 0.0, 0.9, open_low=True)
        _checks.positive("goal_radius", goal_radius)
        _checks.one_of("reward", reward, ("cost", "success"))
        _checks.one_of("starts", starts, ("start", "anywhere"))
        _checks.in_range("start_range", start_range, 0.0, 0.49)
        limit = mazes.TIME_LIMITS.get(layout, 250) if time_limit is None else time_limit
        _checks.integer("time_limit", limit)
        # Whether there is inertia decides sizes; a traced one has some.
        still = not isinstance(inertia, jax.core.Tracer) and float(inertia) == 0.0
        name = layout if layout in mazes.LAYOUTS else "own"
        self.spec = Spec(f"maze/{name}", 2 if still else 4, 2, limit, success=True)
        self.inertia = None if still else jnp.asarray(inertia, float)
        self.speed = jnp.asarray(speed, float)
        self.goal_radius = jnp.asarray(goal_radius, float)
        self.start_range = jnp.asarray(start_range, float)
        self.reward, self.starts = reward, starts

    @property
    def size(self) -> tuple[int, int]:
        """Cells from west to east, and from south to north."""
        return len(self.rows[0]), len(self.rows)

    @property
    def free(self) -> Bool[Array, "w h"]:
        """Which cells are free, by column from the west and row from the south."""
        return jnp.asarray(mazes.open_cells(self.rows))

    def _middle(self) -> Float[Array, "2"]:
        return 0.5 * jnp.asarray(self.size, float)

    def centre(self, cell: Int[Array, "*n 2"] | np.ndarray | tuple[int, int]) -> Float[Array, "*n 2"]:
        """The position of a cell's middle."""
        centre = jnp.asarray(cell, float) + 0.5
        return centre - jnp.broadcast_to(self._middle(), centre.shape)

    def cell(self, position: Float[Array, "*n 2"]) -> Int[Array, "*n 2"]:
        """The cell that a position lies in."""
        middle = jnp.broadcast_to(self._middle(), jnp.shape(position))
        return jnp.floor(position + middle).astype(jnp.int32)

    @property
    def start(self) -> Float[Array, "2"]:
        """The middle of the start."""
        return self.centre(mazes.marked(self.rows, mazes.START))

    @property
    def goal(self) -> Float[Array, "2"]:
        """The middle of the goal."""
        return self.centre(mazes.marked(self.rows, mazes.GOAL))

    @property
    def gates(self) -> Float[Array, "k 2"]:
        """The middles of the gates, in the order of their letters."""
        return self.centre(np.reshape(mazes.gates(self.rows), (-1, 2)))

    def arrived(self, position: Float[Array, "2"]) -> Bool[Array, ""]:
        """Whether a position counts as the goal."""
        return jnp.sum((position - self.goal) ** 2) < self.goal_radius**2

    def rewarded(self, arrived: Bool[Array, "*n"]) -> Float[Array, "*n"]:
        """The reward of a step, by whether it arrived."""
        return jnp.asarray(arrived, float) - (1.0 if self.reward == "cost" else 0.0)

    def route(self, path: Float[Array, "time 2"]) -> Int[Array, ""]:
        """Which gate's cell a path enters first, by its number; -1 where it enters none."""
        gates = np.reshape(mazes.gates(self.rows), (-1, 2))
        within = jnp.all(self.cell(path)[:, None] == jnp.asarray(gates)[None], axis=-1)  # [time, gate]
        first = jnp.argmax(jnp.any(within, axis=1))
        return jnp.where(jnp.any(within), jnp.argmax(within[first]), -1)

    def _shown(self, state: Float[Array, "4"]) -> Observation:
        position = state[:2] - self._middle()
        return position if self.inertia is None else jnp.concatenate([position, state[2:]])

    def reset_at(self, position: Float[Array, "2"]) -> tuple[Float[Array, "4"], Observation]:
        """The start of an episode at rest at `position`, which must not lie in a wall: `(state, obs)`."""
        state = jnp.concatenate([position + self._middle(), jnp.zeros(2)])
        return state, self._shown(state)

    def reset(self, key: Key) -> tuple[Float[Array, "4"], Observation]:
        """The start of an episode: `(state, obs)`. The state is place (from the south-west corner) and velocity."""
        cell_key, place_key = jax.random.split(_checks.one_key(key))
        centre = self.start
        if self.starts == "anywhere":
            cells = jnp.asarray(mazes.free_cells(self.rows))
            centre = self.centre(cells[jax.random.randint(cell_key, (), 0, len(cells))])
        spread = jax.random.uniform(place_key, (2,), minval=-1.0, maxval=1.0)
        return self.reset_at(centre + self.start_range * spread)

    def step(
        self, state: Float[Array, "4"], action: Action, key: Key
    ) -> tuple[Float[Array, "4"], Observation, Scalar, Bool[Array, ""]]:
        """One transition: `(state, obs, reward, terminated)`; deterministic."""
        check_action(self.spec, action)
        velocity = self.speed * clip_action(action)
        if self.inertia is not None:
            velocity = self.inertia * state[2:] + (1.0 - self.inertia) * velocity
        place, hit = slide(self.free, state[:2], velocity)
        state = jnp.concatenate([place, jnp.where(hit, 0.0, velocity)])
        obs = self._shown(state)
        arrived = self.arrived(obs[:2])
        return state, obs, self.rewarded(arrived), arrived
