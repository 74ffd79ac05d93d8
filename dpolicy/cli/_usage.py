"""Mistakes of the person at the keyboard: one sentence and an exit code, never a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


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
    """Turn a `ValueError` of the library, a missing package or a refusing file system into a `UsageError`.

    Args:
        prog: The command it happens in.
        any_origin: Also those that were raised outside the library (a recipe of the user's own).
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise UsageError(unicode_sentence(error), prog=prog) from error
    except ValueError as error:
        if not any_origin and not _raised_by_library(error):
            raise
        raise UsageError(str(error), prog=prog) from error
    except ImportError as error:
        raise UsageError(str(error), prog=prog) from error
    except BrokenPipeError:
        raise  # not a mistake
    except OSError as error:
        raise UsageError(os_sentence(error), prog=prog) from error


def os_sentence(error: OSError) -> str:
    """What the operating system refused, and for which file."""
    what = error.strerror or str(error)
    return f"{what}: {error.filename}." if error.filename is not None else f"{what}."


def unicode_sentence(error: UnicodeEncodeError) -> str:
    """Which text, of a path mostly, has no encoding."""
    return f"paths must be valid text in {error.encoding}, got {error.object!r}."
