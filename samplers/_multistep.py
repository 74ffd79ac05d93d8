"""Multistep solvers of the probability-flow ODE in log-SNR time, of the predicted clean action: DPM-Solver++."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation
from dpolicy.fields import AbstractField, DiscreteVP
from dpolicy.samplers._chain import AbstractChain, Control, check_truncate, run, trace
from dpolicy.samplers._grid import Grid, Number, Numbers, Prior, bounded, check_bound
from dpolicy.samplers._predict import predict_pair


class Recurrence(NamedTuple):
    """x <- keep x + sum_k data_k D_k: D_0 the clean action predicted at `t`, D_1 and D_2 those of the steps before."""

    t: Float[Array, "..."]
    keep: Float[Array, "..."]
    data: Float[Array, "... 3"]


def even_in_log_snr(field: AbstractField, steps: int) -> Float[Array, " {steps}+1"]:
    """Times from noise to action between which log(alpha / sigma) grows by the same amount; the ends are the field's.

    Where sigma = 0 at the action, or alpha = 0 at the noise, the even steps are those between the times next to it at
    which a field converts (`AbstractSchedule.span`).
    """
    schedule = field.schedule
    low, high = schedule.span("data")[0], schedule.span("noise")[1]
    # Of the schedule alone, once: not in every step of a program.
    with jax.ensure_compile_time_eval():
        ends = jnp.asarray([high, low], float)
        wanted = jnp.linspace(*schedule.log_snr(ends), steps + 1)
        below, above = jnp.full_like(wanted, low), jnp.full_like(wanted, high)
        for _ in range(40):
            middle = (below + above) / 2
            noisier = schedule.log_snr(middle) < wanted
            below, above = jnp.where(noisier, below, middle), jnp.where(noisier, middle, above)
        times = (below + above) / 2
        return times.at[0].set(min(field.span[1], high)).at[-1].set(schedule.t_min)


class Multistep(AbstractChain):
    """The multistep sampler; built by `dpm_solver`.

    Examples:
        >>> print(dpm_solver(steps=4).chain(point, obs, key).shape)
        (5, 2)
    """

    grid: Grid
    prior: Prior
    clip: Number | None
    order: int = eqx.field(static=True)
    truncate: int | None = eqx.field(static=True)
    control: Control | None = None

    @property
    def steps(self) -> int:
        """Number of steps, each one evaluation."""
        return self.grid.steps

    def rows(self, field: AbstractField, key: Key) -> Recurrence:
        """The steps to take, stacked."""
        schedule = field.schedule
        given = self.grid.times is not None or isinstance(schedule, DiscreteVP)
        times = self.grid(field) if given else even_in_log_snr(field, self.steps)
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        half = schedule.log_snr(times) / 2
        h, count = half[1:] - half[:-1], jnp.arange(self.steps)
        # The first steps know no earlier predictions; the last ones are long, to sigma = 0 infinitely.
        order = jnp.minimum(jnp.minimum(self.order, count + 1), self.steps - count)
        shrink = jnp.expm1(-h)
        size = jnp.where(order > 1, h, 1.0)
        before = jnp.where(order > 1, jnp.roll(h, 1), 1.0) / size
        earlier = jnp.where(order > 2, jnp.roll(h, 2), 1.0) / size
        # Of the differences (D_0 - D_1) / before and (D_1 - D_2) / earlier.
        second = -shrink / 2
        slope = jnp.where(order > 2, shrink / size + 1, 0.0)
        curve = jnp.where(order > 2, 0.5 - (shrink + size) / size**2, 0.0)
        newer = (slope * (2 * before + earlier) + curve) / (before + earlier)
        older = -(slope * before + curve) / (before + earlier)
        newer = jnp.where(order > 2, newer, jnp.where(order > 1, second, 0.0)) / before
        older = jnp.where(order > 2, older, 0.0) / earlier
        data = jnp.stack([-shrink + newer, older - newer, -older], axis=1)
        return Recurrence(times[:-1], sigma[1:] / sigma[:-1], alpha[1:, None] * data)

    def step(self, field: AbstractField, x: Array, row: Any, obs: Observation) -> Array:
        """One step of (x, D_1, D_2), stacked."""
        data, _ = predict_pair(field, x[0], row.t, obs, clip=self.clip)
        moved = row.keep * x[0] + row.data[0] * data + row.data[1] * x[1] + row.data[2] * x[2]
        return jnp.stack([moved, data, x[1]])

    def finish(self, x: Action) -> Action:
        return bounded(x, self.clip)

    def _walk(self, walk: Any, field: AbstractField, obs: Observation, key: Key, start: Action | None) -> Any:
        x = self.start(field, key, start)
        step = lambda x, row: self.step(field, x, row, obs)
        kept: dict[str, Any] = {"truncate": self.truncate, "control": self.control}
        return walk(step, jnp.stack([x, jnp.zeros_like(x), jnp.zeros_like(x)]), self.rows(field, key), **kept)

    def __call__(
        self, field: AbstractField, obs: Observation, key: Key, *, start: Action | None = None
    ) -> Action:
        """One action; `start` is x_1 itself, on the scale of the schedule's `prior_std`."""
        return self.finish(self._walk(run, field, obs, key, start)[0])

    def chain(
        self, field: AbstractField, obs: Observation, key: Key, *, start: Action | None = None
    ) -> Float[Array, "{self.steps}+1 a"]:
        """All the points from x_1 to the action."""
        points = self._walk(trace, field, obs, key, start)[:, 0]
        return points.at[-1].set(self.finish(points[-1]))


