"""From names to what they name: recipes and environments, the library's and one's own."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dpolicy import _checks, _places
from dpolicy.algorithm import Algorithm


def tuples(value: Any) -> Any:
    """JSON's lists as the tuples that recipes and environments take."""
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def check_known(function: Any, given: Mapping[str, Any], name: str) -> None:
    """Refuse settings that `function`, shown as `name`, does not have.

    Raises:
        ValueError: For a setting that is no argument of it.
    """
    known = inspect.signature(function).parameters
    for setting in given:
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r} in this version of the library.")


def recipe_of(name: str) -> Callable[..., Algorithm]:
    """The recipe that a name means: one of `dpolicy.algorithms.ALGORITHMS`, or "path/to/file.py:NAME" for your own.

    Every argument of your own must have a default, as its arguments are hyperparameters that a run may leave as they
    are.

    Raises:
        ValueError: For an unknown name, a file that cannot be loaded, or something that is no such function.
    """
    from dpolicy.algorithms import ALGORITHMS

    if not _places.is_place(name):
        _checks.one_of("algorithm", name, ALGORITHMS)
        return ALGORITHMS[name].recipe
    function, shown = _places.thing_at(name), _places.title(name)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise ValueError(
            f"{shown} must be a function that returns an Algorithm, got {_places.in_a_line(function)}."
        ) from None
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            raise ValueError(
                f"{shown} must have a default for each of its arguments, which are its hyperparameters; "
                f"{parameter.name} has none."
            )
    return function


def by_recipe(name: str, hyperparameters: Mapping[str, Any]) -> Algorithm:
    """The algorithm that a recipe makes, given its arguments as Python has them.

    Raises:
        ValueError: As `dpolicy.train.building.make_algorithm`.
    """
    recipe, shown = recipe_of(name), _places.title(name)
    check_known(recipe, hyperparameters, shown)
    values = {key: tuples(value) for key, value in hyperparameters.items()}
    if not _places.is_place(name):
        return recipe(**values)
    made = _places.called(name, **values)
    _checks.instance(
        f"what {shown} returns", made, Algorithm, "an Algorithm, as actor_critic and proximal make it"
    )
    return made


def make_env(config: Mapping[str, Any]) -> Any:
    """The environment of a configuration, as it was wrapped.

    Raises:
        ValueError: As `dpolicy.envs.make`.
    """
    from dpolicy import envs

    options = config.get("env_options", {})
    return envs.make(config["env"], **{name: tuples(value) for name, value in options.items()})
