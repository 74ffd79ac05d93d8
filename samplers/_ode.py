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
    bounded,
    check_bound,
    check_reaches_the_action,
    check_tolerances,
    euler_weights,
)
from dpolicy.samplers._predict import predict_pair, predict_velocity

SOLVERS = ("euler", "heun", "tsit5")


class Steps(NamedTuple):
    """x <- `keep` (x + m) + `data` data' + `noise` noise', with m = `to_data` data + `to_noise` noise.

    The pair (data, noise) is predicted at x and `t`, the pair (data', noise') at m and `at`. Euler's step ends at m.
    """

    t: Float[Array, "..."]
    to_data: Float[Array, "..."]
    to_noise: Float[Array, "..."]
    at: Float[Array, "..."]
    keep: Float[Array, "..."]
    data: Float[Array, "..."]
    noise: Float[Array, "..."]


class ODE(eqx.Module):
    """The probability-flow ODE sampler; built by `ode`.

    Examples:
        >>> print(ode(steps=4).chain(point, obs, key).shape)
        (5, 2)
    """

    grid: Grid
    prior: Prior
    clip: Number | None
    rtol: Number
    atol: Number
    solver: str = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    truncate: int | None = eqx.field(static=True)
    control: _chain.Control | None = None

    @property
    def steps(self) -> int:
        """Number of steps of the grid."""
        return self.grid.steps

    def velocity(self, field: AbstractField, x: Action, t: Scalar, obs: Observation) -> Action:
        """dx/dt; with `clip`, the velocity that leads to the clipped clean action."""
        return predict_velocity(field, x, t, obs, clip=self.clip)

    def start(self, field: AbstractField, key: Key, start: Action | None = None) -> Action:
        """x_1. Every sampler here splits its key in the same way, so the same key gives the same x_1."""
        return self.prior(field, jax.random.split(_checks.one_key(key))[0], start)

    def rows(self, field: AbstractField) -> Steps:
        """The steps to take, stacked."""
        times, schedule = self.grid(field), field.schedule
        t, end = times[:-1], times[1:]
        final = schedule.alpha(end[-1]), schedule.sigma(end[-1])
        if self.solver == "euler":
            data, noise = euler_weights(schedule, t, end)
            data, noise = data.at[-1].set(final[0]), noise.at[-1].set(final[1])
            unused = jnp.zeros_like(t)
            return Steps(t, data, noise, end, unused, unused, unused)
        # The last step evaluates half-way in place of its end, where a velocity may be infinite.
        at = end.at[-1].set((t[-1] + end[-1]) / 2)
        # Heun's x + h (v + v') / 2: half of x and of Euler's point, plus half a step along the second prediction.
        half = (end - t) / 2
        data = (half * schedule.dalpha(at)).at[-1].set(final[0])
        noise = (half * schedule.dsigma(at)).at[-1].set(final[1])
        return Steps(
            t, *euler_weights(schedule, t, at), at, jnp.full_like(t, 0.5).at[-1].set(0.0), data, noise
        )

    def step(self, field: AbstractField, x: Action, row: Steps, obs: Observation) -> Action:
        """One Euler or Heun step."""
        data, noise = predict_pair(field, x, row.t, obs, clip=self.clip)
        moved = row.to_data * data + row.to_noise * noise
        if self.solver == "euler":
            return moved
        data, noise = predict_pair(field, moved, row.at, obs, clip=self.clip)
        return row.keep * (x + moved) + row.data * data + row.noise * noise

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

        # This solver evaluates the end, too, where sigma may be 0 and nothing converts: it stops just before.
        times = jnp.maximum(self.grid(field), field.span[0])
        tolerances = {"rtol": self.rtol, "atol": self.atol}
        return integrate(velocity, x, times, max_steps=self.max_steps, all_points=all_points, **tolerances)

    def __call__(
        self, field: AbstractField, obs: Observation, key: Key, *, start: Action | None = None
    ) -> Action:
        """One action; `start` is x_1 itself, on the scale of the schedule's `prior_std`."""
        x = self.start(field, key, start)
        if self.solver == "tsit5":
            return bounded(self.adaptive(field, x, obs, all_points=False), self.clip)
        step = lambda x, row: self.step(field, x, row, obs)
        kept = {"truncate": self.truncate, "control": self.control}
        return bounded(_chain.run(step, x, self.rows(field), **kept), self.clip)

    def chain(
        self, field: AbstractField, obs: Observation, key: Key, *, start: Action | None = None
    ) -> Float[Array, "{self.steps}+1 a"]:
        """All the points from x_1 to the action."""
        x = self.start(field, key, start)
        if self.solver == "tsit5":
            points = self.adaptive(field, x, obs, all_points=True)
        else:
            step = lambda x, row: self.step(field, x, row, obs)
            kept = {"truncate": self.truncate, "control": self.control}
            points = _chain.trace(step, x, self.rows(field), **kept)
        return points.at[-1].set(bounded(points[-1], self.clip))


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

    Euler: x <- x - h v(x, t). Heun averages v over both ends of the step. Tsit5 adapts its steps (diffrax). Where
    sigma -> 0, v may be infinite, and no step in t is accurate: the last one of Euler goes along the predicted pair, to
    alpha data + sigma noise at its end (for a rectified flow the same), that of Heun does so from half-way, where Euler
    takes it. The orders stay.

    Differentiate a batch of adaptive solves through `solve`, not through `vmap`.

    Source: Song et al. 2021 (arXiv 2011.13456, eq. 13); FlowRL (arXiv 2603.27450, eq. 9 with eta = 0); the last step
    Karras et al. 2022 (arXiv 2206.00364).

    Args:
        steps: Number of steps; for "tsit5" only the number of points of `chain`.
        solver: "euler" (order 1), "heun" (order 2, two evaluations a step) or "tsit5" (order 5, adaptive).
        clip: Clip the predicted clean action to [-clip, clip] at every evaluation, and the action; None for none.
        initial: "normal", x_1 ~ N(0, (initial_scale prior_std)^2), or "zero", x_1 = 0.
        initial_scale: See `initial`.
        times: The `steps + 1` times, decreasing; the schedule's own grid by default.
        truncate: Only that many steps, those nearest the action, carry gradient (fixed steps only).
        rtol: Of "tsit5".
        atol: Of "tsit5".
        max_steps: Of "tsit5", which returns nan if they did not suffice.

    Returns:
        A sampler `(field, obs, key, *, start=None) -> action` for one example, with `.chain`.

    Raises:
        ValueError: For arguments out of range, and "tsit5" for a `DiscreteVP`.

    Examples:
        >>> print(ode(steps=4)(point, obs, key), ode(steps=4, solver="heun")(point, obs, key))
        [ 0.5 -0.5] [ 0.5 -0.5]
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
