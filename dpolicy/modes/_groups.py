"""Groups of experience with a model each: equal shares of a batch, evaluation by group, and heirs of old groups.

Group 0 holds everything; groups 1 ... g - 1 are places for modes of behaviour, of which some are in use (`live`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._types import Number


def _ceil(size: int, parts: int) -> int:
    return (size + parts - 1) // parts


def _bounds(live: Bool[Array, " g"], size: int) -> tuple[Int[Array, " g"], Int[Array, " g+1"]]:
    """The groups, those in use first and in order, and where the share of each begins in a batch of `size`."""
    used = jnp.sum(live)
    # Ranks beyond those in use all begin at the end of the batch: their shares are empty.
    rank = jnp.minimum(jnp.arange(live.shape[0] + 1), used)
    # Rounded up: the first item i whose i used // size, which is how `shares` counts, is the rank.
    return jnp.argsort(~live, stable=True), (rank * size + used - 1) // used


def shares(live: Bool[Array, " g"], size: int) -> Int[Array, " {size}"]:
    """The group of each item of a batch that is split evenly among the groups in use: in order, equal up to one.

    Raises:
        ValueError: For fewer items than groups.
    """
    _checks.integer("batch_size", size, live.shape[0])
    order, _ = _bounds(live, size)
    return order[(jnp.arange(size) * jnp.sum(live)) // size]


def _block_counts(groups: int, size: int) -> tuple[int, list[int]]:
    """Items in a block, and how many blocks one group fills when 0, 1, ... groups are in use."""
    width = _ceil(size, groups)
    return width, [0, *(_ceil(_ceil(size, used), width) for used in range(1, groups + 1))]


def by_group(function: Callable[..., Any], models: Any, live: Bool[Array, " g"], *batch: Any) -> Any:
    """`function(model, *item)` for every item of a batch in the order of `shares`, with the model of its group.

    The batch is cut into blocks that belong to one group each, so that every item is evaluated by one model and not by
    all of them; at most about twice the batch is computed, however many groups are in use. Differentiable in the
    models and in the batch.

    Args:
        function: `(model, *item) -> array(s)`.
        models: Parameters with a leading axis of groups.
        live: Groups in use.
        batch: Arrays with a leading axis of items, at least as many as groups.
    """
    groups = live.shape[0]
    size = jax.tree.leaves(batch)[0].shape[0]
    _checks.integer("batch_size", size, groups)
    # With all groups in use a share is about one block; with fewer, a group fills several blocks.
    width, counts = _block_counts(groups, size)
    # The most that any number of groups in use fills: shapes must not depend on how many there are.
    blocks = max(used * count for used, count in enumerate(counts))
    order, begins = _bounds(live, size)
    each = jnp.asarray(counts)[jnp.sum(live)]
    block = jnp.arange(blocks)
    # Blocks that no group fills read the last rank, so that indices stay in range; `valid` leaves them out.
    rank = jnp.minimum(block // each, groups - 1)
    # Block b is number b % each of its group.
    items = (begins[rank] + (block % each) * width)[:, None] + jnp.arange(width)[None]
    valid = (items < begins[rank + 1][:, None]) & (block // each < groups)[:, None]
    # What fills up a block is an item of the same group, so that no other's can spoil its gradient.
    taken = jnp.minimum(items, jnp.maximum(begins[rank + 1][:, None] - 1, 0))
    gathered = jax.tree.map(lambda leaf: leaf[taken], batch)
    chosen = jax.tree.map(lambda leaf: leaf[order[rank]] if eqx.is_array(leaf) else leaf, models)
    values = eqx.filter_vmap(lambda model, rows: jax.vmap(lambda row: function(model, *row))(rows))(
        chosen, gathered
    )
    places = jnp.where(valid, items, size).ravel()  # out of range is dropped

    def back(value: Array) -> Array:
        empty = jnp.zeros((size, *value.shape[2:]), value.dtype)
        return empty.at[places].set(value.reshape(-1, *value.shape[2:]), mode="drop")

    return jax.tree.map(back, values)


def bounded_by_group(
    rows: Float[Array, "b a"], group: Int[Array, " b"], groups: int, bound: Number
) -> Float[Array, "b a"]:
    """`rows`, scaled down where the norm of all rows of one group together is above `bound`."""
    # The factor is bound / norm above the bound, and 1, not the quotient of two zeros, below it.
    norm = jnp.sqrt(jax.ops.segment_sum(jnp.sum(rows**2, axis=1), group, groups))
    return rows * (bound / jnp.maximum(norm, bound))[group][:, None]


def per_group(optimiser: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimiser` for each of several models on its own: every leaf has a leading axis of groups."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.vmap(optimiser.update)(updates, state, params)

    return optax.GradientTransformation(jax.vmap(optimiser.init), update)


class Heirs(NamedTuple):
    """What becomes of old groups when there are new clusters.

    Attributes:
        place: The group that each new cluster becomes, 1 ... k; 0 for clusters that there are not.
        source: The old group that each group continues; 0 for those that continue none.
        live: Groups in use, 0 always.
        kept: Groups that continue themselves, 0 always.
    """

    place: Int[Array, " k"]
    source: Int[Array, " k+1"]
    live: Bool[Array, " k+1"]
    kept: Bool[Array, " k+1"]


def heirs(overlap: Int[Array, "k k"], count: Int[Array, ""]) -> Heirs:
    """Every new cluster continues the old mode with which it shares most, or group 0 where it shares nothing.

    Where several continue the same mode, the one that shares most takes its place and the others places that are free.
    Numbering the clusters otherwise changes which free place a newcomer gets, and nothing else.

    Args:
        overlap: `[new, old]`: what cluster i shares with mode j + 1.
        count: How many new clusters there are; further rows do not count.
    """
    size = overlap.shape[0]
    old = jnp.arange(1, size + 1)
    exists = jnp.arange(size) < count
    # The largest of a row of zeros is said to be the first, which is no mode that it shares anything with.
    parent = jnp.where(exists & (jnp.max(overlap, axis=1) > 0), jnp.argmax(overlap, axis=1) + 1, 0)
    # Of several that would continue a mode, the one that shares most does; the first, where they are equal.
    claims = jnp.where(parent[:, None] == old[None], overlap, 0)
    claimed = jnp.max(claims, axis=0) > 0
    # The winner of a claim is the row that is largest in its parent's column; the index is clipped where there is none.
    keeps = (parent > 0) & (jnp.argmax(claims, axis=0)[jnp.maximum(parent - 1, 0)] == jnp.arange(size))
    # Places that nothing claims, in order; newcomers take them in turn.
    free = jnp.argsort(claimed, stable=True) + 1
    # The number of a newcomer among the newcomers, in the order of the clusters.
    turn = jnp.cumsum(exists & ~keeps) - 1
    place = jnp.where(keeps, parent, free[jnp.clip(turn, 0, size - 1)])
    place = jnp.where(exists, place, 0)
    # Clusters that there are not are written out of range, and dropped.
    target = jnp.where(exists, place, size + 1)
    zero = jnp.zeros(size + 1, place.dtype)
    flags = jnp.zeros(size + 1, bool).at[0].set(True)
    return Heirs(
        place=place,
        source=zero.at[target].set(parent, mode="drop"),
        live=flags.at[target].set(True, mode="drop"),
        kept=flags.at[jnp.where(keeps, place, size + 1)].set(True, mode="drop"),
    )


def balanced(
    eligible: Bool[Array, " n"], stratum: Int[Array, " n"], strata: int, count: int
) -> tuple[Int[Array, " {count}"], Bool[Array, " {count}"]]:
    """Up to `count` of the eligible items, as evenly from the strata 0 ... strata - 1 as they allow, first ones first.

    Returns their indices and which of these count.

    Raises:
        ValueError: For a count above the number of items.
    """
    _checks.integer("count", count, 1, eligible.shape[0])
    member = (stratum[:, None] == jnp.arange(strata)[None]) & eligible[:, None]
    # The place of each item in its stratum: taken in that order, the strata take turns.
    rank = jnp.take_along_axis(jnp.cumsum(member, axis=0), stratum[:, None], axis=1)[:, 0]
    # The sort is stable, so that within a turn the first items come first; those that are not eligible come last.
    index = jnp.argsort(jnp.where(eligible, rank, eligible.shape[0] + 1), stable=True)[:count]
    return index, eligible[index]
