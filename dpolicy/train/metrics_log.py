"""Metrics on disk: one row per chunk and seed, as CSV for people and as JSON lines for programs."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from dpolicy._files import as_path, naming

_RESERVED = ("step", "seed", "alive")
_FILES = ("metrics.csv", "metrics.jsonl")


class History(NamedTuple):
    """What a run measured.

    Attributes:
        step: Steps taken at the end of each chunk.
        alive: Whether each seed was still finite at the end of each chunk.
        metrics: Name -> values of shape `[chunks, seeds]`.
    """

    step: Int[np.ndarray, " chunks"]
    alive: Bool[np.ndarray, "chunks seeds"]
    metrics: dict[str, np.ndarray]


def _number(value: Any) -> float | int:
    # The shortest text that gives the value back in its own precision: 0.1, not 0.10000000149.
    array = np.asarray(value)
    return int(array) if array.dtype.kind in "biu" else float(str(array[()]))


def _to_json(value: float | int) -> float | int | str | None:
    # JSON has no nan or infinity.
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _from_json(value: Any) -> float:
    return math.nan if value is None else float(value)


def check_name(name: Any) -> None:
    """Refuse what no metric may be called.

    Raises:
        ValueError: For something else than a text, or the name of a column of the loop's own.
    """
    if not isinstance(name, str):
        raise ValueError(f"a metric must be called by a text, got {name!r}.")
    if name in _RESERVED:
        raise ValueError(f"a metric cannot be called {name!r}: that column is the loop's own.")


class MetricsLog:
    """Appends to `metrics.csv` and `metrics.jsonl` of a directory and keeps the history in memory.

    A checkpoint stores `offsets()`, the sizes of the files; `MetricsLog(directory, offsets)` goes on from there, and
    `cut()` cuts off whatever was written after it, so that a resumed run leaves the files of an uninterrupted one.

    Args:
        directory: Where the files are; None keeps the history in memory only.
        offsets: File sizes to go back to; None starts over.
        seeds: How many rows a chunk has; None believes the first one.

    Raises:
        ValueError: If a file is missing, shorter than its offset, or damaged; nothing has been written then.
    """

    def __init__(
        self,
        directory: Path | None,
        offsets: Mapping[str, int] | None = None,
        *,
        seeds: int | None = None,
    ):
        self._directory = directory
        self._names: list[str] | None = None
        self._rows: list[list[dict[str, Any]]] = []
        if directory is None:
            return
        self._sizes = {name: (offsets or {}).get(name, 0) for name in _FILES}
        for name, size in self._sizes.items():
            path = directory / name
            if size > (path.stat().st_size if path.exists() else 0):
                raise ValueError(f"{path} is shorter than the {size} bytes its checkpoint knows of.")
        table, lines = (directory / name for name in _FILES)
        self._rows = _read_rows(lines, seeds, self._sizes[lines.name])
        if self._rows:
            self._names = [name for name in self._rows[0][0] if name not in _RESERVED]
            rows = [row for chunk in self._rows for row in chunk]
            if table.read_bytes()[: self._sizes[table.name]] != _csv_text(rows, header=True).encode():
                raise ValueError(f"{table} is damaged: it does not hold the rows of {lines.name}.")

    def cut(self) -> None:
        """Cut the files back to the offsets; creates them if need be. To be called before the first `append`."""
        if self._directory is not None:
            for name, size in self._sizes.items():
                with open(self._directory / name, "ab") as file:
                    file.truncate(size)

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse to go on with other metrics than the files have columns for.

        Raises:
            ValueError: If they do.
        """
        missing = sorted(set(names) - set(self._names or names))
        more = sorted(set(self._names or ()) - set(names))
        if missing or more:
            lacks = f"they lack {', '.join(missing)}" if missing else f"they have {', '.join(more)}"
            raise ValueError(
                f"the metrics in {self._directory} are of another version or program ({lacks}), so this one cannot go "
                "on with them: start another run."
            )

    def append(self, step: int, alive: np.ndarray, metrics: Mapping[str, Any]) -> None:
        """Write one row per seed, and make sure it is on disk.

        Args:
            step: Steps taken so far.
            alive: Which seeds are finite, shape `[seeds]`.
            metrics: Name -> numbers of shape `[seeds]`, the same names at every call.

        Raises:
            ValueError: For a metric of another shape, a reserved name or another set of names than before.
        """
        names = sorted(metrics)
        if self._names is None:
            self._names = names
        if names != sorted(self._names):
            raise ValueError(f"metrics must keep their names {sorted(self._names)}, got {names}.")
        for name, value in metrics.items():
            check_name(name)
            if np.shape(value) != (len(alive),):
                raise ValueError(f"metric {name!r} must be one number per seed, got shape {np.shape(value)}.")
        rows = [
            {"step": int(step), "seed": seed, "alive": bool(alive[seed])}
            | {name: _number(metrics[name][seed]) for name in names}
            for seed in range(len(alive))
        ]
        if self._directory is not None:
            table = _csv_text(rows, header=not self._rows)
            lines = [
                json.dumps({name: _to_json(value) for name, value in row.items()}) + "\n" for row in rows
            ]
            for name, data in zip(_FILES, (table, "".join(lines)), strict=True):
                path = self._directory / name
                with naming(path), open(path, "ab") as file:
                    file.write(data.encode())
                    file.flush()
                    os.fsync(file.fileno())
        self._rows.append(rows)

    def offsets(self) -> dict[str, int]:
        """The sizes of the files now."""
        if self._directory is None:
            return {}
        return {name: (self._directory / name).stat().st_size for name in _FILES}

    def last(self) -> dict[str, np.ndarray]:
        """The metrics of the last chunk, name -> `[seeds]`; empty before the first."""
        return {name: values[-1] for name, values in _history(self._rows[-1:]).metrics.items()}

    @property
    def history(self) -> History:
        """Everything appended so far, including what an earlier process wrote before a resume."""
        return _history(self._rows)


