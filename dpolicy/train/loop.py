"""The host loop: the one place that compiles, prints, logs, checkpoints, stops and resumes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree
from rich.console import Console

from dpolicy import _checks
from dpolicy.train.configuration import (
    algorithm_title,
    as_json,
    changed_files,
    files_at_start,
    holds_run,
)
from dpolicy.train.evaluate import on_host
from dpolicy.train.failures import Failure, failures_text, new_failures, remarks
from dpolicy.train.intervals import interval_text
from dpolicy.train.metrics_log import History
from dpolicy.train.origin import versions
from dpolicy.train.preparing import Prepared, check_arguments, check_directory, prepare
from dpolicy.train.progress import Display, Stopwatch, clock, main_metric
from dpolicy.train.run_files import check_place, log_event, only_process
from dpolicy.train.runs import Run
from dpolicy.train.starting import Job, Start, start


class Result(NamedTuple):
    """What a run leaves: its last state (every leaf with a leading axis of seeds) and what it measured."""

    state: PyTree
    history: History


class Chunk(NamedTuple):
    """What `on_chunk` is shown. The state's buffers are reused by the next chunk: copy what must last."""

    step: int
    state: PyTree
    metrics: dict[str, np.ndarray]
    alive: np.ndarray


class AllSeedsFailed(RuntimeError):
    """Every seed of a run has become non-finite."""


def _complete(config: Mapping[str, Any] | None, numbers: Mapping[str, int]) -> dict[str, Any]:
    """The configuration with the numbers of a run, which it may have said already."""
    if config is not None and not isinstance(config, Mapping):
        raise ValueError(f"config must map names to JSON values, got {config!r}.")
    for name, value in numbers.items():
        if config is not None and config.get(name, value) != value:
            raise ValueError(f"{name} is {value!r}, but config has {config[name]!r}.")
    return as_json({**(config or {}), **numbers})


def train_loop(
    program: Any,
    *,
    seeds: int = 1,
    seed: int = 0,
    steps: int,
    directory: Path | str | None = None,
    config: dict[str, Any] | None = None,
    progress: bool = True,
    resume: bool = False,
    on_chunk: Callable[[Chunk], None] | None = None,
    checkpoint_every: int | None = None,
    console: Console | None = None,
) -> Result:
    """Train `seeds` independent copies of a program side by side on one device.

    Compiles `vmap(program.init)` and `vmap(program.step)` (its state donated) and calls the latter until every copy
    has taken `steps` steps; each call is one chunk. With a directory, a chunk ends with its metrics written and a
    checkpoint of the whole state, so a run killed at any moment goes on, with `resume`, to bitwise the same state and
    the same metrics files. (On a GPU this needs deterministic kernels: `XLA_FLAGS=--xla_gpu_deterministic_ops=true`.)

    A seed that turned non-finite is frozen by its program and reported here; the others go on.

    Args:
        program: Has `init(key) -> state`, `step(state) -> (state, metrics)`, `steps_per_call`; the state has
            `steps`, `alive` and `failed_at`.
        seeds: Independent copies.
        seed: Their keys are fold_in(key(seed), 0), fold_in(key(seed), 1), ...
        steps: Environment steps (offline: gradient steps) of each copy; rounded up to whole chunks.
        directory: Of the run; None leaves nothing on disk.
        config: JSON values for `config.json`; `seeds`, `seed`, `steps` and `checkpoint_every` are added.
        progress: Whether to report progress on the console.
        resume: Go on from the newest checkpoint in `directory`, or start there if there is none.
        on_chunk: Called once per chunk, after its metrics are written and before its checkpoint.
        checkpoint_every: Chunks between two checkpoints; the last chunk always has one. By default what `config` or
            the run that goes on says, else 1.
        console: Where progress goes; standard output by default.

    Returns:
        The last state and the history, from the first chunk on even if the run was resumed.

    Raises:
        ValueError: For an argument out of its range, a directory that holds another run, is damaged or in which
            another process trains, or a program whose `step` changes the shape of the state or takes no steps.
        AllSeedsFailed: if no seed is finite any more. The newest checkpoint is then from before the last one failed.
    """
    check_arguments(program, seeds=seeds, seed=seed, steps=steps, checkpoint_every=checkpoint_every)
    place = check_directory(directory, resume)
    full = _complete(config, {"seeds": int(seeds), "seed": int(seed), "steps": int(steps)})
    if place is not None:
        check_place(place)
    watched = _Watched(progress, on_chunk, console)
    return _train(program, full, place, watched, resume=resume, checkpoint_every=checkpoint_every)


class _Watched(NamedTuple):
    """Who is told of a run while it goes on: arguments of `train_loop`."""

    progress: bool
    on_chunk: Callable[[Chunk], None] | None
    console: Console | None = None


def _train(
    program: Any,
    full: dict[str, Any],
    directory: Path | None,
    watched: _Watched,
    *,
    resume: bool,
    checkpoint_every: int | None,
    traced: tuple[Any, PyTree] | None = None,
) -> Result:
    """Start a run whose arguments have been looked at, or go on with it, to its end.

    Args:
        program: As `train_loop` takes it.
        full: The configuration, as JSON has it.
        directory: Of the run.
        watched: Who is told.
        resume: Whether a run that is there goes on.
        checkpoint_every: As `train_loop` takes it.
        traced: `program.init`, traced, and the shapes of the state, where that has been done.
    """
    _checks.boolean("progress", watched.progress)
    if watched.on_chunk is not None and not callable(watched.on_chunk):
        raise ValueError(f"on_chunk must be a function of a Chunk or None, got {watched.on_chunk!r}.")
    if watched.console is not None:
        _checks.instance("console", watched.console, Console, "a rich.console.Console or None")
    display = Display(total=full["steps"], enabled=watched.progress, console=watched.console)
    with only_process(directory), display:
        # Now that no other process can change what is there.
        found = None if directory is None else holds_run(directory, full, resume=resume)
        if directory is not None and found is not None:
            full |= files_at_start(directory)
            for sentence in changed_files(full, directory):
                display.say(sentence)
        told = (checkpoint_every, full.get("checkpoint_every"), (found or {}).get("checkpoint_every"), 1)
        every = next(value for value in told if value is not None)
        _checks.integer("checkpoint_every", every)
        full["checkpoint_every"] = int(every)
        job = Job(program, full["steps"], directory, full, found is not None, display, traced)
        started = start(job)
        try:
            return _run(job, started, watched.on_chunk)
        finally:
            if started.checkpoints is not None:
                started.checkpoints.close()


