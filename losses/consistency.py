"""Consistency functions fitted: neighbours on one path must agree; and how actions are weighed when reconstructed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import boolean, function, in_range, one_key, ordered, positive, returned
from dpolicy._types import Key, Loss, Metrics, Number, Scalar
from dpolicy.fields import AbstractSchedule
from dpolicy.fields._predictions import evaluate


def denoiser_weight(data_std: Number = 0.5) -> Callable[[AbstractSchedule, Float[Array, "*t"]], Array]:
    """w(t) = alpha^2 / sigma^2 + 1 / data_std^2, a `time_weight` of `matching` for fields that predict data.

    With it `matching` is CPQL's reconstruction, E w |f(a + h z, h) - a|^2. Source: Karras et al. 2022 (arXiv
    2206.00364, table 1).

    Examples:
        >>> print(f"{denoiser_weight()(dp.Karras(), dp.Karras().time(1.0)):.1f}")
        5.0
    """
    positive("data_std", data_std)

    def weight(schedule: AbstractSchedule, t: Float[Array, "*t"]) -> Array:
        return (schedule.alpha(t) / schedule.sigma(t)) ** 2 + 1 / data_std**2

    return weight


def consistency_levels(progress: Number, *, low: Number = 2, high: Number = 150) -> Scalar:
    """ceil(sqrt(p (high^2 - low^2) + low^2) - 1) + 1: levels at the share p of training, from low to high.

    Source: Song et al. 2023 (arXiv 2303.01469, appendix C).

    Examples:
        >>> print([int(consistency_levels(p)) for p in (0.0, 0.5, 1.0)])
        [2, 107, 150]
    """
    in_range("progress", progress, 0.0, 1.0)
    in_range("low", low, 2.0)
    in_range("high", high, 2.0)
    ordered("low", low, "high", high)
    share, least, most = (jnp.asarray(number, float) for number in (progress, low, high))
    square = share * (most**2 - least**2) + least**2
    return jnp.ceil(jnp.sqrt(square) - 1) + 1


def consistency_matching(
    slow: Any,
    *,
    levels: Number = 40,
    time_weight: Callable[[AbstractSchedule, Scalar], Array] | None = None,
    scaled: bool = False,
) -> Loss:
    r"""mean_a (f(a + h' z, h') - sg slow(a + h z, h))^2 at neighbouring levels h < h', the same noise z in both.

    The levels are those of the schedule's grid, one pair drawn uniformly. With h' - h -> 0 the minimiser is the map
    along the probability flow to its end, of which a single call from pure noise has the law of the actions; for
    N(0, v), x sqrt((v + h_0^2) / (v + h^2)). A reconstruction, `matching` of a field that predicts data, has another:
    the posterior mean, x v / (v + h^2). Source: Song et al. 2023 (arXiv 2303.01469, algorithm 3, consistency training).

    Args:
        slow: A slow average of the field, not differentiated.
        levels: Levels of the grid, both ends among them; see `consistency_levels` for a count that grows.
        time_weight: Of (schedule, t'), such as `denoiser_weight()` (CPQL's code); None for 1.
        scaled: Whether the loss is divided by h' - h, so that a finer grid does not make it smaller.

    Examples:
        >>> shape = {"hidden": (4,), "initialisation": "torch"}
        >>> field = dp.ConsistencyField(1, 2, key=key, **shape)
        >>> print(consistency_matching(field)(field, example, key)[0].shape)
        ()
    """
    in_range("levels", levels, 2.0)
    boolean("scaled", scaled)
    if time_weight is not None:
        function("time_weight", time_weight, "(schedule, t) -> weight")

    def loss(field: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        noise_key, level_key = jax.random.split(one_key(key))
        if getattr(field, "prediction", None) != "data":
            raise ValueError(f"the model of consistency_matching must predict data, got {field!r}.")
        action, schedule = jax.lax.stop_gradient(example.action), field.schedule
        gaps = jnp.asarray(levels, action.dtype) - 1
        # Of floats, as the count of levels may be traced; a draw of 1 would be the level above the last.
        lower = jnp.minimum(jnp.floor(gaps * jax.random.uniform(level_key, (), action.dtype)), gaps - 1)
        z = jax.random.normal(noise_key, action.shape, action.dtype)

        def at(model: Any, t: Scalar) -> Array:
            return evaluate(model, schedule.alpha(t) * action + schedule.sigma(t) * z, t, example.obs)

        early, late = lower / gaps, (lower + 1) / gaps
        result = jnp.mean((at(field, late) - jax.lax.stop_gradient(at(slow, early))) ** 2)
        if time_weight is not None:
            result = result * returned("time_weight", time_weight(schedule, late))
        if scaled:
            result = result / (schedule.sigma(late) - schedule.sigma(early))
        return result, {"loss": result}

    return loss
