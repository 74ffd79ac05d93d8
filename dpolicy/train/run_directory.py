"""The directory of a run: what is in it, and how a run is rebuilt from it.

config.json     the resolved configuration, enough to rebuild the run
versions.json   the versions that started it
metrics.csv     one row per chunk and seed; metrics.jsonl holds the same
log.jsonl       events with their wall-clock times: compile, chunk, failed seed, resume, end
checkpoints/    the last two checkpoints
"""

import contextlib
import hashlib
import importlib.util
import inspect
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dpolicy import _checks
from dpolicy.data.sources import existing
from dpolicy.train.checkpoint import Checkpoints, check_text

MOST_SEED = 2**32 - 1  # a larger one would be the same key as one of these
_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "diffrax", "dpolicy")


class Run(NamedTuple):
    """A training run, rebuilt from its directory.

    Attributes:
        algorithm_name: The name its recipe is registered under.
        algorithm: What was trained.
        env: Where.
        program: The training program.
        state: The newest checkpoint's state; every leaf has a leading axis of seeds.
        config: The resolved configuration.
    """

    algorithm_name: str
    algorithm: Any
    env: Any
    program: Any
    state: Any
    config: dict[str, Any]


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a run's numbers, and the device's kind."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {**found, "device": jax.devices()[0].device_kind}


def _write_json(path: Path, value: Any) -> None:
    # Written beside and renamed, so a kill leaves the old file or the new one.
    beside = path.with_suffix(".json.tmp")
    beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, path)


def as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a round trip through a file gives back (tuples as lists).

    Raises:
        ValueError: for values that JSON does not have.
    """
    try:
        return json.loads(json.dumps(dict(config)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"config must map names to JSON values, got {config!r} ({error}).") from None


def pinned(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with what it reads, a data file or a pretrained run, by absolute path and with a digest.

    A run that another starts from (`pretrained`) is replaced by its description, which says what its directory would:
    a run that has started from it can be rebuilt without it.

    Raises:
        ValueError: if one of them is missing, or the run has no field to start from.
    """
    from dpolicy.train.pretrained import described

    data, start = config["program"].get("data", "exact"), config["hyperparameters"].get("pretrained")
    if isinstance(start, (str, os.PathLike)):
        config = {**config, "hyperparameters": {**config["hyperparameters"], "pretrained": described(start)}}
    if not isinstance(data, str) or data == "exact":
        return dict(config)
    path = existing(data).absolute()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {**config, "program": {**config["program"], "data": str(path)}, "data_sha256": digest}


def read_config(directory: Path) -> dict[str, Any]:
    """The resolved configuration of a run.

    Raises:
        ValueError: if the directory holds no run, or its config.json is damaged.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} is not the directory of a run: it has no config.json.")
    wrong = f"{path} is damaged: "
    try:
        config = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError):
        raise ValueError(f"{wrong}it is no JSON.") from None
    try:
        check_config(config, named=isinstance(config, dict) and "algorithm" in config, run=True)
    except ValueError as error:
        raise ValueError(f"{wrong}{error}") from None
    return config


def check_config(config: Any, *, named: bool, run: bool) -> None:
    """Refuse what is no configuration.

    Args:
        config: The configuration.
        named: Whether it must say what to train, as `build` needs it.
        run: Whether it must say for how long and with which seeds, as `train_loop` writes it.

    Raises:
        ValueError: if something is missing or of another type.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"the configuration must be an object of names and values, got {config!r}.")
    kinds = {"algorithm": str, "env": str, "hyperparameters": Mapping, "program": Mapping} if named else {}
    least = {"seeds": 1, "seed": 0, "steps": 1} if run else {}
    for name in (*kinds, *least):
        if name not in config:
            raise ValueError(
                f"the configuration must have {name!r}, got {', '.join(map(str, config)) or 'nothing'}."
            )
    for name, kind in kinds.items():
        if not isinstance(config[name], kind):
            words = "a name" if kind is str else "an object of names and values"
            raise ValueError(f"{name} must be {words}, got {config[name]!r}.")
    for name, low in least.items():
        _checks.integer(name, config[name], low, MOST_SEED if name == "seed" else None)


