"""Fields f(x, t, obs), what they predict, and the exact conversions between noise, score, velocity and data.

With x = alpha x_0 + sigma eps (for one sample, or for the conditional means given x):

    score = -eps / sigma,    velocity = dalpha/dt x_0 + dsigma/dt eps

so that any two of x, data and one prediction determine the others.
"""

import abc
from typing import Any, get_args

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Observation, Prediction, Scalar
from dpolicy.fields._schedule import AbstractSchedule, check_schedule

PREDICTIONS: tuple[str, ...] = get_args(Prediction)


class AbstractField(eqx.Module):
    """A function of noised action, time and observation that knows its schedule and what it predicts."""

    schedule: eqx.AbstractVar[AbstractSchedule]
    prediction: eqx.AbstractVar[Prediction]
    action_size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, x: Action, t: Scalar, obs: Observation) -> Action:
        """The raw prediction, of the kind `prediction`, for one noised action."""

    @property
    def span(self) -> tuple[float, float]:
        """(t_min, t_max): where this field converts to the other kinds (`AbstractSchedule.span`)."""
        return self.schedule.span(self.prediction)


def check_time(t: Any, x: Any, name: str) -> None:
    """Raise `ValueError` unless `t` is one time, or has the axes of `x` (the argument `name`) and broadcasts to it."""
    shape, found = np.shape(x), np.shape(t)
    fits = len(found) == len(shape) and all(n in (1, m) for n, m in zip(found, shape, strict=True))
    if found and not fits:
        raise ValueError(f"t must be a scalar or broadcast to the shape {shape} of {name}, got {found}.")


def as_pair(
    value: Float[Array, "*a"],
    x: Float[Array, "*a"],
    t: Float[Array, "..."],
    *,
    schedule: AbstractSchedule,
    prediction: Prediction,
) -> tuple[Float[Array, "*a"], Float[Array, "*a"]]:
    """(data, noise) behind a prediction `value` at `x`, `t`; they satisfy x = alpha data + sigma noise.

    Singular where alpha = 0 (from noise or score) or sigma = 0 (from data): see `AbstractSchedule.span`.

    Raises:
        ValueError: For an unknown `prediction`, and for shapes that do not fit together.
    """
    _checks.one_of("prediction", prediction, PREDICTIONS)
    check_schedule(schedule)
    _checks.same_shapes(value=value, x=x)
    check_time(t, x, "x")
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if prediction == "data":
        return value, (x - alpha * value) / sigma
    if prediction == "velocity":
        dalpha, dsigma = schedule.dalpha(t), schedule.dsigma(t)
        # Cramer's rule for x = alpha data + sigma noise, value = dalpha data + dsigma noise; not zero while the
        # signal-to-noise ratio falls.
        determinant = alpha * dsigma - sigma * dalpha
        return (dsigma * x - sigma * value) / determinant, (alpha * value - dalpha * x) / determinant
    noise = -sigma * value if prediction == "score" else value
    return (x - sigma * noise) / alpha, noise


def express(
    data: Float[Array, "*a"],
    noise: Float[Array, "*a"],
    t: Float[Array, "..."],
    *,
    schedule: AbstractSchedule,
    prediction: Prediction,
) -> Float[Array, "*a"]:
    """The (data, noise) pair said as a prediction: noise, -noise/sigma, dalpha data + dsigma noise, or data.

    Raises:
        ValueError: For an unknown `prediction`, and for shapes that do not fit together.
    """
    _checks.one_of("prediction", prediction, PREDICTIONS)
    check_schedule(schedule)
    _checks.same_shapes(data=data, noise=noise)
    check_time(t, data, "data")
    if prediction == "data":
        return data
    if prediction == "noise":
        return noise
    if prediction == "score":
        return -noise / schedule.sigma(t)
    return schedule.dalpha(t) * data + schedule.dsigma(t) * noise


def convert(
    value: Float[Array, "*a"],
    x: Float[Array, "*a"],
    t: Float[Array, "..."],
    *,
    schedule: AbstractSchedule,
    source: Prediction,
    target: Prediction,
) -> Float[Array, "*a"]:
    """A prediction of kind `source` at `x`, `t` as one of kind `target`; the same kind comes back untouched.

    Raises:
        ValueError: For an unknown kind, and for shapes that do not fit together.
    """
    _checks.one_of("source", source, PREDICTIONS)
    _checks.one_of("target", target, PREDICTIONS)
    check_schedule(schedule)
    _checks.same_shapes(value=value, x=x)
    check_time(t, x, "x")
    if source == target:
        return value
    data, noise = as_pair(value, x, t, schedule=schedule, prediction=source)
    return express(data, noise, t, schedule=schedule, prediction=target)


def evaluate(field: Any, x: Action, t: Scalar, obs: Observation) -> Action:
    """field(x, t, obs), refused by `ValueError` where it is not floats of the shape of `x`: they would be broadcast."""
    if not (callable(field) and hasattr(field, "schedule") and hasattr(field, "prediction")):
        raise ValueError(f"field must be a field, such as Field(...) or FunctionField(...), got {field!r}.")
    return _checks.field_value("the field", field(x, t, obs), x)


def predict(field: AbstractField, target: Prediction, x: Action, t: Scalar, obs: Observation) -> Action:
    """The field's prediction said as `target`."""
    value = evaluate(field, x, t, obs)
    return convert(value, x, t, schedule=field.schedule, source=field.prediction, target=target)


def predict_noise(field: AbstractField, x: Action, t: Scalar, obs: Observation) -> Action:
    """E[eps | x_t = x]."""
    return predict(field, "noise", x, t, obs)


def predict_score(field: AbstractField, x: Action, t: Scalar, obs: Observation) -> Action:
    """grad_x log p_t(x)."""
    return predict(field, "score", x, t, obs)


def predict_velocity(field: AbstractField, x: Action, t: Scalar, obs: Observation) -> Action:
    """E[dx_t/dt | x_t = x], the drift of the probability-flow ODE."""
    return predict(field, "velocity", x, t, obs)


def predict_data(field: AbstractField, x: Action, t: Scalar, obs: Observation) -> Action:
    """E[x_0 | x_t = x], the denoised action."""
    return predict(field, "data", x, t, obs)
