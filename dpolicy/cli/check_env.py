"""`dpolicy check-env`: whether an environment keeps what it promises."""

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from dpolicy import _checks
from dpolicy.cli._flags import Flag, parse
from dpolicy.cli._usage import UsageError, explained
from dpolicy.cli.catalogue import table
from dpolicy.cli.train import ENV_FLAGS, env_options

_PROG = "dpolicy check-env"


def _reason(error: BaseException, name: str) -> str:
    """An exception of the user's code in one line: its type, what it says, and the line of module `name` it came by."""
    if isinstance(error, SyntaxError):
        where = error.lineno
        words = error.msg
    else:
        own = Path(name).stem if name.endswith(".py") else name
        lines = [
            line
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__", "").rstrip("_") == own.rstrip("_")
        ]
        where = lines[0] if lines else None
        words = " ".join(str(error).split())
    line = f" (line {where})" if where else ""
    return f"{type(error).__name__}{': ' * bool(words)}{words}{line}"


def _from_file(path: Path) -> Any:
    """The module that a file is, under a name that no other has; beside it, other files are found."""
    name = path.stem
    while name in sys.modules:
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file.", prog=_PROG)
    module = importlib.util.module_from_spec(spec)
    # A class is looked up by its module's name, e.g. by dataclasses, while the file still runs.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module(name: str) -> Any:
    """A module by its name, or by the path of its file."""
    is_file = name.endswith(".py")
    if is_file and not Path(name).is_file():
        raise UsageError(f"{name} is not a file.", prog=_PROG)
    place = str(Path(name).absolute().parent) if is_file else os.getcwd()
    sys.path.insert(0, place)
    try:
        return _from_file(Path(name)) if is_file else importlib.import_module(name)
    # `SystemExit`, too: a file that ends the process must not pass for one that was checked.
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        # A module that is there but imports another one that is not is a mistake to be seen.
        if not is_file and missing is not None and f"{name}.".startswith(f"{missing}."):
            raise UsageError(f"there is no module {name}.", prog=_PROG) from None
        raise UsageError(f"{name} cannot be imported: {_reason(error, name)}.", prog=_PROG) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(place)


def _found(place: str) -> Any:
    """The environment that "module:attribute" or "file.py:attribute" names, made if it is a factory."""
    from dpolicy.envs import Environment

    name, _, attribute = place.rpartition(":")
    is_module = name.endswith(".py") or all(part.isidentifier() for part in name.split("."))
    if not is_module or not attribute:
        raise UsageError(
            "an environment of your own is named module:attribute or path/to/file.py:attribute, got "
            f"{place!r}.",
            prog=_PROG,
        )
    module = _module(name)
    try:
        thing = getattr(module, attribute)
    except AttributeError:
        raise UsageError(f"{name} has no {attribute!r}.", prog=_PROG) from None
    if isinstance(thing, Environment) or not callable(thing):
        return thing
    try:
        return thing()
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{place} must be an environment or make one without arguments, but raises {_reason(error, name)}.",
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
    from dpolicy.train.configuration import MOST_SEED

    place, options = values["env"], env_options(values)
    if place.endswith(".py"):
        raise UsageError(f"{place} needs the name of the environment in it, {place}:NAME.", prog=_PROG)
    if ":" in place and options:
        flag = "--" + next(iter(options)).replace("_", "-")
        raise UsageError(f"{place} is checked as it is: wrap it where it is made, not by {flag}.", prog=_PROG)
    with explained(_PROG):
        _checks.integer("seed", values["seed"], 0, MOST_SEED)
        env = _found(place) if ":" in place else envs.make(place, **options)
        found = envs.check(env, jax.random.key(values["seed"]), steps=values["steps"])
    if found.violation is not None:
        raise UsageError(found.violation, prog=_PROG, code=1)
    print(table(("check", "what was seen"), found.passed))
    print(f"\n{found.env}: {len(found.passed)} checks passed.")
    return 0
