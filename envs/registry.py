"""Environments by name: what there is, how large it is and what it needs, without importing any of it."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from dpolicy import _checks, _places
from dpolicy.envs import brax_envs, energies, gymnax_envs, mazes, playground_envs, probes
from dpolicy.envs.maze import Maze
from dpolicy.envs.multigoal import MultiGoal
from dpolicy.envs.protocol import Environment, Spec
from dpolicy.envs.wrappers import ActionChunk, ActionRepeat, FrameStack, TimeLimit


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


def _multigoal(task: str, *, time_limit: int | None = None, **options: Any) -> Environment:
    if time_limit is None:
        return MultiGoal(**options)
    if "horizon" in options:
        raise ValueError(
            f"multigoal takes a horizon or a time_limit, got {options['horizon']!r} and {time_limit!r}."
        )
    return MultiGoal(**options, horizon=time_limit)


_INCLUDED = "included"

FAMILIES: dict[str, Family] = {
    "multigoal": Family(
        "a point in the plane and four goals",
        _INCLUDED,
        {"multigoal": Spec("multigoal/multigoal", 2, 2, 30)},
        _multigoal,
    ),
    "maze": Family(
        "a point mass between walls, and several equally long ways to the goal",
        _INCLUDED,
        {task: Spec(f"maze/{task}", 2, 2, limit, success=True) for task, limit in mazes.TIME_LIMITS.items()},
        Maze,
    ),
    "bandit": Family("one step, known energy, exact Boltzmann density", _INCLUDED, energies.TASKS, _bandit),
    "probe": Family("known values, one thing to get right each", _INCLUDED, probes.TASKS, probes.Probe),
    "gymnax": Family("classic control", _INCLUDED, gymnax_envs.TASKS, gymnax_envs.build),
    "brax": Family("rigid-body locomotion", 'pip install "dpolicy[brax]"', brax_envs.TASKS, brax_envs.build),
    "playground": Family(
        "MuJoCo Playground: control suite; with the MuJoCo Menagerie locomotion and manipulation",
        'pip install "dpolicy[playground]"',
        playground_envs.TASKS,
        playground_envs.build,
    ),
}


def names() -> list[str]:
    """Every "family/task"."""
    return [f"{family}/{task}" for family, entry in FAMILIES.items() for task in entry.tasks]


def full_name(name: str) -> str:
    """The name as "family/task", for a family with one task that was named alone, or with a file's absolute path.

    Raises:
        ValueError: For an unknown name; near matches are suggested.
    """
    _checks.instance("env", name, str, 'a name "family/task" or path/to/file.py:NAME')
    if _places.is_place(name):
        return _places.absolute(name)
    family, _, task = name.partition("/")
    entry = FAMILIES.get(family)
    if entry is not None and "/" not in name and len(entry.tasks) == 1:
        (task,) = entry.tasks
    if entry is None or task not in entry.tasks:
        raise _unknown(name)
    return f"{family}/{task}"


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
        f'env must be "family/task" with a family among {", ".join(FAMILIES)}, or path/to/file.py:NAME; got {name!r}.'
        f"{hint} `dpolicy envs` lists them all."
    )


def _takes(function: Callable[..., Any], option: str) -> bool:
    return option in inspect.signature(function).parameters


def _check_options(name: str, function: Callable[..., Any], options: Mapping[str, Any], given: int) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    taken = [parameter.name for parameter in parameters[:given]]
    allowed = [parameter.name for parameter in parameters[given:]]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        # What it passes on is looked at where it goes, but must not be what it is given already.
        allowed = [option for option in options if option not in taken]
    for option in options:
        if option not in allowed:
            near = difflib.get_close_matches(option, [*allowed, *WRAPPERS], n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            listing = ", ".join(allowed) or "no options"
            raise ValueError(f"{name} takes {listing}; got {option!r}.{hint}")


def _source(name: str, options: Mapping[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What builds the environment of a full name from its options, which are checked, and the function behind it."""
    if _places.is_place(name):
        return _own(name, options)
    family, _, task = name.partition("/")
    entry = FAMILIES[family]
    if family == "multigoal":
        _check_options(name, MultiGoal, options, 0)
    elif family == "bandit":
        _check_options(name, energies.ENERGIES[task], options, 0)
    else:
        _check_options(name, entry.build, options, 1)
    return partial(entry.build, task), entry.build