def check_place(directory: Path) -> None:
    """Refuse a directory that cannot be made or written.

    Raises:
        ValueError: if it, or what it would be made in, is a file or may not be written, or its name is no text.
        OSError: as the operating system says, e.g. for a name that is too long.
    """
    check_text(directory)
    there = next((path for path in (directory, *directory.parents) if path.exists()), Path())
    if not there.is_dir():
        raise ValueError(f"{directory} must be a directory or a new name in one: {there} is a file.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{directory} must be a directory that may be written: {there} may not.")


def holds_run(directory: Path, config: Mapping[str, Any], *, resume: bool) -> bool:
    """Whether there is a run in a directory already; with `resume`, one that may go on with `config`.

    Only `steps`, where the run ends, may differ on resume.

    Raises:
        ValueError: if the directory holds a run and `resume` is False, a run with another configuration, or metrics
            without a run.
    """
    if not (directory / "config.json").exists():
        # Without this, starting a run would cut somebody else's file of that name to nothing.
        for name in ("metrics.csv", "metrics.jsonl"):
            if (directory / name).exists():
                raise ValueError(
                    f"{directory} holds a {name} that belongs to no run: choose another directory."
                )
        return False
    if not resume:
        raise ValueError(f"{directory} already holds a run: resume it or choose another directory.")
    wanted, found = as_json(config), read_config(directory)
    old, new = found.get("data_sha256"), wanted.get("data_sha256")
    if old is not None and new is not None and old != new:
        data = wanted["program"]["data"]
        raise ValueError(f"the run in {directory} cannot go on: {data} has changed since it was started.")
    for name in sorted({*found, *wanted} - {"steps"}):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"the run in {directory} has {name} = {found.get(name)!r}; it cannot go on with {wanted.get(name)!r}."
            )
    return True


@contextlib.contextmanager
def only_process(directory: Path | None) -> Iterator[None]:
    """Hold a directory against other processes that would train in it, and create it if need be.

    The operating system's lock on it ends with the process, however that ends. (Where there is no such lock, as on
    Windows, nothing is held.) A directory made here that is still empty at the end is removed.

    Raises:
        ValueError: if another process holds it.
    """
    if directory is None or importlib.util.find_spec("fcntl") is None:
        yield
        return
    import fcntl

    existed = directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {directory}: let it end, or end it.") from None
        yield
    finally:
        os.close(descriptor)
        if not existed:
            with contextlib.suppress(OSError):
                directory.rmdir()


def write_start(directory: Path, config: Mapping[str, Any], *, resumed: bool) -> None:
    """Record with what configuration and versions a run starts or goes on."""
    directory.mkdir(parents=True, exist_ok=True)
    if not resumed:
        _write_json(directory / "versions.json", versions())
    # The configuration comes last: a directory that has one is a run.
    _write_json(directory / "config.json", as_json(config))
    log_event(directory, "resume" if resumed else "start", versions=versions())


def log_event(directory: Path | None, event: str, **values: Any) -> None:
    """Append one event with the time of day to `log.jsonl`; nothing without a directory."""
    if directory is not None:
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
        with open(directory / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")


def seed_keys(seed: int, seeds: int) -> jax.Array:
    """One key per seed: fold_in(key(seed), i), which does not depend on how many seeds there are.

    Raises:
        ValueError: for a seed that is no integer from 0 to 2^32 - 1.
    """
    _checks.integer("seed", seed, 0, MOST_SEED)
    seed = int(seed)
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jax.numpy.arange(seeds))


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that recipes take."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def env_title(config: Mapping[str, Any]) -> str:
    """The environment of a configuration in words: its name and what it was made with ("" where there is none)."""
    options = config.get("env_options") or {}
    return " ".join([str(config.get("env", "")), *(f"{name}={value}" for name, value in options.items())])


def _check_known(function: Any, given: Mapping[str, Any], name: str) -> None:
    known = inspect.signature(function).parameters
    for setting in given:
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r} in this version of the library.")


