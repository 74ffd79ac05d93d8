"""Residual networks that may be wide: SimBa and BroNet, each in the place of an `MLP`."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeAlias

import equinox as eqx
import jax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import one_of
from dpolicy._types import Key
from dpolicy.networks._activations import ACTIVATIONS
from dpolicy.networks._layers import LayerNorm, Linear, initial_layers
from dpolicy.networks._mlp import MLP, check_network, check_parts


def check_residual_sizes(in_sizes: Any, out_size: Any, hidden: Any, activation: Any) -> None:
    """Raise `ValueError` for what no residual network can be made of."""
    for size in in_sizes:
        _checks.integer("in_sizes", size, 0)
    _checks.integer("out_size", out_size)
    check_network(activation, "orthogonal", hidden=hidden)
    _check_equal("hidden", hidden)


def _check_equal(name: str, hidden: Any) -> None:
    if not hidden or len(set(hidden)) > 1:
        raise ValueError(
            f"{name} must be equal widths, one for each block of a residual network, got {hidden!r}."
        )


def check_blocks(name: str, hidden: Any, backbone: str) -> None:
    """Raise `ValueError` for `hidden`, the argument `name`, with widths that the backbone cannot have."""
    _checks.one_of("backbone", backbone, BACKBONES)
    if backbone not in ("mlp", "layer_norm"):
        _check_equal(name, hidden)


class SimBa(eqx.Module):
    r"""A residual network whose blocks are normalised before them, and its output too (arXiv 2410.09754).

    With `hidden` = (h, ..., h), one width for each block, and a linear output on the normalised sum:

    $$ y \leftarrow W_0 x, \qquad y \leftarrow y + V_i\, \mathrm{act}(U_i \mathrm{LN}(y)), \qquad
       \mathrm{out} = W \mathrm{LN}(y), $$

    U_i four times as wide as y; W_0 and W orthogonal, with gain 1, U_i and V_i of He's normal, biases at zero. The
    method standardises observations by running statistics before them: `--normalise-observations` of a training run.

    Args:
        in_sizes: The size of each part of the input.
        out_size: The size of the output.
        hidden: The width, once for each block.
        activation: A name of ACTIVATIONS.
        final_scale: Multiplies the last layer's initial parameters.

    Raises:
        ValueError: For sizes that are no positive ints, widths that differ, and an unknown activation.
    """

    layers: tuple[Linear, ...]
    inner: tuple[tuple[Linear, Linear], ...]
    norms: tuple[LayerNorm, ...]
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        in_sizes: tuple[int, ...],
        out_size: int,
        *,
        hidden: tuple[int, ...],
        activation: str = "relu",
        final_scale: float | int = 1.0,
        key: Key,
    ):
        check_residual_sizes(in_sizes, out_size, hidden, activation)
        _checks.non_negative("final_scale", final_scale)
        ends_key, inner_key = jax.random.split(_checks.one_key(key))
        width, one = hidden[0], 0.5**0.5  # "orthogonal" has gain sqrt(2)
        self.layers = initial_layers(
            tuple(in_sizes), [width, out_size], [one, one * final_scale], "orthogonal", ends_key
        )
        inner = initial_layers(
            (width,), [4 * width, width] * len(hidden), [1.0] * (2 * len(hidden)), "he_normal", inner_key
        )
        self.inner = tuple(zip(inner[::2], inner[1::2], strict=True))
        self.norms = tuple(LayerNorm(width) for _ in range(len(hidden) + 1))
        self.activation = activation

    @property
    def in_sizes(self) -> tuple[int, ...]:
        """The size of each part."""
        return tuple(weight.shape[-1] for weight in self.layers[0].weights)

    def __call__(self, *parts: Float[Array, " _"]) -> Float[Array, " out"]:
        check_parts(self, **{f"parts[{i}]": part for i, part in enumerate(parts)})
        y = self.layers[0](*parts)
        for norm, (up, down) in zip(self.norms[:-1], self.inner, strict=True):
            y = y + down(ACTIVATIONS[self.activation](up(norm(y))))
        return self.layers[1](self.norms[-1](y))


class BroNet(eqx.Module):
    r"""A residual network whose layers are each followed by a norm (BRO, arXiv 2405.16158).

    With `hidden` = (h, ..., h), one width for each block, and a linear output on the sum as it is:

    $$ y \leftarrow \mathrm{act}(\mathrm{LN}(W_0 x)), \qquad
       y \leftarrow y + \mathrm{LN}(V_i\, \mathrm{act}(\mathrm{LN}(U_i y))), \qquad \mathrm{out} = W y, $$

    all of them square and orthogonal with gain sqrt(2), biases at zero.

    Args:
        in_sizes: The size of each part of the input.
        out_size: The size of the output.
        hidden: The width, once for each block.
        activation: A name of ACTIVATIONS.
        final_scale: Multiplies the last layer's initial parameters.

    Raises:
        ValueError: For sizes that are no positive ints, widths that differ, and an unknown activation.
    """

    layers: tuple[Linear, ...]
    norms: tuple[LayerNorm, ...]
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        in_sizes: tuple[int, ...],
        out_size: int,
        *,
        hidden: tuple[int, ...],
        activation: str = "relu",
        final_scale: float | int = 1.0,
        key: Key,
    ):
        check_residual_sizes(in_sizes, out_size, hidden, activation)
        _checks.non_negative("final_scale", final_scale)
        widths = [hidden[0]] * (1 + 2 * len(hidden))
        self.layers = initial_layers(
            tuple(in_sizes), [*widths, out_size], [1.0] * len(widths) + [final_scale], "orthogonal", key
        )
        self.norms = tuple(LayerNorm(width) for width in widths)
        self.activation = activation

    @property
    def in_sizes(self) -> tuple[int, ...]:
        """The size of each part."""
        return tuple(weight.shape[-1] for weight in self.layers[0].weights)

    def __call__(self, *parts: Float[Array, " _"]) -> Float[Array, " out"]:
        check_parts(self, **{f"parts[{i}]": part for i, part in enumerate(parts)})
        activate = ACTIVATIONS[self.activation]
        y = activate(self.norms[0](self.layers[0](*parts)))
        for i in range(1, len(self.norms), 2):
            inner = activate(self.norms[i](self.layers[i](y)))
            y = y + self.norms[i + 1](self.layers[i + 1](inner))
        return self.layers[-1](y)


BACKBONES: dict[str, Callable[..., Any]] = {
    "mlp": MLP,
    "layer_norm": partial(MLP, layer_norm=True),
    "simba": SimBa,
    "bronet": BroNet,
}
Backbone: TypeAlias = Annotated[str, one_of(BACKBONES)]


def on_backbone(make: Callable[..., Any], backbone: str | Callable[..., Any]) -> Callable[..., Any]:
    """`make`, whose networks (`QNetwork`, `TanhGaussian`, ...) are of another kind than an MLP, of the same sizes.

        on_backbone(QNetwork, "simba")(obs_size, action_size, hidden=(512, 512), key=key)  # two blocks of 512

    Args:
        make: Whatever makes a module with an `mlp`, called with `hidden`, `activation` and `key` by keyword; how an MLP
            starts (`initialisation`, `layer_norm`, `initial_std`) is not for these, which bring their own.
        backbone: A name of BACKBONES (layer_norm: an MLP with these before activations), or what makes such a network,
            `(in_sizes, out_size, *, hidden, key) -> network`.
    """
    _checks.function("make", make, "(...) -> module")
    if not callable(backbone):
        _checks.one_of("backbone", backbone, BACKBONES)
    if backbone == "mlp":
        return make
    build = backbone if callable(backbone) else BACKBONES[backbone]
    called = getattr(backbone, "__name__", backbone)

    def with_backbone(*sizes: Any, hidden: tuple[int, ...], key: Key, **given: Any) -> Any:
        for name in ("initialisation", "layer_norm", "initial_std"):
            if name in given:
                raise ValueError(f"{name} is of an mlp, got it for {called}.")
        own = {name: given[name] for name in ("activation", "final_scale") if name in given}
        # Its own layers are thrown away, and so is their key: as small as can be, for their sizes alone.
        module = make(*sizes, hidden=(), key=jax.random.key(0), **given)
        where = lambda m: m.mlp
        out_size = where(module).layers[-1].bias.size
        network = build(where(module).in_sizes, out_size, hidden=hidden, key=key, **own)
        return eqx.tree_at(where, module, network)

    return with_backbone
