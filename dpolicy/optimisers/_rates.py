"""Learning rates that follow the algorithm's clock or the policy's divergence, and parts that wait: links for optax."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dpolicy import _checks
from dpolicy._settings import checked, one_of
from dpolicy._types import Metrics, Number, Scalar
from dpolicy.losses import adaptive_rate
from dpolicy.optimisers._learner import keep_if, scaled

ANNEALS = ("linear", "cosine")


class Rate(NamedTuple):
    """The state of a transformation that scales by minus a rate: the rate of its last step.

    Attributes:
        learning_rate: That rate.
        adapted: What has adapted to the divergence where the rate is that times a factor, which may be 0; else None.
    """

    learning_rate: Float[Array, ""]
    adapted: Float[Array, ""] | None = None


def by_updates(rate: Callable[[Int[Array, ""]], Any]) -> optax.GradientTransformationExtraArgs:
    """Scale by -rate(updates), `updates` being those of the algorithm before the present one.

    Unlike optax's schedules it does not count its own steps, which a delayed part takes fewer of.
    """
    _checks.function("rate", rate, "updates -> rate")

    def start(parameters: Any) -> Rate:
        return Rate(jnp.asarray(rate(jnp.zeros((), jnp.int32)), float))

    def step(
        change: Any, state: Rate, parameters: Any = None, *, count: Any, **others: Any
    ) -> tuple[Any, Rate]:
        now = jnp.asarray(rate(count), float)
        return scaled(change, -now), Rate(now)

    return _link(start, step)


def by_kl(
    start: Number,
    target: Number,
    *,
    metric: str = "kl",
    floor: Number = 0.0,
    after: int = 0,
    factor: Callable[[Int[Array, ""]], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Scale by minus a rate that adapts to the divergence of the policy, which the loss reports under `metric`.

    Before each step the rate falls by 1.5 where KL > 2 target, and rises by it where floor < KL < target / 2, within
    [1e-5, 1e-2] (`dpolicy.losses.adaptive_rate`). It waits for the first `after` updates.

    Args:
        start: The rate that it starts with.
        target: Target of the KL, in nats.
        metric: Name of the KL among the metrics of the loss.
        floor: The rate rises only where the KL is above it; below 0 for an estimate that may be negative.
        after: Updates of the algorithm through which it keeps its start.
        factor: `updates -> factor` on the rate, beside what it adapts to; None for 1.

    Raises:
        ValueError: For a rate or a target that is not above zero, and, at the first step, for a metric that is not
            there.
    """
    _checks.positive("learning_rate", start)
    _checks.positive("target_kl", target)
    _checks.integer("after", after, 0)

    def at(adapted: Float[Array, ""], count: Any) -> Rate:
        return Rate(adapted) if factor is None else Rate(factor(count) * adapted, adapted)

    def begin(parameters: Any) -> Rate:
        return at(jnp.asarray(start, float), jnp.zeros((), jnp.int32))

    def step(
        change: Any, state: Rate, parameters: Any = None, *, metrics: Metrics, count: Any, **others: Any
    ) -> tuple[Any, Rate]:
        _checks.one_of("kl, the metric of the loss that the learning rate adapts to,", metric, metrics)
        before = state.learning_rate if state.adapted is None else state.adapted
        adapted = adaptive_rate(before, metrics[metric], target, floor=floor)
        if after > 0:
            adapted = jnp.where(count >= after, adapted, before)
        rate = at(adapted, count)
        return scaled(change, -rate.learning_rate), rate

    return _link(begin, step)


def waiting(inner: optax.GradientTransformation, updates: int) -> optax.GradientTransformationExtraArgs:
    """`inner` from the algorithm's update `updates` on; until then nothing moves and its state waits.

    Adam counts its steps: those of a part that waits must not be counted. A critic warm-up is
    `optax.partition({"policy": waiting(adam, n), "value": adam}, ...)`.

    Raises:
        ValueError: Unless `updates` is an integer of at least 0.
    """
    _checks.integer("updates", updates, 0)
    inner = optax.with_extra_args_support(inner)

    def step(
        change: Any, state: Any, parameters: Any = None, *, count: Any, **others: Any
    ) -> tuple[Any, Any]:
        moved, new = inner.update(change, state, parameters, count=count, **others)
        due = jnp.asarray(count >= updates)
        return jax.tree.map(lambda leaf: jnp.where(due, leaf, 0), moved), keep_if(due, state, new)

    return _link(inner.init, step)


@checked
def annealed(
    updates: Int[Array, "..."],
    start: Number,
    end: Number,
    over: Number,
    *,
    begin: Number = 0.0,
    shape: Annotated[str, one_of(ANNEALS)] = "linear",
) -> Scalar:
    """start + (end - start) p with p = clip((updates - begin) / over, 0, 1), or (1 - cos(pi p)) / 2 for cosine.

    `updates` are those before the present one (`seen.before.updates`), whatever the number of environments or of
    updates per step: the first update sees `start`, and `end` comes after begin + over of them. Every schedule of an
    off-policy method is this one: DPS' temperature, QVPO's uniform weight, rates that decay.

    Raises:
        ValueError: For an unknown shape.
    """
    progress = jnp.clip((updates - begin) / over, 0.0, 1.0)
    if shape == "cosine":
        progress = (1 - jnp.cos(jnp.pi * progress)) / 2
    return start + (end - start) * progress


def _link(
    start: Callable[..., Any], step: Callable[..., tuple[Any, Any]]
) -> optax.GradientTransformationExtraArgs:
    return optax.GradientTransformationExtraArgs(start, step)
