"""The start of a run: compiled, then initialised or restored."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from dpolicy.train.checkpoint import Checkpoints
from dpolicy.train.configuration import read_config, seed_keys
from dpolicy.train.failures import Failure
from dpolicy.train.memory import check_compiled, check_memory, size_of
from dpolicy.train.metrics_log import MetricsLog, chunks_written
from dpolicy.train.origin import check_origin, remarks
from dpolicy.train.pretrained import check_start
from dpolicy.train.progress import Display, Stopwatch, byte_text
from dpolicy.train.run_files import log_event, write_start
from dpolicy.train.tracing import compiled, traced_init, traced_step

_WORTH_SAYING = 100_000_000  # bytes of state


class Job(NamedTuple):
    """What a run is given to start and to go on with."""

    program: Any
    steps: int
    directory: Path | None
    config: dict[str, Any]
    resumed: bool
    display: Display
    traced: tuple[Any, PyTree] | None = None  # what `traced_init` gives, where it has been called


# What a run that has just begun would have in its checkpoint beside the state.
_NEW: dict[str, Any] = {"chunk": 0, "offsets": {}, "failures": []}


class Start(NamedTuple):
    """Where a run starts from, and the compiled step that takes it on (None where it is finished)."""

    step: Any
    state: PyTree
    log: MetricsLog
    checkpoints: Checkpoints | None
    chunk: int
    failures: list[Failure]
    compile_seconds: float


def _old_checkpoints(job: Job) -> Checkpoints | None:
    """The checkpoints of a run that goes on; None where it starts, or starts over."""
    found = None
    if job.resumed and job.directory is not None and (job.directory / "checkpoints").exists():
        found = Checkpoints(job.directory / "checkpoints")
        if found.latest() is not None:
            host = found.host()
            check_origin(job.directory, job.config, host)
            for sentence in remarks(job.directory, host, major=False):
                job.display.say(sentence)
            return found
        found.close()
    check_start(job.config)
    if job.resumed and job.directory is not None:
        _check_starts_over(job, job.directory, lost=found is None)
    return None


def check_leaves_steps(steps: int, taken: int) -> None:
    """Refuse a run that would end before it learns.

    Raises:
        ValueError: If `steps` does not exceed those that the program's `init` takes.
    """
    if taken >= steps:
        raise ValueError(f"steps must exceed the {taken} that are taken before learning starts, got {steps}.")


def start(job: Job) -> Start:
    """Compile, then initialise or restore; nothing is recorded in the directory before both have worked."""
    watch = Stopwatch()
    seeds = job.config["seeds"]
    if job.traced is not None:
        init, shapes = job.traced
    else:
        init, shapes = traced_init(job.program, seeds)
        check_memory(shapes)
    if (size := size_of(shapes)) > _WORTH_SAYING:
        job.display.say(f"state: {byte_text(size)} ({seeds} x {byte_text(size // seeds)}, one per seed)")
    for sentence in getattr(job.program, "remarks", ()):
        job.display.say(sentence)
    seconds = watch.lap()
    checkpoints = _old_checkpoints(job)
    state: Any = None
    host, compiled_step, measured = _NEW, None, None
    if checkpoints is not None:
        state, host = checkpoints.restore(shapes)
    watch.lap()  # reading is not compiling
    # A finished run is only read again, which need not wait for a compiler.
    if state is None or int(np.max(state.steps)) < job.steps:
        step, measured = traced_step(job.program, shapes)
        compiled_step, *compiled_init = compiled([step] if checkpoints else [step, init])
        check_compiled(compiled_step)
        seconds += watch.lap()
        job.display.compiled(seconds)
        state = state if checkpoints else compiled_init[0](seed_keys(job.config["seed"], seeds))
    step_now = int(np.max(state.steps))
    if host["chunk"] == 0:
        check_leaves_steps(job.steps, step_now)
    log = MetricsLog(job.directory, host["offsets"], seeds=seeds)
    if measured is not None:
        log.check_names(measured)
    if host["chunk"] and job.directory is not None:
        # As many as it was started with are right though its whole chunks took it a little further.
        if job.steps < step_now and job.steps != read_config(job.directory)["steps"]:
            raise ValueError(f"steps must be at least {step_now}, which the run has taken, got {job.steps}.")
        job.display.note(f"resumed at step {step_now:,}")
    if job.directory is not None:
        write_start(job.directory, job.config, resumed=job.resumed, restored=checkpoints is not None)
        checkpoints = checkpoints or Checkpoints(job.directory / "checkpoints")
    log.cut()
    if compiled_step is not None:
        log_event(job.directory, "compile", seconds=round(seconds, 3))
    failures = [Failure(*failure) for failure in host["failures"]]
    return Start(compiled_step, state, log, checkpoints, host["chunk"], failures, seconds)


def _check_starts_over(job: Job, directory: Path, *, lost: bool) -> None:
    """Refuse to start over, for want of a checkpoint, a run that must have had one."""
    chunks = chunks_written(directory, job.config["seeds"])
    # A chunk's rows are written before its checkpoint, so a kill between the two leaves one chunk more.
    every = job.config["checkpoint_every"]
    if chunks > (0 if lost else every):
        raise ValueError(
            f"{directory} has metrics of {chunks} chunk{'s' * (chunks > 1)} but no checkpoint to go on from; it was "
            f"to write one after {every}."
        )
    job.display.say(f"no checkpoint yet: {directory} starts over")
