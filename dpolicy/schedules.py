"""Noise schedules: x_t = alpha_t x_0 + sigma_t eps, with t = 0 the action and t = 1 noise.

The constants of a schedule are static: a schedule is part of a field, hence of what is trained, and constants
that were leaves would become trainable (or decay with the weights) once the field has passed through `jax.jit`.
"""

import abc
import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Prediction

Time = Float[Array, "*shape"] | float | int

# How close to t = 1 (t = 0) a noise (data) prediction is still converted where alpha (sigma) vanishes.
_MARGIN = 1e-3


def _constant(name: str, value: float | int) -> float:
    if isinstance(value, Tracer):
        raise ValueError(
            f"{name} must be a Python number (a schedule is structure, not a parameter), got a tracer."
        )
    _checks.in_range(name, value)
    return float(value)


def _as_float(t: Time) -> Float[Array, "*shape"]:
    return jnp.asarray(t) * 1.0  # keeps the precision of a floating t, unlike asarray(t, float)


def _span(t_min: float, t_max: float) -> tuple[float, float]:
    low, high = _constant("t_min", t_min), _constant("t_max", t_max)
    _checks.in_range("t_max", high, 0.0, 1.0)
    _checks.in_range("t_min", low, 0.0, high, open_high=True)
    return low, high


class AbstractSchedule(eqx.Module):
    """The pair (alpha_t, sigma_t) and its derivatives in t; every method takes `t` of any shape.

    `t_min` and `t_max` bound the times that training draws and that samplers visit. `span` narrows them for a
    prediction whose conversion to the other kinds would divide by zero at an end.
    """

    t_min: eqx.AbstractVar[float]
    t_max: eqx.AbstractVar[float]

    @abc.abstractmethod
    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        """The factor of the clean action."""

    @abc.abstractmethod
    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        """The factor of the noise."""

    @abc.abstractmethod
    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        """d alpha / dt."""

    @abc.abstractmethod
    def dsigma(self, t: Time) -> Float[Array, "*shape"]:
        """d sigma / dt."""

    def log_snr(self, t: Time) -> Float[Array, "*shape"]:
        """log(alpha_t^2 / sigma_t^2), decreasing in t."""
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    @property
    def prior_std(self) -> float:
        """Standard deviation of x_1, the start of every sampler."""
        return 1.0

    def span(self, prediction: Prediction) -> tuple[float, float]:
        """(t_min, t_max) on which a field of this kind converts to every other kind.

        A velocity converts everywhere. Noise and score need alpha > 0, data needs sigma > 0.
        """
        return self.t_min, self.t_max

    def grid(self, steps: int) -> Float[Array, " {steps}+1"]:
        """`steps + 1` uniform times from t_min (index 0, cleanest) to t_max."""
        _checks.integer("steps", steps)
        return jnp.linspace(self.t_min, self.t_max, steps + 1)


def _interpolating_span(schedule: AbstractSchedule, prediction: Prediction) -> tuple[float, float]:
    """The span of a schedule with sigma_0 = 0 and alpha_1 = 0."""
    low, high = schedule.t_min, schedule.t_max
    if prediction in ("noise", "score"):
        high = min(high, 1 - _MARGIN)
    if prediction == "data":
        low = max(low, _MARGIN)
    return low, high


