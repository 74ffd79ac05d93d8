"""Where a data set lies: a path, or a name that is looked for where its package leaves its files."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dpolicy._files import as_path
from dpolicy.data.mixtures import MIXTURES

SUFFIXES = (".npz", ".hdf5", ".h5")
# The variables that move the folders, and where these are without them. OGBench has none of its own.
FOLDERS = {
    "DPOLICY_DATA": "data",
    "D4RL_DATASET_DIR": "~/.d4rl/datasets",
    "OGBENCH_DATASET_DIR": "~/.ogbench/data",
    "MINARI_DATASETS_PATH": "~/.minari/datasets",
}
_MAZES = {
    "umaze": "u-maze_noisy_multistart_False_multigoal_False",
    "umaze-diverse": "u-maze_noisy_multistart_True_multigoal_True",
    "medium-play": "big-maze_noisy_multistart_True_multigoal_False",
    "medium-diverse": "big-maze_noisy_multistart_True_multigoal_True",
    "large-play": "hardest-maze_noisy_multistart_True_multigoal_False",
    "large-diverse": "hardest-maze_noisy_multistart_True_multigoal_True",
}
_KITCHENS = {
    "complete": "mini_kitchen_microwave_kettle_light_slider",
    "partial": "kitchen_microwave_kettle_light_slider",
    "mixed": "kitchen_microwave_kettle_bottomburner_light",
}
_LOCOMOTION = ("halfcheetah", "hopper", "walker2d", "ant")
_D4RL = (*_LOCOMOTION, "antmaze", "kitchen", "pen", "hammer", "door", "relocate", "maze2d")
_OGBENCH = ("pointmaze", "antmaze", "humanoidmaze", "antsoccer", "cube", "scene", "puzzle")


class Place(NamedTuple):
    """Where a data set lies.

    Attributes:
        path: Its file; of Minari the one that holds or lists the episodes.
        name: What it is called.
        task: The number of the single task that the name asks for, 0 for the default one; None where it asks for none.
    """

    path: Path
    name: str
    task: int | None = None


def folder(variable: str) -> Path:
    """The folder that a variable of the environment names, or else the usual one."""
    return Path(os.environ.get(variable) or FOLDERS[variable]).expanduser()


def d4rl_files(name: str) -> list[str]:
    """What D4RL calls the file of a set, as its addresses end; empty for a name that is none of D4RL's."""
    found = re.fullmatch(r"([a-z0-9]+)-(.+)-v(\d)", name)
    if found is None or found[1] not in _D4RL:
        return []
    kind, rest, version = found.groups()
    if kind in _LOCOMOTION:
        words = rest.replace("-", "_")
        old = {"medium_replay": "mixed"}.get(words, words)
        short = "walker" if (kind, old) == ("walker2d", "mixed") else kind
        return [f"{short}_{old}.hdf5"] if version == "0" else [f"{kind}_{words}-v{version}.hdf5"]
    if kind == "antmaze":
        fixed = "" if version == "0" else "_fixed"
        return [f"Ant_maze_{_MAZES[rest]}_sparse{fixed}.hdf5"] if rest in _MAZES else []
    if kind == "kitchen":
        return [f"{_KITCHENS[rest]}-v{version}.hdf5"] if rest in _KITCHENS else []
    if kind == "maze2d" and not rest.endswith("dense"):
        return [f"maze2d-{rest}-sparse-v{version}.hdf5", f"{name}.hdf5"]
    if version == "0":
        many = {"human": f"{kind}-v0_demos_clipped", "cloned": f"{kind}-demos-v0-bc-combined"}
        return [f"{many.get(rest, f'{kind}-v0_{rest}_clipped')}.hdf5"]
    return [f"{name}.hdf5"]


def d4rl_name(stem: str) -> str:
    """The name of the set in a file that D4RL calls `stem`; the stem where it is none of those."""
    version = "2" if stem.endswith("_sparse_fixed") else "0"
    for rest, words in _MAZES.items():
        if stem.startswith(f"Ant_maze_{words}_sparse"):
            return f"antmaze-{rest}-v{version}"
    for rest, words in _KITCHENS.items():
        if stem.startswith(words):
            return f"kitchen-{rest}-v0"
    stem = stem.replace("_", "-")
    return stem.replace("walker-", "walker2d-", 1) if stem.startswith("walker-") else stem


