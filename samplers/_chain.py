"""The loop under every fixed-step sampler: a scan whose body runs again in the backward pass."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dpolicy import _checks
from dpolicy._types import Action


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
