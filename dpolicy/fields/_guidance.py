"""Guided fields: an energy's gradient added to the score, and classifier-free mixtures. Both give fields back."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Observation, Prediction, Scalar
from dpolicy.fields._predictions import PREDICTIONS, AbstractField, check_time, evaluate, predict
from dpolicy.fields._schedule import AbstractSchedule

Energy: TypeAlias = Callable[[Action, Scalar, Observation], Scalar]
Scale: TypeAlias = float | int | Float[Array, ""] | Callable[[Scalar], Any]


def shift_score(
    value: Float[Array, "*a"],
    shift: Float[Array, "*a"],
    t: Float[Array, "..."],
    *,
    schedule: AbstractSchedule,
    prediction: Prediction,
) -> Float[Array, "*a"]:
    """The prediction `value` after its score has moved by `shift`, without a round trip through the score.

        score + shift,   noise - sigma shift,   data + sigma^2/alpha shift,
        velocity - sigma (dsigma - dalpha sigma/alpha) shift

    The last two are singular where alpha = 0.

    Raises:
        ValueError: For an unknown `prediction`, and for shapes that do not fit together.
    """
    _checks.one_of("prediction", prediction, PREDICTIONS)
    _checks.same_shapes(value=value, shift=shift)
    check_time(t, value, "value")
    if prediction == "score":
        return value + shift
    sigma = schedule.sigma(t)
    if prediction == "noise":
        return value - sigma * shift
    ratio = sigma / schedule.alpha(t)
    if prediction == "data":
        return value + sigma * ratio * shift
    return value - sigma * (schedule.dsigma(t) - schedule.dalpha(t) * ratio) * shift


def _at(name: str, scale: Scale, t: Scalar) -> Any:
    return _checks.returned(name, scale(t)) if callable(scale) else scale


class Guided(AbstractField):
    """`field` with scale(t) grad_x energy(x, t, obs) added to its score; made by `guided`."""

    field: AbstractField
    energy: Energy
    scale: Scale
    schedule: AbstractSchedule
    prediction: Prediction = eqx.field(static=True)
    action_size: int = eqx.field(static=True)

    def __init__(self, field: AbstractField, energy: Energy, scale: Scale):
        self.field, self.energy, self.scale = field, energy, scale
        self.schedule, self.prediction = field.schedule, field.prediction
        self.action_size = field.action_size

    @property
    def span(self) -> tuple[float, float]:
        """That of the field without the times at which alpha = 0, where a velocity's share of the score is infinite."""
        low, high = self.field.span
        return low, min(high, self.schedule.span("noise")[1])

    def __call__(self, x: Action, t: Scalar, obs: Observation) -> Action:
        energy = lambda x: _checks.returned("energy", self.energy(x, t, obs))
        shift = _at("scale", self.scale, t) * jax.grad(energy)(x)
        value = evaluate(self.field, x, t, obs)
        return shift_score(value, shift, t, schedule=self.schedule, prediction=self.prediction)


def guided(field: AbstractField, energy: Energy, scale: Scale = 1.0) -> Guided:
    """The field whose score is score(x, t, obs) + scale grad_x energy(x, t, obs).

    With energy E_t = log E[exp(Q(s, x_0)/lambda) | x_t = x] and scale 1 this is exactly the field of
    nu(a|s) exp(Q(s, a)/lambda) (QGPO, Lu et al. 2023, arXiv 2304.12824, eq. 10); the classifier guidance of Dhariwal &
    Nichol 2021 (arXiv 2105.05233) has E_t = log p(y | x_t).

    Args:
        field: The field to guide, of any prediction and schedule; the result keeps both.
        energy: `energy(x, t, obs) -> scalar`, larger where samples should go.
        scale: A number, possibly traced, or a function of t.

    Raises:
        ValueError: For a scale that is not a finite number.
    """
    _checks.instance("field", field, AbstractField, "a field")
    _checks.function("energy", energy, "(x, t, obs) -> scalar")
    if not callable(scale):
        _checks.in_range("scale", scale)
    return Guided(field, energy, scale)


class ClassifierFree(AbstractField):
    """u + weight (c - u) for a conditional field c and an unconditional u; made by `classifier_free`."""

    conditional: AbstractField
    unconditional: AbstractField
    null: Observation | None
    weight: Scale
    schedule: AbstractSchedule
    prediction: Prediction = eqx.field(static=True)
    action_size: int = eqx.field(static=True)

    def __init__(
        self,
        conditional: AbstractField,
        unconditional: AbstractField,
        null: Observation | None,
        weight: Scale,
    ):
        self.conditional, self.unconditional, self.null, self.weight = (
            conditional,
            unconditional,
            null,
            weight,
        )
        self.schedule, self.prediction = conditional.schedule, conditional.prediction
        self.action_size = conditional.action_size

    @property
    def span(self) -> tuple[float, float]:
        """The times that are good for both fields."""
        (low, high), (other_low, other_high) = self.conditional.span, self.unconditional.span
        return max(low, other_low), min(high, other_high)

    def __call__(self, x: Action, t: Scalar, obs: Observation) -> Action:
        weight = _at("weight", self.weight, t)
        with_obs = evaluate(self.conditional, x, t, obs)
        other = obs if self.null is None else self.null
        without = predict(self.unconditional, self.prediction, x, t, other)
        return without + weight * (with_obs - without)


def classifier_free(
    conditional: AbstractField,
    unconditional: AbstractField | Observation,
    weight: Scale,
) -> ClassifierFree:
    """The field u + weight (c - u): score(x) + weight grad_x log p(condition | x) (Ho & Salimans, arXiv 2207.12598).

    `weight` 0 is the unconditional field, 1 the conditional one, larger values sharpen the condition (their
    1 + w). All predictions are affine in the score, so the mixture is the same in every kind.

    Args:
        conditional: The field c(x, t, obs); the result keeps its prediction.
        unconditional: A field u on the same schedule (of any prediction; it is given `obs` as well), or the null
            observation at which `conditional` itself is the unconditional field.
        weight: A number, possibly traced, or a function of t.

    Raises:
        ValueError: For a weight that is not a finite number, or if schedules or action sizes differ.
    """
    _checks.instance("conditional", conditional, AbstractField, "a field")
    if not callable(weight):
        _checks.in_range("weight", weight)
    if not isinstance(unconditional, AbstractField):
        if np.ndim(unconditional) != 1:
            allowed = "a field or an observation, [obs_size]"
            raise ValueError(f"unconditional must be {allowed}, got {unconditional!r}.")
        return ClassifierFree(conditional, conditional, unconditional, weight)
    if unconditional.schedule != conditional.schedule:
        raise ValueError(
            f"Both fields must have the same schedule, got {conditional.schedule} and {unconditional.schedule}."
        )
    if unconditional.action_size != conditional.action_size:
        raise ValueError(
            f"Both fields must have the same action_size, got {conditional.action_size} and "
            f"{unconditional.action_size}."
        )
    return ClassifierFree(conditional, unconditional, None, weight)
