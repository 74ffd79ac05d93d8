"""A configuration made to last: what it reads by absolute path, and by a digest that tells whether it has changed."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from dpolicy import _places
from dpolicy.data.sources import existing
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
    if not isinstance(data, str) or data == "exact":
        return dict(config)
    path = existing(data).absolute()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {**config, "program": {**config["program"], "data": str(path)}, "data_sha256": digest}
