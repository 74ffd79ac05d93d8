"""What a person sees while a run trains: a live line on a terminal, plain lines elsewhere."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.text import Text

from dpolicy.train.intervals import interval_text

# What stands for the result of a chunk, best first.
_RETURNS = ("evaluate/return", "train/return")


def main_metric(metrics: Mapping[str, Any]) -> str | None:
    """The metric that sums up a run: the evaluation return if it was measured, else the training return."""
    for name in _RETURNS:
        if name in metrics and np.any(np.isfinite(metrics[name])):
            return name
    return None


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds, with hours in front where there are any."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"


def byte_text(count: int) -> str:
    """A number of bytes with three digits and a decimal unit."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000.0:
            break
        size, unit = size / 1000.0, larger
    return f"{size:.3g} {unit}"


class _Status(ProgressColumn):
    """A task's description and, where nothing but time moves, how long that has been so."""

    def render(self, task: Task) -> Text:
        since = task.fields["since"]
        waited = "" if since is None else f" {clock(time.perf_counter() - since)}"
        return Text(task.description + waited)


@contextlib.contextmanager
def _without_alarms() -> Iterator[None]:
    """Keep off a live line what XLA logs as errors on a CPU: how slow it compiles, which the line says itself.

    On other devices the same level tells what an exception leaves out. A level that the user chose stays.
    """
    chosen = (os.environ.get("TF_CPP_MIN_LOG_LEVEL"), jax.config.values["jax_logging_level"])
    if jax.default_backend() != "cpu" or chosen != ("1", "NOTSET"):  # JAX's own defaults
        yield
        return

    def set_level(name: str) -> None:
        # Sets C++'s level and Python's; NOTSET gives back Python's alone.
        jax.config.update("jax_logging_level", name)
        jax.config.update("jax_logging_level", "NOTSET")

    set_level("CRITICAL")
    try:
        yield
    finally:
        set_level("WARNING")


class Display:
    """Reports progress on a console: steps, return with its interval over seeds, speed, time left, failed seeds.

    A live line says how long compiling has taken, and the first chunk after it.

    Use as a context manager around the run. Messages (`say`) are printed whether or not `enabled`; the rest is
    printed only if it is.

    Args:
        total: Steps at which the run ends, with the chunk in which it gets there.
        enabled: Whether to report progress at all.
        console: Where to; standard output by default.
    """

    def __init__(self, *, total: int, enabled: bool, console: Console | None = None):
        # Brackets in our lines are intervals, not markup.
        self.console = console or Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._total = total
        self._enabled = enabled
        self._seconds = 0.0
        self._steps = 0
        self._live: Progress | None = None
        if enabled and self.console.is_terminal:
            self._live = Progress(
                SpinnerColumn(),
                BarColumn(bar_width=12),
                _Status(),
                console=self.console,
            )
            self._task = self._live.add_task("compiling", total=None, since=time.perf_counter())
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._open.enter_context(_without_alarms())
            self._open.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def say(self, text: str) -> None:
        """Print one line, above the live line where there is one."""
        self.console.print(text)

    def note(self, text: str) -> None:
        """Print one line if progress is wanted."""
        if self._enabled:
            self.say(text)

    def compiled(self, seconds: float) -> None:
        """Report that compiling has ended and training begins."""
        self.note(f"compiled in {seconds:.1f} s")
        if self._live is not None:
            self._live.update(self._task, description="training", since=time.perf_counter())

    def chunk(
        self,
        step: int,
        steps: int,
        seconds: float,
        metrics: Mapping[str, Any],
        alive: np.ndarray,
        failed: int,
    ) -> None:
        """Report the end of a chunk.

        Args:
            step: Steps taken so far, of each seed.
            steps: Steps of this chunk.
            seconds: What it took.
            metrics: Name -> numbers of shape `[seeds]`.
            alive: Which seeds are finite, shape `[seeds]`.
            failed: How many are not.
        """
        if not self._enabled:
            return
        self._seconds += seconds
        self._steps += steps
        # A run ends with a whole chunk.
        end = step + steps * max(0, -(-(self._total - step) // steps))
        left = (end - step) * self._seconds / self._steps
        speed = steps * len(alive) / max(seconds, 1e-9)
        name = main_metric(metrics)
        value = "-" if name is None else interval_text(np.asarray(metrics[name])[alive])
        parts = [
            f"step {step:,}/{end:,}",
            f"return {value}",
            f"{speed:,.0f} steps/s",
            f"{clock(left)} left",
        ]
        if failed:
            parts.append(f"{failed} of {len(alive)} seeds failed")
        text = "  ".join(parts)
        if self._live is None:
            self.say(text)
        else:
            self._live.update(self._task, completed=step, total=end, description=text, since=None)


class Stopwatch:
    """Seconds since it was made, or since the last `lap`."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def lap(self) -> float:
        """Seconds so far; starts anew."""
        now = time.perf_counter()
        seconds, self._start = now - self._start, now
        return seconds
