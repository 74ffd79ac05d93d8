"""The range of the values that critics have been fitted to, which bounds what their targets bootstrap with."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._types import Key, Scalar
from dpolicy.learning import Parts, Seen, Stage

_NONE = 1e30  # beyond every value, and finite


class ValueRange(eqx.Module):
    """clip(value, low, high), called on a value; both are 0 at first, and then what was seen up to the last copy.

    Attributes:
        least: The lowest target seen.
        most: The highest.
        low: What values are clipped to from below.
        high: From above.
    """

    least: Float[Array, "*seeds"]
    most: Float[Array, "*seeds"]
    low: Float[Array, "*seeds"]
    high: Float[Array, "*seeds"]

    def __call__(self, value: Scalar) -> Scalar:
        return jnp.clip(value, self.low, self.high)


def value_range(interval: int, *, name: str = "target") -> Stage:
    """The stage of a `ValueRange`: every `interval` updates it becomes what the targets of all batches have spanned.

    Values of actions that no data holds cannot grow beyond those that there have been. Source: TD7 (arXiv 2306.02451,
    section 4.2); up to the first copy its code clips to 0, too.

    Args:
        interval: Updates.
        name: The entry of the extras that holds the targets.
    """

    def start(key: Key, spec: Any, parts: Parts) -> ValueRange:
        zero = jnp.zeros(())
        return ValueRange(zero + _NONE, zero - _NONE, zero, zero)

    def step(part: ValueRange, seen: Seen, key: Key) -> tuple[ValueRange, dict[str, Any], dict[str, Array]]:
        given = seen.batch.extras[name]
        least, most = jnp.minimum(part.least, jnp.min(given)), jnp.maximum(part.most, jnp.max(given))
        due = seen.updates % interval == 0
        part = ValueRange(least, most, jnp.where(due, least, part.low), jnp.where(due, most, part.high))
        return part, {}, {"low": part.low, "high": part.high}

    return Stage(start, step)
