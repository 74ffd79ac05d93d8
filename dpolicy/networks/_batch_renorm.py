"""Batch renormalisation, and a perceptron with it: statistics of the batch where it learns, running ones where it acts.

A batch is what the axis of `dpolicy.losses.batch_mean` runs over, so the layers are written for one example, or for a
few that are taken together, like everything else.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpolicy import _checks
from dpolicy._batch import batch_mean
from dpolicy._types import Number
from dpolicy.networks._activations import ACTIVATIONS
from dpolicy.networks._layers import Linear
from dpolicy.networks._mlp import MLP, check_parts

_EPS = 1e-3
_MOST_SCALE, _MOST_SHIFT = 3.0, 5.0  # r and d stay within [1/3, 3] and [-5, 5]


class Normalised(eqx.Module):
    """scale (x - mean) / sqrt(var + eps) + shift, whatever mean and variance are of."""

    scale: Float[Array, " n"]
    shift: Float[Array, " n"]
    mean: Float[Array, " n"]
    var: Float[Array, " n"]
    eps: float = eqx.field(static=True, default=_EPS)

    def __call__(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        return (x - self.mean) * jax.lax.rsqrt(self.var + self.eps) * self.scale + self.shift


class BatchRenorm(eqx.Module):
    r"""Batch renormalisation (Ioffe 2017, arXiv 1702.03275), as CrossQ has it (arXiv 1902.05605, code).

    With mean m and deviation s = sqrt(var + 0.001) of the batch, and m_r, s_r the running ones,

    $$ y = \mathrm{scale} \Big( \frac{x - m}{s} r + d \Big) + \mathrm{shift}, \qquad
       r = \mathrm{clip}(s / s_r, 1/3, 3), \quad d = \mathrm{clip}((m - m_r) / s_r, -5, 5), $$

    where no gradient flows through r and d. Where neither is clipped, y is what the running statistics give. For the
    first calls r = 1 and d = 0, which is plain batch normalisation. When called, the layer takes the running
    statistics, which are no parameters, whatever loss they are in; `over` is the layer that takes those of a batch.

    Args:
        size: Features.
        warmup: Calls on a batch before it renormalises; None for never, which is batch normalisation.
        eps: Added to variances.

    Raises:
        ValueError: For a size that is no positive int, a warm-up that is no int of at least 0, or a negative eps.
    """

    scale: Float[Array, " n"]
    shift: Float[Array, " n"]
    mean: Float[Array, " n"]
    var: Float[Array, " n"]
    calls: Int[Array, ""]
    warmup: int | None = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    undecayed: ClassVar[tuple[str, ...]] = ("mean", "var")

    def __init__(self, size: int, *, warmup: int | None = 100_000, eps: float = _EPS):
        _checks.integer("size", size)
        if warmup is not None:
            _checks.integer("warmup", warmup, 0)
        _checks.non_negative("eps", eps)
        self.scale, self.shift = jnp.ones(size), jnp.zeros(size)
        self.mean, self.var = jnp.zeros(size), jnp.ones(size)
        self.calls = jnp.zeros((), jnp.int32)
        self.warmup, self.eps = warmup, eps

    def __call__(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        return Normalised(self.scale, self.shift, *jax.lax.stop_gradient((self.mean, self.var)), self.eps)(x)

    def over(self, x: Float[Array, "*k n"]) -> tuple[Normalised, Float[Array, "2 n"]]:
        """The layer that normalises by the statistics of the batch, and these: mean and variance.

        Args:
            x: What goes in; its leading axes are examples that count together, beside those of the batch.
        """
        axes = tuple(range(x.ndim - 1))
        mean = batch_mean(jnp.mean(x, axes))
        var = batch_mean(jnp.mean((x - jnp.broadcast_to(mean, x.shape)) ** 2, axes))
        if self.warmup is None:
            return Normalised(self.scale, self.shift, mean, var, self.eps), jnp.stack([mean, var])
        std, running = jnp.sqrt(var + self.eps), jnp.sqrt(self.var + self.eps)
        warm = self.calls < self.warmup
        ratio = jnp.clip(std / running, 1 / _MOST_SCALE, _MOST_SCALE)
        gap = jnp.clip((mean - self.mean) / running, -_MOST_SHIFT, _MOST_SHIFT)
        r, d = jax.lax.stop_gradient((jnp.where(warm, 1, ratio), jnp.where(warm, 0, gap)))
        # (x - mean) / std * r + d is x normalised by another mean and deviation: mean - d std / r and std / r.
        layer = Normalised(self.scale, self.shift, mean - d * std / r, (std / r) ** 2 - self.eps, self.eps)
        return layer, jnp.stack([mean, var])

    def moved(self, statistics: Float[Array, "*members 2 n"], rate: Number) -> "BatchRenorm":
        """With running <- (1 - rate) running + rate statistics, and one more call; of an ensemble's layers at once."""
        mix = lambda old, new: (old + rate * (new - old)).astype(old.dtype)
        return eqx.tree_at(
            lambda n: (n.mean, n.var, n.calls),
            self,
            (mix(self.mean, statistics[..., 0, :]), mix(self.var, statistics[..., 1, :]), self.calls + 1),
        )