class RectifiedFlow(AbstractSchedule):
    """alpha = 1 - t, sigma = t: straight paths, velocity = eps - x_0 (Liu et al. 2022, arXiv 2209.03003)."""

    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(self, *, t_min: float | int = 0.0, t_max: float | int = 1.0):
        self.t_min, self.t_max = _span(t_min, t_max)

    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        return 1 - _as_float(t)

    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        return _as_float(t)

    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        return -jnp.ones_like(_as_float(t))

    def dsigma(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.ones_like(_as_float(t))

    def span(self, prediction: Prediction) -> tuple[float, float]:
        return _interpolating_span(self, prediction)


class Trigonometric(AbstractSchedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): variance preserving, angle linear in t."""

    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(self, *, t_min: float | int = 0.0, t_max: float | int = 1.0):
        self.t_min, self.t_max = _span(t_min, t_max)

    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        # The sine of the complement is exactly 0 at t = 1, which cos(pi / 2) is not.
        return jnp.sin(math.pi / 2 * (1 - _as_float(t)))

    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.sin(math.pi / 2 * _as_float(t))

    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        return -math.pi / 2 * self.sigma(t)

    def dsigma(self, t: Time) -> Float[Array, "*shape"]:
        return math.pi / 2 * self.alpha(t)

    def span(self, prediction: Prediction) -> tuple[float, float]:
        return _interpolating_span(self, prediction)


class CosineVP(AbstractSchedule):
    """Variance-preserving cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17).

        alpha = cos(pi/2 (min(t, t_max) + q)/(1 + q)) / cos(pi/2 q/(1 + q)),   sigma = sqrt(1 - alpha^2)

    with q = `offset`. Beyond `t_max` both stay constant (as in FlowRL, t_max = 0.9946: alpha = 0.0084) and the
    derivatives keep their value at `t_max`, so that velocities still convert. The velocity diverges as t -> 0,
    hence `t_min`.
    """

    offset: float = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(
        self, offset: float | int = 0.008, *, t_min: float | int = 1e-3, t_max: float | int = 0.9946
    ):
        self.offset = _constant("offset", offset)
        _checks.positive("offset", offset)
        self.t_min, self.t_max = _span(t_min, t_max)

    def _angles(self, t: Time) -> tuple[Float[Array, "*shape"], float]:
        rate = math.pi / 2 / (1 + self.offset)
        return rate * jnp.minimum(_as_float(t), self.t_max), rate * self.offset

    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        moved, start = self._angles(t)
        return jnp.cos(moved + start) / math.cos(start)

    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        # cos^2 b - cos^2 a = sin(a + b) sin(a - b): 1 - alpha^2 would lose half the digits near t = 0.
        moved, start = self._angles(t)
        return jnp.sqrt(jnp.sin(moved + 2 * start) * jnp.sin(moved)) / math.cos(start)

    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        moved, start = self._angles(t)
        return -math.pi / 2 / (1 + self.offset) * jnp.sin(moved + start) / math.cos(start)

    def dsigma(self, t: Time) -> Float[Array, "*shape"]:
        return -self.alpha(t) * self.dalpha(t) / self.sigma(t)


class LinearVP(AbstractSchedule):
    """Variance-preserving schedule with a rate linear in t (Song et al. 2021, arXiv 2011.13456, eq. 32).

    alpha = exp(-(beta_max - beta_min) t^2 / 4 - beta_min t / 2), sigma = sqrt(1 - alpha^2). FlowRL uses
    beta_max = 20; QSM and DACER use 10, whose discrete betas this reproduces at t = k/K for every K.
    """

    beta_min: float = eqx.field(static=True)
    beta_max: float = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(
        self,
        beta_min: float | int = 0.1,
        beta_max: float | int = 20.0,
        *,
        t_min: float | int = 1e-3,
        t_max: float | int = 1.0,
    ):
        self.beta_min, self.beta_max = _constant("beta_min", beta_min), _constant("beta_max", beta_max)
        _checks.positive("beta_min", beta_min)
        _checks.in_range("beta_max", beta_max, self.beta_min)
        self.t_min, self.t_max = _span(t_min, t_max)

    def _log_alpha(self, t: Time) -> Float[Array, "*shape"]:
        t = _as_float(t)
        return -(self.beta_max - self.beta_min) * t**2 / 4 - self.beta_min * t / 2

    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.exp(self._log_alpha(t))

    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.sqrt(-jnp.expm1(2 * self._log_alpha(t)))

    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        rate = -(self.beta_max - self.beta_min) * _as_float(t) / 2 - self.beta_min / 2
        return rate * self.alpha(t)

    def dsigma(self, t: Time) -> Float[Array, "*shape"]:
        return -self.alpha(t) * self.dalpha(t) / self.sigma(t)


class VarianceExploding(AbstractSchedule):
    """alpha = 1, sigma^2 = sigma_min^2 ((sigma_max / sigma_min)^(2t) - 1) (arXiv 2011.13456, eq. 31).

    The prior is N(0, prior_std^2) with prior_std = sigma(1). The defaults suit actions in [-1, 1].
    """

    sigma_min: float = eqx.field(static=True)
    sigma_max: float = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(
        self,
        sigma_min: float | int = 0.01,
        sigma_max: float | int = 10.0,
        *,
        t_min: float | int = 1e-3,
        t_max: float | int = 1.0,
    ):
        self.sigma_min, self.sigma_max = _constant("sigma_min", sigma_min), _constant("sigma_max", sigma_max)
        _checks.positive("sigma_min", sigma_min)
        _checks.in_range("sigma_max", sigma_max, self.sigma_min, open_low=True)
        self.t_min, self.t_max = _span(t_min, t_max)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def prior_std(self) -> float:
        """sigma at t = 1, sqrt(sigma_max^2 - sigma_min^2)."""
        return math.sqrt(self.sigma_max**2 - self.sigma_min**2)

    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.ones_like(_as_float(t))

    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        return self.sigma_min * jnp.sqrt(jnp.expm1(2 * self._log_ratio * _as_float(t)))

    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.zeros_like(_as_float(t))

    def dsigma(self, t: Time) -> Float[Array, "*shape"]:
        growth = jnp.exp(2 * self._log_ratio * _as_float(t))
        return self.sigma_min**2 * self._log_ratio * growth / self.sigma(t)


class DiscreteVP(AbstractSchedule):
    """Variance-preserving schedule given by K betas: alpha_k = sqrt(prod_{j <= k} (1 - beta_j)) at t = k/K.

    Between the grid points log alpha is linear in t. `betas` come from `cosine_betas`, `linear_betas` or a
    list. `grid(steps)` is the points k/K themselves (every K/steps-th), from t = 0, where alpha = 1, sigma = 0.
    """

    betas: tuple[float, ...] = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(self, betas: Sequence[float]):
        self.betas = tuple(_constant("betas", beta) for beta in betas)
        if not self.betas:
            raise ValueError("betas must hold at least one number, got none.")
        _checks.in_range("betas", self.betas, 0.0, 1.0, open_low=True, open_high=True)
        self.t_min, self.t_max = 1 / len(self.betas), 1.0

    def _log_alpha(self, t: Time) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """log alpha and its slope."""
        t, steps = _as_float(t), len(self.betas)
        points = np.concatenate([[0.0], np.cumsum(np.log1p(-np.asarray(self.betas))) / 2])
        index = jnp.clip(jnp.ceil(t * steps).astype(int) - 1, 0, steps - 1)
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
    angle = math.pi / 2 * (np.arange(steps + 1) / steps + offset) / (1 + offset)
    alpha_bar = np.cos(angle) ** 2
    return tuple(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], maximum).tolist())


def linear_betas(steps: int, *, start: float = 1e-4, end: float = 0.02) -> tuple[float, ...]:
    """`steps` betas evenly spaced from `start` to `end` (Ho et al. 2020, arXiv 2006.11239, section 4)."""
    _checks.integer("steps", steps)
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

    Raises `ValueError` for a `steps` that is no positive int, or does not divide the betas of a `DiscreteVP`.
    """
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
