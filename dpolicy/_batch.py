"""Statistics over the batch from inside a per-example loss."""

from typing import TypeVar

from jax import lax
from jaxtyping import Array, Float

BATCH_AXIS = "batch"

ArrayT = TypeVar("ArrayT", bound=Array)


def batch_sum(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The sum of `x` over the axis of `batch_mean`; `x` itself outside one."""
    try:
        return lax.psum(x, BATCH_AXIS)
    except NameError:
        return x


def batch_mean(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The mean of `x` over the axis "batch", which `batched` maps (or a `vmap` of yours); `x` itself outside one.

    It stays right when the batch is sharded over devices under the same axis name.

    Examples:
        >>> print(jax.vmap(batch_mean, axis_name="batch")(jnp.array([1.0, 3.0])))
        [2. 2.]
    """
    try:
        return lax.pmean(x, BATCH_AXIS)
    except NameError:  # no such axis: a single example, as in tests and notebooks
        return x


def batch_max(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The largest `x` over the axis of `batch_mean`; `x` itself outside one.

    Examples:
        >>> print(jax.vmap(batch_max, axis_name="batch")(jnp.array([1.0, 3.0])))
        [3. 3.]
    """
    try:
        return lax.pmax(x, BATCH_AXIS)
    except NameError:
        return x
