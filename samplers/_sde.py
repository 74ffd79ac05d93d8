"""Stochastic sampling: FlowRL's generic SDE by Euler-Maruyama, from t = 1 (noise) down to t = 0 (action)."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation
from dpolicy.fields import AbstractField, AbstractSchedule, express
from dpolicy.samplers._chain import AbstractChain, Control, check_truncate
from dpolicy.samplers._grid import Grid, Number, Numbers, Prior, bounded, check_bound, euler_weights
from dpolicy.samplers._predict import predict_pair

DIFFUSIONS = ("variance", "reverse", "constant")


class Increment(NamedTuple):
    """Steps from time `t` to `end`: x <- to_data data + to_noise noise' + spread noise, of the pair predicted at `t`.

    `pull` is eta_t / sigma_t, `spread` is sqrt(2 eta_t), `noise` the Brownian increment.
    """

    t: Float[Array, "..."]
    end: Float[Array, "..."]
    pull: Float[Array, "..."]
    to_data: Float[Array, "..."]
    to_noise: Float[Array, "..."]
    spread: Float[Array, "..."]
    noise: Float[Array, "..."]


def _diffusion_over_sigma(
    schedule: AbstractSchedule, diffusion: str, t: Float[Array, " k"]
) -> Float[Array, " k"]:
    """eta_t / (eta sigma_t), without dividing by sigma where it cancels."""
    if diffusion == "variance":
        return schedule.dsigma(t)
    if diffusion == "reverse":
        return schedule.dsigma(t) - schedule.sigma(t) * schedule.dalpha(t) / schedule.alpha(t)
    return 1 / schedule.sigma(t)


class SDE(AbstractChain):
    """The Euler-Maruyama sampler; built by `sde`.

    Examples:
        >>> print(sde(steps=4).chain(point, obs, key).shape)
        (5, 2)
    """

    grid: Grid
    prior: Prior
    eta: Number
    clip: Number | None
    diffusion: str = eqx.field(static=True)
    truncate: int | None = eqx.field(static=True)
    control: Control | None = None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.grid.steps

    def rows(self, field: AbstractField, key: Key) -> Increment:
        """The steps to take and their Brownian increments, stacked."""
        times, schedule = self.grid(field), field.schedule
        if self.diffusion == "reverse":
            times = jnp.minimum(times, schedule.span("noise")[1])
        t, end = times[:-1], times[1:]
        # The last step is the ODE's: noise there could not be undone, and its drift without it would shrink x.
        pull = (self.eta * _diffusion_over_sigma(schedule, self.diffusion, t)).at[-1].set(0.0)
        spread = jnp.sqrt(2 * pull * schedule.sigma(t))
        to_data, to_noise = euler_weights(schedule, t, end)
        to_data = to_data.at[-1].set(schedule.alpha(end[-1]))
        to_noise = (to_noise + (end - t) * pull).at[-1].set(schedule.sigma(end[-1]))
        noise = jax.random.normal(jax.random.split(key)[1], (self.steps, field.action_size))
        return Increment(t, end, pull, to_data, to_noise, spread, jnp.sqrt(t - end)[:, None] * noise)

    def drift(self, field: AbstractField, x: Action, row: Increment, obs: Observation) -> Action:
        """v - eta_t score."""
        data, noise = predict_pair(field, x, row.t, obs, clip=self.clip)
        velocity = express(data, noise, row.t, schedule=field.schedule, prediction="velocity")
        return velocity + row.pull * noise

    def step(self, field: AbstractField, x: Action, row: Increment, obs: Observation) -> Action:
        """One Euler-Maruyama step; the last one goes along the predicted pair."""
        data, noise = predict_pair(field, x, row.t, obs, clip=self.clip)
        return row.to_data * data + row.to_noise * noise + row.spread * row.noise

    def finish(self, x: Action) -> Action:
        """The action, in the box of its prediction."""
        return bounded(x, self.clip)


def sde(
    *,
    steps: int = 20,
    eta: Number = 1.0,
    clip: Number | None = None,
    diffusion: str = "variance",
    initial: str = "normal",
    initial_scale: Number = 1.0,
    times: Numbers | None = None,
    truncate: int | None = None,
) -> SDE:
    """dx = [v(x, t, obs) - eta_t score] dt + sqrt(2 eta_t) dw backwards in t, by Euler-Maruyama.

    Every eta_t >= 0 has the same marginals as the ODE (eta = 0) when the field is exact; noise corrects the errors of
    a field, and costs more steps. The last step has eta_t = 0 and goes along the predicted pair, as that of `ode`.

    Source: FlowRL (arXiv 2603.27450, eq. 9); Albergo et al. 2023 (arXiv 2303.08797).

    Args:
        steps: Number of steps.
        eta: Stochasticity, zero or above.
        clip: Clip the predicted clean action to [-clip, clip] at every step, and the action; None for none.
        diffusion: What eta multiplies. "variance": eta_t = eta sigma sigma', half the rate at which the variance
            sigma^2 grows: moderate at both ends; for a variance-exploding schedule and eta = 1 the sampler of DEM
            and DQS, g^2 = d sigma^2 / dt. "reverse": eta_t = eta sigma^2 (sigma'/sigma - alpha'/alpha), for eta = 1
            the time reversal of the forward process (Anderson 1982); large near t = 1, where alpha -> 0.
            "constant": eta_t = eta, equation 9 as printed; stiff near t = 0: it needs steps > eta / sigma^2, with
            the sigma of the last step that carries noise.
        initial: As for `ode`.
        initial_scale: As for `ode`.
        times: As for `ode`.
        truncate: As for `ode`.

    Returns:
        A sampler `(field, obs, key, *, start=None) -> action` for one example, with `.chain`.

    Raises:
        ValueError: For arguments out of range.

    Examples:
        >>> print(sde(steps=4, eta=0.5)(point, obs, key))
        [ 0.5 -0.5]
    """
    _checks.non_negative("eta", eta)
    _checks.one_of("diffusion", diffusion, DIFFUSIONS)
    check_bound("clip", clip)
    grid, prior = Grid(steps, times), Prior(initial, initial_scale)
    check_truncate(truncate, steps)
    return SDE(grid, prior, eta, clip, diffusion, truncate)
