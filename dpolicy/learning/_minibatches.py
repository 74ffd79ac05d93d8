"""Passes over what an iteration has collected, in shuffled parts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._metrics import accumulated
from dpolicy._types import Key, Metrics, Transition


def in_segments(batch: Transition, length: int) -> Transition:
    """A rollout [time, environment] as [segment, `length`], each a stretch of one environment.

    Raises:
        ValueError: If the length does not divide the rollout.
    """
    time = batch.reward.shape[0]
    if time % length:
        raise ValueError(f"recompute_segment must divide the {time} steps of a rollout, got {length}.")
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, length, *leaf.shape[2:]), batch)


def over_minibatches(
    body: Callable[[Any, Any], tuple[Any, Metrics]],
    carry: Any,
    examples: Any,
    key: Key,
    *,
    epochs: int,
    count: int,
    name: str = "minibatches",
    of: str = "samples",
) -> tuple[Any, Metrics]:
    """Scan `body(carry, (minibatch, key))` over `epochs` shuffles of `examples` in `count` parts.

    Metrics are averaged; those that end in `_min` or `_max` keep the extreme.

    Raises:
        ValueError: If `count`, called `name`, does not divide the number of examples, which are called `of`.
    """
    _checks.one_key(key)
    size = jax.tree.leaves(examples)[0].shape[0]
    if size % count:
        raise ValueError(f"{name} must divide the {size} {of} of an iteration, got {count}.")

    def one(carry: Any, inputs: Any) -> tuple[Any, Metrics]:
        index, key = inputs
        return body(carry, (jax.tree.map(lambda leaf: leaf[index], examples), key))

    def epoch(carry: Any, key: Key) -> tuple[Any, Metrics]:
        shuffle_key, key = jax.random.split(key)
        order = jax.random.permutation(shuffle_key, size).reshape(count, -1)
        return accumulated(one, carry, (order, jax.random.split(key, count)))

    return accumulated(epoch, carry, jax.random.split(key, epochs))
