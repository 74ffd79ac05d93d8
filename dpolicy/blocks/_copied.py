"""A part that is a copy of another one at first."""

from typing import Any

from dpolicy import _checks
from dpolicy._types import Key
from dpolicy.learning import Parts, Seen, Stage
from dpolicy.optimisers import Learner, keep_if


def _model(part: Any, model: Any) -> Any:
    return Learner(model, part.opt_state) if isinstance(part, Learner) else model


def copied_until(stage: Stage, of: str, updates: int) -> Stage:
    """The stage, whose part is a copy of `of` through the first updates and starts from the last one.

    For an actor that begins where a behaviour policy has ended. The copy is taken before the stage's own step, of what
    `of` is when it is its turn; the state of the optimiser is the stage's.

    Args:
        stage: Of one part, a network or an average.
        of: The name of a part that stands before this one.
        updates: Through which it is a copy; with 0 it starts as `of` does.
    """
    _checks.instance("stage", stage, Stage, "a Stage")
    _checks.integer("updates", updates, 0)

    def start(key: Key, spec: Any, parts: Parts) -> Any:
        return _model(stage.start(key, spec, parts), getattr(parts, of))

    def step(part: Any, seen: Seen, key: Key) -> Any:
        if updates:
            own = part.model if isinstance(part, Learner) else part
            part = _model(part, keep_if(seen.updates <= updates, own, getattr(seen.now, of)))
        return stage.step(part, seen, key)

    return stage._replace(start=start, step=step, of=of)
