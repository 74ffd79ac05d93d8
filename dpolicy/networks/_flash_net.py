"""FlashSAC's network: inverted residual blocks with batch norm before each activation, and a norm of every example."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Key, Number
from dpolicy.networks._activations import ACTIVATIONS
from dpolicy.networks._backbones import check_residual_sizes
from dpolicy.networks._batch_renorm import BatchRenorm, Normalised
from dpolicy.networks._layers import Linear, initial_layers
from dpolicy.networks._mlp import check_parts

Norm = BatchRenorm | Normalised


class FlashNet(eqx.Module):
    r"""A residual network with batch norm inside its blocks and an RMS norm at its end (FlashSAC, arXiv 2604.04539).

    With `hidden` = (h, ..., h), one width for each block, U_i four times as wide as y, and BN each a layer of its own,

    $$ y \leftarrow W_0 \mathrm{BN}(x), \qquad
       y \leftarrow y + \mathrm{act}(\mathrm{BN}(V_i\, \mathrm{act}(\mathrm{BN}(U_i y)))), $$
    $$ \mathrm{out} = W \frac{g\, y}{\sqrt{\mathrm{mean}(y^2) + 10^{-6}}} + b, $$

    where only the output has a bias. `unit_rows` keeps every row of W_0, U, V and W at norm 1, the scales and shifts of
    each BN together, and g, at that of as many ones as it has features. Called on its input parts it takes running
    statistics; `over` takes those of a batch, as of a `RenormMLP`, which it can take the place of. Other than in the
    code, the running variance is that of the batch, without the factor b / (b - 1).

    Args:
        in_sizes: The size of each part of the input.
        out_size: The size of the output.
        hidden: The width, once for each block.
        activation: A name of ACTIVATIONS.

    Raises:
        ValueError: For sizes that are no positive ints, widths that differ, and an unknown activation.
    """

    layers: tuple[Linear, ...]
    inner: tuple[tuple[Linear, Linear], ...]
    inputs: tuple[Norm, ...]
    norms: tuple[Norm, ...]
    scale: Float[Array, " n"]
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        in_sizes: tuple[int, ...],
        out_size: int,
        *,
        hidden: tuple[int, ...],
        activation: str = "relu",
        key: Key,
    ):
        check_residual_sizes(in_sizes, out_size, hidden, activation)
        ends_key, inner_key = jax.random.split(_checks.one_key(key))
        width, one = hidden[0], 0.5**0.5  # "orthogonal" has gain sqrt(2)
        widths = [4 * width, width] * len(hidden)
        self.layers = initial_layers(tuple(in_sizes), [width, out_size], [one, one], "orthogonal", ends_key)
        inner = initial_layers((width,), widths, [one] * len(widths), "orthogonal", inner_key)
        self.inner = tuple(zip(inner[::2], inner[1::2], strict=True))
        norm = lambda size: BatchRenorm(size, warmup=None, eps=1e-5)
        self.inputs, self.norms = tuple(map(norm, in_sizes)), tuple(map(norm, widths))
        self.scale = jnp.ones(width)
        self.activation = activation

    @property
    def in_sizes(self) -> tuple[int, ...]:
        """The size of each part."""
        return tuple(weight.shape[-1] for weight in self.layers[0].weights)

    def __call__(self, *parts: Float[Array, " _"]) -> Float[Array, " out"]:
        check_parts(self, **{f"parts[{i}]": part for i, part in enumerate(parts)})
        return self._through(parts, lambda norm, x: norm(x), lambda function: function)

    def over(
        self, *parts: Float[Array, "*k _"]
    ) -> tuple[Float[Array, "*k out"], "FlashNet", tuple[Array, ...]]:
        """The output by the statistics of the batch, the network that has these, and the statistics of every layer.

        Args:
            parts: As for a call, or with an axis in front: examples that count together, as in a joint pass.
        """
        each = jax.vmap if parts[0].ndim > 1 else lambda function: function
        found: list[tuple[Normalised, Array]] = []

        def normalised(norm: Any, x: Array) -> Array:
            found.append(norm.over(x))
            return each(found[-1][0])(x)

        out = self._through(parts, normalised, each)
        norms, statistics = zip(*found, strict=True)
        return out, self._with(norms), statistics

    def moved(self, statistics: Sequence[Array], rate: Number) -> "FlashNet":
        """With the running statistics of every layer moved towards these (`BatchRenorm.moved`)."""
        pairs: Any = zip((*self.inputs, *self.norms), statistics, strict=True)
        return self._with([norm.moved(of, rate) for norm, of in pairs])

    def _through(
        self, parts: Sequence[Array], normalised: Callable[[Norm, Array], Array], each: Callable[..., Any]
    ) -> Array:
        activate = ACTIVATIONS[self.activation]
        inputs = [normalised(*pair) for pair in zip(self.inputs, parts, strict=True)]
        y = each(_without_bias(self.layers[0]))(*inputs)
        for (up, down), i in zip(self.inner, range(0, len(self.norms), 2), strict=True):
            inner = activate(normalised(self.norms[i], each(_without_bias(up))(y)))
            y = y + activate(normalised(self.norms[i + 1], each(_without_bias(down))(inner)))
        return each(lambda y: self.layers[1](y * jax.lax.rsqrt(jnp.mean(y**2) + 1e-6) * self.scale))(y)

    def _with(self, norms: Sequence[Norm]) -> "FlashNet":
        first = len(self.inputs)
        where = lambda net: (net.inputs, net.norms)
        return eqx.tree_at(where, self, (tuple(norms[:first]), tuple(norms[first:])))


def _without_bias(layer: Linear) -> Linear:
    """The layer whose bias, 0 at the start, stays there: no gradient reaches it."""
    return Linear(layer.weights, jax.lax.stop_gradient(layer.bias))
