"""A uniform replay ring in device memory."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dpolicy import _checks
from dpolicy._types import Key

T = TypeVar("T")


class Replay(eqx.Module, Generic[T]):
    """The last `capacity` transitions; oldest overwritten first.

    `add` writes one contiguous slice and `sample` gathers by `randint`, so an insertion of n rows costs O(n) and
    draws cost O(batch), whatever the capacity (inside a donated or scanned state, which is updated in place).
    """

    data: T
    cursor: Int[Array, "*seeds"]
    size: Int[Array, "*seeds"]
    capacity: int = eqx.field(static=True)

    @staticmethod
    def start(example: T, capacity: int) -> "Replay[T]":
        """An empty ring for items shaped like `example` (one unbatched item)."""
        _checks.integer("capacity", capacity)
        data = jax.tree.map(
            lambda leaf: jnp.zeros((capacity, *jnp.shape(leaf)), jnp.asarray(leaf).dtype), example
        )
        return Replay(data, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), capacity)

    def add(self, items: T) -> "Replay[T]":
        """Append n items.

        Args:
            items: With a leading axis n, the same in every call, that divides the capacity: so no slice wraps around.

        Raises:
            ValueError: For another n, and for rows of another shape or type than those stored.
        """
        n = jax.tree.leaves(items)[0].shape[0]
        if self.capacity % n:
            raise ValueError(
                f"replay capacity must be a multiple of the {n} items added at once, got {self.capacity}."
            )

        def write(ring: Array, new: Array) -> Array:
            stored, given = ((x.dtype, (n, *x.shape[1:])) for x in (ring, new))
            if stored != given:
                stored, given = (f"{dtype}{list(shape)}" for dtype, shape in (stored, given))
                raise ValueError(f"items must be {stored}, as those stored, got {given}.")
            return jax.lax.dynamic_update_slice_in_dim(ring, new, self.cursor, 0)

        data = jax.tree.map(write, self.data, items)
        return Replay(
            data,
            (self.cursor + n) % self.capacity,
            jnp.minimum(self.size + n, self.capacity),
            self.capacity,
        )

    def draw(self, key: Key, batch_size: int) -> Int[Array, " batch"]:
        """Rows of `batch_size` items, uniform with replacement over those stored; 0 while nothing is.

        They are remainders of 32 random bits, so that no row is more likely than another by more than a share of
        size / 2^32, 1 in 4,300 for a million; `jax.random.randint` draws three times for less.
        """
        bits = jax.random.bits(_checks.one_key(key), (batch_size,), jnp.uint32)
        return (bits % jnp.maximum(self.size, 1).astype(jnp.uint32)).astype(jnp.int32)

    def __getitem__(self, rows: Int[Array, " batch"]) -> T:
        """The items in these rows."""
        return jax.tree.map(lambda ring: ring[rows], self.data)

    def sample(self, key: Key, batch_size: int) -> T:
        """`batch_size` items, uniform with replacement over those stored; zeros while nothing is."""
        return self[self.draw(key, batch_size)]

    def rewrite(self, rows: Int[Array, " batch"], part: Callable[[T], Any], new: Any) -> "Replay[T]":
        """Replace a part of the items in these rows, such as `part=lambda item: item.extras`.

        Where a row comes twice, its first item counts, so that the outcome does not depend on the order of writing.
        """
        # The largest of booleans is said to be the first that is true: the first item of the same row.
        first = jnp.argmax(rows[:, None] == rows[None], axis=1)
        write = lambda ring, values: ring.at[rows].set(values[first])
        return eqx.tree_at(lambda r: part(r.data), self, jax.tree.map(write, part(self.data), new))
