"""Truncated normal draws that stay finite and accurate in both tails, in single precision."""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

from dpolicy._checks import one_key, ordered, same_shapes
from dpolicy._types import Key, Scalar

_NARROW = 1e-3  # width below which the density is constant to single precision's resolution of the interval


def _far(dtype: jnp.dtype) -> float:
    """Standard deviations beyond which the tail expansion replaces the distribution function, which underflows."""
    return 10.0 if jnp.finfo(dtype).bits <= 32 else 30.0


def _tail_offset(u: Array, lower: Array, width: Array) -> Array:
    """The quantile of a far interval, from S(l + d) / S(l) = exp(-(a d + d^2 / 2)), a = l + 1 / l.

    The expansion of the normal tail behind it leaves out terms of relative size 1 / (2 l^4).
    """
    rate = lower + 1 / lower
    width = jnp.minimum(width, 50 / lower)  # what lies beyond has mass exp(-50)
    mass = -jnp.expm1(-width * (rate + width / 2))
    exponent = -jnp.log1p(-u * mass)
    return 2 * exponent / (rate + jnp.sqrt(rate**2 + 2 * exponent))


def truncated_quantile(
    u: Float[Array, "*s"], lower: Float[Array, "*#s"], width: Float[Array, "*#s"]
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """(z, z - lower): the u-quantile of a standard normal truncated to [lower, lower + width], u in (0, 1).

    The middle of the interval must not be negative (reflect it otherwise). Both forms are returned because
    neither follows accurately from the other when the interval is very wide or very narrow. Bounds of size 1
    along an axis are shared by all of `u`, and their part of the work is done once.
    """
    far = _far(u.dtype)
    near = jnp.minimum(lower, far)
    # The survival function and its inverse keep their relative accuracy for positive arguments.
    low, high = ndtr(-near), ndtr(-(near + width))
    central = -ndtri(low + u * (high - low))
    offset = jnp.where(lower > far, _tail_offset(u, jnp.maximum(lower, far), width), central - near)
    offset = jnp.where((width < _NARROW) & (lower <= far), u * width, offset)
    offset = jnp.clip(offset, 0, width)
    wide = (lower <= far) & (width >= _NARROW)
    return jnp.where(wide, jnp.clip(central, lower, lower + width), lower + offset), offset


def _open_uniform(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Uniform on (0, 1), away from zero by the spacing of `dtype`, so that no quantile is infinite."""
    return jax.random.uniform(key, shape, dtype, minval=jnp.finfo(dtype).eps, maxval=1.0)


def truncated_normal(key: Key, lower: Float[Array, "*s"], upper: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Standard normal draws restricted to [lower, upper], elementwise; infinite bounds are allowed.

    Finite and inside the bounds however far both lie on one side of zero, where an inverse distribution
    function through `erf` returns infinities past about five standard deviations in single precision. Raises
    `ValueError` for bounds of two shapes, or a `lower` above its `upper`.

    Examples:
        >>> z = truncated_normal(key, jnp.array([20.0, -1.0]), jnp.array([jnp.inf, 1.0]))
        >>> print(bool(20 <= z[0] < 21), bool(-1 <= z[1] <= 1))
        True True
    """
    same_shapes(lower=lower, upper=upper)
    ordered("lower", lower, "upper", upper)
    one_key(key)
    far = jnp.asarray(1e6, lower.dtype)
    lower, upper = jnp.maximum(lower, -far), jnp.minimum(upper, far)
    sign = jnp.where(lower + upper < 0, -1, 1).astype(lower.dtype)
    low = jnp.where(sign < 0, -upper, lower)
    z, _ = truncated_quantile(_open_uniform(key, lower.shape, lower.dtype), low, upper - lower)
    return jnp.clip(sign * z, lower, upper)


def truncated_proposal(
    key: Key, n: int, x: Float[Array, " a"], alpha: Scalar, sigma: Scalar, bound: float
) -> tuple[Float[Array, "n a"], Float[Array, "n a"]]:
    """`n` pairs (action, noise) with x = alpha action + sigma noise, noise ~ N(0, I) given |action| <= bound.

    Accurate for alpha -> 0, where the actions become uniform on the box, and for sigma -> 0.
    """
    tiny = jnp.asarray(1e-6, x.dtype)
    sigma = jnp.maximum(sigma, tiny)
    x = x[None]
    sign = jnp.where(x < 0, -1, 1).astype(x.dtype)
    lower = (jnp.abs(x) - alpha * bound) / sigma
    width = jnp.broadcast_to(jnp.maximum(2 * alpha * bound / sigma, tiny), x.shape)
    z, offset = truncated_quantile(_open_uniform(key, (n, x.shape[1]), x.dtype), lower, width)
    noise = sign * z
    # Two forms of (x - sigma noise) / alpha: the first does not divide by alpha, the second not by sigma.
    from_face = sign * bound * (1 - 2 * offset / width)
    direct = (x - sigma * noise) / jnp.maximum(alpha, tiny)
    return jnp.clip(jnp.where(width < 1, from_face, direct), -bound, bound), noise
