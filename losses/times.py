"""Laws of the training time t: functions (schedule, key) -> t, one draw each."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from dpolicy._checks import in_range, instance, integer, one_of, ordered, positive
from dpolicy._types import Key, Number, Scalar
from dpolicy.fields import AbstractSchedule, Karras

TimeLaw: TypeAlias = Callable[[AbstractSchedule, Key], Scalar]


def uniform_times() -> TimeLaw:
    """t ~ U(t_min, t_max) of the schedule.

    Examples:
        >>> print(0 <= uniform_times()(schedule, key) <= 1)
        True
    """

    def draw(schedule: AbstractSchedule, key: Key) -> Scalar:
        return jax.random.uniform(key, minval=schedule.t_min, maxval=schedule.t_max)

    return draw


def grid_times(steps: int = 10) -> TimeLaw:
    """t uniform over the points where a sampler of `steps` equal steps evaluates the field.

    For rectified flow {1/steps, ..., 1} (FPO's default, steps = 10).

    Examples:
        >>> print(float(grid_times(4)(schedule, key)) in (0.25, 0.5, 0.75, 1.0))
        True
    """
    integer("steps", steps)

    def draw(schedule: AbstractSchedule, key: Key) -> Scalar:
        # Point 0 is the action, where no sampler evaluates the field.
        return schedule.grid(steps)[jax.random.randint(key, (), 1, steps + 1)]

    return draw


def power_times(exponent: Number = 1.0, *, low: Number = 0.005, high: Number = 0.995) -> TimeLaw:
    """t = low + (high - low) (1 - (1 - u)^(1 / exponent)), u ~ U(0, 1).

    Its mean is low + (high - low) / (1 + exponent). An exponent above 1 favours small t, near the action.
    Source: FPO++ (arXiv 2602.02481), code; exponent 1 there.

    Examples:
        >>> draw = jax.vmap(lambda key: power_times(3.0, low=0.0, high=1.0)(schedule, key))
        >>> print(f"{draw(jax.random.split(key, 10_000)).mean():.2f}")
        0.25
    """
    positive("exponent", exponent)
    in_range("low", low, 0.0, 1.0)
    in_range("high", high, 0.0, 1.0)
    ordered("low", low, "high", high)

    def draw(schedule: AbstractSchedule, key: Key) -> Scalar:
        u = jax.random.uniform(key)
        t = low + (high - low) * (1 - (1 - u) ** (1 / exponent))
        return jnp.clip(t, schedule.t_min, schedule.t_max)

    return draw


def logit_normal_times(mean: float = -1.2, std: float = 1.2) -> TimeLaw:
    """t = sigmoid(mean + std n), n ~ N(0, 1). Defaults: FPO's humanoid code, with t = 0 at the action.

    Examples:
        >>> draw = jax.vmap(lambda key: logit_normal_times(mean=0.0)(schedule, key))
        >>> print(f"{draw(jax.random.split(key, 10_000)).mean():.1f}")
        0.5
    """
    in_range("mean", mean)
    positive("std", std)

    def draw(schedule: AbstractSchedule, key: Key) -> Scalar:
        t = jax.nn.sigmoid(mean + std * jax.random.normal(key))
        return jnp.clip(t, schedule.t_min, schedule.t_max)

    return draw


def log_logistic_times(median: Number = 0.5, scale: Number = 0.5) -> TimeLaw:
    """sigma = median (u / (1 - u))^scale, u uniform, within the noise of a schedule of rank (`Karras`), as its time.

    Source: DTQL (arXiv 2405.19690), code, with the deviation of the data for a median.

    Examples:
        >>> draw = jax.vmap(lambda key: log_logistic_times()(dp.Karras(), key))
        >>> print(f"{jnp.median(dp.Karras().sigma(draw(jax.random.split(key, 10_000)))):.1f}")
        0.5
    """
    positive("median", median)
    positive("scale", scale)

    def draw(schedule: AbstractSchedule, key: Key) -> Scalar:
        instance(
            "the schedule of log_logistic_times", schedule, Karras, "a Karras schedule, such as Karras()"
        )
        ends = jnp.asarray([schedule.sigma_min, schedule.sigma_max])  # pyright: ignore[reportAttributeAccessIssue]
        low, high = jax.nn.sigmoid(jnp.log(ends / median) / scale)
        u = low + (high - low) * jax.random.uniform(key)
        t = schedule.time(median * (u / (1 - u)) ** scale)  # pyright: ignore[reportAttributeAccessIssue]
        return jnp.clip(t, schedule.t_min, schedule.t_max)

    return draw


def later_times() -> TimeLaw:
    """The later of two draws of U(t_min, t_max): the t of MeanFlow's pairs r <= t, of which r is then U(t_min, t).

    Examples:
        >>> draw = jax.vmap(lambda key: later_times()(schedule, key))
        >>> print(f"{draw(jax.random.split(key, 10_000)).mean():.2f}")
        0.67
    """

    def draw(schedule: AbstractSchedule, key: Key) -> Scalar:
        return jnp.max(jax.random.uniform(key, (2,), minval=schedule.t_min, maxval=schedule.t_max))

    return draw


_NAMED = {
    "uniform": uniform_times,
    "grid": grid_times,
    "power": power_times,
    "logit_normal": logit_normal_times,
    "later": later_times,
}


def time_law(times: str | TimeLaw) -> TimeLaw:
    """The law that `times` names, with its defaults, or `times` itself."""
    if callable(times):
        return times
    one_of("times", times, _NAMED)
    return _NAMED[times]()