def ogbench_task(name: str) -> tuple[str, int | None]:
    """The name of OGBench's file without what names a task; and that task, 0 for the default, None for none."""
    found = re.fullmatch(r"(.+)-singletask(?:-task(\d))?(-v\d)", name)
    return (name, None) if found is None else (found[1] + found[3], int(found[2] or 0))


def _of_minari(path: Path) -> Path | None:
    """The file in a folder of Minari that holds the episodes, or lists them."""
    for inside in (path / "data", path):
        for file in ("main_data.hdf5", "metadata.json"):
            if os.path.isfile(inside / file):
                return inside / file
    return None


def _candidates(name: str) -> Iterator[Path]:
    own = folder("DPOLICY_DATA")
    yield from (own / f"{name}{suffix}" for suffix in SUFFIXES)
    yield own / name
    yield from (folder("D4RL_DATASET_DIR") / file for file in d4rl_files(name))
    if name.startswith(_OGBENCH):
        yield folder("OGBENCH_DATASET_DIR") / f"{name}.npz"
    if re.search(r"-v\d+$", name):
        yield folder("MINARI_DATASETS_PATH") / name


def _how(name: str) -> str:
    """How to get a set of that name."""
    ways = []
    if d4rl_files(name):
        ways.append(f'D4RL leaves it there: python -c "import gym, d4rl; gym.make({name!r}).get_dataset()"')
    if name.startswith(_OGBENCH) and not d4rl_files(name):
        ways.append(f'OGBench does: python -c "import ogbench; ogbench.download_datasets([{name!r}])"')
    if "/" in name and re.search(r"-v\d+$", name):
        ways.append(f"Minari does: minari download {name}")
    if name in MIXTURES or name.startswith("cep/"):
        ways.append(f"this project makes it: dpolicy data make {name}")
    return "; ".join(ways or ['"dpolicy data make" lists the sets that are made here'])


def named(name: str, value: Any) -> Path:
    """A path or name of a length that files may have.

    Raises:
        ValueError: As `as_path`, and for one that is too long.
    """
    path = as_path(name, value)
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(
                f"{name} must be a path or a name, got {len(str(value)):,} characters that begin with "
                f"{str(value)[:40]!r} ({error.strerror})."
            ) from None
    return path


def located(data: Any) -> Place:
    """Where the set that `data` names lies.

    Args:
        data: The path of a file (.npz, .hdf5), of a folder of Minari, or the name of a set: D4RL's
            ("hopper-medium-v2"), OGBench's ("antmaze-medium-navigate-v0", also with "-singletask-task1"), Minari's
            ("D4RL/door/human-v2"), or one that `dpolicy data make` has written. Names are looked for in the folders
            of `FOLDERS`; nothing is downloaded.

    Raises:
        ValueError: If there is no such file; for a name with where it was looked for and how to get it.
    """
    path = named("data", data)
    if path.is_file():
        return Place(path, _name_of(path))
    if path.is_dir():
        inside = _of_minari(path)
        if inside is None:
            raise ValueError(
                f"data must be a file or a folder of Minari, got {str(data)!r}, which is a folder without."
            )
        return Place(inside, _name_of(inside))
    name, task = ogbench_task(str(data))
    if path.suffix in SUFFIXES or path.is_absolute() or str(data).startswith("."):
        raise ValueError(
            f"data must be a file (.npz, .hdf5), a folder of Minari, the name of a set or 'exact', got {str(data)!r}, "
            "which does not exist."
        )
    looked = list(_candidates(name))
    for place in looked:
        # Not by its method: with an ending or a folder it may be longer than a name may be.
        found = place if os.path.isfile(place) else _of_minari(place)
        if found is not None:
            return Place(found, str(data), task)
    shown = [str(place) for place in (looked[0], *looked[len(SUFFIXES) + 1 :])]
    raise ValueError(
        f"data must be a file or the name of a set that is on disk, got {str(data)!r}, which was looked for as "
        f"{', '.join(shown)}. Nothing is downloaded: {_how(name)}."
    )


def _name_of(path: Path) -> str:
    """What the set in a file is called."""
    if path.name in ("main_data.hdf5", "metadata.json"):
        parent = path.parent.parent if path.parent.name == "data" else path.parent
        return parent.name
    return path.stem