def make_algorithm(name: str, hyperparameters: Mapping[str, Any]) -> Any:
    """The algorithm of that name with these hyperparameters, as a configuration has them.

    Raises:
        ValueError: for an unknown name, a setting that is none, or a value out of its range.
    """
    from dpolicy.algorithms import ALGORITHMS

    _checks.one_of("algorithm", name, ALGORITHMS)
    recipe = ALGORITHMS[name].recipe
    _check_known(recipe, hyperparameters, name)
    return recipe(**{key: _tuples(value) for key, value in hyperparameters.items()})


def build(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Algorithm, environment and training program of a resolved configuration.

    Args:
        config: With `algorithm` and `env` (names), `hyperparameters` of the recipe and `program` settings; and
            `env_options`, further arguments of `dpolicy.envs.make`, where there are any.

    Raises:
        ValueError: for a configuration that lacks one of these, an unknown name, a setting that is none, or a value
            out of its range.
    """
    from dpolicy import envs
    from dpolicy.algorithms import ALGORITHMS
    from dpolicy.train import PROGRAMS

    check_config(config, named=True, run=False)
    name = config["algorithm"]
    _checks.one_of("algorithm", name, ALGORITHMS)
    entry = ALGORITHMS[name]
    make_program = PROGRAMS[entry.family]
    settings = {key: _tuples(value) for key, value in config["program"].items()}
    _check_known(make_program, settings, name)
    parameters = inspect.signature(make_program).parameters
    for parameter in list(parameters.values())[2:]:
        if parameter.default is parameter.empty and parameter.name not in settings:
            raise ValueError(
                f"{name} learns from a {parameter.name} that has no name to be given by: call "
                f"dpolicy.train.{entry.family} from Python."
            )
    env = envs.make(config["env"], **config.get("env_options", {}))
    algorithm = make_algorithm(name, config["hyperparameters"])
    return algorithm, env, make_program(algorithm, env, **settings)


def load_run(directory: Path | str) -> Run:
    """Rebuild a run from its directory, with the state of its newest checkpoint.

    Raises:
        ValueError: if the directory holds no run, no checkpoint yet, or one that the code no longer fits.
    """
    directory = Path(directory)
    config = read_config(directory)
    if "algorithm" not in config:
        raise ValueError(
            f"{directory} was not started by name, so it cannot be rebuilt from its config.json."
        )
    algorithm, env, program = build(config)
    like = jax.eval_shape(jax.vmap(program.init), seed_keys(config["seed"], config["seeds"]))
    if not (directory / "checkpoints").is_dir():
        raise ValueError(f"{directory} holds no checkpoint yet.")
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    try:
        state, _ = checkpoints.restore(like)
    finally:
        checkpoints.close()
    return Run(config["algorithm"], algorithm, env, program, state, config)


class Evaluation(NamedTuple):
    """Undiscounted returns and lengths of episodes, each of shape `[seeds, episodes]`."""

    returns: np.ndarray
    lengths: np.ndarray


def evaluate_run(run: Run, *, episodes: int = 10, mode: str = "evaluate", seed: int = 0) -> Evaluation:
    """Let the policies of all seeds of a run act in fresh episodes.

    Args:
        run: The run.
        episodes: Episodes per seed.
        mode: How the policy acts; one of the algorithm's modes.
        seed: Key of the evaluation, independent of the training's.

    Raises:
        ValueError: for an unknown mode or a number of episodes below 1.
    """
    from dpolicy.envs import evaluate_episodes
    from dpolicy.train.evaluate import policy_of

    _checks.integer("episodes", episodes)
    _checks.integer("seed", seed, 0, MOST_SEED)
    _checks.one_of("mode", mode, run.algorithm.modes)

    def one(state: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return evaluate_episodes(
            run.env, policy_of(run.algorithm, state, mode), key, episodes, run.env.spec.time_limit
        )

    returns, lengths = jax.jit(jax.vmap(one))(run.state, seed_keys(seed, run.config["seeds"]))
    return Evaluation(np.asarray(returns), np.asarray(lengths))
