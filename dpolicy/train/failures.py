"""Seeds that turned non-finite: when, and by which metrics one can tell."""

from typing import Any, NamedTuple

import numpy as np


class Failure(NamedTuple):
    """One seed's: the metrics are those that turned non-finite with it."""

    seed: int
    step: int
    metrics: list[str]

    def __str__(self) -> str:
        cause = f" ({', '.join(self.metrics)})" if self.metrics else ""
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
        # A return without a finished episode is nan before a failure too.
        names = sorted(name for name in bad if not last or np.isfinite(last[name][seed]))
        failures.append(Failure(int(seed), int(state.failed_at[seed]), names))
    return failures


def unsound(metrics: dict[str, np.ndarray], alive: np.ndarray) -> dict[int, str]:
    """Seeds that are alive but whose evaluation is not finite, each with the first metric that says so."""
    names = sorted((name for name in metrics if name.startswith("evaluate/")), reverse=True)
    return {int(i): name for name in names for i in np.flatnonzero(alive & ~np.isfinite(metrics[name]))}


def failures_text(failures: list[Failure]) -> str:
    """All on one line."""
    return "; ".join(str(failure) for failure in failures)
