"""What a perceptron is made of: linear and normalising layers, and how their parameters start."""

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._settings import one_of
from dpolicy._types import Key


def _newton_schulz(_: Array, x: Array) -> Array:
    gram = jnp.matmul(x.T, x, precision="highest")
    return 1.5 * x - 0.5 * jnp.matmul(x, gram, precision="highest")


def nearest_orthogonal(matrix: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """The polar factor U V^T of a full-rank matrix U S V^T; for a Gaussian matrix it is uniform (Haar).

    Newton-Schulz, X <- 3/2 X - 1/2 X X^T X: matrix products alone. QR (`jax.nn.initializers.orthogonal`) calls
    LAPACK, and on CPU several of those calls in one vmapped program have been seen to block each other.
    """
    rows, columns = matrix.shape
    tall = matrix if rows >= columns else matrix.T
    # A Gaussian matrix has no singular value far above sqrt(n) + sqrt(m); the iteration allows sqrt(3) times it.
    start = tall / (math.sqrt(rows) + math.sqrt(columns))
    # A singular value grows by 3/2 a step: forty reach one from 1e-7.
    x = jax.lax.fori_loop(0, 40, _newton_schulz, start)
    return x if rows >= columns else x.T


def _truncated(key: Key, shape: tuple[int]) -> Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, shape) / 0.87962566  # its standard deviation


def _signed(key: Key, shape: tuple[int]) -> Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


# How the numbers are drawn, and what makes them a weight [fan_in, fan_out].
_INITIALISERS: dict[str, tuple[Callable[[Key, tuple[int]], Array], Callable[[Array], Array]]] = {
    "lecun_uniform": (_signed, lambda raw: math.sqrt(3 / max(raw.shape[0], 1)) * raw),
    "lecun_normal": (_truncated, lambda raw: math.sqrt(1 / max(raw.shape[0], 1)) * raw),
    "he_normal": (_truncated, lambda raw: math.sqrt(2 / max(raw.shape[0], 1)) * raw),
    "xavier_uniform": (_signed, lambda raw: math.sqrt(6 / sum(raw.shape)) * raw),
    "orthogonal": (jax.random.normal, lambda raw: math.sqrt(2) * nearest_orthogonal(raw)),
    "torch": (_signed, lambda raw: math.sqrt(1 / max(raw.shape[0], 1)) * raw),
}
INITIALISATIONS = tuple(_INITIALISERS)
Initialisation: TypeAlias = Annotated[str, one_of(INITIALISATIONS)]


class Fixed(eqx.Module):
    """A number or array in a network that is no parameter of it: neither gradient nor weight decay reaches it."""

    array: Float[Array, "..."]
    undecayed: ClassVar[tuple[str, ...]] = ("array",)

    def __call__(self) -> Float[Array, "..."]:
        """What it holds, without gradient."""
        return jax.lax.stop_gradient(self.array)


class Linear(eqx.Module):
    """y = sum_i W_i x_i + b. The weight is stored split by input part.

    Under `vmap` the product of a part that carries no batch axis (a time embedding shared by the batch, an
    observation shared by its proposals) is computed once and then broadcast.
    """

    weights: tuple[Float[Array, "out _"], ...]
    bias: Float[Array, " out"]

    def __call__(self, *parts: Float[Array, " _"]) -> Float[Array, " out"]:
        total = self.bias
        for weight, part in zip(self.weights, parts, strict=True):
            # Under vmap the batch comes first in this form, and last, to be transposed, in `weight @ part`.
            total = total + part @ weight.T
        return total


def initial_layers(
    in_sizes: tuple[int, ...], outs: list[int], scales: list[float | int], initialisation: str, key: Key
) -> tuple[Linear, ...]:
    """All layers from one draw: a draw per array would multiply the time to compile a constructor."""
    draw, shape_weight = _INITIALISERS[initialisation]
    parts = [in_sizes, *((out,) for out in outs[:-1])]
    counts = [(sum(inputs) + 1) * out for inputs, out in zip(parts, outs, strict=True)]
    raw = draw(key, (sum(counts),))
    layers, begin = [], 0
    for inputs, out, count, scale in zip(parts, outs, counts, scales, strict=True):
        fan_in = sum(inputs)
        block = raw[begin : begin + count].reshape(fan_in + 1, out)
        begin += count
        weight = scale * shape_weight(block[:-1]).T
        bias = scale / math.sqrt(max(fan_in, 1)) * block[-1] if initialisation == "torch" else jnp.zeros(out)
        ends = [sum(inputs[: i + 1]) for i in range(len(inputs) - 1)]
        layers.append(Linear(tuple(jnp.split(weight, ends, axis=1)), bias))
    return tuple(layers)


class LayerNorm(eqx.Module):
    """(x - mean) / sqrt(var + 1e-6) * scale + shift (Ba et al. 2016, arXiv 1607.06450)."""

    scale: Float[Array, " n"]
    shift: Float[Array, " n"]

    def __init__(self, size: int):
        self.scale, self.shift = jnp.ones(size), jnp.zeros(size)

    def __call__(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        centred = x - jnp.mean(x)
        return centred * jax.lax.rsqrt(jnp.mean(centred**2) + 1e-6) * self.scale + self.shift
