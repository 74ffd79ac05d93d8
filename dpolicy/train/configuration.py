"""The configuration of a run: what it must hold, how it is read, and whether a run may go on with it."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from dpolicy import _checks, _places
from dpolicy.data.sources import existing

MOST_SEED = 2**32 - 1  # a larger one would be the same key as one of these


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
    """The configuration with what it reads, files of one's own, data, a pretrained run, by absolute path and a digest.

    A run that another starts from (`pretrained`) is replaced by its description, which says what its directory would:
    a run that has started from it can be rebuilt without it.

    Raises:
        ValueError: if one of them is missing, or the run has no field to start from.
    """
    from dpolicy.train.pretrained import described

    names = {name: config[name] for name in ("algorithm", "env")}
    if files := _places.digests(names.values()):
        places = {key: _places.absolute(name) for key, name in names.items() if _places.is_place(name)}
        config = {**config, **places, "files_sha256": files}
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


def check_named(config: Mapping[str, Any], directory: Path) -> None:
    """Refuse the configuration of a run that was started from Python with a program that it does not name.

    Raises:
        ValueError: if it names no algorithm.
    """
    if "algorithm" not in config:
        raise ValueError(
            f"{directory} was not started by name, so it cannot be rebuilt from its config.json."
        )


def holds_run(directory: Path, config: Mapping[str, Any], *, resume: bool) -> bool:
    """Whether there is a run in a directory already; with `resume`, one that may go on with `config`.

    Only `steps`, where the run ends, may differ on resume, and the text of one's own files (see `changed_files`).

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
    for name in sorted({*found, *wanted} - {"steps", "files_sha256"}):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"the run in {directory} has {name} = {found.get(name)!r}; it cannot go on with {wanted.get(name)!r}."
            )
    return True


def seed_keys(seed: int, seeds: int) -> jax.Array:
    """One key per seed: fold_in(key(seed), i), which does not depend on how many seeds there are.

    Raises:
        ValueError: for a seed that is no integer from 0 to 2^32 - 1.
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
