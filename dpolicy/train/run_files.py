"""The files of a run's directory, and the lock that holds it against other processes.

config.json     the resolved configuration, enough to rebuild the run
versions.json   the versions, the library's commit and the command that started it
metrics.csv     one row per chunk and seed; metrics.jsonl holds the same
log.jsonl       events with their wall-clock times: compile, chunk, failed seed, resume, end
checkpoints/    the last two checkpoints
"""

import contextlib
import importlib.util
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpolicy import _files
from dpolicy.train.checkpoint import check_text
from dpolicy.train.configuration import as_json
from dpolicy.train.origin import command_line, versions


def check_place(directory: Path) -> None:
    """Refuse a directory that cannot be made or written, which is tried.

    Raises:
        ValueError: If it, or what it would be made in, is a file or may not be written, or its name is no text.
        OSError: As the operating system says, e.g. for a name that is too long.
    """
    check_text(directory)
    _files.check_place(directory)


@contextlib.contextmanager
def only_process(directory: Path | None) -> Iterator[None]:
    """Hold a directory against other processes that would train in it, and create it if need be.

    The operating system's lock on it ends with the process, however that ends. (Where there is no such lock, as on
    Windows, nothing is held.) A directory made here that is still empty at the end is removed.

    Raises:
        ValueError: If another process holds it.
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


def _write_json(path: Path, value: Any) -> None:
    with _files.replacing(path) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_start(directory: Path, config: Mapping[str, Any], *, resumed: bool, restored: bool) -> None:
    """Record with what configuration, versions and command a run starts or goes on.

    Args:
        directory: Of the run.
        config: Its configuration.
        resumed: Whether the directory held the run already.
        restored: Whether it goes on from a checkpoint, so that something else has started it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _files.remove_leftovers(directory)
    # The configuration comes first: whatever else is in the directory of a run is the run's own.
    _write_json(directory / "config.json", as_json(config))
    origin = {**versions(), "command": command_line()}
    if not restored:
        _write_json(directory / "versions.json", origin)
    log_event(directory, "resume" if resumed else "start", versions=origin)


def log_event(directory: Path | None, event: str, **values: Any) -> None:
    """Append one event with the time of day to `log.jsonl`; nothing without a directory."""
    if directory is not None:
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values}) + "\n"
        path = directory / "log.jsonl"
        with _files.naming(path), open(path, "ab+") as file:
            # After a kill or on a full disk the last event may be half a line.
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = "\n" + line
            file.write(line.encode())
