"""What a noise schedule is: alpha_t, sigma_t, their derivatives, and the times they are good for."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Prediction

Time = Float[Array, "*shape"] | float | int

# How close to t = 1 (t = 0) a noise (data) prediction is still converted where alpha (sigma) vanishes.
_MARGIN = 1e-3


def constant(name: str, value: float | int) -> float:
    if isinstance(value, Tracer):
        raise ValueError(f"{name} must be a Python number (it is structure, not a parameter), got a tracer.")
    _checks.in_range(name, value)
    return float(value)


def as_float(t: Time) -> Float[Array, "*shape"]:
    return jnp.asarray(t) * 1.0  # keeps the precision of a floating t, unlike asarray(t, float)


def time_range(t_min: float | int, t_max: float | int, *, open_high: bool = False) -> tuple[float, float]:
    low, high = constant("t_min", t_min), constant("t_max", t_max)
    _checks.in_range("t_max", high, 0.0, 1.0, open_high=open_high)
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
        """The part of (t_min, t_max) on which a field of this kind converts to the other kinds.

        Noise and score need alpha > 0, data and score sigma > 0; a velocity needs neither. (Nothing converts to a
        score where sigma = 0.)
        """
        return self.t_min, self.t_max

    def grid(self, steps: int) -> Float[Array, " {steps}+1"]:
        """`steps + 1` uniform times from t_min (index 0, cleanest) to t_max."""
        _checks.integer("steps", steps)
        return jnp.linspace(self.t_min, self.t_max, steps + 1)


def check_schedule(schedule: object) -> None:
    _checks.instance("schedule", schedule, AbstractSchedule, "a schedule, such as CosineVP()")


def interpolating_span(schedule: AbstractSchedule, prediction: Prediction) -> tuple[float, float]:
    """The span of a schedule with sigma_0 = 0 and alpha_1 = 0."""
    low, high = schedule.t_min, schedule.t_max
    if prediction in ("noise", "score"):
        high = min(high, 1 - _MARGIN)
    if prediction in ("data", "score"):
        low = max(low, _MARGIN)
    return low, high
