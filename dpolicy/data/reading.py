"""A data set by path or name, in whatever form it is stored."""

from pathlib import Path
from typing import Any

import numpy as np

from dpolicy import _checks
from dpolicy._files import as_path
from dpolicy._types import Number, Transition
from dpolicy.data.d4rl import Timeouts, known_limit, read_d4rl
from dpolicy.data.hdf5 import opened
from dpolicy.data.mazes import KINDS, maze_data
from dpolicy.data.minari import read_minari
from dpolicy.data.ogbench import read_ogbench
from dpolicy.data.places import d4rl_name, located
from dpolicy.data.sets import DataSet, as_data_set
from dpolicy.data.sources import exact_samples, npz_arrays, stored
from dpolicy.envs import Bandit, Environment, Maze, unwrapped

_MADE = {f"maze/{kind}": kind for kind in KINDS}  # by name, for the maze that they are learned in

_OWNERS = {"timeouts": ("D4RL", "drop"), "keys": ("Minari", ()), "task": ("OGBench", None)}


def stored_form(path: str | Path) -> str:
    """In whose form a file is stored: "dpolicy", "OGBench", "D4RL" or "Minari".

    Raises:
        ImportError: For HDF5 without h5py.
        ValueError: For a file in none of them.
    """
    path = as_path("data", path)
    if path.suffix == ".npz":
        names = set(npz_arrays(path))
        return "OGBench" if "observations" in names and "obs" not in names else "dpolicy"
    if path.name == "metadata.json":
        return "Minari"
    if path.suffix not in (".hdf5", ".h5"):
        raise ValueError(f"data must be an .npz file, an HDF5 file or a folder of Minari, got {str(path)!r}.")
    with opened(path) as file:
        if any(name.startswith("episode_") for name in file):
            return "Minari"
        if "observations" in file:
            return "D4RL"
        held = ", ".join(sorted(file)) or "nothing"
    raise ValueError(
        f"data must hold D4RL's 'observations' or Minari's episodes, got {str(path)!r} with {held}."
    )


def read(
    data: Any,
    *,
    timeouts: Timeouts = "drop",
    keys: tuple[str, ...] = (),
    task: int | None = None,
    time_limit: int | None = None,
    mapped: bool = False,
) -> DataSet:
    """The set that a path or a name means, in whatever form it is stored.

    Args:
        data: As `dpolicy.data.located` takes it.
        timeouts: Of D4RL's files, see `read_d4rl`.
        keys: Of Minari's dictionaries, see `read_minari`.
        task: Of OGBench's files, see `read_ogbench`; a name with "-singletask" says it, too.
        time_limit: Of D4RL's files without time-outs, where the name does not tell or is wrong.
        mapped: Whether the arrays of a file of this project stay in it, mapped into memory; those of others are read.

    Raises:
        ImportError: Where what reads it is not installed.
        ValueError: As `located` and the readers; and for a setting of another form.
    """
    place = located(data)
    form = stored_form(place.path)
    _check_owned(form, str(place.path), timeouts=timeouts, keys=keys, task=task)
    if form == "OGBench":
        return read_ogbench(place.path, task=place.task if task is None else task, name=place.name)
    if form == "Minari":
        return read_minari(place.path, keys=keys)
    if form == "D4RL":
        from_file = place.name == place.path.stem
        name = None if from_file else place.name
        return read_d4rl(place.path, timeouts=timeouts, time_limit=time_limit, name=name)
    arrays, reference = stored(place.path, mapped=mapped)
    size = len(arrays["action"])
    no = np.zeros(size, bool)
    ends = arrays.pop("truncated", no) | arrays.get("terminated", no)
    parts: dict[str, Any] = arrays
    return DataSet(**parts, end=ends, name=place.name, source="dpolicy", reference=reference)


def _check_owned(form: str, where: str, **settings: Any) -> None:
    """Refuse a setting of one form of data for another, which would be ignored."""
    for name, value in settings.items():
        owner, unset = _OWNERS[name]
        value = tuple(value) if isinstance(value, list) else value
        if form != owner and value != unset:
            raise ValueError(
                f"data_{name} is for sets of {owner}, got {value!r} for {where}, which is of {form}."
            )


def is_made(data: str) -> bool:
    """Whether a name means a set that is made for the environment at hand, and read from no file."""
    return data == "exact" or data in _MADE


def load_set(data: str, env: Environment, *, size: int, temperature: Number, **settings: Any) -> DataSet:
    """The set that `data` means: "exact" samples of a bandit, "maze/KIND" made in the maze at hand, or as `read`.

    Args:
        data: "exact", "maze/navigate" and the other kinds of `maze_data`, or a path or name.
        env: Where a policy will be evaluated; its time limit is that of D4RL's files without time-outs whose name tells
            none.
        size: Exact samples to draw, or rows to make.
        temperature: Their temperature.
        **settings: `timeouts`, `keys` and `task` of `read`.

    Raises:
        ValueError: For "exact" in an environment that is no bandit, "maze/KIND" in one that is no maze, and as `read`.
    """
    if not isinstance(data, str):
        raise ValueError(f"data must be a path, the name of a set or 'exact', got {data!r}.")
    _checks.instance("env", env, Environment, "an Environment")
    if is_made(data):
        _check_owned("dpolicy", repr(data), **settings)
    if data in _MADE:
        maze = unwrapped(env)
        if not isinstance(maze, Maze):
            raise ValueError(f"data must be of the environment: {env.spec.name} is no maze, got {data!r}.")
        return as_data_set(maze_data(_MADE[data], maze, steps=size), data, maze.spec.name)
    if data != "exact":
        # The environment may be cut elsewhere than the data were.
        told = known_limit(d4rl_name(located(data).name))
        return read(data, time_limit=env.spec.time_limit if told is None else None, **settings)
    if not isinstance(env, Bandit):
        raise ValueError(
            f"data must be a path or the name of a set: {env.spec.name} is no bandit, got 'exact'."
        )
    return as_data_set(exact_samples(env, size, temperature), "exact samples", env.spec.name)


def load(data: str, env: Environment, *, size: int, temperature: Number) -> Transition:
    """The transitions of the set that `data` means: "exact" samples of a bandit, or as `read` takes them.

    Raises:
        ValueError: For "exact" in an environment that is no bandit, and as `read`.
    """
    return load_set(data, env, size=size, temperature=temperature).transitions()
