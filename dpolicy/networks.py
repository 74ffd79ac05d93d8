"""Multi-layer perceptrons over several inputs, activations, initialisations, ensembles.

Modules hold arrays as leaves and everything else as static structure, so that they pass through `jax.jit`,
`vmap` and checkpoints as they are.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Key

Module = TypeVar("Module")


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


def _initial_layers(
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


class MLP(eqx.Module):
    """Hidden layers `activation(norm(W x + b))` and a linear output, called on its input parts: `mlp(x, obs)`.

    Arguments:
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

    Raises `ValueError` for sizes that are no positive ints, for unknown names, and for widths that leave no shortcut;
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
        self.layers = _initial_layers(tuple(in_sizes), [*hidden, out_size], scales, initialisation, key)
        self.norms = tuple(LayerNorm(width) for width in hidden) if layer_norm else ()
        self.activation = activation
        self.final_activation = final_activation
        self.residual = residual

    @property
    def in_sizes(self) -> tuple[int, ...]:
        """The size of each part."""
        return tuple(weight.shape[-1] for weight in self.layers[0].weights)

    def __call__(self, *parts: Float[Array, " _"]) -> Float[Array, " out"]:
        check_parts(self, **{f"parts[{i}]": part for i, part in enumerate(parts)})
        activate = ACTIVATIONS[self.activation]
        if self.residual:
            return self._with_shortcuts(activate, *parts)
        for i, layer in enumerate(self.layers[:-1]):
            x = layer(*parts)
            parts = (activate(self.norms[i](x) if self.norms else x),)
        out = self.layers[-1](*parts)
        return activate(out) if self.final_activation else out

    def _with_shortcuts(self, activate: Callable[[Array], Array], *parts: Array) -> Array:
        norms = self.norms or (lambda x: x,) * (len(self.layers) - 1)
        x = self.layers[0](*parts)
        for i in range(1, len(self.layers) - 1, 2):
            inner = self.layers[i](activate(norms[i - 1](x)))
            x = x + self.layers[i + 1](activate(norms[i](inner)))
        out = self.layers[-1](x)
        return activate(out) if self.final_activation else out


def check_parts(mlp: MLP, **parts: Any) -> None:
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


class Ensemble(eqx.Module, Generic[Module]):
    """Modules of one kind with stacked parameters; calling it stacks the members' outputs, [size, ...]."""

    members: Any
    size: int = eqx.field(static=True)

    def __call__(self, *args: Any) -> Any:
        return eqx.filter_vmap(lambda member: member(*args), axis_size=self.size)(self.members)

    def __getitem__(self, index: int) -> Any:
        """One member, to be called by itself (TD3's actor uses the first critic only)."""
        _checks.integer("index", index, -self.size, self.size - 1)
        return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, self.members)


def ensemble(make: Callable[[Key], Module], size: int, *, key: Key) -> Ensemble[Module]:
    """`size` independent modules `make(key)`, constructed and evaluated together.

        twin = ensemble(lambda key: QNetwork(obs_size, action_size, key=key), 2, key=key)
        twin(obs, action)  # [2]

    Raises `ValueError` if `size` is not a positive int.
    """
    _checks.function("make", make, "key -> module")
    _checks.integer("size", size)
    return Ensemble(eqx.filter_vmap(make)(jax.random.split(_checks.one_key(key), size)), size)
