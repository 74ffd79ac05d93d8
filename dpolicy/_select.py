"""What must not count, though it may not be finite: 0 times nan is nan."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dpolicy._types import Number

T = TypeVar("T")


def sound(counts: Bool[Array, "*#shape"], tree: T) -> T:
    """`tree`, whose numbers that are not finite are 0 where they do not count; all others stay as they are.

    Given to what would be computed from them, it keeps their gradient finite, too: behind it they would be multiplied
    by zero once more. `counts` has the leading axes of every leaf.
    """

    def select(leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf):
            return leaf
        keep = jnp.reshape(counts, jnp.shape(counts) + (1,) * (leaf.ndim - jnp.ndim(counts)))
        return jnp.where(keep | jnp.isfinite(leaf), leaf, 0)

    return jax.tree.map(select, tree)


def weighed(weight: Any, value: Any) -> Array:
    """weight * value, and 0 where the weight is 0, whatever the value."""
    return weight * sound(jnp.asarray(weight) != 0, jnp.asarray(value))


def heeded(weight: Number, model: T) -> T:
    """`model`, through which no gradient passes where the weight is 0; of one whose value is not finite it is nan."""
    if isinstance(weight, int | float) and weight != 0:
        return model

    def select(leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf):
            return leaf
        return jnp.where(jnp.asarray(weight) != 0, leaf, jax.lax.stop_gradient(leaf))

    return jax.tree.map(select, model)
