"""Ensembles: modules of one kind, constructed and evaluated together."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Int

from dpolicy import _checks
from dpolicy._types import Key

Module = TypeVar("Module")


class Ensemble(eqx.Module, Generic[Module]):
    """Modules of one kind with stacked parameters; calling it stacks the members' outputs, [size, ...]."""

    members: Any
    size: int = eqx.field(static=True)

    def __call__(self, *args: Any) -> Any:
        return eqx.filter_vmap(lambda member: member(*args), axis_size=self.size)(self.members)

    def __getitem__(self, index: int) -> Any:
        """One member, to be called by itself (TD3's actor uses the first critic only)."""
        _checks.integer("index", index, -self.size, self.size - 1)
        return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, self.members)

    def draw(self, size: int, key: Key) -> Int[Array, " size"]:
        """The numbers of `size` of the members, no one twice, drawn at random (REDQ, arXiv 2101.05982)."""
        _checks.integer("size", size, 1, self.size)
        return jax.random.permutation(_checks.one_key(key), self.size)[:size]

    def only(self, members: Int[Array, " size"]) -> "Ensemble[Module]":
        """The ensemble of the members of these numbers."""
        take = lambda leaf: leaf[members] if eqx.is_array(leaf) else leaf
        return Ensemble(jax.tree.map(take, self.members), members.shape[0])


def ensemble(make: Callable[[Key], Module], size: int, *, key: Key) -> Ensemble[Module]:
    """`size` independent modules `make(key)`, constructed and evaluated together.

        twin = ensemble(lambda key: QNetwork(obs_size, action_size, key=key), 2, key=key)
        twin(obs, action)  # [2]

    Raises:
        ValueError: If `size` is not a positive int.
    """
    _checks.function("make", make, "key -> module")
    _checks.integer("size", size)
    return Ensemble(eqx.filter_vmap(make)(jax.random.split(_checks.one_key(key), size)), size)
