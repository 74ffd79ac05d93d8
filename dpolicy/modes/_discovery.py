"""Modes of behaviour: found by clustering the episodes of a replay, numbered for as long as they last."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._settings import Count, Finite, Fraction, NonNegative, at_least
from dpolicy._types import Key, Number
from dpolicy.algorithm import Stored
from dpolicy.modes._clustering import clusters, path_distances
from dpolicy.modes._episodes import Episodes, draw_by_label, finished_episodes, kept_episodes, paths
from dpolicy.modes._groups import Heirs, balanced, heirs, shares
from dpolicy.recipe import tunable

_SAMPLED = 3  # members of a cluster that episodes outside the clustering are compared with


class Modes(eqx.Module):
    """What has been discovered: group 0 holds everything, groups 1 ... g - 1 are modes where `live`.

    Attributes:
        live: Groups in use.
        embedding: A random vector that names each group; a mode keeps its own for as long as it lasts.
        episodes: Episodes of the replay that are remembered.
        label: The mode that each of them belongs to, 0 for none.
    """

    live: Bool[Array, "*seeds g"]
    embedding: Float[Array, "*seeds g z"]
    episodes: Episodes
    label: Int[Array, "*seeds n"]


class Discovery(NamedTuple):
    """Mode discovery as functions.

    Attributes:
        groups: Groups that there is place for, the one that holds everything included.
        interval: Steps of all environments between two looks.
        start: `key -> modes`, before anything is found.
        draw: `(modes, stored, key, batch_size) -> rows` of a batch split evenly among the groups, as `shares` has it.
        look: `(modes, stored, seen, key) -> (modes, heirs)`: find the modes of what is stored; `seen` marks the
            transitions that were there at the last look.
    """

    groups: int
    interval: int
    start: Callable[[Key], Modes]
    draw: Callable[[Modes, Stored, Key, int], Int[Array, " batch"]]
    look: Callable[[Modes, Stored, Bool[Array, " capacity"], Key], tuple[Modes, Heirs]]


def _members(cluster: Int[Array, " m"], count: int) -> tuple[Int[Array, "k s"], Bool[Array, "k s"]]:
    """The first few items of each cluster, and which of these there are."""
    mine = cluster[None] == jnp.arange(count)[:, None]
    # A stable sort of False and True: a cluster's own items come first, in their order.
    index = jnp.argsort(~mine, axis=1, stable=True)[:, :_SAMPLED]
    return index, jnp.take_along_axis(mine, index, axis=1)


def _clustered(
    taken: Float[Array, "n p d"],
    lengths: Int[Array, " n"],
    index: Int[Array, " m"],
    valid: Bool[Array, " m"],
    *,
    places: int,
    threshold: Number | None,
    share: Number,
) -> tuple[Int[Array, " n"], Int[Array, ""]]:
    """The cluster of every episode, and how many there are; `index` are those to be clustered."""
    some, some_lengths = taken[index], lengths[index]
    distances = path_distances(some, some_lengths, some, some_lengths)
    cluster, count = clusters(distances, valid, threshold=threshold, share=share)
    # More clusters than places become one.
    cluster = jnp.where((count > places) & (cluster > 0), 0, cluster)
    count = jnp.where(count > places, 1, count)
    # The others are compared with a few members of each cluster, not with all that were clustered.
    member, there = _members(cluster, places)
    flat = member.ravel()
    away = path_distances(taken, lengths, some[flat], some_lengths[flat]).reshape(-1, *member.shape)
    # On average over the members that there are; a cluster without any is infinitely far from all.
    total = jnp.sum(jnp.where(there[None], away, 0), axis=2)
    mean = jnp.where(
        jnp.any(there, axis=1)[None], total / jnp.maximum(jnp.sum(there, axis=1), 1)[None], jnp.inf
    )
    nearest = jnp.argmin(mean, axis=1)
    # What was clustered stays in its cluster; what does not count is written out of range, and dropped.
    own = jnp.where(valid, index, taken.shape[0])
    return nearest.at[own].set(cluster.astype(nearest.dtype), mode="drop"), count


def _overlap(
    cluster: Int[Array, " n"], before: Int[Array, " n"], counts: Bool[Array, " n"], places: int
) -> Int[Array, "k k"]:
    """`[i, j]`: the episodes that count and that cluster i has in common with mode j + 1, as it was before."""
    # One column for each place, so that counting what is shared is one product of matrices.
    now = (cluster[:, None] == jnp.arange(places)[None]) & counts[:, None]
    known = before[:, None] == jnp.arange(1, places + 1)[None]
    return now.astype(jnp.int32).T @ known.astype(jnp.int32)


@tunable(
    "max_modes",
    "discovery_interval",
    "success_return",
    "position",
    "path_points",
    "cluster_distance",
    "cluster_share",
    "clustered_episodes",
    "remembered_episodes",
    "mode_size",
)
def mode_discovery(
    *,
    max_modes: Count = 10,
    discovery_interval: Count = 100,
    success_return: Finite | None = None,
    position: tuple[int, ...] | None = None,
    path_points: Annotated[int, at_least(2)] = 64,
    cluster_distance: NonNegative | None = None,
    cluster_share: Fraction = 0.7,
    clustered_episodes: int = 128,
    remembered_episodes: Count = 2000,
    mode_size: Count = 5,
) -> Discovery:
    """Modes of successful behaviour, from the episodes of a replay (DDiffPG, arXiv 2406.00681).

    Successful episodes are clustered by average linkage on the dynamic time warping of their positions. The other
    episodes join the cluster whose members are nearest on average. A cluster continues the mode with which it shares
    most successful episodes; see `dpolicy.modes.heirs`. The successes and the failures of each mode have equal shares
    of what is remembered; the oldest of too many are forgotten, however often the other modes are met.

    All shapes are fixed, so it compiles and maps over seeds; what that costs against a clustering on the host: at most
    `clustered_episodes` successes are clustered, as evenly from the modes known before (and the new ones) as there are
    any, most recent first; further ones are treated as failures are; paths longer than `path_points` are thinned;
    three members stand for a cluster, its most recent ones, not drawn at random; and episodes end with the replay that
    holds them, which is a ring.

    Args:
        max_modes: Places for modes; more clusters than that become one.
        discovery_interval: Steps of all environments between two clusterings.
        success_return: Return (of the rewards it learns from) from which an episode is a success; None for those that
            terminated.
        position: Entries of the observation that place the agent, such as (0, 1), along which episodes are compared;
            None for all.
        path_points: Points of an episode's path that are compared, at most.
        cluster_distance: Height at which the hierarchy is cut, in units of dynamic time warping (50 or 70 in AntMaze);
            None for `cluster_share` of the highest merge, which finds two modes or more wherever episodes differ.
        cluster_share: See `cluster_distance`.
        clustered_episodes: Successful episodes that are clustered, at most.
        remembered_episodes: Episodes that modes are made of, at most.
        mode_size: Size of the vectors that name modes.

    Raises:
        ValueError: For a value out of its range.
    """
    _checks.integer("clustered_episodes", clustered_episodes, 1, remembered_episodes)
    check_position(position)
    groups = max_modes + 1

    def start(key: Key) -> Modes:
        return Modes(
            live=jnp.arange(groups) == 0,
            embedding=jax.random.normal(_checks.one_key(key), (groups, mode_size)),
            episodes=Episodes.none(remembered_episodes),
            label=jnp.zeros(remembered_episodes, jnp.int32),
        )

    def draw(modes: Modes, stored: Stored, key: Key, batch_size: int) -> Int[Array, " batch"]:
        wanted = shares(modes.live, batch_size)
        return draw_by_label(stored, modes.episodes, modes.label, wanted, max_modes, key)

    def look(modes: Modes, stored: Stored, seen: Bool[Array, " capacity"], key: Key) -> tuple[Modes, Heirs]:
        # Only what the ring will still hold at the next look: it is read again then.
        new = finished_episodes(stored, remembered_episodes, margin=discovery_interval, among=~seen)
        old = kept_episodes(stored, modes.episodes, margin=discovery_interval)
        episodes = jax.tree.map(lambda *parts: jnp.concatenate(parts), new, old)
        there = episodes.length > 0
        # New episodes stand in front and belonged to no mode; of the old ones, those overwritten belong to none now.
        before = jnp.where(there, jnp.concatenate([jnp.zeros_like(modes.label), modes.label]), 0)
        success = episodes.terminated if success_return is None else episodes.returns >= success_return
        success = there & success
        where = range(stored.items.obs.shape[1]) if position is None else position
        taken, lengths = paths(stored, episodes, path_points, tuple(where))
        index, valid = balanced(success, before, groups, clustered_episodes)
        cluster, count = _clustered(
            taken, lengths, index, valid, places=max_modes, threshold=cluster_distance, share=cluster_share
        )
        found = heirs(_overlap(cluster, before, success, max_modes), count)
        # A mode that goes on keeps its name; one that is new in its place gets a new name.
        fresh = jax.random.normal(key, modes.embedding.shape, modes.embedding.dtype)
        embedding = jnp.where((found.kept | ~found.live)[:, None], modes.embedding, fresh)
        label = jnp.where(there & (count > 0), found.place[cluster], 0).astype(jnp.int32)
        # Each mode keeps as many successes and failures as it can: what it does rarely, or did long ago, stays.
        chosen, _ = balanced(there, 2 * label + success, 2 * groups, remembered_episodes)
        episodes, label = jax.tree.map(lambda leaf: leaf[chosen], (episodes, label))
        return Modes(found.live, embedding, episodes, label), found

    return Discovery(groups, discovery_interval, start, draw, look)


def check_position(position: Any) -> None:
    """Raise `ValueError` unless `position` is None or a tuple of different entries of an observation."""
    if position is None:
        return
    if not isinstance(position, (tuple, list)) or len(set(position)) < len(position) or not position:
        raise ValueError(f"position must be None or a tuple of different integers, got {position!r}.")
    for entry in position:
        _checks.integer("an entry of position", entry, 0)
