"""Discrete variance-preserving schedules and the table of the ancestral (DDPM) step."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy.fields._schedule import AbstractSchedule, Time, as_float, check_schedule, constant


class DiscreteVP(AbstractSchedule):
    """Variance-preserving schedule given by K betas: alpha_k = sqrt(prod_{j <= k} (1 - beta_j)) at t = k/K.

    Between the grid points log alpha is linear in t. `betas` come from `cosine_betas`, `linear_betas` or a
    list. `grid(steps)` is the points k/K themselves (every K/steps-th), from t = 0, where alpha = 1, sigma = 0.
    """

    betas: tuple[float, ...] = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(self, betas: Sequence[float]):
        _checks.in_range("betas", betas, 0.0, 1.0, open_low=True, open_high=True, ndim=(1,))
        self.betas = tuple(constant("betas", beta) for beta in betas)
        self.t_min, self.t_max = 1 / len(self.betas), 1.0

    def _log_alpha(self, t: Time) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """log alpha and its slope."""
        t, steps = as_float(t), len(self.betas)
        points = np.concatenate([[0.0], np.cumsum(np.log1p(-np.asarray(self.betas))) / 2])
        # At t = k/K, which may be rounded up, the slope is that of the interval below.
        index = jnp.clip(jnp.ceil(t * steps - 1e-4).astype(int) - 1, 0, steps - 1)
        table = jnp.asarray(points, t.dtype)
        slope = jnp.asarray(np.diff(points) * steps, t.dtype)[index]
        return table[index] + slope * (t - index.astype(t.dtype) / steps), slope

    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.exp(self._log_alpha(t)[0])

    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.sqrt(-jnp.expm1(2 * self._log_alpha(t)[0]))

    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        value, slope = self._log_alpha(t)
        return slope * jnp.exp(value)

    def dsigma(self, t: Time) -> Float[Array, "*shape"]:
        return -self.alpha(t) * self.dalpha(t) / self.sigma(t)

    def grid(self, steps: int) -> Float[Array, " {steps}+1"]:
        _checks.integer("steps", steps)
        if len(self.betas) % steps:
            raise ValueError(f"steps must divide the schedule's {len(self.betas)} betas, got {steps}.")
        return jnp.linspace(0.0, 1.0, steps + 1)


def cosine_betas(steps: int, *, offset: float = 0.008, maximum: float = 0.999) -> tuple[float, ...]:
    """beta_k = min(1 - abar_k / abar_{k-1}, maximum) with abar_k = cos^2(pi/2 (k/K + q)/(1 + q)), q = `offset`.

    The discrete cosine schedule of Nichol & Dhariwal 2021 (arXiv 2102.09672) that DIPO, QVPO and DPPO use.
    """
    _checks.integer("steps", steps)
    _checks.non_negative("offset", offset)
    _checks.in_range("maximum", maximum, 0.0, 1.0, open_low=True, open_high=True)
    angle = math.pi / 2 * (np.arange(steps + 1) / steps + offset) / (1 + offset)
    alpha_bar = np.cos(angle) ** 2
    return tuple(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], maximum).tolist())


def linear_betas(steps: int, *, start: float = 1e-4, end: float = 0.02) -> tuple[float, ...]:
    """`steps` betas evenly spaced from `start` to `end` (Ho et al. 2020, arXiv 2006.11239, section 4)."""
    _checks.integer("steps", steps)
    _checks.in_range("start", start, 0.0, 1.0, open_low=True, open_high=True)
    _checks.in_range("end", end, 0.0, 1.0, open_low=True, open_high=True)
    _checks.ordered("start", start, "end", end)
    return tuple(np.linspace(start, end, steps).tolist())


class DDPMTable(eqx.Module):
    """A schedule on a grid t_0 < ... < t_K and the coefficients of the ancestral step from t_{i+1} to t_i.

        x_i = data_weight[i] x_0hat + x_weight[i] x_{i+1} + std[i] z,   std = sqrt(beta) or posterior_std

    Index 0 is the cleanest time. `beta[i]` is the variance that the forward kernel adds from t_i to t_{i+1},
    sigma_{i+1}^2 - (alpha_{i+1}/alpha_i)^2 sigma_i^2; for a variance-preserving schedule 1 - abar_{i+1}/abar_i.
    `posterior_std[i]` = sqrt(beta[i]) sigma_i / sigma_{i+1} is that of q(x_i | x_{i+1}, x_0).
    """

    beta: Float[Array, " steps"]
    posterior_std: Float[Array, " steps"]
    data_weight: Float[Array, " steps"]
    x_weight: Float[Array, " steps"]
    t: Float[Array, " steps+1"]
    alpha: Float[Array, " steps+1"]
    sigma: Float[Array, " steps+1"]
    alpha_bar: Float[Array, " steps+1"]


def ddpm_table(schedule: AbstractSchedule, steps: int) -> DDPMTable:
    """Discretise any schedule on `schedule.grid(steps)` (Ho et al. 2020, arXiv 2006.11239, eqs. 6-7).

    Raises:
        ValueError: For a `steps` that is no positive int, or does not divide the betas of a `DiscreteVP`.
    """
    check_schedule(schedule)
    t = schedule.grid(steps)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    log_snr = schedule.log_snr(t)
    # 1 - snr_{i+1}/snr_i by expm1: beta is a small difference of numbers near one.
    kept = -jnp.expm1(log_snr[1:] - log_snr[:-1])
    beta = sigma[1:] ** 2 * kept
    return DDPMTable(
        t=t,
        alpha=alpha,
        sigma=sigma,
        alpha_bar=alpha**2,
        beta=beta,
        posterior_std=sigma[:-1] * jnp.sqrt(kept),
        data_weight=alpha[:-1] * kept,
        x_weight=alpha[1:] / alpha[:-1] * (sigma[:-1] / sigma[1:]) ** 2,
    )
