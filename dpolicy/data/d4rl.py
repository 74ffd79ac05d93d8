"""D4RL's HDF5 files, with the repairs that they need."""

from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from dpolicy import _checks
from dpolicy._files import as_path
from dpolicy.data.hdf5 import array, opened
from dpolicy.data.places import d4rl_name
from dpolicy.data.scores import reference_scores
from dpolicy.data.sets import DataSet
from dpolicy.data.sources import flags

Timeouts: TypeAlias = Literal["drop", "drop_unless_terminal", "terminate", "stored"]
TIMEOUTS: tuple[Timeouts, ...] = get_args(Timeouts)
_JUMP = 1e-6  # between where a row led to and where the next one begins, of IQL's code
_LIMITS = {
    **dict.fromkeys(("halfcheetah", "hopper", "walker2d", "ant"), 1000),
    "antmaze-umaze": 700,
    "antmaze": 1000,
    "pen": 100,
    **dict.fromkeys(("door", "relocate", "hammer"), 200),
    "kitchen": 280,
}


def read_d4rl(
    path: str | Path, *, timeouts: Timeouts = "drop", time_limit: int | None = None, name: str | None = None
) -> DataSet:
    """The rows of a D4RL file: what its `qlearning_dataset` gives, with the ends of trajectories.

    The files have no successors for sure: the observation of the next row is one, unless a time-out stands between.
    What becomes of a row with a time-out, whose successor is the start of another trajectory:

    | timeouts | |
    |---|---|
    | drop | it is left out, also where it is terminal (D4RL, the default) |
    | drop_unless_terminal | it is left out unless it is terminal (FlowRL's code) |
    | terminate | it is kept as terminated (D4RL's `terminate_on_end`, as its documentation has it) |
    | stored | it is kept as truncated, with the successor that the file stores |

    Where a row is left out, the one before ends its trajectory. A row that is terminal does, and where a file stores
    successors any row whose own differs from the next row's observation by more than 1e-6. A terminal row leads to what
    the file stores, or else to itself, where D4RL has the start of the next trajectory: it is masked. The last row of a
    file has no successor; D4RL leaves it out always, and so does "drop".

    Without `timeouts` in the file the last row of `time_limit` steps is taken for one, each trajectory being counted
    from its own first row (D4RL's own count is one too high after a termination).

    Args:
        path: The file.
        timeouts: One of these.
        time_limit: Steps of a trajectory, where the file has no `timeouts`; None for those that the name tells.
        name: Of the set; by default as the file is called.

    Raises:
        ImportError: Without h5py.
        ValueError: For a file that is no such one, no known way to treat time-outs, successors that are asked for
            and not stored, or a time limit that is not known.
    """
    path = as_path("path", path)
    _checks.one_of("data_timeouts", timeouts, TIMEOUTS)
    name = d4rl_name(path.stem) if name is None else name
    with opened(path) as file:
        found = {
            key: array(file, key, str(path)) for key in ("observations", "actions", "rewards", "terminals")
        }
        for key in ("timeouts", "next_observations"):
            if key in file:
                found[key] = array(file, key, str(path))
    rows = {
        key: value.reshape(len(value)) if key in _FLAT and value.size == len(value) else value
        for key, value in found.items()
    }
    _check_lengths(rows, str(path))
    terminal = flags("terminals", rows["terminals"], str(path))
    remarks: list[str] = []
    if "timeouts" in rows:
        cut = flags("timeouts", rows["timeouts"], str(path))
    else:
        limit = time_limit if time_limit is not None else known_limit(name)
        cut = _counted(terminal, limit, str(path))
        remarks.append(f"no 'timeouts': a trajectory is taken to be cut after {limit:,} steps.")
    both = int((terminal & cut).sum())
    if both:
        remarks.append(f"{both:,} rows are terminal and cut at once.")
    return _made(rows, terminal, cut, timeouts, name, str(path), remarks)


_FLAT = ("rewards", "terminals", "timeouts")


def _check_lengths(rows: dict[str, np.ndarray], where: str) -> None:
    size = len(rows["observations"])
    for key in ("observations", "actions"):
        if rows[key].ndim != 2:
            raise ValueError(f"{key!r} in {where} must be two-dimensional, got shape {rows[key].shape}.")
    stored = rows.get("next_observations")
    if stored is not None and stored.shape != rows["observations"].shape:
        raise ValueError(
            f"'next_observations' in {where} must have the shape of 'observations', {rows['observations'].shape}, got "
            f"{stored.shape}."
        )
    for key, value in rows.items():
        if len(value) != size or (key in _FLAT and value.ndim != 1):
            raise ValueError(
                f"{key!r} in {where} must be as long as 'observations', {size:,}, got {value.shape}."
            )
    if size < 2:
        raise ValueError(f"{where} must hold at least two rows, got {size}.")


