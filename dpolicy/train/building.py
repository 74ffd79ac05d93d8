"""From a configuration to what it names: algorithm, environment and training program."""

import inspect
from collections.abc import Mapping
from typing import Any

from dpolicy import _checks
from dpolicy.train.configuration import check_config


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that recipes take."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _check_known(function: Any, given: Mapping[str, Any], name: str) -> None:
    known = inspect.signature(function).parameters
    for setting in given:
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r} in this version of the library.")


def make_algorithm(name: str, hyperparameters: Mapping[str, Any]) -> Any:
    """The algorithm of that name with these hyperparameters, as a configuration has them.

    Raises:
        ValueError: for an unknown name, a setting that is none, or a value out of its range.
    """
    from dpolicy.algorithms import ALGORITHMS

    _checks.one_of("algorithm", name, ALGORITHMS)
    recipe = ALGORITHMS[name].recipe
    _check_known(recipe, hyperparameters, name)
    return recipe(**{key: _tuples(value) for key, value in hyperparameters.items()})


def build(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Algorithm, environment and training program of a resolved configuration.

    Args:
        config: With `algorithm` and `env` (names), `hyperparameters` of the recipe and `program` settings; and
            `env_options`, further arguments of `dpolicy.envs.make`, where there are any.

    Raises:
        ValueError: for a configuration that lacks one of these, an unknown name, a setting that is none, or a value
            out of its range.
    """
    from dpolicy import envs
    from dpolicy.algorithms import ALGORITHMS
    from dpolicy.train import PROGRAMS

    check_config(config, named=True, run=False)
    name = config["algorithm"]
    _checks.one_of("algorithm", name, ALGORITHMS)
    entry = ALGORITHMS[name]
    make_program = PROGRAMS[entry.family]
    settings = {key: _tuples(value) for key, value in config["program"].items()}
    _check_known(make_program, settings, name)
    parameters = inspect.signature(make_program).parameters
    for parameter in list(parameters.values())[2:]:
        if parameter.default is parameter.empty and parameter.name not in settings:
            raise ValueError(
                f"{name} learns from a {parameter.name} that has no name to be given by: call "
                f"dpolicy.train.{entry.family} from Python."
            )
    env = envs.make(config["env"], **config.get("env_options", {}))
    algorithm = make_algorithm(name, config["hyperparameters"])
    return algorithm, env, make_program(algorithm, env, **settings)
