"""From a configuration to what it names: algorithm, environment and training program."""

import inspect
from collections.abc import Mapping
from typing import Any

from dpolicy import _checks, _places
from dpolicy.algorithm import Algorithm
from dpolicy.train.configuration import check_config
from dpolicy.train.naming import by_recipe, check_known, make_env, recipe_of, tuples
from dpolicy.train.pretrained import with_field


def make_algorithm(name: str, hyperparameters: Mapping[str, Any]) -> Algorithm:
    """The algorithm of that name (see `recipe_of`) with these hyperparameters, as a configuration has them.

    Where `pretrained` is the directory of a run, or its description, the recipe is given the field.

    Raises:
        ValueError: For an unknown name, a setting that is none, or a value out of its range; for one of your own that
            raises or returns something else; for a pretrained run as `dpolicy.train.pretrained_field`.
    """
    return by_recipe(name, with_field(hyperparameters))


def family_of(name: str) -> str:
    """The family of an algorithm by name; your own is made with its defaults to know.

    Raises:
        ValueError: As `make_algorithm`, and for a family that has no training program.
    """
    from dpolicy.algorithms import ALGORITHMS

    recipe_of(name)
    return _family(make_algorithm(name, {})) if _places.is_place(name) else ALGORITHMS[name].family


def _family(algorithm: Algorithm) -> str:
    from dpolicy.train import PROGRAMS

    _checks.one_of(f"the family of {algorithm.name}", algorithm.family, PROGRAMS)
    return algorithm.family


def build(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Algorithm, environment and training program of a resolved configuration.

    Args:
        config: With `algorithm` and `env` (names), `hyperparameters` of the recipe and `program` settings; and
            `env_options`, further arguments of `dpolicy.envs.make`, where there are any.

    Raises:
        ValueError: For a configuration that lacks one of these, an unknown name, a setting that is none, or a value
            out of its range.
    """
    from dpolicy.train import PROGRAMS

    check_config(config, named=True, run=False)
    name, shown = config["algorithm"], _places.title(config["algorithm"])
    algorithm = make_algorithm(name, config["hyperparameters"])
    family = _family(algorithm)
    make_program = PROGRAMS[family]
    settings = {key: tuples(value) for key, value in config["program"].items()}
    parameters = inspect.signature(make_program).parameters
    if not settings.keys() <= parameters.keys() and family != (usual := family_of(name)):
        raise ValueError(
            f"{shown} is {family} with these hyperparameters, while the program's settings are of {usual} training: "
            f"call dpolicy.train.{family} from Python."
        )
    check_known(make_program, settings, shown)
    for parameter in list(parameters.values())[2:]:
        if parameter.default is parameter.empty and parameter.name not in settings:
            raise ValueError(
                f"{shown} learns from a {parameter.name} that has no name to be given by: call "
                f"dpolicy.train.{family} from Python."
            )
    env = make_env(config)
    return algorithm, env, make_program(algorithm, env, **settings)
