"""How far numbers are spread: not at all, where what is left is rounding."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dpolicy._types import Number, Scalar

_ROUNDINGS = 8


def varies(
    deviation: Float[Array, "*shape"], magnitude: Number | Float[Array, "*#shape"]
) -> Bool[Array, "*shape"]:
    """Whether a deviation is more than rounding of numbers of that magnitude: than 8 machine epsilons of it."""
    # What is no number is not equal to anything: it varies.
    return ~(deviation <= _ROUNDINGS * jnp.finfo(deviation.dtype).eps * jnp.abs(jnp.asarray(magnitude)))


def root(square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root, with a gradient of 0 at 0, where it has none."""
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def spread(
    x: Float[Array, "*shape"], magnitude: Number = 0.0
) -> tuple[Scalar, Float[Array, "*shape"], Scalar]:
    """Mean, distances from it, and their root mean square over all axes; both 0 where x is equal up to rounding.

    Dividing by a deviation that is only rounding would make noise as large as any signal.

    Args:
        x: The numbers.
        magnitude: Of those that x was computed from, where it is larger than that of x.
    """
    # A sum of equal numbers is not n times the number; distances from one of them are exact.
    first = jnp.ravel(x)[0]
    apart = x - first
    shift = jnp.mean(apart)
    apart = apart - shift
    deviation = root(jnp.mean(apart**2))
    some = varies(deviation, jnp.maximum(jnp.max(jnp.abs(x)), jnp.asarray(magnitude)))
    return first + shift, jnp.where(some, apart, 0), jnp.where(some, deviation, 0)
