"""Deterministic sampling: the probability-flow ODE dx/dt = v(x, t, obs), from t = 1 (noise) down to t = 0 (action)."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.fields import AbstractField
from dpolicy.samplers import _chain
from dpolicy.samplers._grid import (
    Grid,
    Number,
    Numbers,
    Prior,
    check_bound,
    check_reaches_the_action,
    check_tolerances,
)
from dpolicy.samplers._predict import predict_velocity

SOLVERS = ("euler", "heun", "tsit5")


class Interval(NamedTuple):
    """Steps from time `t` down to time `end`."""

    t: Float[Array, "..."]
    end: Float[Array, "..."]


class ODE(eqx.Module):
    """The probability-flow ODE sampler; built by `ode`."""

    grid: Grid
    prior: Prior
    clip: Number | None
    rtol: Number
    atol: Number
    solver: str = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    truncate: int | None = eqx.field(static=True)

    @property
    def steps(self) -> int:
        """Number of steps of the grid."""
        return self.grid.steps

    def velocity(self, field: AbstractField, x: Action, t: Scalar, obs: Observation) -> Action:
        """dx/dt; with `clip`, the velocity that leads to the clipped clean action."""
        return predict_velocity(field, x, t, obs, clip=self.clip)

    def start(self, field: AbstractField, key: Key, start: Action | None = None) -> Action:
        """x_1. Every sampler here splits its key in the same way, so the same key gives the same x_1."""
        return self.prior(field, jax.random.split(key)[0], start)

    def rows(self, field: AbstractField) -> Interval:
        """The steps to take, stacked."""
        times = self.grid(field)
        return Interval(times[:-1], times[1:])

    def step(self, field: AbstractField, x: Action, row: Interval, obs: Observation) -> Action:
        """One Euler or Heun step."""
        size = row.end - row.t
        first = self.velocity(field, x, row.t, obs)
        euler = x + size * first
        if self.solver == "euler":
            return euler
        # A field that predicts data has no velocity where sigma = 0: a step that ends there stays an Euler step.
        low = field.span[0]
        second = self.velocity(field, euler, jnp.maximum(row.end, low), obs)
        return jnp.where(row.end >= low, x + size * (0.5 * first + 0.5 * second), euler)

    def adaptive(
        self,
        field: AbstractField,
        x: Float[Array, "*batch a"],
        obs: Float[Array, "*batch o"],
        *,
        all_points: bool,
    ) -> Float[Array, "..."]:
        """The Tsit5 solution, of one example or of a batch that shares its step sizes."""

        from dpolicy.samplers._diffrax import integrate

        check_reaches_the_action('solver "tsit5"', field)

        def velocity(t, x):
            if x.ndim == 1:
                return self.velocity(field, x, t, obs)
            return jax.vmap(lambda x, obs: self.velocity(field, x, t, obs))(x, obs)

        times = jnp.maximum(self.grid(field), field.span[0])
        tolerances = {"rtol": self.rtol, "atol": self.atol}
        return integrate(velocity, x, times, max_steps=self.max_steps, all_points=all_points, **tolerances)

    def __call__(
        self, field: AbstractField, obs: Observation, key: Key, *, start: Action | None = None
    ) -> Action:
        """One action; `start` is x_1 itself, on the scale of the schedule's `prior_std`."""
        x = self.start(field, key, start)
        if self.solver == "tsit5":
            return self.adaptive(field, x, obs, all_points=False)
        return _chain.run(
            lambda x, row: self.step(field, x, row, obs), x, self.rows(field), truncate=self.truncate
        )

    def chain(
        self, field: AbstractField, obs: Observation, key: Key, *, start: Action | None = None
    ) -> Float[Array, "{self.steps}+1 a"]:
        """All the points from x_1 to the action."""
        x = self.start(field, key, start)
        if self.solver == "tsit5":
            return self.adaptive(field, x, obs, all_points=True)
        return _chain.trace(lambda x, row: self.step(field, x, row, obs), x, self.rows(field))


def ode(
    *,
    steps: int = 10,
    solver: str = "euler",
    clip: Number | None = None,
    initial: str = "normal",
    initial_scale: Number = 1.0,
    times: Numbers | None = None,
    truncate: int | None = None,
    rtol: Number = 1e-4,
    atol: Number = 1e-5,
    max_steps: int = 256,
) -> ODE:
    """A deterministic map from x_1 to the action: dx/dt = v(x, t, obs), solved from t = 1 to 0.

    Euler: x <- x - h v(x, t). Heun averages v over both ends of the step. Tsit5 adapts its steps (diffrax).

    **Arguments:**

    - `steps`: number of steps; for "tsit5" only the number of points of `chain`.
    - `solver`: "euler" (order 1), "heun" (order 2, two evaluations a step) or "tsit5" (order 5, adaptive).
    - `clip`: clip the predicted clean action to [-clip, clip] at every evaluation, None for none.
    - `initial`, `initial_scale`: x_1 ~ N(0, (initial_scale prior_std)^2) for "normal", 0 for "zero".
    - `times`: the `steps + 1` times, decreasing; the schedule's own grid by default.
    - `truncate`: only that many steps, those nearest the action, carry gradient (fixed steps only).
    - `rtol`, `atol`, `max_steps`: of "tsit5", which returns nan if `max_steps` did not suffice.

    Differentiate a batch of adaptive solves through `solve`, not through `vmap`.

    **Returns:** a sampler `(field, obs, key, *, start=None) -> action` for one example, with `.chain`.

    Raises `ValueError` for arguments out of range, and "tsit5" for a `DiscreteVP`, on which Euler and Heun too leave
    much of the noise of its first level (prefer `ddim`).
    Source: Song et al. 2021 (arXiv 2011.13456, eq. 13); FlowRL (arXiv 2603.27450, eq. 9 with eta = 0).
    """
    _checks.one_of("solver", solver, SOLVERS)
    check_bound("clip", clip)
    check_tolerances(rtol, atol, max_steps)
    grid, prior = Grid(steps, times), Prior(initial, initial_scale)
    _chain.check_truncate(truncate, steps)
    if truncate is not None and solver == "tsit5":
        raise ValueError(
            f"truncate needs a solver of fixed steps, got solver 'tsit5' and truncate {truncate!r}."
        )
    return ODE(grid, prior, clip, rtol, atol, solver, max_steps, truncate)
