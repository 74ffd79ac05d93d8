"""Mistakes of the person at the keyboard: one sentence and an exit code, never a traceback."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dpolicy import _places


class UsageError(Exception):
    """A mistake in the words of a command.

    Args:
        sentence: What is wrong and what is allowed.
        prog: The command it was in.
        code: The exit code.
    """

    def __init__(self, sentence: str, *, prog: str | None = None, code: int = 2):
        super().__init__(sentence)
        self.prog = prog
        self.code = code


def _raised_by_library(error: BaseException) -> bool:
    """Whether the innermost frame is ours: then the message is one of our sentences, else it is a bug to be seen."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith("dpolicy.")


@contextmanager
def explained(prog: str, *, any_origin: bool = False) -> Iterator[None]:
    """Turn what a person can mend into a `UsageError`; a bug of the library stays an exception, to be seen.

    That is a `ValueError` of the library, whatever a file of the user's own raises, a missing package, a refusing file
    system, and too little memory. With the environment variable DPOLICY_TRACEBACK all of them stay as they are.

    Args:
        prog: The command it happens in.
        any_origin: Also a `ValueError` that was raised outside the library.
    """
    try:
        yield
    except (UsageError, BrokenPipeError):
        raise
    except Exception as error:
        sentence = None if os.environ.get("DPOLICY_TRACEBACK") else _sentence(error, any_origin)
        if sentence is None:
            raise
        raise UsageError(sentence, prog=prog) from error


def _sentence(error: Exception, any_origin: bool) -> str | None:
    if (blamed := _places.blame(error)) is not None:
        return f"{blamed} (DPOLICY_TRACEBACK=1 shows the way there.)"
    if isinstance(error, UnicodeEncodeError):
        return unicode_sentence(error)
    if isinstance(error, ValueError):
        return str(error) if any_origin or _raised_by_library(error) else None
    if isinstance(error, ImportError):
        return str(error)
    if isinstance(error, OSError):
        return os_sentence(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED: " in str(error):
        return f"too little memory: {str(error).rpartition('RESOURCE_EXHAUSTED: ')[2] or 'none is left.'}"
    return None


def os_sentence(error: OSError) -> str:
    """What the operating system refused, and for which file."""
    what = error.strerror or str(error)
    return f"{what}: {error.filename}." if error.filename is not None else f"{what}."


def unicode_sentence(error: UnicodeEncodeError) -> str:
    """Which text, of a path mostly, has no encoding."""
    return f"paths must be valid text in {error.encoding}, got {error.object!r}."
