"""Exponential moving averages of parameters."""

from typing import TypeVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from dpolicy import _checks

Tree = TypeVar("Tree")


def ema(old: Tree, new: Tree, decay: float | int | Float[Array, ""]) -> Tree:
    """theta <- decay theta_old + (1 - decay) theta_new for every floating array; other leaves come from `new`.

    A target network with the usual rate 0.005 has decay 0.995.

    Raises:
        ValueError: Unless 0 <= decay <= 1 and the two trees have the same structure and shapes.
    """
    _checks.fraction("decay", decay)
    if jax.tree.structure(old) != jax.tree.structure(new):
        raise ValueError(
            "old and new must have the same structure (the same modules, sizes and activations)."
        )
    for before, after in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        if np.shape(before) != np.shape(after):
            shapes = f"{np.shape(before)} and {np.shape(after)}"
            raise ValueError(f"old and new must have leaves of the same shapes, got {shapes}.")

    def average(before, after):
        if not eqx.is_inexact_array(after):
            return after
        return (decay * before + (1 - decay) * after).astype(after.dtype)

    return jax.tree.map(average, old, new)
