"""Whole episodes in a replay ring: where they are, the paths they took, and draws from chosen ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._types import Key
from dpolicy.algorithm import Stored


class Episodes(eqx.Module):
    """Finished episodes, the most recent first; places that none fills have length 0.

    Attributes:
        first: Row of the first transition.
        last: Row of the last one.
        length: Transitions.
        returns: Undiscounted sum of the rewards as they are stored.
        terminated: Whether the task ended it, and not the time limit.
    """

    first: Int[Array, "*seeds n"]
    last: Int[Array, "*seeds n"]
    length: Int[Array, "*seeds n"]
    returns: Float[Array, "*seeds n"]
    terminated: Bool[Array, "*seeds n"]

    @staticmethod
    def none(count: int) -> "Episodes":
        """Places for `count` episodes, all empty."""
        _checks.integer("count", count)
        zeros = jnp.zeros(count, jnp.int32)
        return Episodes(zeros, zeros, zeros, jnp.zeros(count), jnp.zeros(count, bool))


def finished_episodes(
    stored: Stored, count: int, *, margin: int = 0, among: Bool[Array, " capacity"] | None = None
) -> Episodes:
    """The last `count` episodes that are stored from their first to their last transition.

    Args:
        stored: The ring.
        count: Episodes at most.
        margin: Those of which a transition will be overwritten within so many steps of all environments are left out.
        among: Only episodes whose last transition is marked here; None for all.

    Raises:
        ValueError: For a count below 1 or a margin below 0.
    """
    _checks.integer("count", count)
    _checks.integer("margin", margin, 0)
    n = stored.num_envs
    lines = stored.items.reward.shape[0] // n
    filled = stored.size // n
    # Line t of what follows is the t-th oldest step of all environments.
    # Below 0 once the ring is full; the remainder by its lines is that of a line all the same.
    oldest = stored.cursor // n - filled
    in_order = lambda leaf: leaf.reshape(lines, n)[(oldest + jnp.arange(lines)) % lines]
    time = jnp.arange(lines)[:, None]
    written = time < filled
    # Rows that were never written are no experience, whatever they hold.
    done = in_order(stored.items.terminated | stored.items.truncated) & written
    reward = jnp.where(written, in_order(stored.items.reward), 0)
    # An episode begins after an end, and in the oldest line whatever was before.
    after_done = jnp.concatenate([jnp.ones((1, n), bool), done[:-1]])
    # The line in which the episode of each transition began.
    begin = jax.lax.cummax(jnp.where(after_done, time, 0), axis=0)

    # A sum that starts anew where an episode begins; associative, so that its depth is logarithmic.
    def add(left, right):
        (total, _), (value, restart) = left, right
        return jnp.where(restart, value, total + value), left[1] | restart

    returns, _ = jax.lax.associative_scan(add, (reward, after_done))
    # Of the oldest line it is known only while the ring is not full that it begins its episodes.
    whole = (begin > 0) | (filled < lines)
    # A ring fills its free lines before it overwrites the oldest one.
    ends = done & whole & (begin >= margin - (lines - filled))
    # Backwards: `nonzero` keeps the first ones, which are to be the most recent.
    ends = (ends if among is None else ends & in_order(among)).ravel()[::-1]
    (back,) = jnp.nonzero(ends, size=count, fill_value=0)
    found = jnp.arange(count) < jnp.sum(ends)
    # Forwards again.
    flat = lines * n - 1 - back
    # A line holds one step of every environment, next to each other.
    t, env = flat // n, flat % n
    start = begin.ravel()[flat]
    row = lambda t: (((oldest + t) % lines) * n + env).astype(jnp.int32)
    last = row(t)
    return Episodes(
        first=row(start),
        last=last,
        length=jnp.where(found, t - start + 1, 0).astype(jnp.int32),
        returns=jnp.where(found, returns.ravel()[flat], 0),
        terminated=found & stored.items.terminated[last],
    )


def kept_episodes(stored: Stored, episodes: Episodes, *, margin: int) -> Episodes:
    """Those of `episodes`, which must all still be there, that will be for `margin` further steps of all environments.

    The places of the others are empty.
    """
    n = stored.num_envs
    lines = stored.items.reward.shape[0] // n
    filled = stored.size // n
    # Lines from the oldest one to the first of the episode, across the seam where that lies between them.
    age = (episodes.first // n - stored.cursor // n + filled) % lines
    length = jnp.where(age >= margin - (lines - filled), episodes.length, 0)
    return eqx.tree_at(lambda e: e.length, episodes, length)


def paths(
    stored: Stored, episodes: Episodes, points: int, position: tuple[int, ...]
) -> tuple[Float[Array, "n p d"], Int[Array, " n"]]:
    """The entries `position` of the observations along each episode, and how many points of each path count.

    Episodes of up to `points` transitions are taken as they are, longer ones at evenly spaced steps (rounded down),
    first and last included. Empty places count one point.

    Raises:
        ValueError: For fewer than two points.
    """
    _checks.integer("points", points, 2)
    k = jnp.arange(points)
    capacity = stored.items.reward.shape[0]

    def path(first, length):
        # An empty place, of length 0, reads its first row at every point: shapes are fixed.
        last = jnp.maximum(length - 1, 0)
        step = jnp.where(length <= points, jnp.minimum(k, last), (k * last) // (points - 1))
        # Steps of one environment are `num_envs` rows apart.
        rows = (first + step * stored.num_envs) % capacity
        return stored.items.obs[rows[:, None], jnp.asarray(position, int)[None]]

    return jax.vmap(path)(episodes.first, episodes.length), jnp.clip(episodes.length, 1, points)


def draw_by_label(
    stored: Stored,
    episodes: Episodes,
    label: Int[Array, " n"],
    wanted: Int[Array, " batch"],
    count: int,
    key: Key,
) -> Int[Array, " batch"]:
    """One row for each entry of `wanted`: uniform over the transitions of the episodes that bear its label.

    Label 0, or one that no episode bears, draws uniformly from everything stored.

    Args:
        stored: The ring.
        episodes: Episodes of it.
        label: Of each episode, 1 ... `count`; 0 for none.
        wanted: Label of each row to draw, 0 ... `count`.
        count: The highest label.
        key: Random key.
    """
    capacity = stored.items.reward.shape[0]
    any_key, own_key = jax.random.split(key)
    # At least 1: nothing can be drawn from an empty interval.
    uniform = jax.random.randint(any_key, wanted.shape, 0, jnp.maximum(stored.size, 1))
    bears = label[None] == jnp.arange(count + 1)[:, None]
    weight = jnp.where(bears, episodes.length[None], 0)
    # All transitions side by side, label by label and episode by episode: a label's are one interval of them.
    ends = jnp.cumsum(weight.ravel())
    total = jnp.sum(weight, axis=1)
    begins = jnp.cumsum(total) - total
    place = begins[wanted] + jax.random.randint(own_key, wanted.shape, 0, jnp.maximum(total[wanted], 1))
    # From the right, so that episodes without transitions, which end where they begin, are passed over.
    found = jnp.minimum(jnp.searchsorted(ends, place, side="right"), ends.shape[0] - 1)
    step = place - (ends[found] - weight.ravel()[found])
    rows = (episodes.first[found % label.shape[0]] + step * stored.num_envs) % capacity
    return jnp.where((wanted > 0) & (total[wanted] > 0), rows, uniform).astype(jnp.int32)
