"""A configuration made to last: what it reads by absolute path, and by a digest that tells whether it has changed."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpolicy import _places
from dpolicy.data import located
from dpolicy.data.reading import is_made
from dpolicy.train.offline_data import digested
from dpolicy.train.pretrained import described


def pinned(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with what it reads, files of one's own, data, a pretrained run, by absolute path and a digest.

    A run that another starts from (`pretrained`) is replaced by its description, which says what its directory would:
    a run that has started from it can be rebuilt without it.

    Raises:
        ValueError: If one of them is missing, or the run has no field to start from.
    """
    names = {name: config[name] for name in ("algorithm", "env")}
    if files := _places.digests(names.values()):
        places = {key: _places.absolute(name) for key, name in names.items() if _places.is_place(name)}
        config = {**config, **places, "files_sha256": files}
    data, start = config["program"].get("data", "exact"), config["hyperparameters"].get("pretrained")
    if isinstance(start, (str, os.PathLike)):
        config = {**config, "hyperparameters": {**config["hyperparameters"], "pretrained": described(start)}}
    if not isinstance(data, str) or is_made(data):
        return dict(config)
    place = located(data)
    path = place.path.absolute()
    found: dict[str, Any] = {"data": str(path)}
    # A path does not say which task a name has asked for.
    if place.task is not None and config["program"].get("data_task") is None:
        found |= {"data_task": place.task}
    return {**config, "program": {**config["program"], **found}, "data_sha256": _digest(digested(path))}


def _digest(paths: list[Path]) -> str:
    """The SHA-256 of a file; of several that of their digests in a row."""
    digests = []
    for path in paths:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
