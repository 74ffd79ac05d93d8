"""Minari's data sets: episodes with their last state, in HDF5, Arrow or Parquet files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpolicy import _checks
from dpolicy.data.hdf5 import array, member, opened
from dpolicy.data.places import located
from dpolicy.data.sets import DataSet
from dpolicy.data.sources import flags
from dpolicy.envs.adapt import require

_EPISODE = "episode_"
_ARRAYS = ("rewards", "terminations", "truncations")


def read_minari(path: str | Path, *, keys: Sequence[str] = (), name: str | None = None) -> DataSet:
    """The transitions of a Minari set: (s_i, a_i, r_i, s_{i+1}), none left out, as the last state is stored.

    An end is a termination or a truncation, and the last row of an episode; only a termination cuts the bootstrap.
    Actions are mapped affinely to [-1, 1] from the bounds of their space, where it has others.

    Args:
        path: The folder of the set, or the file in it that holds or lists the episodes.
        keys: Where observations are dictionaries (of goals, say): which entries are put side by side, in this order; a
            nested one as "outer/inner".
        name: Of the set; by default as its metadata say.

    Raises:
        ImportError: Without h5py, or pyarrow for Arrow and Parquet.
        ValueError: For a folder that holds no such set, dictionaries without `keys`, or `keys` that there are not.
    """
    file = located(path).path
    if not isinstance(keys, (tuple, list)):
        raise ValueError(f"data_keys must be a tuple of names, got {keys!r}.")
    metadata = _metadata(file.with_name("metadata.json"))
    form = metadata.get("data_format", "hdf5")
    _checks.one_of(f"data_format in {file}", form, ("hdf5", "arrow", "parquet"))
    episodes = _of_hdf5(file) if form == "hdf5" else _of_arrow(file.parent, form)
    name = str(metadata.get("dataset_id", file.parent.name)) if name is None else name
    parts: dict[str, list[np.ndarray]] = {
        key: [] for key in ("obs", "action", "reward", "next_obs", "terminated", "end")
    }
    for where, episode in episodes:
        steps = len(episode["rewards"])
        if not steps:
            continue
        obs = _observed(episode["observations"], tuple(keys), where)
        action = _columns(episode["actions"], f"'actions' in {where}")
        if len(obs) != steps + 1 or len(action) != steps:
            raise ValueError(
                f"{where} must hold one observation more than its {steps:,} rewards, got {len(obs):,} observations and "
                f"{len(action):,} actions."
            )
        terminated, ended = (flags(key, episode[key], where) for key in ("terminations", "truncations"))
        for key, value in zip(_ARRAYS, (episode["rewards"], terminated, ended), strict=True):
            if value.shape != (steps,):
                raise ValueError(f"{key!r} in {where} must be of shape {(steps,)}, got {value.shape}.")
        ended = ended | terminated
        ended[-1] = True
        found = (obs[:-1], action, episode["rewards"], obs[1:], terminated, ended)
        for key, value in zip(parts, found, strict=True):
            parts[key].append(np.asarray(value))
    if not parts["obs"]:
        raise ValueError(f"{file} must hold an episode, got none.")
    for key, value in parts.items():
        if len(widths := {each.shape[1:] for each in value}) > 1:
            raise ValueError(
                f"{file} must hold episodes of one kind, got {key} of shapes {sorted(widths)} a row."
            )
    arrays = {key: np.concatenate(value) for key, value in parts.items()}
    arrays["action"], remarks = _mapped(arrays["action"], metadata, str(file))
    if keys:
        remarks.append(f"observations are {', '.join(keys)}, side by side.")
    return DataSet(
        **arrays,
        name=name,
        source=f"Minari ({form})",
        remarks=tuple(remarks),
        reference=_reference(metadata, str(file)),
    )


def _metadata(path: Path) -> dict[str, Any]:
    """What `metadata.json` says; nothing where it is missing."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it is no JSON object.")
    return found


