"""The files of a run's directory, and the lock that holds it against other processes.

config.json     the resolved configuration, enough to rebuild the run
versions.json   the versions that started it
metrics.csv     one row per chunk and seed; metrics.jsonl holds the same
log.jsonl       events with their wall-clock times: compile, chunk, failed seed, resume, end
checkpoints/    the last two checkpoints
"""

import contextlib
import importlib.util
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from dpolicy.train.checkpoint import check_text
from dpolicy.train.configuration import as_json

_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "diffrax", "dpolicy")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a run's numbers, and the device's kind."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {**found, "device": jax.devices()[0].device_kind}


def _write_json(path: Path, value: Any) -> None:
    # Written beside and renamed, so a kill leaves the old file or the new one.
    beside = path.with_suffix(".json.tmp")
    beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, path)


def check_place(directory: Path) -> None:
    """Refuse a directory that cannot be made or written.

    Raises:
        ValueError: if it, or what it would be made in, is a file or may not be written, or its name is no text.
        OSError: as the operating system says, e.g. for a name that is too long.
    """
    check_text(directory)
    there = next((path for path in (directory, *directory.parents) if path.exists()), Path())
    if not there.is_dir():
        raise ValueError(f"{directory} must be a directory or a new name in one: {there} is a file.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{directory} must be a directory that may be written: {there} may not.")


@contextlib.contextmanager
def only_process(directory: Path | None) -> Iterator[None]:
    """Hold a directory against other processes that would train in it, and create it if need be.

    The operating system's lock on it ends with the process, however that ends. (Where there is no such lock, as on
    Windows, nothing is held.) A directory made here that is still empty at the end is removed.

    Raises:
        ValueError: if another process holds it.
    """
    if directory is None or importlib.util.find_spec("fcntl") is None:
        yield
        return
    import fcntl

    existed = directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {directory}: let it end, or end it.") from None
        yield
    finally:
        os.close(descriptor)
        if not existed:
            with contextlib.suppress(OSError):
                directory.rmdir()


def write_start(directory: Path, config: Mapping[str, Any], *, resumed: bool) -> None:
    """Record with what configuration and versions a run starts or goes on."""
    directory.mkdir(parents=True, exist_ok=True)
    if not resumed:
        _write_json(directory / "versions.json", versions())
    # The configuration comes last: a directory that has one is a run.
    _write_json(directory / "config.json", as_json(config))
    log_event(directory, "resume" if resumed else "start", versions=versions())


def log_event(directory: Path | None, event: str, **values: Any) -> None:
    """Append one event with the time of day to `log.jsonl`; nothing without a directory."""
    if directory is not None:
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
        with open(directory / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")
