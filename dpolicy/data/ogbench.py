"""OGBench's NPZ files: goal-conditioned trajectories, and the rewards of one of their tasks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpolicy._files import as_path
from dpolicy.data.ogbench_tasks import Goals, task_goals
from dpolicy.data.places import ogbench_task
from dpolicy.data.sets import DataSet
from dpolicy.data.sources import flags, npz_arrays

_REQUIRED = ("observations", "actions", "terminals")


def rewards_of(goals: Goals, arrays: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """r = (sub-goals that a row's own state satisfies) - (all of them), and the mask 1 - (all are satisfied).

    Args:
        goals: Of the task.
        arrays: With `qpos` [n, q] and, where there are buttons, `button_states` [n, b].

    Raises:
        ValueError: If one of them is missing, too narrow or not finite, or there is no goal.
    """
    met = []
    for first, values, tolerance in goals.places:
        qpos = _needed(arrays, "qpos", first + len(values))
        away = np.linalg.norm(qpos[:, first : first + len(values)] - np.asarray(values), axis=1)
        met.append((away <= tolerance)[:, None])
    if goals.buttons:
        states = _needed(arrays, "button_states", len(goals.buttons))
        if states.shape[1] != len(goals.buttons):
            raise ValueError(
                f"goals must say the states of all {states.shape[1]} buttons, got {goals.buttons}."
            )
        met.append(states == np.asarray(goals.buttons))
    if not met:
        raise ValueError(f"goals must have a place or a button, got {goals!r}.")
    satisfied = np.concatenate(met, axis=1)
    missing = satisfied.shape[1] - satisfied.sum(axis=1)
    return np.asarray(-missing, float), np.asarray(missing > 0, float)


def _needed(arrays: Mapping[str, Any], name: str, width: int) -> np.ndarray:
    found = np.asarray(arrays.get(name, np.zeros((0, 0))))
    if found.ndim != 2 or found.shape[1] < width:
        raise ValueError(
            f"the set must hold {name!r} with at least {width} columns to be relabelled, got {found.shape}."
        )
    if found.dtype.kind not in "buif" or not np.isfinite(found).all():
        raise ValueError(f"{name!r} of the set must hold finite numbers to be relabelled.")
    return found


def compact(observations: Any, actions: Any, terminals: Any) -> dict[str, np.ndarray]:
    """OGBench's compact form: all rows, the last state of a trajectory (whose action means nothing) not valid.

    Args:
        observations: `[n, o]`.
        actions: `[n, a]`.
        terminals: 1 at the last state of each trajectory, `[n]`.

    Returns:
        `observations`, `actions`, `valids`, which is 0 there, and `terminals`, which is 1 there and one row before.
    """
    last = np.asarray(terminals, bool)
    ends = last | np.append(last[1:], True)
    return {
        "observations": np.asarray(observations),
        "actions": np.asarray(actions),
        "valids": (~last).astype(np.float32),
        "terminals": ends.astype(np.float32),
    }


def read_ogbench(
    path: str | Path, *, task: int | None = None, goals: Goals | None = None, name: str | None = None
) -> DataSet:
    """The transitions of an OGBench file, in its regular form: the last state of a trajectory is no row of its own.

    Example, four transitions s0 ... s4: rows s0 s1 s2 s3, which lead to s1 s2 s3 s4, the last one an end and none
    terminated. With a task each row is given the reward of its own state, r(s) and not r(s'), and is terminated where
    all goals are satisfied; its trajectory goes on there. Without one, rewards are zero.

    Args:
        path: The file.
        task: Whose goals the rewards are of, as `task_goals` has them; None for none.
        goals: The goals themselves, in the place of a task.
        name: Of the set; by default as the file is called.

    Raises:
        ValueError: For a file that is no such one, an unknown task, or both a task and goals.
    """
    path = as_path("path", path)
    arrays = npz_arrays(path)
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        raise ValueError(f"{path} must hold {', '.join(_REQUIRED)}, got {', '.join(arrays) or 'nothing'}.")
    name = ogbench_task(path.stem if name is None else name)[0]
    if task is not None and goals is not None:
        raise ValueError("goals must be None beside a task, which has its own.")
    last = flags("terminals", arrays["terminals"], str(path))
    remarks = []
    size = np.shape(arrays["observations"])[:1]
    if last.shape != size or len(last) < 2:
        raise ValueError(f"'terminals' in {path} must be as long as 'observations', got {last.shape}.")
    for key in ("actions", "qpos", "button_states"):
        if key in arrays and arrays[key].shape[:1] != size:
            raise ValueError(
                f"{key!r} in {path} must be as long as 'observations', {size[0]:,}, got {arrays[key].shape}."
            )
    if not last[-1]:
        remarks.append("the last trajectory is cut off: its last state is no row.")
    last[-1] = True
    rows = np.flatnonzero(~last)
    if not len(rows):
        raise ValueError(f"{path} must hold a row that leads on, got {len(last)} last states.")
    goals = task_goals(name, task) if task is not None else goals
    parts: dict[str, Any] = {"reward": np.zeros(len(rows)), "terminated": np.zeros(len(rows), bool)}
    if goals is None:
        remarks.append("no task: the rewards are zero.")
    else:
        reward, mask = rewards_of(goals, arrays)
        parts = {"reward": reward[rows], "terminated": mask[rows] == 0}
        remarks.append(f"{int((mask[rows] == 0).sum()):,} rows are at the goal.")
    obs = arrays["observations"]
    return DataSet(
        obs[rows],
        arrays["actions"][rows],
        next_obs=obs[rows + 1],
        end=last[rows + 1],
        name=name,
        source="OGBench",
        remarks=tuple(remarks),
        **parts,
    )
