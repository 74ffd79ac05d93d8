"""A stage whose part starts anew at given updates."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from dpolicy import _checks
from dpolicy._types import Key
from dpolicy.learning import Parts, Seen, Stage


def restarted(stage: Stage, due: Callable[[Int[Array, ""]], Bool[Array, ""]]) -> Stage:
    """The stage, whose parts are replaced by fresh ones, optimisers and all, before it runs at an update that is due.

    What it starts anew with is drawn once, at the start of the run, apart from what it first starts with, and kept
    under "fresh". Where a network is fitted to one target after another, none begins as the fit to the last.

    Args:
        stage: Any with parts of its own.
        due: `updates -> whether`; updates are counted from 1.
    """
    _checks.instance("stage", stage, Stage, "a Stage")
    _checks.slot("due", due, 1, "updates -> bool")
    names = ("",) if stage.owns is None else stage.owns
    bare = lambda parts: parts[""] if stage.owns is None else {name: parts[name] for name in names}
    named = lambda part: {"": part} if stage.owns is None else part

    def start(key: Key, spec: Any, parts: Parts) -> dict[str, Any]:
        first, again = jax.random.split(key)
        return {**named(stage.start(first, spec, parts)), "fresh": stage.start(again, spec, parts)}

    def step(part: Any, seen: Seen, key: Key) -> Any:
        begins, own = due(seen.updates), bare(part)
        pick = lambda fresh, old: jnp.where(begins, fresh, old) if eqx.is_array(old) else old
        new, added, metrics = stage.step(jax.tree.map(pick, part["fresh"], own), seen, key)
        return {**named(new), "fresh": part["fresh"]}, added, metrics

    return stage._replace(start=start, step=step, owns=(*names, "fresh"))