def _own(place: str, options: Mapping[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The same for an environment in a file: the environment itself, or a class or function that makes one."""
    thing, shown = _places.thing_at(place), _places.title(place)
    made = isinstance(thing, Environment)
    function = (lambda: thing) if made else thing
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        raise ValueError(
            f"{shown} must be a dpolicy.envs.Environment, or a class or function that makes one, got "
            f"{_places.in_a_line(thing)}."
        ) from None
    _check_options(shown, function, options, 0)

    def build(**options: Any) -> Environment:
        for parameter in inspect.signature(function).parameters.values():
            by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if by_name and parameter.default is parameter.empty and parameter.name not in options:
                raise ValueError(f"{shown} needs an option {parameter.name}, as it has no default for it.")
        env = thing if made else _places.called(place, **options)
        if not isinstance(env, Environment) or not isinstance(getattr(env, "spec", None), Spec):
            raise ValueError(
                f"{shown} must make a dpolicy.envs.Environment with a Spec, got {_places.in_a_line(env)}."
            )
        return env

    return build, function


# The arguments of `make` that every environment takes: what a run's configuration stores beside its name.
WRAPPERS = ("action_chunk", "action_repeat", "frame_stack", "time_limit")


def make(
    name: str,
    /,
    *,
    action_chunk: int = 1,
    action_repeat: int | None = None,
    frame_stack: int = 1,
    time_limit: int | None = None,
    **options: Any,
) -> Environment:
    """The environment called "family/task" (a family with a single task may be named alone), wrapped where asked.

    One of your own is called "path/to/file.py:NAME" (or "module:NAME"), NAME being the environment, or a class or
    function that makes it; where that has an argument `action_repeat` or `time_limit`, it is given ours.

    Wrappers go on in this order: the repeat inside, then the stack, then the chunk. So a stack holds every
    observation between two repeated actions, also those within a chunk that the policy did not act on. All of them
    change what a step is: `spec.time_limit` of the result, and any discount, count its own steps.

    Args:
        name: One of `names()`, or the place of your own.
        action_chunk: Actions that the policy decides at once; see `ActionChunk`.
        action_repeat: How often each action is executed; see `ActionRepeat`. None is the task's own: 1, but for the
            tasks that their package itself repeats (`playground/PendulumSwingup`: 4).
        frame_stack: Observations that the policy sees at once; see `FrameStack`.
        time_limit: Steps OF THE RESULT after which an episode is truncated; by default the task's own limit, which
            the repeat and the chunk then must divide.
        options: Passed to the environment's constructor: coefficients of `multigoal`, shape of a bandit, parameters
            of a gymnax task, `backend` of a brax task, `impl` and `observation` of a playground task, the arguments of
            your own class or function.

    Raises:
        ValueError: For an unknown name (near matches are suggested) or option, or counts that do not fit; for a file
            that is not there, raises or exits, or holds no environment of that name.
        ImportError: Where the package it comes from is missing; says which extra to install.
    """
    name = full_name(name)
    for setting, value in (("action_chunk", action_chunk), ("frame_stack", frame_stack)):
        _checks.integer(setting, value)
    for setting, value in (("action_repeat", action_repeat), ("time_limit", time_limit)):
        if value is not None:
            _checks.integer(setting, value)
    build, function = _source(name, options)
    if action_repeat is not None and _takes(function, "action_repeat"):
        options["action_repeat"] = action_repeat
        action_repeat = None
    # Counted in the steps of the result, a limit fits whatever the repeat and the chunk are.
    inner_limit = None if time_limit is None else time_limit * action_chunk * (action_repeat or 1)
    if inner_limit is not None and _takes(function, "time_limit"):
        options["time_limit"] = inner_limit
        inner_limit = None
    env = build(**options)
    if inner_limit is not None:
        env = TimeLimit(env, inner_limit)
    if action_repeat is not None and action_repeat > 1:
        env = ActionRepeat(env, action_repeat)
    if frame_stack > 1:
        env = FrameStack(env, frame_stack)
    return ActionChunk(env, action_chunk) if action_chunk > 1 else env
