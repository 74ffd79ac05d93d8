"""What a run says of numbers that are not finite: of seeds that failed by them, and of simulations that diverged."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from dpolicy.train.evaluate import due_of

# Counts updates that were given something that is not finite by the environment.
_GIVEN = "train/not_finite"


class Failure(NamedTuple):
    """One seed's: the metrics are those that turned non-finite with it, after `_GIVEN` where that is the cause."""

    seed: int
    step: int
    metrics: list[str]

    def __str__(self) -> str:
        cause = f" ({', '.join(self.metrics)})" if self.metrics else ""
        if _GIVEN in self.metrics:
            cause = " (the environment gave an observation or a reward that is not finite)"
        return f"seed {self.seed} at step {self.step:,}{cause}"


def new_failures(
    state: Any,
    alive: np.ndarray,
    before: np.ndarray,
    metrics: dict[str, np.ndarray],
    last: dict[str, np.ndarray],
) -> list[Failure]:
    """Seeds that failed in this chunk, with the metrics that turned non-finite in it."""
    failures = []
    for seed in np.flatnonzero(before & ~alive):
        bad = [name for name, values in metrics.items() if not np.isfinite(values[seed])]
        # What a stage measures is nan too where it never ran.
        bad = [name for name in bad if metrics.get(due_of(name, metrics), {seed: 1})[seed] > 0]
        # A return without a finished episode is nan before a failure too.
        names = sorted(name for name in bad if not last or np.isfinite(last[name][seed]))
        given = [_GIVEN] if _GIVEN in metrics and metrics[_GIVEN][seed] > 0 else []
        failures.append(Failure(int(seed), int(state.failed_at[seed]), [*given, *names]))
    return failures


def remarks(metrics: dict[str, np.ndarray], alive: np.ndarray, step: int, said: set[Any]) -> Iterator[str]:
    """Lines about seeds that go on: evaluations that are not finite, and simulations that diverged.

    Of each seed each is said once; what has been is in `said`.
    """
    for name in sorted((name for name in metrics if name.startswith("evaluate/")), reverse=True):
        for seed in np.flatnonzero(alive & ~np.isfinite(metrics[name])):
            if ("evaluate", seed) not in said:
                said.add(("evaluate", seed))
                yield f"non-finite: {name} of seed {seed} at step {step:,}; its state is finite, it goes on"
    counts = [values for name, values in metrics.items() if name.endswith("/diverged")]
    total = np.sum([*counts, np.zeros(len(alive), int)], axis=0)
    new = [seed for seed in np.flatnonzero(total) if ("diverged", seed) not in said]
    if new:
        said |= {("diverged", seed) for seed in new}
        listing = ", ".join(f"{total[seed]:,} of seed {seed}" for seed in new)
        yield (
            f"diverged: simulations by step {step:,} ({listing}); each ended its episode, with a reward of zero, and "
            "is counted in train/diverged or evaluate/diverged"
        )


def failures_text(failures: list[Failure]) -> str:
    """All on one line."""
    return "; ".join(str(failure) for failure in failures)
