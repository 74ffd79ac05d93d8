"""Multi-layer perceptrons over several inputs, plain or with shortcuts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Key
from dpolicy.networks._activations import ACTIVATIONS
from dpolicy.networks._layers import INITIALISATIONS, LayerNorm, Linear, initial_layers


def check_network(activation: Any, initialisation: Any, **widths: Any) -> None:
    """Raise `ValueError` for an unknown name, or `widths` (under their own names) that are no tuples of sizes."""
    for name, value in widths.items():
        _checks.sizes(name, value)
    _checks.one_of("activation", activation, ACTIVATIONS)
    _checks.one_of("initialisation", initialisation, INITIALISATIONS)


def check_residual(residual: Any, **widths: Any) -> None:
    """Raise `ValueError` for `residual=True` with `widths` (under their own names) that leave no shortcut."""
    _checks.boolean("residual", residual)
    for name, value in widths.items():
        if residual and (len(value) < 3 or len(value) % 2 == 0 or len(set(value)) > 1):
            raise ValueError(
                f"{name} must be 3, 5, 7, ... equal widths for a residual network, got {value!r}."
            )


class MLP(eqx.Module):
    """Hidden layers `activation(norm(W x + b))` and a linear output, called on its input parts: `mlp(x, obs)`.

    Args:
        in_sizes: The size of each part.
        out_size: The size of the output.
        hidden: The widths of the hidden layers; empty for one linear map.
        activation: A name of ACTIVATIONS.
        initialisation: One of INITIALISATIONS: "orthogonal" has gain sqrt(2), "torch" draws weight and bias from
            U(+-1/sqrt(fan_in)); the bias of all others starts at zero.
        final_scale: Multiplies the last layer's initial parameters; at 0 the output starts at 0.
        layer_norm: Normalise before each activation.
        final_activation: Apply the activation to the output too.
        residual: One linear layer, then pairs of layers with a shortcut around them, x + W2 act(W1 act(x)), then the
            linear output (DPPO's fine-tuned networks); `hidden` must be an odd number of equal widths, 3 or more.

    Raises:
        ValueError: For sizes that are no positive ints, for unknown names, and for widths that leave no shortcut;
            where it is called, for parts of another size or a batch of them.
    """

    layers: tuple[Linear, ...]
    norms: tuple[LayerNorm, ...]
    activation: str = eqx.field(static=True)
    final_activation: bool = eqx.field(static=True)
    residual: bool = eqx.field(static=True)

    def __init__(
        self,
        in_sizes: tuple[int, ...],
        out_size: int,
        *,
        hidden: tuple[int, ...],
        activation: str = "relu",
        initialisation: str = "orthogonal",
        final_scale: float | int = 1.0,
        layer_norm: bool = False,
        final_activation: bool = False,
        residual: bool = False,
        key: Key,
    ):
        if not isinstance(in_sizes, (tuple, list)):
            raise ValueError(f"in_sizes must be a tuple of integers, one for each input, got {in_sizes!r}.")
        for size in in_sizes:
            _checks.integer("in_sizes", size, 0)
        check_network(activation, initialisation, hidden=hidden)
        _checks.integer("out_size", out_size)
        _checks.non_negative("final_scale", final_scale)
        _checks.boolean("layer_norm", layer_norm)
        _checks.boolean("final_activation", final_activation)
        check_residual(residual, hidden=hidden)
        _checks.one_key(key)
        scales = [1.0] * len(hidden) + [final_scale]
        self.layers = initial_layers(tuple(in_sizes), [*hidden, out_size], scales, initialisation, key)
        self.norms = tuple(LayerNorm(width) for width in hidden) if layer_norm else ()
        self.activation = activation
        self.final_activation = final_activation
        self.residual = residual

    @property
    def in_sizes(self) -> tuple[int, ...]:
        """The size of each part."""
        return tuple(weight.shape[-1] for weight in self.layers[0].weights)

    def __call__(
        self, *parts: Float[Array, " _"], after: Callable[[int, Array], Array] | None = None
    ) -> Float[Array, " out"]:
        """The output; `after(i, x)`, of a network without shortcuts, is what becomes of hidden layer i, activated."""
        check_parts(self, **{f"parts[{i}]": part for i, part in enumerate(parts)})
        activate = ACTIVATIONS[self.activation]
        if self.residual:
            if after is not None:
                raise ValueError("after must be None for a network with shortcuts.")
            return self._with_shortcuts(activate, *parts)
        for i, layer in enumerate(self.layers[:-1]):
            x = layer(*parts)
            x = activate(self.norms[i](x) if self.norms else x)
            parts = (x if after is None else after(i, x),)
        out = self.layers[-1](*parts)
        return activate(out) if self.final_activation else out

    def _with_shortcuts(self, activate: Callable[[Array], Array], *parts: Array) -> Array:
        norms = self.norms or (lambda x: x,) * (len(self.layers) - 1)
        x = self.layers[0](*parts)
        for i in range(1, len(self.layers) - 1, 2):
            # Activated before each layer: what passes the shortcut is untouched from the first layer to the last.
            inner = self.layers[i](activate(norms[i - 1](x)))
            x = x + self.layers[i + 1](activate(norms[i](inner)))
        out = self.layers[-1](x)
        return activate(out) if self.final_activation else out


def check_parts(mlp: Any, **parts: Any) -> None:
    """Raise `ValueError` for `parts` (under their own names) that are not the inputs of the network for one example."""
    bias = mlp.layers[0].bias
    if bias.ndim > 1:
        raise ValueError(
            f"the network must be one, got parameters stacked to {bias.shape[:-1]}: call it under jax.vmap or "
            "eqx.filter_vmap."
        )
    if len(parts) != len(mlp.in_sizes):
        raise ValueError(f"This network takes {len(mlp.in_sizes)} inputs, got {len(parts)}.")
    for (name, part), size in zip(parts.items(), mlp.in_sizes, strict=True):
        _checks.shaped(name, part, (size,))
