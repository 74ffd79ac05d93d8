"""From a configuration to what it names: algorithm, environment and training program."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dpolicy import _checks, _places
from dpolicy.algorithm import Algorithm
from dpolicy.train.configuration import check_config


def tuples(value: Any) -> Any:
    """JSON's lists as the tuples that recipes and environments take."""
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def _check_known(function: Any, given: Mapping[str, Any], name: str) -> None:
    known = inspect.signature(function).parameters
    for setting in given:
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r} in this version of the library.")


def recipe_of(name: str) -> Callable[..., Algorithm]:
    """The recipe that a name means: one of `dpolicy.algorithms.ALGORITHMS`, or "path/to/file.py:NAME" for your own.

    Every argument of your own must have a default, as its arguments are hyperparameters that a run may leave as they
    are.

    Raises:
        ValueError: for an unknown name, a file that cannot be loaded, or something that is no such function.
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


def make_algorithm(name: str, hyperparameters: Mapping[str, Any]) -> Algorithm:
    """The algorithm of that name (see `recipe_of`) with these hyperparameters, as a configuration has them.

    Raises:
        ValueError: for an unknown name, a setting that is none, or a value out of its range; for one of your own that
            raises or returns something else.
    """
    recipe, shown = recipe_of(name), _places.title(name)
    _check_known(recipe, hyperparameters, shown)
    values = {key: tuples(value) for key, value in hyperparameters.items()}
    if not _places.is_place(name):
        return recipe(**values)
    made = _places.called(name, **values)
    _checks.instance(
        f"what {shown} returns", made, Algorithm, "an Algorithm, as actor_critic and proximal make it"
    )
    return made


def family_of(name: str) -> str:
    """The family of an algorithm by name; your own is made with its defaults to know.

    Raises:
        ValueError: as `make_algorithm`, and for a family that has no training program.
    """
    from dpolicy.algorithms import ALGORITHMS

    recipe_of(name)
    return _family(make_algorithm(name, {})) if _places.is_place(name) else ALGORITHMS[name].family


def _family(algorithm: Algorithm) -> str:
    from dpolicy.train import PROGRAMS

    _checks.one_of(f"the family of {algorithm.name}", algorithm.family, PROGRAMS)
    return algorithm.family


def make_env(config: Mapping[str, Any]) -> Any:
    """The environment of a configuration, as it was wrapped.

    Raises:
        ValueError: as `dpolicy.envs.make`.
    """
    from dpolicy import envs

    options = config.get("env_options", {})
    return envs.make(config["env"], **{name: tuples(value) for name, value in options.items()})


def build(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Algorithm, environment and training program of a resolved configuration.

    Args:
        config: With `algorithm` and `env` (names), `hyperparameters` of the recipe and `program` settings; and
            `env_options`, further arguments of `dpolicy.envs.make`, where there are any.

    Raises:
        ValueError: for a configuration that lacks one of these, an unknown name, a setting that is none, or a value
            out of its range.
    """
    from dpolicy.train import PROGRAMS

    check_config(config, named=True, run=False)
    name, shown = config["algorithm"], _places.title(config["algorithm"])
    algorithm = make_algorithm(name, config["hyperparameters"])
    family = _family(algorithm)
    make_program = PROGRAMS[family]
    settings = {key: tuples(value) for key, value in config["program"].items()}
    _check_known(make_program, settings, shown)
    parameters = inspect.signature(make_program).parameters
    for parameter in list(parameters.values())[2:]:
        if parameter.default is parameter.empty and parameter.name not in settings:
            raise ValueError(
                f"{shown} learns from a {parameter.name} that has no name to be given by: call "
                f"dpolicy.train.{family} from Python."
            )
    env = make_env(config)
    return algorithm, env, make_program(algorithm, env, **settings)
