"""The loop under every fixed-step sampler: a scan whose body runs again in the backward pass."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation
from dpolicy.fields import AbstractField
from dpolicy.samplers._grid import Prior


def check_truncate(truncate: Any, steps: int) -> None:
    """Raise `ValueError` unless `truncate` is None or an integer from 1 to `steps`."""
    if truncate is not None:
        _checks.integer("truncate", truncate, 1, steps)


def run(
    step: Callable[[Action, Any], Action], start: Action, rows: PyTree[Array], *, truncate: int | None = None
) -> Action:
    """Apply `step(x, row)` along the leading axis of `rows`, from `start`; the last point.

    Reverse mode keeps one `x` per step and evaluates the body again: as fast as a plain scan, at a fraction of the
    memory. With `truncate = n` only the n steps nearest the action carry gradient.
    """
    steps = len(jax.tree.leaves(rows)[0])
    # Within a scan nothing is merged across steps anyway; the barriers against it would only cost time.
    body = jax.checkpoint(lambda x, row: (step(x, row).astype(x.dtype), None), prevent_cse=False)
    if truncate is not None and truncate < steps:
        early = jax.tree.map(lambda leaf: leaf[: steps - truncate], rows)
        rows = jax.tree.map(lambda leaf: leaf[steps - truncate :], rows)
        start = jax.lax.stop_gradient(jax.lax.scan(body, start, early)[0])
    return jax.lax.scan(body, start, rows)[0]


def trace(
    step: Callable[[Action, Any], Action], start: Action, rows: PyTree[Array]
) -> Float[Array, "points a"]:
    """All the points that `run` passes through, `start` first."""

    def body(x, row):
        new = step(x, row).astype(x.dtype)
        return new, new

    points = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), start, rows)[1]
    return jnp.concatenate([start[None], points])


class AbstractChain(eqx.Module):
    """A sampler that draws all its noise first and then walks from x_1 to the action in a fixed number of steps."""

    prior: eqx.AbstractVar[Prior]
    truncate: eqx.AbstractVar[int | None]

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of steps."""

    @abstractmethod
    def rows(self, field: AbstractField, key: Key) -> Any:
        """What each step reads, noise included, stacked along a leading axis."""

    @abstractmethod
    def step(self, field: AbstractField, x: Action, row: Any, obs: Observation) -> Action:
        """One step."""

    @abstractmethod
    def finish(self, x: Action) -> Action:
        """The action that the last point stands for."""

    def start(self, field: AbstractField, key: Key, start: Action | None = None) -> Action:
        """x_1."""
        return self.prior(field, jax.random.split(_checks.one_key(key))[0], start)

    def __call__(
        self, field: AbstractField, obs: Observation, key: Key, *, start: Action | None = None
    ) -> Action:
        """One action; `start` is x_1 itself, on the scale of the schedule's `prior_std`."""
        x, rows = self.start(field, key, start), self.rows(field, key)
        x = run(lambda x, row: self.step(field, x, row, obs), x, rows, truncate=self.truncate)
        return self.finish(x)

    def chain(
        self,
        field: AbstractField,
        obs: Observation,
        key: Key,
        *,
        start: Action | None = None,
        early: AbstractField | None = None,
        last: int | None = None,
    ) -> Float[Array, "points a"]:
        """All the points from x_1 to the action, or those of the `last` steps.

        Steps before the last ones are taken with the field `early` where that is given (DPPO's frozen one).
        """
        x, rows = self.start(field, key, start), self.rows(field, key)
        if last is not None and last < self.steps:
            _checks.integer("last", last)
            split = self.steps - last
            head = jax.tree.map(lambda leaf: leaf[:split], rows)
            rows = jax.tree.map(lambda leaf: leaf[split:], rows)
            first = field if early is None else early
            x = run(lambda x, row: self.step(first, x, row, obs), x, head)
        points = trace(lambda x, row: self.step(field, x, row, obs), x, rows)
        return points.at[-1].set(self.finish(points[-1]))
