"""A field that one run has fitted, as the start of another."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpolicy import _checks
from dpolicy.envs import Spec
from dpolicy.fields import AbstractField
from dpolicy.train.configuration import check_named, read_config
from dpolicy.train.naming import by_recipe, make_env
from dpolicy.train.origin import newest_arrays

# What a description of a pretrained field holds; see `described`.
_PARTS = ("run", "algorithm", "hyperparameters", "obs_size", "action_size", "seed", "step", "sha256")


def _structure(about: Mapping[str, Any]) -> AbstractField:
    """The field of a run with shapes in place of arrays."""
    algorithm = by_recipe(about["algorithm"], with_field(about["hyperparameters"]))
    spec = Spec("pretrained", about["obs_size"], about["action_size"], 1)
    state = jax.eval_shape(lambda: algorithm.init(jax.random.key(0), spec))
    # What clones has no critic, and acts by the average of what it fits.
    cloned = algorithm.family == "offline" and "average" in state and "critic" not in state
    field = state.average if cloned else None
    if not isinstance(field, AbstractField):
        raise ValueError(
            f"pretrained must be a field or the directory of a run that clones one, such as one of bc; {about['run']} "
            f"is a run of {about['algorithm']}."
        )
    return field


def _read(directory: str | os.PathLike[str]) -> tuple[dict[str, Any], AbstractField]:
    """What `described` and `pretrained_field` give; neither the run's data set nor its program is needed."""
    directory = Path(directory)
    config = read_config(directory)
    check_named(config, directory)
    spec = make_env(config).spec
    about = {
        "run": str(directory.absolute()),
        "algorithm": config["algorithm"],
        "hyperparameters": config["hyperparameters"],
        "obs_size": spec.obs_size,
        "action_size": spec.action_size,
    }
    blank = _structure(about)
    arrays = newest_arrays(directory, config)
    if any(path.startswith(".normaliser") for path in arrays):
        raise ValueError(
            f"the field in {directory} takes standardised observations, which a run that starts from it would not give "
            "it: fit it without normalise_observations."
        )
    living = np.flatnonzero(arrays[".alive"])
    if not len(living):
        raise ValueError(f"every seed of the run in {directory} has failed: there is no field to start from.")
    seed, digest = int(living[0]), hashlib.sha256()

    def leaf(path: Any, wanted: jax.ShapeDtypeStruct) -> jax.Array:
        found = arrays.get(f".algorithm['average']{jax.tree_util.keystr(path)}")
        if found is None or found.shape[1:] != wanted.shape:
            raise ValueError(
                f"the checkpoint in {directory} is of another program than its config.json says."
            )
        digest.update(np.ascontiguousarray(found[seed]).tobytes())
        return jnp.array(found[seed], wanted.dtype)

    field = jax.tree_util.tree_map_with_path(leaf, blank)
    step = int(arrays[".steps"][seed])
    return {**about, "seed": seed, "step": step, "sha256": digest.hexdigest()}, field


def pretrained_field(source: AbstractField | Mapping[str, Any] | str | os.PathLike[str]) -> AbstractField:
    """The field to start from: `dppo(pretrained=pretrained_field("runs/bc"))`.

    Of a run it is the average over updates, which also acts, of the first seed that has not failed. Of a run that is
    gone, or has gone on since it was described, the numbers are nan: a run that has a checkpoint needs only the
    structure. `check_start` tells whether they are.

    Args:
        source: The directory of a run of `bc`, or of another algorithm that clones a field; what `described` says of
            one; or a field, which is returned.

    Raises:
        ValueError: If the directory holds no run, no checkpoint yet, a run of another kind, one whose field sees
            standardised observations, or one whose seeds have all failed; for a description that lacks something, or
            for anything else.
    """
    if isinstance(source, AbstractField):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _read(source)[1]
    if not isinstance(source, Mapping):
        raise ValueError(f"pretrained must be a field, the directory of a run or None, got {source!r}.")
    _check_description(source)
    try:
        now, field = _read(source["run"])
        if now["sha256"] == source["sha256"]:
            return field
    except (ValueError, OSError):
        pass
    # Put there as they are: a computation would not give nan under `jax_debug_nans`.
    return jax.tree.map(
        lambda leaf: jax.device_put(np.full(leaf.shape, np.nan, leaf.dtype)), _structure(source)
    )


def with_field(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a configuration with the field in place of the run that `pretrained` names, if it does.

    Raises:
        ValueError: As `pretrained_field`.
    """
    source = hyperparameters.get("pretrained")
    if isinstance(source, (str, os.PathLike, Mapping)):
        return {**hyperparameters, "pretrained": pretrained_field(source)}
    return dict(hyperparameters)


def described(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What a run's configuration keeps of the run it starts from: enough to rebuild the field but for its numbers.

    `run` (its absolute path), `algorithm`, `hyperparameters`, `obs_size`, `action_size`, and of the field itself
    `seed`, `step` and `sha256`, a digest of its numbers.

    Raises:
        ValueError: As `pretrained_field`.
    """
    return _read(directory)[0]


def _check_description(about: Mapping[str, Any]) -> None:
    for name in _PARTS:
        if name not in about:
            raise ValueError(f"pretrained must have {name!r}, got {', '.join(map(str, about)) or 'nothing'}.")
    for name in ("run", "algorithm", "sha256"):
        _checks.instance(f"pretrained.{name}", about[name], str, "a text")
    _checks.instance("pretrained.hyperparameters", about["hyperparameters"], Mapping, "names and values")
    for name in ("obs_size", "action_size"):
        _checks.integer(f"pretrained.{name}", about[name])


def check_start(config: Mapping[str, Any]) -> None:
    """Refuse to start, from its first step, a run whose pretrained field is not there any more.

    Raises:
        ValueError: If it cannot be read, or is not the one that the configuration was made with.
    """
    hyperparameters = config.get("hyperparameters")
    about = hyperparameters.get("pretrained") if isinstance(hyperparameters, Mapping) else None
    if isinstance(about, Mapping):
        _check_description(about)
        if described(about["run"])["sha256"] != about["sha256"]:
            raise ValueError(f"the run in {about['run']}, which this one starts from, has changed since.")
