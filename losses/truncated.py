"""Truncated normal draws that stay finite and accurate in both tails, in single precision."""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

from dpolicy._types import Key

_FAR = 6.0  # beyond this many standard deviations the tail is inverted through its Mills ratio
_NARROW = 1e-2  # an interval of at most this width has an exponential density to 1e-5


def _mills(z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """(1 - Phi(z)) / phi(z) for z >= 6, by its asymptotic series; relative error below 4e-6."""
    y = 1 / z**2
    return (1 - y * (1 - 3 * y * (1 - 5 * y * (1 - 7 * y * (1 - 9 * y * (1 - 11 * y)))))) / z


def _exponential_offset(u: Array, rate: Array, width: Array) -> Array:
    """Inverse distribution function of the density proportional to exp(-rate d) on [0, width]."""
    small = jnp.abs(rate * width) < 1e-4
    safe = jnp.where(small, 1, rate)
    return jnp.where(small, u * width, -jnp.log1p(u * jnp.expm1(-safe * width)) / safe)


def truncated_offset(
    u: Float[Array, "*s"], lower: Float[Array, "*s"], width: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """d in [0, width] such that lower + d is a standard normal truncated to [lower, lower + width].

    `u` is uniform on (0, 1); the middle of the interval must not be negative (reflect it otherwise).
    """
    # The interval near the centre: invert the survival function, which is accurate for positive arguments.
    near = jnp.minimum(lower, _FAR)
    low, high = ndtr(-near), ndtr(-(near + width))
    middle = -ndtri(low + u * (high - low)) - near

    # Far out: log S(l + d) - log S(l) = -(l d + d^2 / 2) + log M(l + d) - log M(l), M = S / phi, by Newton.
    far = jnp.maximum(lower, _FAR)
    capped = jnp.minimum(width, 40 / far)  # what lies beyond has mass exp(-40)
    mills = _mills(far)
    ratio = jnp.exp(-capped * (far + capped / 2)) * _mills(far + capped) / mills
    goal = jnp.log1p(u * (ratio - 1))
    tail = -goal / far
    for _ in range(3):
        here = _mills(far + tail)
        tail = tail + (jnp.log(here / mills) - tail * (far + tail / 2) - goal) * here

    narrow = _exponential_offset(u, jnp.minimum(lower, 1e15) + width / 2, jnp.minimum(width, _NARROW))
    offset = jnp.where(lower > _FAR, tail, middle)
    offset = jnp.where((width < _NARROW) & (lower <= 1e3), narrow, offset)
    return jnp.clip(offset, 0, width)


def open_uniform(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Uniform on (0, 1), away from both ends by the spacing of `dtype`, so that no quantile is infinite."""
    return jax.random.uniform(key, shape, dtype, minval=jnp.finfo(dtype).eps, maxval=1.0)


def truncated_normal(key: Key, lower: Float[Array, "*s"], upper: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Standard normal draws restricted to [lower, upper], elementwise.

    Finite and inside the bounds however far both lie on one side of zero, where an inverse distribution
    function through `erf` returns infinities past about five standard deviations in single precision.
    """
    sign = jnp.where(lower + upper < 0, -1, 1).astype(lower.dtype)
    low = jnp.where(sign < 0, -upper, lower)
    offset = truncated_offset(open_uniform(key, lower.shape, lower.dtype), low, upper - lower)
    return jnp.clip(sign * (low + offset), lower, upper)


def truncated_proposal(
    key: Key, x: Float[Array, "n a"], alpha: Float[Array, ""], sigma: Float[Array, ""], bound: float
) -> tuple[Float[Array, "n a"], Float[Array, "n a"]]:
    """Draw (action, noise) with x = alpha action + sigma noise, noise standard normal given |action| <=
    bound.

    Accurate for alpha -> 0 (the actions tend to uniform on the box) and sigma -> 0 (to x / alpha).
    """
    tiny = jnp.asarray(1e-6, x.dtype)
    alpha, sigma = jnp.maximum(alpha, 0), jnp.maximum(sigma, tiny)
    sign = jnp.where(x < 0, -1, 1).astype(x.dtype)
    low = (jnp.abs(x) - alpha * bound) / sigma
    width = jnp.broadcast_to(jnp.maximum(2 * alpha * bound / sigma, tiny), x.shape)
    offset = truncated_offset(open_uniform(key, x.shape, x.dtype), low, width)
    noise = sign * (low + offset)
    # Two forms of (x - sigma noise) / alpha: the first does not divide by alpha, the second not by sigma.
    from_face = sign * bound * (1 - 2 * offset / width)
    direct = (x - sigma * noise) / jnp.maximum(alpha, tiny)
    action = jnp.where(width < 1, from_face, direct)
    return jnp.clip(action, -bound, bound), noise
