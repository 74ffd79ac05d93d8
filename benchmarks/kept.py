"""Results that outlive a run cut short: arrays in files, computed only where a file is missing."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np


def kept(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays in the file `path`; where there is none, those of `compute`, which are then written there.

    The file appears whole or not at all. Nothing tells that the code has changed: remove the directory then.
    """
    if path.exists():
        with np.load(path) as stored:
            return dict(stored)
    arrays = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    os.replace(partial, path)
    return arrays