def dpm_solver(
    *,
    steps: int = 15,
    order: int = 2,
    clip: Number | None = None,
    initial: str = "normal",
    initial_scale: Number = 1.0,
    times: Numbers | None = None,
    truncate: int | None = None,
) -> Multistep:
    r"""DPM-Solver++: with lambda = log(alpha / sigma), h its step, and D(lambda) the predicted clean action,

    $$ x_s = \frac{\sigma_s}{\sigma_t} x_t + \alpha_s \int_0^h e^{u - h} D(\lambda_t + u)\, du, $$

    D continued from its values at this step and the ones before. Of order 1 it is DDIM, of order 2 the method
    "2M", D_0 + (D_0 - D_1) h / 2 h_before; of order 3 with a second difference. A step is one evaluation. The first
    steps are of as many predictions as there are, and the last ones of lower order, as in the authors' code, for h is
    infinite where sigma = 0. With even steps in lambda 15 of them make a deviation of .049 of .05, and .304 of .3; with
    even ones in t, long in lambda at the end, .021 and .24 (exact field, vp with beta from .1 to 20).

    Source: Lu et al. 2022 (arXiv 2211.01095, section 4; order 1 and the exponential form 2206.00927).

    Args:
        steps: Number of steps.
        order: 1, 2 or 3.
        clip: Clip the predicted clean action to [-clip, clip] at every step, and the action; None for none.
        initial: As for `ode`.
        initial_scale: As for `ode`.
        times: The `steps + 1` times, decreasing; by default even in lambda (a `DiscreteVP` has a grid of its own).
        truncate: As for `ode`.

    Returns:
        A sampler `(field, obs, key, *, start=None) -> action` for one example, with `.chain`.

    Raises:
        ValueError: For arguments out of range.

    Examples:
        >>> print(dpm_solver(steps=4)(point, obs, key))
        [ 0.5 -0.5]
    """
    _checks.integer("order", order, 1, 3)
    check_bound("clip", clip)
    grid, prior = Grid(steps, times), Prior(initial, initial_scale)
    check_truncate(truncate, steps)
    return Multistep(grid=grid, prior=prior, clip=clip, order=order, truncate=truncate)
