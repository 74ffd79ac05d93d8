"""One batch from several sources, in exact shares: half from a data set and half from a replay, for example."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeAlias

import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Key, Transition
from dpolicy.algorithm import Horizon, Stored
from dpolicy.train.windows import data_steps, stored_steps

# Draws so many transitions, `(key, size) -> [size]`.
Source: TypeAlias = Callable[[Key, int], Transition]


def from_data(data: Transition, horizon: Horizon | None = None) -> Source:
    """Draws from a data set, uniform over its rows, with replacement.

    Args:
        data: Transitions with one leading axis; in order of time where a horizon asks for several steps.
        horizon: Of how many steps each transition is to be; None for one.
    """
    _checks.instance("data", data, Transition, "a Transition")

    def draw(key: Key, size: int) -> Transition:
        rows = jax.random.randint(_checks.one_key(key), (size,), 0, data.reward.shape[0])
        return data_steps(data, rows, horizon)

    return draw


def from_replay(stored: Stored, horizon: Horizon | None = None) -> Source:
    """Draws from what a replay ring holds, uniform over it, with replacement; zeros while it is empty.

    Args:
        stored: The ring.
        horizon: Of how many steps each transition is to be; None for one.
    """
    _checks.instance("stored", stored, Stored, "a Stored")

    def draw(key: Key, size: int) -> Transition:
        rows = jax.random.randint(_checks.one_key(key), (size,), 0, jnp.maximum(stored.size, 1))
        return stored_steps(stored, rows, horizon)

    return draw


def share_sizes(shares: Sequence[float | int], batch_size: int) -> tuple[int, ...]:
    """How many of a batch each source gives: its share of it, rounded so that they add up (largest remainders).

    Every source gives the whole part of `share / sum(shares) * batch_size`; what is left goes, one by one, to those
    with the largest rests, of equal ones to the first.

    Args:
        shares: Of each source, in any unit: (0.5, 0.5) and (1, 1) are the same.
        batch_size: Of all together.

    Raises:
        ValueError: For no shares, a negative one or only zeros, or a batch size below 1.
    """
    _checks.integer("batch_size", batch_size)
    if not isinstance(shares, (tuple, list)) or not shares:
        raise ValueError(f"shares must be a tuple of one number for each source, got {shares!r}.")
    for share in shares:
        _checks.non_negative("each of shares", share)
    if not any(shares):
        raise ValueError(f"shares must not all be zero, got {shares!r}.")
    # A third and two thirds as they are meant, not as they are rounded.
    parts = [Fraction(float(share)).limit_denominator(10**9) for share in shares]
    quotas = [part * batch_size / sum(parts) for part in parts]
    sizes = [int(quota) for quota in quotas]
    # Minus the rests: a stable sort then puts the largest rest first, and of equal ones the first source.
    rests = [size - quota for size, quota in zip(sizes, quotas, strict=True)]
    for i in sorted(range(len(parts)), key=rests.__getitem__)[: batch_size - sum(sizes)]:
        sizes[i] += 1
    return tuple(sizes)


def draw_shares(
    sources: Sequence[Source], shares: Sequence[float | int], key: Key, batch_size: int
) -> Transition:
    """One batch of exact shares from several sources, those of the first source first.

    RLPD (arXiv 2302.02948) draws every batch half from a data set and half from the replay:

        draw_shares([from_data(data), from_replay(stored)], (0.5, 0.5), key, 256)

    Args:
        sources: Each draws so many transitions, `(key, size) -> transitions`, such as `from_data` and `from_replay`
            make them. What they draw has the same extras, and a discount or none.
        shares: Of each source; see `share_sizes`. A source whose share is rounded to nothing is not asked.
        key: Random key.
        batch_size: Transitions in all.

    Returns:
        Transitions `[batch_size]`.

    Raises:
        ValueError: For another number of shares than sources, as `share_sizes`, or for sources that draw transitions
            of different structures or shapes.
    """
    sizes = share_sizes(shares, batch_size)
    if len(sizes) != len(sources):
        raise ValueError(
            f"shares must be one number for each of the {len(sources)} sources, got {len(sizes)}."
        )
    keys = jax.random.split(_checks.one_key(key), len(sizes))
    parts = [source(key, size) for source, key, size in zip(sources, keys, sizes, strict=True) if size]
    kinds = [_kind(part) for part in parts]
    for kind in kinds[1:]:
        if kind != kinds[0]:
            raise ValueError(f"sources must draw transitions of one kind, got {kinds[0]} and {kind}.")
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _kind(part: Transition) -> str:
    """Structure, shapes and types of what a source draws, in a line."""
    leaves = jax.tree_util.tree_leaves_with_path(part)
    return ", ".join(
        f"{jax.tree_util.keystr(path)[1:]}: {leaf.dtype}{list(leaf.shape[1:])}" for path, leaf in leaves
    )
