"""The sets that this project makes itself, by name: a line of the table each."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from dpolicy import _checks
from dpolicy.data.cep import CEP_TOYS, cep_set
from dpolicy.data.mazes import KINDS, maze_data
from dpolicy.data.sets import DataSet, as_data_set
from dpolicy.envs import Maze


class Made(NamedTuple):
    """A set that can be made.

    Attributes:
        make: `(size, seed) -> DataSet`.
        size: Rows by default.
        about: What it is.
    """

    make: Callable[[int, int], DataSet]
    size: int
    about: str


def _maze(kind: str, size: int, seed: int) -> DataSet:
    return as_data_set(maze_data(kind, Maze(), steps=size, seed=seed), f"maze/{kind}", "dpolicy")


def _cep(toy: str, size: int, seed: int) -> DataSet:
    return cep_set(toy, size, seed=seed)


MADE: dict[str, Made] = {
    **{
        f"cep/{toy}": Made(partial(_cep, toy), 100_000, "points with energies (arXiv 2304.12824)")
        for toy in CEP_TOYS
    },
    **{
        f"maze/{kind}": Made(partial(_maze, kind), 20_000, "a planner with noise, in four routes")
        for kind in KINDS
    },
}


def make_set(name: str, size: int | None = None, *, seed: int = 0) -> DataSet:
    """A set that this project makes itself; the same name, size and seed give the same set.

    Args:
        name: One of `MADE`.
        size: Rows; by default its own.
        seed: Of everything that is drawn.

    Raises:
        ValueError: For a name that is none, a size below 1, or a seed that is no integer from 0 to 2^32 - 1.
    """
    _checks.one_of("name", name, MADE)
    if size is not None:
        _checks.count("size", size)
    _checks.integer("seed", seed, 0, 2**32 - 1)
    return MADE[name].make(MADE[name].size if size is None else size, seed)


def findings(data: DataSet) -> list[str]:
    """What is to be known of a set before learning from it, in sentences: what its reader remarked, and what is odd."""
    found = list(data.remarks)
    beyond = int((np.abs(data.action) > 1 + 1e-6).sum())
    if beyond:
        found.append(
            f"{beyond:,} of {data.action.size:,} numbers of the actions lie outside [-1, 1]: --data-action-clip."
        )
    elif edge := int((np.abs(data.action) >= 1).sum()):
        found.append(
            f"{edge:,} of {data.action.size:,} numbers of the actions are at -1 or 1, where tanh densities end."
        )
    constant = np.flatnonzero((data.obs == data.obs[0]).all(axis=0)) if len(data) > 1 else []
    if len(constant):
        found.append(f"{len(constant)} of {data.obs.shape[1]} numbers of the observations never change.")
    goes_on = ~(data.end | data.terminated)[:-1]
    follows = np.isclose(data.next_obs[:-1], data.obs[1:], 1e-3, 1e-3).all(axis=1)
    if lost := int((goes_on & ~follows).sum()):
        found.append(
            f"{lost:,} rows go on elsewhere than they led to: no windows of several steps can be read."
        )
    if not data.terminated.any():
        found.append("nothing terminates: values are bootstrapped at every row.")
    if stays := int((data.terminated & ~data.end).sum()):
        found.append(f"{stays:,} rows are terminated within their trajectory, which goes on.")
    if len(data) > 1 and (data.reward == data.reward[0]).all():
        found.append(f"every reward is {data.reward[0]:g}.")
    return found
