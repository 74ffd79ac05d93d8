"""Networks of which units are left out at random while they learn."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Key, Number
from dpolicy.networks._mlp import MLP


class Dropped(eqx.Module):
    """An MLP whose hidden units are 0 with probability `rate`, each by itself, and else 1 / (1 - rate) times theirs.

    So their means are those of the network, which is called as it is where nothing is learned (Srivastava et al. 2014).
    Which of them are 0 the key says, the same at every call.

    Args:
        mlp: Without shortcuts.
        rate: From 0, below 1.
        key: Draws the units.
    """

    mlp: MLP
    rate: Number
    key: Key

    def __init__(self, mlp: MLP, rate: Number, *, key: Key):
        _checks.in_range("rate", rate, 0.0, 1.0, open_high=True)
        self.mlp, self.rate, self.key = mlp, rate, _checks.one_key(key)

    @property
    def layers(self) -> Any:
        """Those of the network."""
        return self.mlp.layers

    @property
    def in_sizes(self) -> tuple[int, ...]:
        """The size of each part."""
        return self.mlp.in_sizes

    def __call__(self, *parts: Float[Array, " _"]) -> Float[Array, " out"]:
        def drop(layer: int, x: Array) -> Array:
            kept = jax.random.bernoulli(jax.random.fold_in(self.key, layer), 1 - self.rate, x.shape)
            return jnp.where(kept, x / (1 - self.rate), 0)

        return self.mlp(*parts, after=drop)
