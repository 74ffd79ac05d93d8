"""Several stages of one part."""

from typing import Any

from dpolicy._types import Key
from dpolicy.learning import Parts, Seen, Stage, stage_key
from dpolicy.learning._stages import Stepped, check_stages, with_entries


def in_turn(**stages: Stage) -> Stage:
    """Several stages that move ONE part, each what those before it have left: a policy that is cloned, then improved.

    With `every(..., until=n)` and `every(..., after=n)` they are phases. The part starts as the first of them starts
    it, so all must take what that makes: the same network and optimiser. Metrics are "NAME/STAGE/metric".

    Args:
        **stages: By name, each of one part that it does not name itself.

    Raises:
        ValueError: For none, and for a stage of parts with names of their own.
    """
    # Whether there is what an average follows the algorithm knows.
    alone = lambda stage: stage._replace(of=None) if isinstance(stage, Stage) else stage
    check_stages("in_turn", {name: alone(stage) for name, stage in stages.items()})
    for name, stage in stages.items():
        if stage.owns is not None:
            raise ValueError(f"{name} of in_turn must move one part, without a name, got {stage.owns!r}.")

    def step(part: Any, seen: Seen, key: Key) -> Stepped:
        entries, reports, batch = {}, {}, seen.batch
        for name, stage in stages.items():
            now = seen._replace(now=Parts(seen.now, {seen.stage: part}), batch=batch)
            part, added, metrics = stage.step(part, now, stage_key(key, name))
            entries, batch = {**entries, **added}, with_entries(batch, added)
            reports |= {f"{name}/{metric}" if metric else name: value for metric, value in metrics.items()}
        return part, entries, reports

    all_of = list(stages.values())
    return all_of[0]._replace(step=step, loss=all_of[-1].loss)
