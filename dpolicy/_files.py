"""Files: a place is tried before anything is computed for it, and a file is written whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def as_path(name: str, value: Any, allowed: str = "a path") -> Path:
    """A path, of text or of a path.

    Raises:
        ValueError: For anything else, an empty text, or one that no path may be.
    """
    if not isinstance(value, (str, os.PathLike)) or not str(value) or "\0" in str(value):
        raise ValueError(f"{name} must be {allowed}, got {value!r}.")
    return Path(value)


def check_place(directory: Path) -> None:
    """Refuse a directory that cannot be made or written, which is tried.

    Raises:
        ValueError: If it, or what it would be made in, is a file or may not be written.
        OSError: As the operating system says, e.g. for a name that is too long.
    """
    there = next((path for path in (directory, *directory.parents) if path.exists()), Path())
    if not there.is_dir():
        raise ValueError(f"{directory} must be a directory or a new name in one: {there} is a file.")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ValueError(
            f"{directory} must be a directory that may be written: {there} may not ({error.strerror})."
        ) from error


def check_target(path: Path) -> None:
    """Refuse a file that cannot be made or replaced.

    Raises:
        ValueError: If it is a directory, or for its directory as `check_place`.
        OSError: As `check_place`.
    """
    if path.is_dir():
        raise ValueError(f"{path} must be a file, and is a directory.")
    check_place(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an error of the operating system the name of the file that it is about, which a full disk leaves out."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, whose directory is made: a kill or a full disk leaves the old one or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield beside
            with open(beside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def remove_leftovers(directory: Path) -> None:
    """Remove what `replacing` left in a directory when it was killed; no other process may be writing there."""
    for path in directory.glob(".*.tmp"):
        path.unlink()
