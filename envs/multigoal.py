"""Multi-Goal: a point in the plane, four goals, and start points from which several are equally good."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._types import Key, Number
from dpolicy.envs.protocol import Environment, Spec, check_action, clip_action

# Equidistant from all four goals, and from two of them, at the default goal distance (arXiv 2603.04790, Table 1).
SADDLE_POINTS = ((0.0, 0.0), (2.5, 2.5), (-2.5, 2.5))


def _leaf(name: str, value: Number, *, signed: bool = False) -> Float[Array, ""]:
    _checks.in_range(name, value) if signed else _checks.non_negative(name, value)
    return jnp.asarray(value, float)


def _position(name: str, value: Any, box: float) -> Float[Array, "2"]:
    coordinates = list(value) if isinstance(value, (tuple, list)) or np.ndim(value) == 1 else []
    if len(coordinates) != 2:
        raise ValueError(f"{name} must be two numbers, got {value!r}.")
    for coordinate in coordinates:
        _checks.in_range(name, coordinate, -box, box)
    return jnp.stack([jnp.asarray(coordinate, float) for coordinate in coordinates])


class MultiGoal(Environment):
    """Walk to any of the four goals (+-g, 0), (0, +-g) in the box [-b, b]^2.

    The position moves by the action: s' = clip(s + clip(a, -1, 1), -b, b). With d = min_g |s' - g|,

        reward = - action_cost |a|^2 - distance_cost d^2 + bonus [d < goal_radius]

    and the episode terminates where d < goal_radius. The observation is the position.

    Source: softqlearning's multi-goal environment (Haarnoja et al. 2017, arXiv 1702.08165), whose constants are
    `action_cost=30, start_std=0.1`; used by DP-CPPO (arXiv 2603.04790), which does not give its own. The defaults are
    those under which that paper's claims hold here (benchmarks/results/multigoal_sweep.md): wide starts teach all
    goals equally well, and one unit of cost per squared unit of distance puts PPO near the paper's rewards.

    Args:
        action_cost: Cost of the squared action.
        distance_cost: Cost of the squared distance to the nearest goal.
        bonus: Reward for arriving.
        start: Centre of the start distribution.
        start_std: Starts are normal around it with this standard deviation, clipped to the box; 0 starts exactly there.
        start_range: Starts are uniform on `start` +- `start_range` per coordinate; 6 where neither spread is given.
        horizon: Time limit in steps.
        box: b, half the side of the box.
        goal_distance: g, from the origin to each goal.
        goal_radius: Distance within which a goal is reached.
        distance: "squared" as above, or "linear" for -distance_cost d.

    The coefficients, the start and its spread are arrays and may be mapped over by `vmap`; horizon, geometry and
    `distance` are static.

    Raises:
        ValueError: For a negative cost or spread, both spreads at once, or geometry that does not fit (goals inside the
            box), or a start outside the box.
    """

    action_cost: Float[Array, "*batch"]
    distance_cost: Float[Array, "*batch"]
    bonus: Float[Array, "*batch"]
    start: Float[Array, "*batch 2"]
    start_std: Float[Array, "*batch"]
    start_range: Float[Array, "*batch"] | None
    spec: Spec
    box: float = eqx.field(static=True)
    goal_distance: float = eqx.field(static=True)
    goal_radius: float = eqx.field(static=True)
    distance: str = eqx.field(static=True)

    def __init__(
        self,
        *,
        action_cost: Number = 1.0,
        distance_cost: Number = 1.0,
        bonus: Number = 10.0,
        start: tuple[Number, Number] | Float[Array, "2"] = (0.0, 0.0),
        start_std: Number | None = None,
        start_range: Number | None = None,
        horizon: int = 30,
        box: float = 7.0,
        goal_distance: float = 5.0,
        goal_radius: float = 1.0,
        distance: str = "squared",
    ):
        _checks.integer("horizon", horizon)
        _checks.positive("box", box)
        _checks.in_range("goal_distance", goal_distance, 0.0, box, open_low=True)
        _checks.positive("goal_radius", goal_radius)
        _checks.one_of("distance", distance, ("squared", "linear"))
        self.action_cost = _leaf("action_cost", action_cost)
        self.distance_cost = _leaf("distance_cost", distance_cost)
        self.bonus = _leaf("bonus", bonus, signed=True)
        self.start = _position("start", start, box)
        if start_std is not None and start_range is not None:
            raise ValueError(f"start_range must be None where start_std is given, got {start_range!r}.")
        if start_std is None and start_range is None:
            start_range = 6.0
        self.start_std = _leaf("start_std", 0.0 if start_std is None else start_std)
        self.start_range = None if start_range is None else _leaf("start_range", start_range)
        self.spec = Spec("multigoal/multigoal", 2, 2, horizon)
        self.box = float(box)
        self.goal_distance = float(goal_distance)
        self.goal_radius = float(goal_radius)
        self.distance = distance

    @property
    def goals(self) -> Float[Array, "4 2"]:
        """The goals, in the order east, west, north, south."""
        return jnp.asarray(self.goal_distance * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]), float)

    @property
    def saddle_points(self) -> Float[Array, "3 2"]:
        """Points equidistant from all goals, and from two of them: (0, 0), (g/2, g/2), (-g/2, g/2)."""
        return jnp.asarray(np.array(SADDLE_POINTS) * self.goal_distance / 5.0, float)

    def goal_distances(self, position: Float[Array, "2"]) -> Float[Array, "4"]:
        """Distance from a position to each goal."""
        return jnp.sqrt(jnp.sum((position[None] - self.goals) ** 2, axis=-1))

    def arrived(self, position: Float[Array, "2"]) -> Bool[Array, ""]:
        """Whether a position counts as a goal."""
        return jnp.min(self.goal_distances(position)) < self.goal_radius

    def nearest_goal(self, position: Float[Array, "2"]) -> Int[Array, ""]:
        """Index into `goals` of the one nearest to a position."""
        return jnp.argmin(self.goal_distances(position))

    def reward(self, position: Float[Array, "2"], action: Float[Array, "2"]) -> Float[Array, ""]:
        """The reward for arriving at `position` by `action` (which is clipped)."""
        squares = jnp.min(jnp.sum((position[None] - self.goals) ** 2, axis=-1))
        cost = squares if self.distance == "squared" else jnp.sqrt(squares)
        effort = jnp.sum(clip_action(action) ** 2)
        return self.bonus * self.arrived(position) - self.action_cost * effort - self.distance_cost * cost

    def contours(self, points: int = 141) -> tuple[Float[Array, " p"], Float[Array, "p p"]]:
        """The reward of resting, on a grid over the box: `(axis, values)`, `values[i, j]` at (axis[j], axis[i])."""
        _checks.integer("points", points, 2)
        axis = jnp.linspace(-self.box, self.box, points)
        at = lambda y, x: self.reward(jnp.stack([x, y]), jnp.zeros(2))
        return axis, jax.vmap(lambda y: jax.vmap(lambda x: at(y, x))(axis))(axis)

    def starting_at(self, position: tuple[Number, Number] | Float[Array, "2"]) -> "MultiGoal":
        """The same environment, every episode of which starts exactly at `position` (such as a saddle point)."""
        start = _position("position", position, self.box)
        where = lambda env: (env.start, env.start_std, env.start_range)
        return eqx.tree_at(where, self, (start, jnp.zeros(()), None), is_leaf=lambda leaf: leaf is None)

    def reset_at(self, position: Float[Array, "2"]) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
        """The start of an episode at `position`: `(state, obs)`."""
        position = jnp.clip(position, -self.box, self.box)
        return position, position

    def reset(self, key: Key) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
        """The start of an episode: `(state, obs)`."""
        _checks.one_key(key)
        if self.start_range is None:
            spread = self.start_std * jax.random.normal(key, (2,))
        else:
            spread = self.start_range * jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return self.reset_at(self.start + spread)

    def step(
        self, state: Float[Array, "2"], action: Float[Array, "2"], key: Key
    ) -> tuple[Float[Array, "2"], Float[Array, "2"], Float[Array, ""], Bool[Array, ""]]:
        """One transition: `(state, obs, reward, terminated)`; deterministic."""
        check_action(self.spec, action)
        position = jnp.clip(state + clip_action(action), -self.box, self.box)
        return position, position, self.reward(position, action), self.arrived(position)
