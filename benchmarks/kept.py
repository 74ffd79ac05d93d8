"""Results that outlive a run cut short: arrays in files, computed only where a file is missing; rows of tables."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np


def kept(path: Path, compute: Callable[[], dict[str, np.ndarray]], settings: object) -> dict[str, np.ndarray]:
    """The arrays in the file `path`; where there is none, those of `compute`, which are then written there.

    The file appears whole or not at all, and holds the text of `settings`. Nothing tells that other code has changed:
    remove the directory then.

    Raises:
        ValueError: if the file was computed with other settings.
    """
    made_with = repr(settings)
    if path.exists():
        with np.load(path) as stored:
            arrays = dict(stored)
        if (found := str(arrays.pop("made_with"))) != made_with:
            raise ValueError(
                f"{path} was computed with {found}, not {made_with}; remove it to compute it again."
            )
        return arrays
    arrays = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez(file, made_with=made_with, **arrays)  # pyright: ignore[reportArgumentType]
    os.replace(partial, path)
    return arrays


def merged(path: Path, head: str, rows: list[str], cells: int) -> list[str]:
    """The lines of a Markdown table with that `head`: those of the table in the file `path`, if any, and `rows`.

    One of `rows` replaces the one with the same first `cells` cells, in its place; others follow.

    Raises:
        ValueError: if the table in the file has another head.
    """

    def named(lines: list[str]) -> dict[tuple[str, ...], str]:
        return {tuple(line.split(" | ")[:cells]): line for line in lines}

    stored: list[str] = []
    if path.exists():
        table = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
        if not table or table[0] != head:
            raise ValueError(f"{path} must hold a table with the head {head!r}, got {(table or [''])[0]!r}.")
        stored = table[1:]
    return [head, "|" + "---|" * head.count(" | ") + "---|", *(named(stored) | named(rows)).values()]


def seconds_of(directory: Path) -> tuple[float, float]:
    """Seconds of the (first) compilation and of training that a run's log holds."""
    events = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    compile = next(e["seconds"] for e in events if e["event"] == "compile")
    return compile, sum(e["seconds"] for e in events if e["event"] == "chunk")
