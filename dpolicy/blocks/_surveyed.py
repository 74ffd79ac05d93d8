"""Entries beside every row of a data set, found from the whole of it when that is due."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from dpolicy import _checks
from dpolicy._rarely import rarely
from dpolicy._types import Key, Transition
from dpolicy.algorithm import Memory, Stored
from dpolicy.learning import Parts, Seen, stage_key
from dpolicy.learning._stages import Entries, with_entries


class Survey(NamedTuple):
    """A look at a whole data set.

    Attributes:
        start: `transition -> entries`, of ONE row, before the first look.
        look: `(seen, key) -> entries` with a leading axis of rows; `seen.batch` is the whole set, in the order of the
            data, with the entries that it has.
        due: `updates -> whether`; updates are counted from 1.
    """

    start: Callable[[Transition], Entries]
    look: Callable[[Seen, Key], Entries]
    due: Callable[[Int[Array, ""]], Bool[Array, ""]]


def surveyed(**surveys: Survey) -> Memory:
    """What an offline method keeps beside every row of its data, as the `memory` of `algorithm`.

    For actions of a cloned policy at every state, or returns planned along whole trajectories. A survey that is due
    looks before the first stage of an update, and the extras of every batch hold what it has found; one after another
    in the order in which they are written. In between they cost nothing, in a sweep in one program neither. The entries
    are a part of the run, and of its checkpoints: rows times their size.

    Args:
        **surveys: By name, of which the randomness of each is made.

    Raises:
        ValueError: For none, for what is no `Survey`, and, when it looks, for entries unlike those at the start.
    """
    if not surveys:
        raise ValueError("surveyed must be given at least one name=Survey(start, look, due), got none.")
    for name, survey in surveys.items():
        _checks.instance(name, survey, Survey, "a Survey(start, look, due)")
        _checks.slot(f"start of {name}", survey.start, 1, "transition -> entries")
        _checks.slot(f"look of {name}", survey.look, 2, "(seen, key) -> entries")
        _checks.slot(f"due of {name}", survey.due, 1, "updates -> bool")

    def start(transition: Transition) -> Entries:
        return {name: value for each in surveys.values() for name, value in each.start(transition).items()}

    def organise(state: Parts, stored: Stored, key: Key) -> tuple[Parts, Entries]:
        batch, kept = stored.items, {}
        for name, survey in surveys.items():
            old = {entry: batch.extras[entry] for entry in jax.eval_shape(jax.vmap(survey.start), batch)}
            seen = Seen(state, state, batch, state.updates + 1, {}, name)
            look = _looking(survey, seen, stage_key(key, name))
            new = rarely(survey.due(seen.updates), look, lambda old, shapes: old, old)
            batch, kept = with_entries(batch, new), {**kept, **new}
        return state, kept

    return Memory(start, lambda state, batch, key: batch, organise=organise)


def _looking(survey: Survey, seen: Seen, key: Key) -> Callable[[Entries], Entries]:
    def look(old: Entries) -> Entries:
        new = survey.look(seen._replace(batch=with_entries(seen.batch, old)), key)
        described = lambda tree: jax.tree.map(lambda x: f"{jnp.result_type(x)}{list(jnp.shape(x))}", tree)
        if described(new) != described(old):
            raise ValueError(
                f"what {seen.stage} finds must be like what it starts with, {described(old)}, got {described(new)}."
            )
        return new

    return look
