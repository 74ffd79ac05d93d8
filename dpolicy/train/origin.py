"""What made a run: the versions, the commit and the command; and whether a checkpoint is of the run that it is in."""

import functools
import json
import os
import platform
import shlex
import subprocess
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import dpolicy
from dpolicy._places import RunWarning
from dpolicy.train.checkpoint import Checkpoints
from dpolicy.train.configuration import changes

_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "diffrax", "dpolicy")


def versions() -> dict[str, str | None]:
    """What decides a run's bits: versions of Python and packages, the commit, the device's kind, compiler flags."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    device, flags = jax.devices()[0].device_kind, os.environ.get("XLA_FLAGS") or None
    commit = commit_of(Path(dpolicy.__file__).parent)
    return {**found, "commit": commit, "device": device, "XLA_FLAGS": flags}


def command_line() -> str:
    """The command that started this process."""
    return shlex.join(sys.orig_argv)


@functools.cache
def commit_of(package: Path) -> str | None:
    """The commit of the checkout that a package is in, with "+changes" where files differ from it.

    None where the package is not a part of a checkout (an installed copy in somebody's repository is none), or where
    there is no git.
    """
    # Within a hook of git these would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(package), *words]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, env=environment
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes")
    except (OSError, subprocess.SubprocessError):
        return None


def _major(name: str, number: Any) -> str:
    """The part of a version within which results are meant to stay: 2 of 2.3.4; 0.3 of 0.3.4 and of Python."""
    parts = str(number).split(".")
    return ".".join(parts[: 2 if parts[0] == "0" or name == "python" else 1])


def version_changes(then: Mapping[str, Any], now: Mapping[str, Any], *, major: bool) -> str:
    """Which versions differ, as "jax 0.9.1 (now 0.10.2), ..."; with `major`, of packages and by what may break."""
    names = ("python", *_PACKAGES) if major else tuple(now)

    def differ(name: str) -> bool:
        if not major:
            return then[name] != now[name]
        return _major(name, then[name]) != _major(name, now[name])

    found = [f"{name} {then[name]} (now {now[name]})" for name in names if name in then and differ(name)]
    return ", ".join(found)


def _started_with(directory: Path) -> dict[str, Any] | None:
    """What `versions.json` holds; None where it is missing or damaged."""
    try:
        found = json.loads((directory / "versions.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def remarks(directory: Path, host: Mapping[str, Any], *, major: bool) -> list[str]:
    """What is to be said before a checkpoint is used.

    Args:
        directory: Of the run.
        host: The host's part of the checkpoint.
        major: Whether only versions that may break something are of interest.
    """
    found, now, then = [], versions(), _started_with(directory)
    if then is None:
        found.append(f"{directory}/versions.json is missing or damaged: what started the run is not known.")
    by_whom = {
        "was started": then or {},
        "has its checkpoint": host.get("versions", {}),
    }
    said: set[str] = set()
    for words, versions_then in by_whom.items():
        differing = version_changes(versions_then, now, major=major)
        if differing and differing not in said:
            said.add(differing)
            found.append(f"the run in {directory} {words} with {differing}: its numbers may differ.")
    if "config" not in host:
        found.append(
            f"the checkpoint in {directory} is of a version of the library that kept no digest: damage would not be "
            "noticed."
        )
    return found


def check_origin(directory: Path, config: Mapping[str, Any], host: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint of another configuration.

    Raises:
        ValueError: If something that decides the numbers differs, by which name.
    """
    changed = _changed(config, host)
    if changed:
        raise ValueError(
            f"{directory}/config.json is not what its checkpoint was made with: {changed}. Put it back, or start "
            "another run."
        )


def warn_of_origin(directory: Path, config: Mapping[str, Any], host: Mapping[str, Any]) -> None:
    """Warn (`RunWarning`) of a checkpoint of another configuration or of other major versions."""
    found = remarks(directory, host, major=True)
    changed = _changed(config, host)
    if changed:
        found.append(f"{directory}/config.json is not what its checkpoint was made with: {changed}.")
    for sentence in found:
        warnings.warn(sentence, RunWarning, stacklevel=3)


def _changed(config: Mapping[str, Any], host: Mapping[str, Any]) -> str:
    if "config" not in host:
        return ""
    found = changes(host["config"], config)
    files = (host["config"].get("files_sha256"), config.get("files_sha256"))
    if files[0] != files[1]:
        found["files_sha256"] = files
    return ", ".join(f"{name} = {now!r}, not {then!r}" for name, (then, now) in found.items())


def newest_arrays(directory: Path, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of the newest checkpoint of the run in a directory, by their path in the state.

    Args:
        directory: Of the run.
        config: Its configuration; warns as `warn_of_origin` where the checkpoint is of another one.

    Raises:
        ValueError: If there is none yet, or it is damaged.
    """
    if not (directory / "checkpoints").is_dir():
        raise ValueError(f"{directory} holds no checkpoint yet.")
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    try:
        warn_of_origin(directory, config, checkpoints.host())
        return checkpoints.arrays()
    finally:
        checkpoints.close()
