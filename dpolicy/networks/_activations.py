"""Activations whose value and slope share their expensive part."""

import functools
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._settings import one_of


def _with_slope(
    pair: Callable[[Float[Array, "*shape"]], tuple[Float[Array, "*shape"], Float[Array, "*shape"]]],
) -> Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]:
    """A function from one of its value and derivative, which share their expensive part.

    Activations take as long as the matrix products of narrow layers on a CPU; derived by autodiff, up to twice as long
    as so.
    """
    function = jax.custom_jvp(functools.wraps(pair)(lambda x: pair(x)[0]))

    @function.defjvp
    def _(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        value, slope = pair(primals[0])
        return value, slope * tangents[0]

    return function


@_with_slope
def elu(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """max(x, 0) + exp(min(x, 0)) - 1 (Clevert et al. 2016, arXiv 1511.07289); its slope is min(elu, 0) + 1.

    With u = tanh(min(x, 0) / 2), exp - 1 = 2 u / (1 - u), which keeps its digits near 0.
    """
    u = jnp.tanh(0.5 * jnp.minimum(x, 0))
    value = jnp.maximum(x, 0) + 2 * u / (1 - u)
    return value, jnp.minimum(value, 0) + 1


@_with_slope
def mish(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """x tanh(softplus(x)) (Misra 2019, arXiv 1908.08681), by one exponential.

    x n / (n + 2) with n = e (e + 2), e = exp(min(x, 20)): equal in float32. The slope is
    (n + 4 x e (e + 1) / (n + 2)) / (n + 2).
    """
    e = jnp.exp(jnp.minimum(x, 20.0))
    n = e * (e + 2)
    inverse = 1 / (n + 2)
    return x * (n * inverse), inverse * (n + 4 * x * e * (e + 1) * inverse)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "elu": elu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "mish": mish,
}
Activation: TypeAlias = Annotated[str, one_of(ACTIVATIONS)]