def _reference(metadata: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    try:
        low, high = (float(metadata.get(f"ref_{end}_score") or 0) for end in ("min", "max"))
    except (TypeError, ValueError):
        raise ValueError(f"the metadata of {where} must have numbers for reference scores.") from None
    known = all(metadata.get(f"ref_{end}_score") is not None for end in ("min", "max"))
    return (low, high) if known and np.isfinite([low, high]).all() and low < high else None


def _mapped(action: np.ndarray, metadata: Mapping[str, Any], where: str) -> tuple[np.ndarray, list[str]]:
    """Actions in [-1, 1], from the bounds of their space."""
    space = metadata.get("action_space")
    try:
        space = json.loads(space) if isinstance(space, str) else space
        if not isinstance(space, dict) or space.get("type") != "Box":
            return action, []
        low, high = (np.asarray(space[end], np.float64).ravel() for end in ("low", "high"))
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(
            f"the metadata of {where} must say the bounds of the actions, or nothing of them."
        ) from None
    unbounded = not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all())
    if low.shape != action.shape[1:] or unbounded or ((low == -1).all() and (high == 1).all()):
        return action, []
    bounds = f"[{low.min():g}, {high.max():g}]"
    return 2 * (action - low) / (high - low) - 1, [f"actions are mapped from {bounds} to [-1, 1]."]


def _observed(stored: Any, keys: tuple[str, ...], where: str) -> np.ndarray:
    """Observations of one episode as rows of numbers."""
    if not isinstance(stored, dict):
        if keys:
            raise ValueError(
                f"data_keys must be empty for {where}, whose observations are no dictionaries, got {keys}."
            )
        return _columns(stored, f"'observations' in {where}")
    if not keys:
        raise ValueError(
            f"data_keys must say which entries of the observations in {where} are put side by side, of "
            f"{', '.join(sorted(stored))}."
        )
    _check_keys(keys, stored, where)
    return np.concatenate([_columns(stored[key], f"{key!r} in {where}") for key in keys], axis=1)


def _check_keys(keys: tuple[str, ...], stored: Mapping[str, Any], where: str) -> None:
    for key in keys:
        if key not in stored:
            raise ValueError(f"data_keys must be of {', '.join(sorted(stored))} for {where}, got {key!r}.")


def _columns(value: Any, where: str) -> np.ndarray:
    found = np.asarray(value)
    if found.ndim > 2 or isinstance(value, dict):
        raise ValueError(f"{where} must hold rows of numbers, got {found.shape or 'a dictionary'}.")
    return found.reshape(len(found), -1)


def _of_hdf5(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and arrays of every episode, in the order of their numbers."""
    with opened(path) as file:
        names = [name for name in file if name.startswith(_EPISODE) and name[len(_EPISODE) :].isdigit()]
        for name in sorted(names, key=lambda name: int(name[len(_EPISODE) :])):
            group, where = member(file, name, str(path)), f"{name} of {path}"
            found: dict[str, Any] = {key: array(group, key, where) for key in _ARRAYS}
            yield where, found | {key: _tree(group, key, where) for key in ("observations", "actions")}


def _tree(group: Any, name: str, where: str) -> Any:
    """An array, or the arrays of a group by their path in it."""
    inside = member(group, name, where)
    if not hasattr(inside, "keys"):
        return array(group, name, where)
    found: dict[str, Any] = {}
    for key in inside:
        value = _tree(inside, key, where)
        found |= (
            {f"{key}/{inner}": leaf for inner, leaf in value.items()}
            if isinstance(value, dict)
            else {key: value}
        )
    return found


def _of_arrow(folder: Path, form: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `_of_hdf5`, of the folders that Minari writes in Arrow or Parquet: rows are padded to the observations."""
    dataset = require("pyarrow.dataset", "arrow", "reading Arrow")
    numbers = sorted(int(each.name) for each in folder.iterdir() if each.name.isdigit())
    for number in numbers:
        where = f"episode {number} of {folder}"
        files = [str(each) for each in sorted((folder / str(number)).glob(f"*.{form}"))]
        table = dataset.dataset(files, format=form).to_table().combine_chunks()
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        for key in (*_ARRAYS, "observations", "actions"):
            if key not in columns:
                raise ValueError(f"{where} must hold {key!r}, got {', '.join(columns)}.")
        found = {key: np.asarray(columns[key].to_numpy(zero_copy_only=False))[:-1] for key in _ARRAYS}
        actions = _of_column(columns["actions"])
        yield where, found | {"observations": _of_column(columns["observations"]), "actions": actions[:-1]}


def _of_column(column: Any) -> Any:
    """Rows of numbers; of a struct the rows of each of its fields by their path in it."""
    kind = str(column.type)
    if kind.startswith("struct"):
        found: dict[str, Any] = {}
        for i in range(column.type.num_fields):
            key, value = column.type.field(i).name, _of_column(column.field(i))
            found |= (
                {f"{key}/{inner}": leaf for inner, leaf in value.items()}
                if isinstance(value, dict)
                else {key: value}
            )
        return found
    if "list" in kind:
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return column.to_numpy(zero_copy_only=False)
