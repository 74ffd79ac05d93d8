"""Results that outlive a run cut short: arrays in files, computed only where a file is missing."""

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
