"""Writing a data set to a file."""

from pathlib import Path

import numpy as np

from dpolicy import _checks
from dpolicy._files import as_path, check_place, replacing
from dpolicy._types import Transition
from dpolicy.data.scores import check_reference
from dpolicy.data.sources import checked, columns


def check_target(path: str | Path, *, overwrite: bool = False) -> Path:
    """The path of a data file to be written.

    Raises:
        ValueError: Unless its suffix is .npz; if it is a directory or, without `overwrite`, exists; or where nothing
            may be written.
    """
    path = as_path("a data file", path)
    if path.suffix != ".npz":
        raise ValueError(f"a data file must have the suffix .npz, got {str(path)!r}.")
    if path.is_dir():
        raise ValueError(f"a data file must not be a directory, got {str(path)!r}.")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} already exists: choose another name, or overwrite it (--overwrite).")
    check_place(path.parent)
    return path


def save_npz(
    path: str | Path,
    data: Transition,
    *,
    overwrite: bool = False,
    reference: tuple[float, float] | None = None,
) -> Path:
    """Write a data set as the .npz file that `load_npz` reads; the same data give the same bytes.

    It is written beside and renamed, so a kill leaves the old file or the new one.

    Args:
        path: The file; its directory is made if need be.
        data: Transitions with one leading axis; extras are left out.
        overwrite: Whether a file of that name may be replaced.
        reference: The returns (R_min, R_max) that scores are normalised by; None for none.

    Returns:
        The path written.

    Raises:
        ValueError: As `load_npz` for data that it would not read, such as transitions of several steps, for references
            that are none, and for a path that may not be written.
    """
    _checks.instance("data", data, Transition, "a Transition")
    path = check_target(path, overwrite=overwrite)
    arrays = checked(columns(data), "data")
    if reference is not None:
        arrays["reference"] = np.asarray(check_reference(reference))
    with replacing(path) as beside, open(beside, "wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    return path
