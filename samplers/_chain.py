"""The loop under every fixed-step sampler: a scan whose body runs again in the backward pass."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation
from dpolicy.fields import AbstractField
from dpolicy.samplers._grid import Number, Prior


def check_truncate(truncate: Any, steps: int) -> None:
    """Raise `ValueError` unless `truncate` is None or an integer from 1 to `steps`."""
    if truncate is not None:
        _checks.integer("truncate", truncate, 1, steps)


Point: TypeAlias = Float[Array, "..."]  # x, or with what else a step hands on, stacked


class Control(eqx.Module):
    """What happens to the cotangent of x on its way back through a chain, after each step; see `differentiated`."""

    max_norm: Number | None
    finite: bool = eqx.field(static=True)

    def __call__(self, x: Point) -> Point:
        """`x` itself; backwards, its cotangent under control."""
        return _controlled(self.finite, jnp.inf if self.max_norm is None else self.max_norm, x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _controlled(finite: bool, max_norm: Any, x: Point) -> Point:
    return x


def _backward(finite: bool, max_norm: Any, cotangent: Point) -> tuple[None, Point]:
    if finite:
        cotangent = jnp.where(jnp.isfinite(cotangent), cotangent, 0)
    norm = jnp.sqrt(jnp.sum(cotangent**2))
    return None, jnp.where(norm > max_norm, cotangent * (max_norm / norm), cotangent)


_controlled.defvjp(lambda finite, max_norm, x: (x, max_norm), _backward)


def _split(rows: PyTree[Array], at: int) -> tuple[PyTree[Array], PyTree[Array]]:
    return jax.tree.map(lambda leaf: leaf[:at], rows), jax.tree.map(lambda leaf: leaf[at:], rows)


def run(
    step: Callable[[Point, Any], Point],
    start: Point,
    rows: PyTree[Array],
    *,
    truncate: int | None = None,
    control: Control | None = None,
) -> Point:
    """Apply `step(x, row)` along the leading axis of `rows`, from `start`; the last point.

    Reverse mode keeps one `x` per step and evaluates the body again: as fast as a plain scan, at a fraction of the
    memory. With `truncate = n` only the n steps nearest the action carry gradient.
    """
    return trace(step, start, rows, truncate=truncate, control=control, last=True)


def trace(
    step: Callable[[Point, Any], Point],
    start: Point,
    rows: PyTree[Array],
    *,
    truncate: int | None = None,
    control: Control | None = None,
    last: bool = False,
) -> Any:
    """All the points that `run` passes through, `start` first; or the last alone."""

    def body(x: Point, row: Any) -> tuple[Point, Point | None]:
        new = step(x, row).astype(x.dtype)
        new = new if control is None else control(new)
        return new, None if last else new

    # Within a scan nothing is merged across steps anyway; the barriers against it would only cost time.
    body = jax.checkpoint(body, prevent_cse=False)
    steps, head = len(jax.tree.leaves(rows)[0]), start
    points: list[Any] = []
    if truncate is not None and truncate < steps:
        early, rows = _split(rows, steps - truncate)
        head, passed = jax.lax.stop_gradient(jax.lax.scan(body, start, early))
        points = [passed]
    end, passed = jax.lax.scan(body, head, rows)
    return end if last else jnp.concatenate([start[None], *points, passed])  # pyright: ignore[reportArgumentType]  (passed)


class AbstractChain(eqx.Module):
    """A sampler that draws all its noise first and then walks from x_1 to the action in a fixed number of steps."""

    prior: eqx.AbstractVar[Prior]
    truncate: eqx.AbstractVar[int | None]
    control: eqx.AbstractVar[Control | None]

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
        x = run(
            lambda x, row: self.step(field, x, row, obs),
            x,
            rows,
            truncate=self.truncate,
            control=self.control,
        )
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
            head, rows = _split(rows, split)
            first = field if early is None else early
            x = run(lambda x, row: self.step(first, x, row, obs), x, head)
        points = trace(
            lambda x, row: self.step(field, x, row, obs),
            x,
            rows,
            truncate=self.truncate,
            control=self.control,
        )
        return points.at[-1].set(self.finish(points[-1]))