class RenormMLP(eqx.Module):
    """A perceptron with batch renormalisation of its inputs and after each activation: BRN, (linear, activation, BRN).

    Order and epsilon are those of CrossQ (arXiv 1902.05605, code). Called on its input parts as an `MLP` is, it takes
    the running statistics; `over` takes those of a batch.

    Args:
        mlp: The layers, as they start; without norms or shortcuts of their own.
        warmup: Calls on a batch before it renormalises; until then it is batch normalisation.

    Raises:
        ValueError: For a network that has norms, shortcuts or an activated output.
    """

    layers: tuple[Linear, ...]
    inputs: tuple[BatchRenorm, ...]
    norms: tuple[BatchRenorm, ...]
    activation: str = eqx.field(static=True)

    def __init__(self, mlp: MLP, *, warmup: int = 100_000):
        _checks.instance("mlp", mlp, MLP, "an MLP")
        if mlp.norms or mlp.residual or mlp.final_activation:
            raise ValueError(
                "mlp must have neither norms nor shortcuts nor an activated output, got one that has."
            )
        self.layers, self.activation = mlp.layers, mlp.activation
        self.inputs = tuple(BatchRenorm(size, warmup=warmup) for size in mlp.in_sizes)
        self.norms = tuple(BatchRenorm(layer.bias.size, warmup=warmup) for layer in mlp.layers[:-1])

    @property
    def in_sizes(self) -> tuple[int, ...]:
        """The size of each part."""
        return tuple(weight.shape[-1] for weight in self.layers[0].weights)

    def __call__(self, *parts: Float[Array, " _"]) -> Float[Array, " out"]:
        check_parts(self, **{f"parts[{i}]": part for i, part in enumerate(parts)})
        x = self.layers[0](*(norm(part) for norm, part in zip(self.inputs, parts, strict=True)))
        for norm, layer in zip(self.norms, self.layers[1:], strict=True):
            x = layer(norm(ACTIVATIONS[self.activation](x)))
        return x

    def over(
        self, *parts: Float[Array, "*k _"]
    ) -> tuple[Float[Array, "*k out"], "RenormMLP", tuple[Array, ...]]:
        """The output by the statistics of the batch, the network that has these, and the statistics of every layer.

        Args:
            parts: As for a call, or with an axis in front: examples that count together, as in CrossQ's joint pass.
        """
        several = parts[0].ndim > 1
        each = lambda function: jax.vmap(function) if several else function
        found: list[tuple[Normalised, Array]] = []

        def normalised(norm: BatchRenorm, x: Array) -> Array:
            found.append(norm.over(x))
            return each(found[-1][0])(x)

        x = each(self.layers[0])(*(normalised(*pair) for pair in zip(self.inputs, parts, strict=True)))
        for norm, layer in zip(self.norms, self.layers[1:], strict=True):
            x = each(layer)(normalised(norm, ACTIVATIONS[self.activation](x)))
        norms, statistics = zip(*found, strict=True)
        return x, self._with(norms), statistics

    def moved(self, statistics: Sequence[Array], rate: Number) -> "RenormMLP":
        """With the running statistics of every layer moved towards these (`BatchRenorm.moved`)."""
        pairs = zip((*self.inputs, *self.norms), statistics, strict=True)
        return self._with([norm.moved(of, rate) for norm, of in pairs])

    def _with(self, norms: Sequence[BatchRenorm | Normalised]) -> "RenormMLP":
        first = len(self.inputs)
        where = lambda mlp: (mlp.inputs, mlp.norms)
        return eqx.tree_at(where, self, (tuple(norms[:first]), tuple(norms[first:])))


def renormalised(make: Callable[..., Any], *, warmup: int = 100_000) -> Callable[..., Any]:
    """`make`, whose networks (`QNetwork`, `TanhGaussian`, ...) have a `RenormMLP` in the place of their MLP.

    Args:
        make: Whatever makes a module with an `mlp`.
        warmup: Calls on a batch before it renormalises.
    """
    _checks.function("make", make, "(...) -> module")

    def with_norms(*args: Any, **given: Any) -> Any:
        module = make(*args, **given)
        return eqx.tree_at(lambda m: m.mlp, module, RenormMLP(module.mlp, warmup=warmup))

    return with_norms
