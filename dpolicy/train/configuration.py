"""The configuration of a run: what it must hold, how it is read, and whether a run may go on with it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from dpolicy import _checks, _places
from dpolicy._files import as_path

MOST_SEED = 2**32 - 1  # a larger one would be the same key as one of these


def as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a round trip through a file gives back (tuples as lists).

    Raises:
        ValueError: For values that JSON does not have.
    """
    try:
        _check_names(config)
        return json.loads(json.dumps(dict(config)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"config must map names to JSON values, got {config!r} ({error}).") from None


def _check_names(value: Any) -> None:
    # JSON would make texts of other keys.
    for key, part in value.items() if isinstance(value, Mapping) else ():
        if not isinstance(key, str):
            raise TypeError(f"{key!r} is no name")
        _check_names(part)


def read_config(directory: Path | str) -> dict[str, Any]:
    """The resolved configuration of a run.

    Raises:
        ValueError: If the directory holds no run, or its config.json is damaged.
    """
    directory = as_path("directory", directory)
    path = directory / "config.json"
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
        ValueError: If something is missing or of another type.
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
    for name in ("env_options", "files_sha256"):
        if not isinstance(config.get(name, {}), Mapping):
            raise ValueError(f"{name} must be an object of names and values, got {config[name]!r}.")
    for name, low in least.items():
        _checks.integer(name, config[name], low, MOST_SEED if name == "seed" else None)
    if named and not isinstance(config.get("env_options", {}), Mapping):
        raise ValueError(f"env_options must be an object of names and values, got {config['env_options']!r}.")
    if run and "checkpoint_every" in config:
        _checks.integer("checkpoint_every", config["checkpoint_every"])


def check_named(config: Mapping[str, Any], directory: Path) -> None:
    """Refuse the configuration of a run that was started from Python with a program that it does not name.

    Raises:
        ValueError: If it names no algorithm.
    """
    if "algorithm" not in config:
        raise ValueError(
            f"{directory} was not started by name, so it cannot be rebuilt from its config.json."
        )


# What a run and its figures write into its directory beside `config.json`.
_WRITTEN = (
    "checkpoints",
    "log.jsonl",
    "metrics.csv",
    "metrics.jsonl",
    "versions.json",
    "learning_curve.png",
)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names."""
    if not isinstance(value, Mapping):
        return {name: value}
    parts = [_flat(part, f"{name}.{key}" if name else str(key)) for key, part in value.items()]
    return {path: leaf for part in parts for path, leaf in part.items()}


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the numbers of a run, by dotted names.

    Not where it ends, how often it writes a checkpoint, whether its data are streamed, nor the place of what is known
    by its digest (that of one's own files is looked at by `changed_files`).
    """
    found = _flat({**config, "steps": None, "checkpoint_every": None, "files_sha256": None})
    for name in ("algorithm", "env") if config.get("files_sha256") else ():
        found[name] = _places.title(found.get(name, ""))
    found.pop("program.data_streaming", None)
    for path, digest in (
        ("program.data", "data_sha256"),
        ("hyperparameters.pretrained.run", "hyperparameters.pretrained.sha256"),
    ):
        if found.get(digest) is not None:
            found.pop(path, None)
    return found


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By dotted name, what decides the numbers of a run and differs between two configurations; None is nothing."""
    old, new = _decisive(then), _decisive(now)
    pairs = {name: (old.get(name), new.get(name)) for name in sorted({*old, *new})}
    # By their text, nan is nan.
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b and repr(a) != repr(b)}


def holds_run(
    directory: Path, config: Mapping[str, Any], *, resume: bool, also: Sequence[str] = ()
) -> dict[str, Any] | None:
    """The configuration of the run in a directory, which with `resume` may go on with `config`; None where none is.

    Only where the run ends, how often it writes a checkpoint, and the text of one's own files (see `changed_files`) may
    differ on resume.

    Args:
        directory: Of a run.
        config: Of the run to be.
        resume: Whether a run that is there goes on.
        also: Names of further files that will be written into the directory.

    Raises:
        ValueError: If the directory holds a run and `resume` is False, a run with another configuration, or, without
            a run, anything that a run would take for its own or write over.
    """
    if not (directory / "config.json").exists():
        for name in (*_WRITTEN, *also):
            place = directory / name
            if os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir())):
                raise ValueError(
                    f"{directory} holds {name} that belongs to no run (there is no config.json): choose another "
                    "directory."
                )
        return None
    if not resume:
        raise ValueError(f"{directory} already holds a run: resume it or choose another directory.")
    wanted, found = as_json(config), read_config(directory)
    old, new = found.get("data_sha256"), wanted.get("data_sha256")
    if old is not None and new is not None and old != new:
        data = wanted["program"]["data"]
        raise ValueError(f"the run in {directory} cannot go on: {data} has changed since it was started.")
    for name, (then, now) in changes(found, wanted).items():
        raise ValueError(f"the run in {directory} has {name} = {then!r}; it cannot go on with {now!r}.")
    return found


def seed_keys(seed: int, seeds: int) -> jax.Array:
    """One key per seed: fold_in(key(seed), i), which does not depend on how many seeds there are.

    Raises:
        ValueError: For a seed that is no integer from 0 to 2^32 - 1.
    """
    _checks.integer("seed", seed, 0, MOST_SEED)
    seed = int(seed)
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jax.numpy.arange(seeds))


def files_at_start(directory: Path) -> dict[str, Any]:
    """The digests that a run was started with, of files of one's own: a run that goes on keeps them."""
    return {name: value for name, value in read_config(directory).items() if name == "files_sha256"}


def changed_files(config: Mapping[str, Any], directory: Path) -> list[str]:
    """A sentence for each file of one's own that is not as it was when the run in a directory was started."""
    before = config.get("files_sha256")
    if not isinstance(before, Mapping):
        return []
    now = _places.digests(str(config.get(name)) for name in ("algorithm", "env"))
    return [
        f"{path} has changed since the run in {directory} was started."
        for path, digest in now.items()
        if before.get(path) != digest
    ]


def algorithm_title(config: Mapping[str, Any]) -> str:
    """The algorithm of a configuration as it is shown: "" where there is none, the bare name of one's own."""
    return _places.title(str(config.get("algorithm", ""))).rpartition(":")[2]


def env_title(config: Mapping[str, Any]) -> str:
    """The environment of a configuration in words: its name and what it was made with ("" where there is none)."""
    options = config.get("env_options") or {}
    name = _places.title(str(config.get("env", "")))
    return " ".join([name, *(f"{name}={value}" for name, value in options.items())])
