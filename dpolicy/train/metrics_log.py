"""Metrics on disk: one row per chunk and seed, as CSV for people and as JSON lines for programs."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

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


class MetricsLog:
    """Appends to `metrics.csv` and `metrics.jsonl` of a directory and keeps the history in memory.

    A checkpoint stores `offsets()`, the sizes of the files; `MetricsLog(directory, offsets)` cuts off whatever was
    written after it, so that a resumed run leaves the files of an uninterrupted one.

    Args:
        directory: Where the files are; None keeps the history in memory only.
        offsets: File sizes to go back to; None starts over.

    Raises:
        ValueError: if a file is missing or shorter than its offset.
    """

    def __init__(self, directory: Path | None, offsets: Mapping[str, int] | None = None):
        self._directory = directory
        self._names: list[str] | None = None
        self._rows: list[list[dict[str, Any]]] = []
        if directory is None:
            return
        for name in _FILES:
            path, size = directory / name, (offsets or {}).get(name, 0)
            if size > (path.stat().st_size if path.exists() else 0):
                raise ValueError(f"{path} is shorter than the {size} bytes its checkpoint knows of.")
            with open(path, "ab") as file:
                file.truncate(size)
        self._rows = _read_rows(directory)
        if self._rows:
            self._names = [name for name in self._rows[0][0] if name not in _RESERVED]

    def append(self, step: int, alive: np.ndarray, metrics: Mapping[str, Any]) -> None:
        """Write one row per seed, and make sure it is on disk.

        Args:
            step: Steps taken so far.
            alive: Which seeds are finite, shape `[seeds]`.
            metrics: Name -> numbers of shape `[seeds]`, the same names at every call.

        Raises:
            ValueError: for a metric of another shape, a reserved name or another set of names than before.
        """
        names = sorted(metrics)
        if self._names is None:
            self._names = names
        if names != sorted(self._names):
            raise ValueError(f"metrics must keep their names {sorted(self._names)}, got {names}.")
        for name, value in metrics.items():
            if name in _RESERVED:
                raise ValueError(f"a metric cannot be called {name!r}: that column is the loop's own.")
            if np.shape(value) != (len(alive),):
                raise ValueError(f"metric {name!r} must be one number per seed, got shape {np.shape(value)}.")
        rows = [
            {"step": int(step), "seed": seed, "alive": bool(alive[seed])}
            | {name: _number(metrics[name][seed]) for name in names}
            for seed in range(len(alive))
        ]
        if self._directory is not None:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            if not self._rows:
                writer.writerow([*_RESERVED, *names])
            writer.writerows(
                [int(value) if value is True or value is False else value for value in row.values()]
                for row in rows
            )
            lines = [
                json.dumps({name: _to_json(value) for name, value in row.items()}) + "\n" for row in rows
            ]
            for name, data in zip(_FILES, (text.getvalue(), "".join(lines)), strict=True):
                with open(self._directory / name, "ab") as file:
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


def _read_rows(directory: Path) -> list[list[dict[str, Any]]]:
    """The rows of `metrics.jsonl`, grouped by chunk; a last line that a kill cut short is left out."""
    chunks: list[list[dict[str, Any]]] = []
    path = directory / "metrics.jsonl"
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                break
            row = json.loads(line)
            if row["seed"] == 0:
                chunks.append([])
            chunks[-1].append(row)
    if chunks and len(chunks[-1]) < len(chunks[0]):
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
            name: np.array([[_from_json(row[name]) for row in chunk] for chunk in chunks], dtype=np.float64)
            for name in names
        },
    )


def read_history(directory: Path) -> History:
    """The metrics of a run directory.

    Raises:
        ValueError: if there are none yet.
    """
    path = Path(directory) / "metrics.jsonl"
    chunks = _read_rows(Path(directory)) if path.exists() else []
    if not chunks:
        raise ValueError(f"{directory} holds no metrics: it is no run, or its first chunk has not ended yet.")
    return _history(chunks)
