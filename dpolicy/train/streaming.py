"""Where batches of a data set come from: the memory of the device, or the host, from which they go there as needed."""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from dpolicy import _checks
from dpolicy._types import Key, Keys, Transition
from dpolicy.algorithm import Horizon
from dpolicy.data import DataSet
from dpolicy.data.sets import EXTRAS
from dpolicy.data.sources import check_actions
from dpolicy.train.normalise import Normaliser
from dpolicy.train.windows import read_steps, window_rows

Streaming: TypeAlias = Literal["auto", "on", "off"]
_OWN = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
_AT_ONCE = 16 * 2**20  # bytes that are read for a block of updates


class Rows(abc.ABC):
    """Rows of a data set, of which those of a block of updates are read at once."""

    obs: Any
    extras: Mapping[str, Any]
    row_bytes: int

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abc.abstractmethod
    def rows(self, index: Int[Array, "*rows"]) -> Transition:
        """These rows, inside a compiled program."""

    def at_once(self, updates: int, batch_size: int, horizon: Horizon | None) -> int:
        """Updates whose rows are read together: a divisor of their number."""
        each = self.row_bytes * batch_size * (1 if horizon is None else horizon.steps)
        most = max(_AT_ONCE // each, 1)
        return max(n for n in range(1, min(updates, most) + 1) if updates % n == 0)

    def read(self, rows: Int[Array, "*batch"], horizon: Horizon | None) -> tuple[Transition, Any]:
        """What `batch` makes the transitions of these rows of, one update after the other."""
        if horizon is None:
            return self.rows(rows), None
        index, there = window_rows(rows, horizon.steps, len(self))
        return self.rows(index), there

    @staticmethod
    def batch(found: tuple[Transition, Any], horizon: Horizon | None) -> Transition:
        """The transitions of one update, each of as many steps as the horizon asks for."""
        windows, there = found
        return windows if horizon is None else read_steps(windows, there, horizon)


class Held(Rows):
    """Rows in the memory of the device: constants of the program."""

    def __init__(self, held: Transition):
        self.held, self.obs, self.extras = held, held.obs, held.extras
        self.row_bytes = sum(leaf.dtype.itemsize * leaf[0].size for leaf in jax.tree.leaves(held))

    def __len__(self) -> int:
        return self.held.reward.shape[0]

    def rows(self, index: Int[Array, "*rows"]) -> Transition:
        """These rows, inside a compiled program."""
        return jax.tree.map(lambda leaf: leaf[index], self.held)

    def seen_by(self, normaliser: Normaliser) -> "Held":
        """The rows as a policy sees them."""
        see = (normaliser(self.held.obs), normaliser(self.held.next_obs))
        return Held(eqx.tree_at(lambda d: (d.obs, d.next_obs), self.held, see))


class Streamed(Rows):
    """Rows of a data set that are read when a compiled program asks for them.

    Which ones is drawn on the device, as it is from a set in memory; a callback reads those of a block of updates.

    Args:
        data: The set.
        extras: As of `DataSet.transitions`.
        discount: Of the Monte-Carlo returns.
        normaliser: What a policy sees observations through; None for as they are.

    Raises:
        ValueError: As `DataSet.transitions`.
    """

    def __init__(
        self,
        data: DataSet,
        extras: Sequence[str] = (),
        discount: float = 0.99,
        normaliser: Normaliser | None = None,
    ):
        check_actions(data.action, data.name)
        for extra in extras:
            _checks.one_of("extras", extra, EXTRAS)
        self.obs = data.obs
        self.data, self._settings, self._normaliser = data, (extras, discount), normaliser
        self._parts: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "obs": lambda rows: data.obs[rows],
            "action": lambda rows: data.action[rows],
            "reward": lambda rows: data.reward[rows],
            "next_obs": lambda rows: data.next_obs[rows],
            "terminated": lambda rows: data.terminated[rows],
            "truncated": lambda rows: data.end[rows] & ~data.terminated[rows],
        }
        if "next_action" in extras:
            after = lambda rows: np.where(data.end[rows], rows, np.minimum(rows + 1, len(data) - 1))
            self._parts["next_action"] = lambda rows: data.action[after(rows)]
            self._parts["next_action_known"] = lambda rows: ~data.end[rows]
        if "mc_return" in extras:
            returns = data.mc_returns(discount)
            self._parts["mc_return"] = lambda rows: returns[rows]
        if "trajectory" in extras:
            numbers = data.trajectory
            self._parts["trajectory"] = lambda rows: numbers[rows]
        self.extras = {name: part for name, part in self._parts.items() if name not in _OWN}
        row = [part(np.zeros(1, int)) for part in self._parts.values()]
        self._shapes = [(part.shape[1:], jnp.zeros(0, part.dtype).dtype) for part in row]
        self.row_bytes = sum(part.nbytes for part in row)

    def __len__(self) -> int:
        return len(self.data)

    def seen_by(self, normaliser: Normaliser) -> "Streamed":
        """The rows as a policy sees them."""
        return Streamed(self.data, *self._settings, normaliser)

    def rows(self, index: Int[Array, "*rows"]) -> Transition:
        """These rows, inside a compiled program."""

        def read(index: Any) -> list[np.ndarray]:
            wanted = np.asarray(index)
            flat = wanted.reshape(-1)
            found = zip(self._parts.values(), self._shapes, strict=True)
            return [
                np.asarray(part(flat), kind).reshape(*wanted.shape, *shape) for part, (shape, kind) in found
            ]

        shapes = [jax.ShapeDtypeStruct((*index.shape, *shape), kind) for shape, kind in self._shapes]
        found = jax.pure_callback(read, shapes, index, vmap_method="broadcast_all")
        named = dict(zip(self._parts, found, strict=True))
        own = {name: named.pop(name) for name in _OWN}
        if self._normaliser is not None:
            own |= {name: self._normaliser(own[name]) for name in ("obs", "next_obs")}
        return Transition(**own, extras=named)


def keys_ahead(key: Key, count: int) -> tuple[Keys, Keys, Keys]:
    """Of each of the next updates the key it leaves, that of its rows and its own: it splits one in three."""

    def one(key: Key, _: None) -> tuple[Key, tuple[Key, Key, Key]]:
        after, sample_key, update_key = jax.random.split(key, 3)
        return after, (after, sample_key, update_key)

    return jax.lax.scan(one, key, None, length=count)[1]


def bytes_of(data: DataSet, extras: Sequence[str]) -> int:
    """Of its rows on a device."""
    obs, action = data.obs.shape[1], data.action.shape[1]
    own = data.next_obs is not data.obs
    more = {"next_action": 4 * action + 1, "mc_return": 4, "trajectory": 4}
    each = 4 * (obs * (1 + own) + action + 1) + 2 + sum(more.get(extra, 0) for extra in extras)
    return len(data) * each
