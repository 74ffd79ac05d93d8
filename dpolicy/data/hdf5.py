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


def member(group: Any, name: str, where: str) -> Any:
    """An array or a group of a group; a link into another file is not followed.

    Raises:
        ValueError: If there is none of that name.
    """
    h5py = require("h5py", "data", "reading HDF5")
    found = None
    if isinstance(group, h5py.Group):
        if isinstance(group.get(name, getlink=True), (h5py.HardLink, h5py.SoftLink)):
            found = group.get(name)
        if found is not None and found.file.filename == group.file.filename:
            return found
    held = ", ".join(sorted(group)) or "nothing" if isinstance(group, h5py.Group) else "no group"
    if isinstance(group, h5py.Group) and name in list(group):
        held = "a link into another file, or to nothing"
    raise ValueError(f"{where} must hold {name!r}, got {held}.")


def array(group: Any, name: str, where: str) -> np.ndarray:
    """Rows of numbers of a group; a link into another file is not followed.

    Raises:
        ValueError: If there is none of that name, or it holds something else.
    """
    h5py = require("h5py", "data", "reading HDF5")
    found = member(group, name, where)
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "buif":
        held = found.dtype if isinstance(found, h5py.Dataset) else "a group"
        raise ValueError(f"{name!r} in {where} must hold numbers, got {held}.")
    if not found.shape:
        raise ValueError(f"{name!r} in {where} must hold rows of numbers, got shape {found.shape}.")
    try:
        return np.asarray(found[()])
    except OSError:
        raise ValueError(f"{name!r} in {where} is damaged.") from None
