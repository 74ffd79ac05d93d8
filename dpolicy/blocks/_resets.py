"""Periodic resets: an algorithm that starts anew at given updates, and keeps what it has experienced."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._rarely import rarely
from dpolicy._types import Key, Metrics, Transition
from dpolicy.algorithm import Algorithm, check_algorithm
from dpolicy.learning import Parts


class _Sizes(NamedTuple):
    """What an algorithm knows of an environment: `dpolicy.algorithm.Algorithm.init`."""

    obs_size: int
    action_size: int


def resetting(algorithm: Algorithm, updates: tuple[int, ...]) -> Algorithm:
    """`algorithm`, all parts of which start anew after so many updates: networks, targets, optimisers, tuned numbers.

    The replay is kept, and the count of updates goes on, with the metric "resets", how many there have been. A network
    that has overfitted its first experience is thrown away, and learns from all of it at once. Source: Nikishin et al.
    (arXiv 2205.07802); as in BRO (arXiv 2405.16158) every network is reset.

    Args:
        algorithm: One made of stages (`dpolicy.learning.algorithm`), off policy or offline.
        updates: After which updates, rising.

    Raises:
        ValueError: For an algorithm of another kind, or counts that are not positive and rising.
    """
    check_algorithm(algorithm)
    if algorithm.stages is None or algorithm.family == "on_policy":
        raise ValueError(
            f"algorithm must be made of stages and learn off policy or offline, got {algorithm.name}."
        )
    _checks.instance("updates", updates, tuple, "a tuple of updates")
    for count in updates:
        _checks.integer("updates", count)
    if list(updates) != sorted(set(updates)):
        raise ValueError(f"updates must rise, got {updates!r}.")
    if not updates:
        return algorithm

    def update(state: Parts, batch: Transition, key: Key) -> tuple[Parts, Metrics]:
        sizes = _Sizes(batch.obs.shape[-1], batch.action.shape[-1])
        arrays, rest = eqx.partition(state, eqx.is_array)
        reset_key, key = jax.random.split(key)
        anew = lambda arrays: eqx.filter(algorithm.init(reset_key, sizes), eqx.is_array)
        past = jnp.asarray(updates)
        begun = rarely(jnp.any(past == state.updates), anew, lambda arrays, _: arrays, arrays)
        state = Parts(eqx.combine(begun, rest), updates=state.updates)
        new, metrics = algorithm.update(state, batch, key)
        return new, {**metrics, "resets": jnp.sum(past <= state.updates).astype(float)}

    return algorithm._replace(update=update)