def train_config(
    config: Mapping[str, Any],
    directory: Path | str | None,
    *,
    progress: bool = True,
    resume: bool = False,
    on_chunk: Callable[[Chunk], None] | None = None,
    checkpoint_every: int | None = None,
) -> tuple[Run, History]:
    """Train what a resolved configuration names: `train_loop` on the program that `build` makes of it.

    Args:
        config: As `dpolicy.presets.resolve` gives it, with `seeds` and `seed`.
        directory: Of the run; None leaves nothing on disk.
        progress: Whether to report progress on the console.
        resume: Go on from the newest checkpoint in `directory`, or start there if there is none.
        on_chunk: As in `train_loop`, e.g. to log metrics elsewhere.
        checkpoint_every: Chunks between two checkpoints; by default as `train_loop`.

    Returns:
        The run at its end and its history.

    Raises:
        ValueError: As `build` and `train_loop`.
        AllSeedsFailed: as `train_loop`.
    """
    prepared = prepare(config, directory, resume=resume)
    return train_prepared(prepared, progress=progress, on_chunk=on_chunk, checkpoint_every=checkpoint_every)


def train_prepared(
    prepared: Prepared,
    *,
    progress: bool = True,
    on_chunk: Callable[[Chunk], None] | None = None,
    checkpoint_every: int | None = None,
) -> tuple[Run, History]:
    """`train_config` from where `prepare` has come; the other arguments, the results and errors are the same."""
    if checkpoint_every is not None:
        _checks.integer("checkpoint_every", checkpoint_every)
    config, (algorithm, env, program, *traced) = prepared.config, prepared.built
    result = _train(
        program,
        as_json(config),
        prepared.directory,
        _Watched(progress, on_chunk),
        resume=prepared.resume,
        checkpoint_every=checkpoint_every,
        traced=tuple(traced),
    )
    return Run(algorithm_title(config), algorithm, env, program, result.state, config), result.history


def _run(job: Job, started: Start, on_chunk: Callable[[Chunk], None] | None) -> Result:
    compiled_step, state, log, checkpoints, number, failures, compile_seconds = started
    display, directory = job.display, job.directory
    step, alive = int(np.max(state.steps)), np.array(state.alive)
    watch, seconds = Stopwatch(), 0.0
    origin = {"config": job.config, "versions": versions()}
    said: set[Any] = set()
    while step < job.steps:
        watch.lap()
        state, device_metrics = jax.block_until_ready(compiled_step(state))
        chunk_seconds = watch.lap()
        seconds += chunk_seconds
        number += 1
        metrics = on_host(device_metrics)
        before, was_alive = step, alive
        step, alive = int(np.max(state.steps)), np.array(state.alive)
        if step <= before:
            raise ValueError(f"program.step must add to the steps of its state: {before} became {step}.")
        new = new_failures(state, alive, was_alive, metrics, log.last())
        failures += new
        log.append(step, alive, metrics)
        for failure in new:
            others = ", the other seeds go on" * bool(alive.any())
            display.say(f"non-finite: {failure}; its last finite state is kept{others}")
            log_event(directory, "failed seed", **failure._asdict())
        for line in remarks(metrics, alive, step, said):
            display.say(line)
        if on_chunk is not None:
            on_chunk(Chunk(step, state, metrics, alive))
        if not alive.any():
            raise AllSeedsFailed(f"Every seed has become non-finite: {failures_text(failures)}.")
        if checkpoints is not None and (number % job.config["checkpoint_every"] == 0 or step >= job.steps):
            host = {
                "chunk": number,
                "offsets": log.offsets(),
                "failures": [list(failure) for failure in failures],
                **origin,
            }
            checkpoints.save(number, state, host)
        log_event(
            directory, "chunk", step=step, seconds=round(chunk_seconds, 4), checkpoint=round(watch.lap(), 4)
        )
        display.chunk(step, step - before, chunk_seconds, metrics, alive, int((~alive).sum()))
    history = log.history
    _summarise(display, history, step, seconds, compile_seconds, failures)
    log_event(directory, "end", step=step, seconds=round(seconds, 3))
    return Result(state, history)


def _summarise(
    display: Display,
    history: History,
    step: int,
    seconds: float,
    compile_seconds: float,
    failures: list[Failure],
) -> None:
    seeds = history.alive.shape[1]
    name = main_metric(history.metrics)
    value = ""
    if name is not None:
        value = f": {name} {interval_text(history.metrics[name][-1][history.alive[-1]])}"
    display.note(
        f"{step:,} steps x {seeds} seed{'s' * (seeds > 1)} in {clock(seconds)} (+ {compile_seconds:.1f} s to "
        f"compile){value}"
    )
    if failures:
        display.say(f"{len(failures)} of {seeds} seeds failed: {failures_text(failures)}")