def _csv_text(rows: list[dict[str, Any]], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow([int(value) if isinstance(value, bool) else value for value in row.values()])
    return text.getvalue()


def _row(line: bytes) -> dict[str, Any]:
    """A line as `append` was given it, with nan and infinity where JSON has none; ValueError if it is no row."""
    row = json.loads(line.decode())
    if not isinstance(row, dict) or tuple(row)[:3] != _RESERVED:
        raise ValueError
    if type(row["step"]) is not int or type(row["seed"]) is not int or type(row["alive"]) is not bool:
        raise ValueError
    return {
        name: _from_json(value) if value is None or isinstance(value, str) else value
        for name, value in row.items()
    }


def _read_rows(path: Path, seeds: int | None = None, size: int | None = None) -> list[list[dict[str, Any]]]:
    """The rows of the first `size` bytes of `metrics.jsonl`, grouped by chunk.

    A last line that a kill cut short and a last chunk that lacks seeds are left out.

    Raises:
        ValueError: If anything else is not as it was written.
    """
    chunks: list[list[dict[str, Any]]] = []
    data = path.read_bytes()[:size] if path.exists() else b""
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        wrong = f"{path} is damaged: line {number}"
        try:
            row = _row(line)
            np.array([float(value) for value in row.values()])
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise ValueError(f"{wrong} is no row of metrics.") from None
        count = len(chunks[0]) if seeds is None and len(chunks) > 1 else seeds
        if not chunks or len(chunks[-1]) == count or (count is None and row["seed"] == 0):
            chunks.append([])
        if row["seed"] != len(chunks[-1]):
            raise ValueError(f"{wrong} is of seed {row['seed']}, where seed {len(chunks[-1])} is due.")
        if chunks[-1] and row["step"] != chunks[-1][0]["step"]:
            raise ValueError(f"{wrong} is of step {row['step']}, its chunk of step {chunks[-1][0]['step']}.")
        chunks[-1].append(row)
        if list(row) != list(chunks[0][0]):
            raise ValueError(f"{wrong} has {', '.join(row)}; the first has {', '.join(chunks[0][0])}.")
    if chunks and len(chunks[-1]) < (seeds or len(chunks[0])):
        chunks.pop()
    return chunks


def _history(chunks: list[list[dict[str, Any]]]) -> History:
    seeds = len(chunks[0]) if chunks else 0
    names = [name for name in chunks[0][0] if name not in _RESERVED] if chunks else []
    return History(
        step=np.array([chunk[0]["step"] for chunk in chunks], dtype=np.int64),
        alive=np.array([[row["alive"] for row in chunk] for chunk in chunks], dtype=bool).reshape(
            len(chunks), seeds
        ),
        metrics={
            name: np.array([[row[name] for row in chunk] for chunk in chunks], dtype=np.float64)
            for name in names
        },
    )


def chunks_written(directory: Path, seeds: int) -> int:
    """How many whole chunks a run directory has metrics of.

    Raises:
        ValueError: If they are damaged.
    """
    return len(_read_rows(directory / _FILES[1], seeds))


def read_history(directory: Path | str, *, seeds: int | None = None) -> History:
    """The metrics of a run directory.

    Args:
        directory: Of the run.
        seeds: How many seeds it has, where that is known; else as many as its first chunk.

    Raises:
        ValueError: If there are none yet, or they are damaged.
    """
    directory = as_path("directory", directory)
    chunks = _read_rows(directory / _FILES[1], seeds)
    if not chunks:
        raise ValueError(f"{directory} holds no metrics: it is no run, or its first chunk has not ended yet.")
    return _history(chunks)
