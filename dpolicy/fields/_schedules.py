"""Noise schedules: x_t = alpha_t x_0 + sigma_t eps, with t = 0 the action and t = 1 noise.

The constants of a schedule are static: a schedule is part of a field, hence of what is trained, and constants
that were leaves would become trainable (or decay with the weights) once the field has passed through `jax.jit`.
"""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Prediction
from dpolicy.fields._schedule import (
    AbstractSchedule,
    Time,
    as_float,
    constant,
    interpolating_span,
    time_range,
)


class RectifiedFlow(AbstractSchedule):
    """alpha = 1 - t, sigma = t: straight paths, velocity = eps - x_0 (Liu et al. 2022, arXiv 2209.03003)."""

    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(self, *, t_min: float | int = 0.0, t_max: float | int = 1.0):
        self.t_min, self.t_max = time_range(t_min, t_max)

    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        return 1 - as_float(t)

    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        return as_float(t)

    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        return -jnp.ones_like(as_float(t))

    def dsigma(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.ones_like(as_float(t))

    def span(self, prediction: Prediction) -> tuple[float, float]:
        return interpolating_span(self, prediction)


class Trigonometric(AbstractSchedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): variance preserving, angle linear in t."""

    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(self, *, t_min: float | int = 0.0, t_max: float | int = 1.0):
        self.t_min, self.t_max = time_range(t_min, t_max)

    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        # The sine of the complement is exactly 0 at t = 1, which cos(pi / 2) is not.
        return jnp.sin(math.pi / 2 * (1 - as_float(t)))

    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.sin(math.pi / 2 * as_float(t))

    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        return -math.pi / 2 * self.sigma(t)

    def dsigma(self, t: Time) -> Float[Array, "*shape"]:
        return math.pi / 2 * self.alpha(t)

    def span(self, prediction: Prediction) -> tuple[float, float]:
        return interpolating_span(self, prediction)


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
        self.offset = constant("offset", offset)
        _checks.positive("offset", offset)
        # At t = 1 alpha is zero, and noise converts to nothing.
        self.t_min, self.t_max = time_range(t_min, t_max, open_high=True)

    def _angles(self, t: Time) -> tuple[Float[Array, "*shape"], float]:
        rate = math.pi / 2 / (1 + self.offset)
        return rate * jnp.minimum(as_float(t), self.t_max), rate * self.offset

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
        self.beta_min, self.beta_max = constant("beta_min", beta_min), constant("beta_max", beta_max)
        _checks.positive("beta_min", beta_min)
        _checks.in_range("beta_max", beta_max, self.beta_min)
        self.t_min, self.t_max = time_range(t_min, t_max)

    def _log_alpha(self, t: Time) -> Float[Array, "*shape"]:
        t = as_float(t)
        return -(self.beta_max - self.beta_min) * t**2 / 4 - self.beta_min * t / 2

    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.exp(self._log_alpha(t))

    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.sqrt(-jnp.expm1(2 * self._log_alpha(t)))

    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        rate = -(self.beta_max - self.beta_min) * as_float(t) / 2 - self.beta_min / 2
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
        self.sigma_min, self.sigma_max = constant("sigma_min", sigma_min), constant("sigma_max", sigma_max)
        _checks.positive("sigma_min", sigma_min)
        _checks.in_range("sigma_max", sigma_max, self.sigma_min, open_low=True)
        self.t_min, self.t_max = time_range(t_min, t_max)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def prior_std(self) -> float:
        """sigma at t = 1, sqrt(sigma_max^2 - sigma_min^2)."""
        return math.sqrt(self.sigma_max**2 - self.sigma_min**2)

    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.ones_like(as_float(t))

    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        return self.sigma_min * jnp.sqrt(jnp.expm1(2 * self._log_ratio * as_float(t)))

    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.zeros_like(as_float(t))

    def dsigma(self, t: Time) -> Float[Array, "*shape"]:
        growth = jnp.exp(2 * self._log_ratio * as_float(t))
        return self.sigma_min**2 * self._log_ratio * growth / self.sigma(t)


class Karras(AbstractSchedule):
    """alpha = 1, sigma = (sigma_min^(1/e) + t (sigma_max^(1/e) - sigma_min^(1/e)))^e (Karras et al. 2022, 2206.00364).

    The time is the rank on their grid, e its `exponent`: `grid(n - 1)` has their n levels, the lowest first. At t = 0
    the noise is sigma_min, exactly: where a consistency function is the identity (`ConsistencyField`).
    """

    sigma_min: float = eqx.field(static=True)
    sigma_max: float = eqx.field(static=True)
    exponent: float = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(
        self, sigma_min: float | int = 0.002, sigma_max: float | int = 80.0, *, exponent: float | int = 7.0
    ):
        self.sigma_min, self.sigma_max = constant("sigma_min", sigma_min), constant("sigma_max", sigma_max)
        self.exponent = constant("exponent", exponent)
        _checks.positive("sigma_min", sigma_min)
        _checks.in_range("sigma_max", sigma_max, self.sigma_min, open_low=True)
        _checks.in_range("exponent", exponent, 1.0)
        self.t_min, self.t_max = 0.0, 1.0

    @property
    def _growth(self) -> float:
        return (self.sigma_max / self.sigma_min) ** (1 / self.exponent) - 1

    @property
    def prior_std(self) -> float:
        """sigma at t = 1, sigma_max."""
        return self.sigma_max

    def alpha(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.ones_like(as_float(t))

    def sigma(self, t: Time) -> Float[Array, "*shape"]:
        # As a factor of sigma_min, which it then is at t = 0 to the last digit.
        return self.sigma_min * (1 + self._growth * as_float(t)) ** self.exponent

    def dalpha(self, t: Time) -> Float[Array, "*shape"]:
        return jnp.zeros_like(as_float(t))

    def dsigma(self, t: Time) -> Float[Array, "*shape"]:
        slope = self.exponent * self._growth * (1 + self._growth * as_float(t)) ** (self.exponent - 1)
        return self.sigma_min * slope

    def time(self, sigma: float | Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The time at which the noise is `sigma`: the inverse of `sigma`."""
        return (jnp.power(as_float(sigma) / self.sigma_min, 1 / self.exponent) - 1) / self._growth
