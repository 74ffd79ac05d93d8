"""`dpolicy check-env`: whether an environment keeps what it promises."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from dpolicy.cli._flags import Flag, parse
from dpolicy.cli._usage import UsageError, explained
from dpolicy.cli.catalogue import table
from dpolicy.cli.train import ENV_FLAGS, env_options

_PROG = "dpolicy check-env"


def _module(name: str) -> Any:
    """A module by its name, or by the path of its file."""
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"{name} is not a file.", prog=_PROG)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise UsageError(f"{name} is not a Python file.", prog=_PROG)
        module = importlib.util.module_from_spec(spec)
        # A class is looked up by its module's name, e.g. by dataclasses, while the file still runs.
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
        return module
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that is there but imports another one that is not is a mistake to be seen.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"there is no module {name}.", prog=_PROG) from None
    finally:
        sys.path.remove(os.getcwd())


def _found(place: str) -> Any:
    """The environment that "module:attribute" or "file.py:attribute" names, made if it is a factory."""
    from dpolicy.envs import Environment

    name, _, attribute = place.rpartition(":")
    module = _module(name)
    if not hasattr(module, attribute):
        raise UsageError(f"{name} has no {attribute!r}.", prog=_PROG)
    thing = getattr(module, attribute)
    if isinstance(thing, Environment) or not callable(thing):
        return thing
    try:
        return thing()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{place} must be an environment or make one without arguments, but raises "
            f"{type(error).__name__}: {reason}",
            prog=_PROG,
        ) from error


def check_env(args: list[str]) -> int:
    """Run `dpolicy check-env`; a broken promise is exit code 1."""
    flags = [
        Flag(
            "env",
            str,
            help="FAMILY/TASK, or where an environment of your own is: module:attribute or path/to/file.py:attribute, "
            "the environment itself or a function without arguments that makes it.",
            positional=True,
        ),
        Flag(
            "steps", int | None, None, "Steps of each copy; by default a few more than the time limit.", "N"
        ),
        Flag("seed", int, 0, "What the random keys are made from."),
    ]
    description = (
        "Check what every environment promises: sizes, types, purity, vmap, determinism, action bounds, finite "
        "numbers, time limits, starts and terminal observations. The first broken promise is named."
    )
    values, _ = parse({"check": flags, "environment": ENV_FLAGS}, args, prog=_PROG, description=description)
    import jax

    from dpolicy import envs

    place, options = values["env"], env_options(values)
    if ":" in place and options:
        flag = "--" + next(iter(options)).replace("_", "-")
        raise UsageError(f"{place} is checked as it is: wrap it where it is made, not by {flag}.", prog=_PROG)
    with explained(_PROG):
        env = _found(place) if ":" in place else envs.make(place, **options)
        found = envs.check(env, jax.random.key(values["seed"]), steps=values["steps"])
    if found.violation is not None:
        raise UsageError(found.violation, prog=_PROG, code=1)
    print(table(("check", "what was seen"), found.passed))
    print(f"\n{found.env}: {len(found.passed)} checks passed.")
    return 0
