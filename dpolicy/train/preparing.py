"""A configuration on its way to training: looked at, pinned, built and traced, each of them once."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import PyTree

from dpolicy import _checks
from dpolicy._files import as_path
from dpolicy.algorithm import Algorithm
from dpolicy.train.building import build
from dpolicy.train.configuration import MOST_SEED, check_config, holds_run
from dpolicy.train.memory import check_memory
from dpolicy.train.pinning import pinned
from dpolicy.train.run_files import check_place
from dpolicy.train.starting import check_leaves_steps
from dpolicy.train.tracing import traced_init


class Built(NamedTuple):
    """What a configuration names, and its program traced for all seeds.

    Attributes:
        algorithm: The algorithm.
        env: The environment, as it was wrapped.
        program: The training program.
        init: `program.init`, traced.
        shapes: Of the state that it returns.
    """

    algorithm: Algorithm
    env: Any
    program: Any
    init: Any
    shapes: PyTree


class Prepared(NamedTuple):
    """A run that can begin.

    Attributes:
        config: Its whole configuration, with what it reads by path and digest.
        directory: Where it leaves what it writes; None for nowhere.
        resume: Whether a run that is there goes on.
        built: What the configuration names.
    """

    config: dict[str, Any]
    directory: Path | None
    resume: bool
    built: Built


def _check_takes_one(name: str, function: Any, shown: str) -> None:
    _checks.function(name, function, shown)
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # a built-in function need not tell
    try:
        signature.bind(None)
    except TypeError:
        raise ValueError(f"{name} must be a function {shown}, got one of {signature}.") from None


def check_arguments(
    program: Any, *, seeds: int, seed: int, steps: int, checkpoint_every: int | None = None
) -> None:
    """Refuse what `train_loop` cannot run, before anything is compiled.

    Raises:
        ValueError: For something that is no program, or a number out of its range.
    """
    parts = ("init", "step", "steps_per_call")
    if isinstance(program, type) or not all(hasattr(program, part) for part in parts):
        raise ValueError(f"program must have {', '.join(parts)}, got {program!r}.")
    _check_takes_one("program.init", program.init, "key -> state")
    _check_takes_one("program.step", program.step, "state -> (state, metrics)")
    _checks.integer("program.steps_per_call", program.steps_per_call)
    for name, value in (("seeds", seeds), ("steps", steps)):
        _checks.integer(name, value)
    if checkpoint_every is not None:
        _checks.integer("checkpoint_every", checkpoint_every)
    _checks.integer("seed", seed, 0, MOST_SEED)
    # Steps are counted in 32 bits, to the end of the last chunk.
    _checks.integer("steps", steps, 1, 2**31 - int(program.steps_per_call))
    check_leaves_steps(steps, getattr(program, "steps_at_start", 0))
    algorithm: Any = getattr(program, "algorithm", None)
    if steps <= (phases := getattr(algorithm, "phases", 0)):
        raise ValueError(
            f"steps must be more than {phases:,}, the updates after which the last phase of {algorithm.name} begins "
            f"(its settings say how long they are), got {steps:,}."
        )


def check_directory(directory: Any, resume: Any) -> Path | None:
    """The directory of a run as a path.

    Raises:
        ValueError: For something that is no path, or a run that is to go on and has none.
    """
    _checks.boolean("resume", resume)
    if directory is None:
        if resume:
            raise ValueError("resume needs the directory of a run.")
        return None
    return as_path("directory", directory, "a path or None")


def built_and_traced(config: Mapping[str, Any]) -> Built:
    """What a configuration names, traced, as some settings are only looked at when models are made.

    Raises:
        ValueError: As `build`, for numbers out of their range, and for a state that does not fit into memory.
    """
    check_config(config, named=True, run=True)
    algorithm, env, program = build(config)
    numbers = {name: config[name] for name in ("seeds", "seed", "steps")}
    check_arguments(program, **numbers, checkpoint_every=config.get("checkpoint_every"))
    init, shapes = traced_init(program, config["seeds"])
    check_memory(shapes)
    return Built(algorithm, env, program, init, shapes)


def prepare(
    config: Mapping[str, Any],
    directory: Path | str | None,
    *,
    resume: bool = False,
    also: Sequence[str] = (),
) -> Prepared:
    """Look at a configuration and at the directory it is to be trained in, and build what it names.

    What can be refused at once is, before anything is built. Nothing is written.

    Args:
        config: As `dpolicy.presets.resolve` gives it, with `seeds` and `seed`.
        directory: Of the run; None leaves nothing on disk.
        resume: Whether a run that is there goes on.
        also: Names of further files that will be written into the directory.

    Raises:
        ValueError: As `built_and_traced`, for data that are missing, and for a directory that may not be written or
            holds something else.
    """
    check_config(config, named=True, run=True)
    place = check_directory(directory, resume)
    if place is not None:
        check_place(place)
    whole = pinned(config)
    if place is not None:
        holds_run(place, whole, resume=resume, also=also)
    return Prepared(whole, place, resume, built_and_traced(whole))
