"""What a user's own file holds, by its place: "path/to/file.py:NAME", or "module:NAME" for what is installed."""

import difflib
import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

_DIGEST = "__sha256__"  # of a module that was loaded here: the digest of the text that it ran
_GUARD = 'put what it runs under if __name__ == "__main__":'
_LOADING: set[Path] = set()
_ASKED: set[str] = set()  # files that something was taken from


class RunWarning(UserWarning):
    """What a reader of a run should know: that it is not quite what its directory says."""


def is_place(name: object) -> bool:
    """Whether a name is that of something in a file or module, not one of the library's."""
    return isinstance(name, str) and (":" in name or name.endswith(".py"))


def _split(place: str) -> tuple[str, str]:
    """The file or module, and the name in it.

    Raises:
        ValueError: Where one of them is missing.
    """
    if place.endswith(".py"):
        raise ValueError(f"{place} needs the name of what is in it: {place}:NAME.")
    where, _, name = place.rpartition(":")
    is_module = all(part.isidentifier() for part in where.split("."))
    if not (is_module or where.endswith(".py")) or not name.isidentifier():
        raise ValueError(
            f"what is in a file of your own is named path/to/file.py:NAME or module:NAME, got {place!r}."
        )
    return where, name


def absolute(place: str) -> str:
    """The place with the file's absolute path, so that it is found from any directory.

    Raises:
        ValueError: For a place that names no file or nothing in it.
    """
    where, name = _split(place)
    return f"{os.path.abspath(where)}:{name}" if where.endswith(".py") else place


def title(name: str) -> str:
    """A name as it is shown: without the directories of a file; the library's own names as they are."""
    if not is_place(name):
        return name
    where, _, thing = name.rpartition(":")
    return f"{os.path.basename(where)}:{thing}"


def _shown(where: str) -> str:
    """A file as a person in this directory would type it."""
    here = os.getcwd() + os.sep
    return where.removeprefix(here) if where.endswith(".py") else where


def in_a_line(thing: Any) -> str:
    """What an object looks like, briefly: modules show themselves on many lines."""
    text = " ".join(repr(thing).split())
    return text if len(text) < 100 else f"{text[:90]} ..."


def thing_at(place: str) -> Any:
    """What is at a place. Its file is run once, and again only when its text has changed.

    A file is imported as Python would import it from its own folder, which joins the end of `sys.path`; the script
    that is running is not run a second time.

    Raises:
        ValueError: In one sentence, if there is no such file, module or name, or if it raises or exits.
    """
    where, name = _split(place)
    module = _module(where)
    _ASKED.add(os.path.abspath(getattr(module, "__file__", None) or where))
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, vars(module), n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{_shown(where)} has no {name!r}.{hint}")
    return getattr(module, name)


def called(place: str, **arguments: Any) -> Any:
    """What the class or function at a place returns.

    Raises:
        ValueError: In one sentence, as `thing_at`, if it takes no such arguments, raises or exits.
    """
    function = thing_at(place)
    try:
        return function(**arguments)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{title(place)} raises {_reason(error, _split(place)[0])}.") from error


def blame(error: BaseException) -> str | None:
    """A sentence about an exception that came by a file which something was taken from; None for any other.

    It names the last line of the file that the exception passed, wherever it was raised.
    """
    passed = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [file for file in passed if file in _ASKED]
    return f"{_shown(own[-1])} raises {_reason(error, own[-1])}." if own else None


def place_of(thing: Any) -> str:
    """Where a class or function can be found again: the place that `thing_at` needs.

    Raises:
        ValueError: If it stands in no file under its own name, as in a notebook or within a function.
    """
    name, module = getattr(thing, "__name__", ""), inspect.getmodule(thing)
    file = getattr(module, "__file__", None)
    if module is None or file is None or getattr(module, name or "?", None) is not thing:
        raise ValueError(
            "what a run is to be rebuilt from must be a name, or a class or function at the top level of a file, got "
            f"{in_a_line(thing)}."
        )
    alone = module.__name__ == "__main__" or hasattr(module, _DIGEST) or "." not in module.__name__
    return f"{os.path.abspath(file)}:{name}" if alone else f"{module.__name__}:{name}"


