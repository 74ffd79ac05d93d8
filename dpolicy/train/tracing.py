"""A training program as it is compiled: traced for all seeds, and what it returns looked at while that is done."""

import functools
import numbers
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from dpolicy.train.configuration import seed_keys
from dpolicy.train.evaluate import on_host
from dpolicy.train.metrics_log import check_name


def struct(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and type alone: without weak types, a fresh state and one read from disk enter the very same program."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def traced_init(program: Any, seeds: int) -> tuple[Any, PyTree]:
    """`vmap(program.init)`, traced for that many keys, and the shapes of the state it returns.

    Raises:
        ValueError: For a state that is none.
    """

    @functools.wraps(program.init)
    def init(key: Any) -> Any:
        state = program.init(key)
        _check_state(state)
        return state

    traced = jax.jit(jax.vmap(init)).trace(jax.eval_shape(lambda: seed_keys(0, seeds)))
    return traced, jax.tree.map(struct, traced.out_info)


def traced_step(program: Any, shapes: PyTree) -> tuple[Any, list[str]]:
    """`vmap(program.step)`, traced for a state of these shapes, which it must keep; and the names of what it measures.

    Raises:
        ValueError: If it does not, or returns something else than a state and its metrics.
    """

    @functools.wraps(program.step)
    def step(state: Any) -> Any:
        returned = program.step(state)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ValueError(
                f"program.step must return a state and its metrics, got {type(returned).__name__}."
            )
        _check_metrics(returned[1])
        return returned

    traced = jax.jit(jax.vmap(step), donate_argnums=0).trace(shapes)
    if jax.tree.flatten(jax.tree.map(struct, traced.out_info[0])) != jax.tree.flatten(shapes):
        raise ValueError(
            "program.step must return a state of the structure, shapes and types of program.init's."
        )
    metrics = {name: np.zeros(1, value.dtype) for name, value in traced.out_info[1].items()}
    return traced, sorted(on_host(metrics))


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray, np.generic, numbers.Number))


def _check_state(state: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not _is_array(leaf):
            where = f" at {jax.tree_util.keystr(path)}" * bool(path)
            raise ValueError(f"program.init must return a state of arrays, got {leaf!r}{where}.")
    for name in ("steps", "alive", "failed_at"):
        value: Any = getattr(state, name, None)
        if not _is_array(value) or np.shape(value) != ():
            raise ValueError(
                f"program.init must return a state with steps, alive and failed_at, one number each; {name} is "
                f"{'missing' if value is None else f'of shape {np.shape(value)}'}."
            )


def _check_metrics(metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise ValueError(f"the metrics of program.step must map names to numbers, got {metrics!r}.")
    for name, value in metrics.items():
        check_name(name)
        if not _is_array(value) or np.shape(value) != () or np.iscomplexobj(value):
            found = f"shape {np.shape(value)}" if _is_array(value) and np.shape(value) else repr(value)
            raise ValueError(f"metric {name!r} must be one number, got {found}.")


def compiled(traced: list[Any]) -> list[Any]:
    """Compile traced functions side by side; the compiler does not hold Python's lock."""
    pool = ThreadPoolExecutor()
    try:
        return list(pool.map(lambda function: function.lower().compile(), traced))
    finally:
        # An interruption does not wait for the compiler.
        pool.shutdown(wait=False, cancel_futures=True)