def known_limit(name: str) -> int | None:
    """The steps after which D4RL cuts the trajectories of a set; None for a name that is none of its own."""
    known = [key for key in _LIMITS if name == key or name.startswith(f"{key}-")]
    return _LIMITS[max(known, key=len)] if known else None


def _counted(terminal: np.ndarray, limit: int | None, where: str) -> np.ndarray:
    if limit is None:
        raise ValueError(
            f"{where} holds no 'timeouts', and nothing tells where its trajectories are cut: give time_limit."
        )
    _checks.integer("time_limit", limit)
    cut, steps = np.zeros(len(terminal), bool), 0
    for i, ended in enumerate(terminal.tolist()):
        steps += 1
        cut[i] = steps == limit
        if ended or cut[i]:
            steps = 0
    return cut


def _made(
    rows: dict[str, np.ndarray],
    terminal: np.ndarray,
    cut: np.ndarray,
    timeouts: Timeouts,
    name: str,
    where: str,
    remarks: list[str],
) -> DataSet:
    obs, stored, size = rows["observations"], rows.get("next_observations"), len(terminal)
    last = np.arange(size) == size - 1
    shifted = np.concatenate([obs[1:], obs[-1:]])
    ends, terminated = terminal | cut | last, terminal
    if timeouts == "stored":
        if stored is None:
            raise ValueError(
                f"data_timeouts must not be 'stored' for {where}: it holds no 'next_observations'."
            )
        following, dropped = stored, np.zeros(size, bool)
    else:
        terminated = terminal | cut if timeouts == "terminate" else terminal
        dropped = {
            "drop": cut | last,
            "drop_unless_terminal": (cut | last) & ~terminal,
            "terminate": last & ~terminated,
        }[timeouts]
        # What a terminated row led to is masked; the next row's observation would be another trajectory's.
        following = np.where(ends[:, None], obs if stored is None else stored, shifted)
    if stored is not None:
        jumps = (np.abs(stored - shifted) > _JUMP).any(axis=1) & ~ends
        if jumps.any():
            remarks.append(f"{int(jumps.sum()):,} rows end a trajectory unmarked: the next begins elsewhere.")
            ends |= jumps
            following = np.where(jumps[:, None], stored, following)
    # The row before one that is left out is the last of its trajectory.
    ends[:-1] |= dropped[1:]
    if dropped.any():
        remarks.append(f"{int(dropped.sum()):,} rows without a successor of their own are left out.")
    kept = ~dropped
    if not kept.any():
        raise ValueError(f"{where} must hold a row with a successor, got {size} without.")
    parts: dict[str, Any] = {
        "obs": obs,
        "action": rows["actions"],
        "reward": rows["rewards"],
        "next_obs": following,
        "terminated": terminated,
        "end": ends,
    }
    arrays = {key: value[kept] for key, value in parts.items()}
    return DataSet(
        **arrays, name=name, source="D4RL", remarks=tuple(remarks), reference=reference_scores(name)
    )


def without_distant_goals(data: DataSet, corner: float = 19.0) -> DataSet:
    """antmaze-medium-play-v2 without its wrong rewards: those of rows that are not in the corner of the goal.

    Rewards above 0 at places of which not both coordinates exceed `corner` become 0, and the rows are no terminations:
    the repair of SfBC (arXiv 2209.14548), its code.

    Args:
        data: The set.
        corner: Where the corner begins, in metres.

    Raises:
        ValueError: For a set whose rewards have been treated.
    """
    if data.treatment != "none":
        raise ValueError(f"data must have the rewards that were read, got those of {data.treatment!r}.")
    wrong = (data.reward > 0) & ~(data.obs[:, :2] > corner).all(axis=1)
    goes_on = np.append((np.abs(data.next_obs[:-1] - data.obs[1:]) <= _JUMP).all(axis=1), False)
    return DataSet(
        data.obs,
        data.action,
        np.where(wrong, 0, data.reward),
        data.next_obs,
        data.terminated & ~wrong,
        data.end & ~(wrong & goes_on),
        name=data.name,
        source=data.source,
        remarks=(*data.remarks, f"{int(wrong.sum()):,} rewards away from the goal were set to 0."),
        reference=data.reference,
    )
