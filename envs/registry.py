"""Environments by name: what there is, how large it is and what it needs, without importing any of it."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dpolicy import _checks
from dpolicy.envs import brax_envs, energies, gymnax_envs, probes
from dpolicy.envs.multigoal import MultiGoal
from dpolicy.envs.protocol import Environment, Spec


class Family(NamedTuple):
    """Environments that come from one place.

    Attributes:
        summary: What they are, in a phrase.
        requirement: What must be installed.
        tasks: Specification of each, by task name.
        build: `(task, **options) -> Environment`.
    """

    summary: str
    requirement: str
    tasks: Mapping[str, Spec]
    build: Callable[..., Environment]


def _bandit(task: str, **options: Any) -> Environment:
    return energies.ENERGIES[task](**options)


def _multigoal(task: str, **options: Any) -> Environment:
    return MultiGoal(**options)


_INCLUDED = "included"

FAMILIES: dict[str, Family] = {
    "multigoal": Family(
        "a point in the plane and four goals",
        _INCLUDED,
        {"multigoal": Spec("multigoal/multigoal", 2, 2, 30)},
        _multigoal,
    ),
    "bandit": Family("one step, known energy, exact Boltzmann density", _INCLUDED, energies.TASKS, _bandit),
    "probe": Family("known values, one thing to get right each", _INCLUDED, probes.TASKS, probes.Probe),
    "gymnax": Family("classic control", _INCLUDED, gymnax_envs.TASKS, gymnax_envs.build),
    "brax": Family("rigid-body locomotion", 'pip install "dpolicy[brax]"', brax_envs.TASKS, brax_envs.build),
}


def names() -> list[str]:
    """Every "family/task"."""
    return [f"{family}/{task}" for family, entry in FAMILIES.items() for task in entry.tasks]


def _unknown(name: str) -> ValueError:
    """The error for a name that is none, with the names it may have meant."""
    lowered = {known.lower(): known for known in names()}
    tasks = {key.split("/")[1]: known for key, known in lowered.items()}
    near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)
    near += difflib.get_close_matches(name.lower().split("/")[-1], tasks, n=3, cutoff=0.6)
    found = dict.fromkeys(lowered.get(key) or tasks[key] for key in near)
    found.update({known: None for key, known in lowered.items() if name.lower() in key})
    hint = f" Did you mean {' or '.join(list(found)[:3])}?" if found else ""
    return ValueError(
        f'env must be "family/task" with a family among {", ".join(FAMILIES)}; got {name!r}.{hint} '
        "`dpolicy envs` lists them all."
    )


def _check_options(name: str, function: Callable[..., Any], options: Mapping[str, Any], given: int) -> None:
    parameters = list(inspect.signature(function).parameters.values())[given:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    allowed = [parameter.name for parameter in parameters]
    for option in options:
        if option not in allowed:
            near = difflib.get_close_matches(option, allowed, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            listing = ", ".join(allowed) or "no options"
            raise ValueError(f"{name} takes {listing}; got {option!r}.{hint}")


def make(name: str, **options: Any) -> Environment:
    """The environment called "family/task" (a family with a single task may be named alone).

    Args:
        name: One of `names()`.
        options: Passed to the environment's constructor: coefficients of `multigoal`, shape of a bandit,
            `time_limit` and parameters of a gymnax task, `backend` and `time_limit` of a brax task.

    Raises:
        ValueError: for an unknown name (near matches are suggested) or option.
        ImportError: where the package it comes from is missing; says which extra to install.
    """
    _checks.instance("env", name, str, 'a name "family/task"')
    family, _, task = name.partition("/")
    entry = FAMILIES.get(family)
    if entry is not None and not task and len(entry.tasks) == 1:
        (task,) = entry.tasks
    if entry is None or task not in entry.tasks:
        raise _unknown(name)
    name = f"{family}/{task}"
    if family == "multigoal":
        _check_options(name, MultiGoal, options, 0)
    elif family == "bandit":
        _check_options(name, energies.ENERGIES[task], options, 0)
    else:
        _check_options(name, entry.build, options, 1)
    return entry.build(task, **options)
