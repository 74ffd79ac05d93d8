"""Clusters of paths: dynamic time warping, average linkage and its cut, with fixed shapes throughout.

What scipy does on the host, written so that it compiles, maps over seeds and runs inside a training program.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._types import Number, Scalar


def time_warping(
    first: Float[Array, "p d"],
    second: Float[Array, "p d"],
    first_length: Int[Array, ""],
    second_length: Int[Array, ""],
) -> Scalar:
    """sqrt( min over alignments of sum |x_i - y_j|^2 ): the distance of two paths run at different speeds.

    An alignment goes from (0, 0) to the last points by steps (1, 0), (0, 1) and (1, 1); only the first
    `first_length` (and `second_length`) points count, at least one of each. Anti-diagonals of the table are computed
    at once, so the depth is 2 p. Source: Sakoe and Chiba 1978; with the root, as dtaidistance has it.
    """
    points = first.shape[0]
    row = jnp.arange(points)
    infinity = jnp.asarray(jnp.inf, first.dtype)
    # shifted(v)[i] = v[i - 1]
    shifted = lambda values: jnp.concatenate([infinity[None], values[:-1]])

    def diagonal(carry, k):
        last, before, result = carry
        # Diagonal k holds the cells (i, k - i); those beside the table cost infinity, so that no alignment passes them.
        column = k - row
        inside = (column >= 0) & (column < points)
        cost = jnp.sum((first - second[jnp.clip(column, 0, points - 1)]) ** 2, axis=-1)
        # It follows (i, k - 1 - i) and (i - 1, k - i) of the last diagonal, and (i - 1, k - 1 - i) of the one before.
        least = jnp.minimum(jnp.minimum(last, shifted(last)), shifted(before))
        # The first cell follows none, and all its neighbours are infinite.
        least = jnp.where(k == 0, 0, least)
        values = jnp.where(inside, cost + least, infinity)
        # The cell of both last points; what lies behind it is padding, and is not read.
        ends = k == first_length + second_length - 2
        return (values, last, jnp.where(ends, values[first_length - 1], result)), None

    # All cells lie on 2 p - 1 diagonals; that of the last points is among them however short the paths are.
    start = jnp.full((points,), infinity)
    (_, _, result), _ = jax.lax.scan(diagonal, (start, start, infinity), jnp.arange(2 * points - 1))
    return jnp.sqrt(result)


def path_distances(
    first: Float[Array, "n p d"],
    first_length: Int[Array, " n"],
    second: Float[Array, "m p d"],
    second_length: Int[Array, " m"],
) -> Float[Array, "n m"]:
    """`time_warping` of every path of the one set to every path of the other."""
    row = lambda path, length: jax.vmap(partial(time_warping, path, first_length=length))(
        second, second_length=second_length
    )
    return jax.vmap(row)(first, first_length)


class Merges(NamedTuple):
    """A hierarchy of clusters: the i-th merge puts the cluster named `second` into the one named `first`.

    A cluster is named by one of its items. Heights never fall; they are infinite from where nothing is left to merge.
    """

    first: Int[Array, " n-1"]
    second: Int[Array, " n-1"]
    height: Float[Array, " n-1"]


def average_linkage(distances: Float[Array, "n n"], valid: Bool[Array, " n"]) -> Merges:
    """Join the two closest clusters again and again; clusters are as far apart as their items on average.

    Joining i and j: d(ij, k) = (n_i d(i, k) + n_j d(j, k)) / (n_i + n_j). Items that are not valid stay out.
    Source: Sokal and Michener 1958 (UPGMA); scipy's `linkage(method="average")`.
    """
    size = distances.shape[0]
    index = jnp.arange(size)
    # A cluster's distance to itself is infinite: it is never the closest, without a mask in every step.
    apart = (index[:, None] != index[None]) & valid[:, None] & valid[None]
    start = jnp.where(apart, distances, jnp.inf)

    def merge(carry, _):
        distances, counts = carry
        # Where nothing finite is left this is cell (0, 0), of infinite height: no cut is above it.
        flat = jnp.argmin(distances)
        i, j = flat // size, flat % size
        # The smaller index stays, so that a cluster bears the name of its first item.
        i, j = jnp.minimum(i, j), jnp.maximum(i, j)
        height = distances[i, j]
        share = counts[i] / (counts[i] + counts[j])
        # Both shares are above 0, so that no infinity is multiplied by it.
        joined = share * distances[i] + (1 - share) * distances[j]
        joined = joined.at[i].set(jnp.inf).at[j].set(jnp.inf)
        new = distances.at[i].set(joined).at[:, i].set(joined).at[j].set(jnp.inf).at[:, j].set(jnp.inf)
        counts = counts.at[i].add(counts[j])
        return (new, counts), (i, j, height)

    counts = jnp.ones((size,), distances.dtype)
    _, (first, second, height) = jax.lax.scan(merge, (start, counts), None, length=size - 1)
    return Merges(first, second, height)


def clusters(
    distances: Float[Array, "n n"],
    valid: Bool[Array, " n"],
    *,
    threshold: Number | None = None,
    share: Number = 0.7,
) -> tuple[Int[Array, " n"], Int[Array, ""]]:
    """Clusters by average linkage, cut where a merge would be higher than a threshold.

    Args:
        distances: Symmetric distances between the items.
        valid: Items that count.
        threshold: Height of the cut, in units of the distances; None for `share` of the highest merge, which always
            leaves at least two clusters unless all items coincide.
        share: See `threshold`.

    Returns:
        The cluster of each item, 0, 1, ... in the order of their first items, and -1 for those that do not count; and
        how many clusters there are.

    Raises:
        ValueError: For a negative threshold, or a share outside [0, 1].
    """
    _checks.fraction("share", share)
    if threshold is not None:
        _checks.non_negative("threshold", threshold)
    merges = average_linkage(distances, valid)
    # Merges of infinite height are the steps after the last one: no height to take a share of.
    finite = jnp.isfinite(merges.height)
    highest = jnp.max(jnp.where(finite, merges.height, 0), initial=0)
    cut = share * highest if threshold is None else threshold
    index = jnp.arange(valid.shape[0])

    # Every merge in turn: whoever bears the second name takes the first, which is the smaller index.
    def follow(names, merge):
        first, second, height = merge
        return jnp.where((names == second) & (height <= cut), first, names), None

    names, _ = jax.lax.scan(follow, index, merges)
    roots = (names == index) & valid
    order = jnp.cumsum(roots) - 1
    return jnp.where(valid, order[names], -1), jnp.sum(roots)
