"""Rows of a data set epoch after epoch: each once in an order that is drawn anew, instead of with replacement."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dpolicy._types import Key

Sampling: TypeAlias = Literal["uniform", "epochs"]


def epoch_orders(key: Key, first: Array, updates: int, rows: int, batch: int) -> Int[Array, "e n b"]:
    """The orders of all epochs that `updates` updates from the `first` on touch, as their batches.

    An epoch has `rows // batch` batches; the rest of its order, less than a batch, is left out, another rest in each.
    The order of an epoch depends on the key and its number alone, so that chunks continue each other.
    """
    each = rows // batch
    touched = (updates - 1) // each + 2  # the first and the last one in part
    numbers = first // each + jnp.arange(touched)

    def one(number: Array) -> Array:
        order = jax.random.permutation(jax.random.fold_in(key, number), rows)
        return order[: each * batch].reshape(each, batch)

    return jax.lax.map(one, numbers)


def batch_of(orders: Int[Array, "e n b"], first: Array, update: Array) -> Int[Array, " b"]:
    """The rows of an update, of the orders that `epoch_orders` gives for a stretch of them.

    Args:
        orders: The orders.
        first: The number of the first update of the stretch.
        update: That of this one.
    """
    each = orders.shape[1]
    return orders[update // each - first // each, update % each]
