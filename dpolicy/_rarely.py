"""A branch that is taken now and then, by one seed or by a whole sweep of them."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Bool, PyTree

_Leaves: TypeAlias = list[Any]


def rarely(
    due: Bool[Array, ""],
    run: Callable[[Any], Any],
    wait: Callable[[Any, Any], Any],
    arrays: PyTree[Array],
) -> Any:
    """`run(arrays)` where it is due, else `wait(arrays, shapes)`, of which `run` is computed only while it is due.

    Under `vmap` too, where a plain `lax.cond` computes both branches for all: here `run` waits until it is due
    anywhere. Seeds of one program count their updates in step, so what is due for one is due for all.

    Args:
        due: Whether to run.
        run: `arrays -> out`; it is traced once, and may close over anything.
        wait: `(arrays, shapes of out) -> out`, of little cost; it closes over no array.
        arrays: What both take.
    """
    trace, shapes = jax.make_jaxpr(run, return_shape=True)(arrays)
    leaves, before = jax.tree.flatten(arrays)

    # What a function closes over has no place in a rule of batching: it becomes an argument.
    def body(closed: Any, leaves: _Leaves) -> _Leaves:
        return jaxpr_as_fun(ClosedJaxpr(trace.jaxpr, closed))(*leaves)

    def idle(leaves: _Leaves) -> _Leaves:
        return jax.tree.leaves(wait(jax.tree.unflatten(before, leaves), shapes))

    return jax.tree.unflatten(
        jax.tree.structure(shapes), _choose(due, body, idle, list(trace.consts), leaves)
    )


def _choose(
    due: Bool[Array, ""],
    body: Callable[[Any, _Leaves], _Leaves],
    idle: Callable[[_Leaves], _Leaves],
    closed: Any,
    leaves: _Leaves,
) -> _Leaves:
    @custom_vmap
    def choose(due: Any, closed: Any, leaves: _Leaves) -> _Leaves:
        return jax.lax.cond(due, body, lambda _, leaves: idle(leaves), closed, leaves)

    @choose.def_vmap
    def _(size: int, batched: Any, due: Any, closed: Any, leaves: _Leaves) -> tuple[_Leaves, list[bool]]:
        each, axes = batched[0], jax.tree.map(lambda mapped: 0 if mapped else None, batched[1:])
        every = jax.vmap(body, axes, axis_size=size)
        none = jax.vmap(idle, axes[1:], axis_size=size)
        if not each:
            out = _choose(due, every, none, closed, leaves)
        else:

            def some(closed: Any, leaves: _Leaves) -> _Leaves:
                due, rest = closed
                pick = lambda new, old: jnp.where(due.reshape(size, *[1] * (new.ndim - 1)), new, old)
                return list(map(pick, every(rest, leaves), none(leaves)))

            # Again, for the `vmap` around this one.
            out = _choose(jnp.any(due), some, none, (due, closed), leaves)
        return out, [True] * len(out)

    return choose(due, closed, leaves)