def digests(names: Iterable[str]) -> dict[str, str]:
    """The file of every place among the names, by absolute path, with the SHA-256 of its text.

    Raises:
        ValueError: As `thing_at`, for a file or module that is not there.
    """
    found = {}
    for name in names:
        if is_place(name):
            path = _file(_split(name)[0])
            found[str(path)] = hashlib.sha256(_text(path)).hexdigest()
    return found


def _file(where: str) -> Path:
    if where.endswith(".py"):
        return Path(os.path.abspath(where))
    file = getattr(_module(where), "__file__", None)
    if file is None:
        raise ValueError(f"{where} must be a module with a file.")
    return Path(os.path.abspath(file))


def _text(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{_shown(str(path))} is not a file.")
    return path.read_bytes()


def _module(where: str) -> ModuleType:
    return _from_file(Path(os.path.abspath(where)), where) if where.endswith(".py") else _from_name(where)


def _from_name(where: str) -> ModuleType:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        # A module that is there but imports another one that is not is another mistake.
        if error.name is None or not f"{where}.".startswith(f"{error.name}."):
            raise _not_imported(where, error) from error
        raise ValueError(f"there is no module {where}.") from None
    except (Exception, SystemExit) as error:
        raise _not_imported(where, error) from error
    finally:
        sys.path.remove(here)


def _from_file(path: Path, where: str) -> ModuleType:
    main = sys.modules["__main__"]
    if (script := getattr(main, "__file__", None)) and os.path.abspath(script) == str(path):
        return main
    if path in _LOADING:
        raise ValueError(f"{_shown(where)} asks for itself while it is loaded: {_GUARD}")
    text = _text(path)
    digest = hashlib.sha256(text).hexdigest()
    name = _module_name(path)
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, _DIGEST, digest) == digest:
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # what ends in .py has a loader
    module = importlib.util.module_from_spec(spec)
    setattr(module, _DIGEST, digest)
    if (folder := str(path.parent)) not in sys.path:
        sys.path.append(folder)
    # A class is looked up by its module's name, e.g. by dataclasses, while the file still runs.
    sys.modules[name] = module
    _LOADING.add(path)
    try:
        # The very text that was digested; bytecode on disk may be that of an earlier one.
        exec(compile(text, str(path), "exec"), module.__dict__)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, (Exception, SystemExit)):
            raise _not_imported(where, error) from error
        raise
    finally:
        _LOADING.discard(path)
    return module


def _module_name(path: Path) -> str:
    """The plain name where it means this file, so that other modules that import it get the same one."""
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return path.stem
    if known is None and path.stem.isidentifier() and not (path.parent / "__init__.py").exists():
        finder = importlib.util.find_spec(path.stem)
        if finder is None or finder.origin == str(path):
            return path.stem
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"


def _reason(error: BaseException, where: str) -> str:
    """What a user's code raised: its type, what it says, and in which line of their file or module."""
    if isinstance(error, SyntaxError):
        words, line = error.msg, error.lineno
    else:
        # Beyond its first paragraph, what JAX says is advice.
        words, line = " ".join(str(error).split("\n\n")[0].split()).rstrip("."), None
        words = words if len(words) < 300 else f"{words[:300]} ..."
        for frame, number in traceback.walk_tb(error.__traceback__):
            is_file = frame.f_code.co_filename == os.path.abspath(where)
            if is_file or frame.f_globals.get("__name__") == where:
                line = number
    place = f" (line {line})" if line else ""
    return f"{type(error).__name__}{': ' * bool(words)}{words}{place}"


def _not_imported(where: str, error: BaseException) -> ValueError:
    cure = f": {_GUARD}" if isinstance(error, SystemExit) else "."
    return ValueError(f"{_shown(where)} cannot be imported: {_reason(error, where)}{cure}")
