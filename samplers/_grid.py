"""What every sampler shares: its time grid, as data, and the point x_1 it starts from."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Scalar
from dpolicy.fields import AbstractField, AbstractSchedule, DiscreteVP

Number: TypeAlias = float | int | Scalar
Numbers: TypeAlias = Sequence[float] | Float[np.ndarray, " n"] | Float[Array, " n"]

INITIALS = ("normal", "zero")


def check_action(name: str, action: Action, field: AbstractField) -> None:
    """Raise `ValueError` unless `action` has the size of the field's actions."""
    check_field(field)
    shape = (field.action_size,)
    if action.shape != shape:
        raise ValueError(f"{name} must have the field's action shape {shape}, got {action.shape}.")


def check_field(field: Any) -> None:
    """Raise `ValueError` unless `field` is one, which knows its schedule, prediction and size."""
    _checks.instance("field", field, AbstractField, "a field, such as Field(...) or FunctionField(...)")


def check_bound(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is None or a positive number."""
    if value is not None:
        _checks.positive(name, value)


def check_reaches_the_action(what: str, field: AbstractField) -> None:
    """Raise `ValueError` for a schedule whose velocity ends before the action: integrated, it leaves noise."""
    if isinstance(field.schedule, DiscreteVP):
        raise ValueError(
            f"{what} needs a schedule that is continuous down to the action; a DiscreteVP has no velocity below "
            "t = 1/K: use ddpm, ddim or CosineVP."
        )


def check_tolerances(rtol: Any, atol: Any, max_steps: Any) -> None:
    """Raise `ValueError` unless both tolerances are positive and `max_steps` is a positive int."""
    _checks.positive("rtol", rtol)
    _checks.positive("atol", atol)
    _checks.integer("max_steps", max_steps)


class Grid(eqx.Module):
    """The `steps + 1` times of a sampler, decreasing from noise to action.

    `times` are data, uniform or not; None stands for the schedule's own grid, from t_max down to t_min (FlowRL's
    cosine: .9946 to .001), or the points k/K of a `DiscreteVP`, whose last has alpha = 1 and sigma = 0.

    Examples:
        >>> print(Grid(4)(point), Grid(2, (1.0, 0.2, 0.0))(point))
        [1.   0.75 0.5  0.25 0.  ] [1.  0.2 0. ]
    """

    times: Float[Array, " n"] | None
    steps: int = eqx.field(static=True)

    def __init__(self, steps: Any, times: Any = None):
        _checks.integer("steps", steps)
        self.steps, self.times = steps, None
        if times is None:
            return
        if np.shape(times) != (steps + 1,):
            allowed = f"steps + 1 = {steps + 1} numbers from noise to action"
            raise ValueError(f"times must hold {allowed}, got shape {np.shape(times)}.")
        _checks.in_range("times", times, 0.0, 1.0, ndim=(1,))
        self.times = jnp.asarray(times, float)
        # Every check lets tracers through, and the differences of a tracer are one.
        steps_down = self.times[:-1] - self.times[1:]
        _checks.positive("times must decrease: times[i] - times[i + 1]", steps_down, ndim=(1,))

    def __call__(self, field: AbstractField) -> Float[Array, "{self.steps}+1"]:
        """The times for this field.

        The first stays below one at which the prediction could not be converted (noise or score with alpha = 0; see
        `AbstractSchedule.span`). The last may have sigma = 0: fixed-step samplers do not evaluate the field there.
        """
        check_field(field)
        times = field.schedule.grid(self.steps)[::-1] if self.times is None else self.times
        return jnp.minimum(times, field.span[1])


def euler_weights(
    schedule: AbstractSchedule, t: Float[Array, " n"], end: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Weights of (clean action, noise) in x + (end - t) dx/dt, as x = alpha data + sigma noise at `t`."""
    size = end - t
    return schedule.alpha(t) + size * schedule.dalpha(t), schedule.sigma(t) + size * schedule.dsigma(t)


def bounded(action: Float[Array, "*batch a"], clip: Number | None) -> Float[Array, "*batch a"]:
    """The action in [-clip, clip]; as it is for None."""
    return action if clip is None else jnp.clip(action, -clip, clip)


class Prior(eqx.Module):
    """The law of x_1: N(0, (scale * prior_std)^2), or zero.

    Examples:
        >>> print(Prior("normal", 1.0)(point, key).shape, Prior("zero", 1.0)(point, key))
        (2,) [0. 0.]
    """

    scale: Number
    initial: str = eqx.field(static=True)

    def __init__(self, initial: Any, scale: Any):
        _checks.one_of("initial", initial, INITIALS)
        _checks.positive("initial_scale", scale)
        self.initial, self.scale = initial, scale

    def __call__(self, field: AbstractField, key: Key, start: Action | None = None) -> Action:
        """A draw of x_1, or `start` if that is given."""
        check_field(field)
        shape = (field.action_size,)
        if start is not None:
            check_action("start", start, field)
            return start
        if self.initial == "zero":
            return jnp.zeros(shape)
        return self.scale * field.schedule.prior_std * jax.random.normal(key, shape)
