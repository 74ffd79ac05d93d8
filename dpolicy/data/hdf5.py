"""HDF5 files, of which nothing but arrays of numbers is read."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dpolicy.envs.adapt import require


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file to read from.

    Raises:
        ImportError: Where h5py is not installed, with how to install it.
        ValueError: For a file that is no HDF5, or damaged.
    """
    h5py = require("h5py", "data", "reading HDF5")
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise ValueError(
            f"data must be a whole HDF5 file, got {str(path)!r}, which is none or damaged."
        ) from None
    with file:
        yield file


def array(group: Any, name: str, where: str) -> np.ndarray:
    """An array of numbers of a group; a link into another file is not followed.

    Raises:
        ValueError: If there is none of that name, or it holds something else.
    """
    h5py = require("h5py", "data", "reading HDF5")
    link = group.get(name, getlink=True)
    if link is None or not isinstance(link, (h5py.HardLink, h5py.SoftLink)):
        raise ValueError(f"{where} must hold {name!r}, got {', '.join(sorted(group)) or 'nothing'}.")
    found = group[name]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "buif":
        held = found.dtype if isinstance(found, h5py.Dataset) else "a group"
        raise ValueError(f"{name!r} in {where} must hold numbers, got {held}.")
    try:
        return np.asarray(found[()])
    except OSError:
        raise ValueError(f"{name!r} in {where} is damaged.") from None
