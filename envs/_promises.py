"""What `reset` and `step` must return, in sizes and types: checked while they are traced, not when they run."""

from typing import Any

import jax
import numpy as np

from dpolicy.envs.protocol import Spec


class Violation(Exception):
    """A promise that is broken, in one sentence."""


def raised(error: BaseException) -> str:
    """What an exception says, in the first of its paragraphs."""
    reason = " ".join(str(error).split("\n\n")[0].split())[:300].rstrip(".")
    return f"raises {type(error).__name__}{': ' * bool(reason)}{reason}."


def _kind(leaf: Any) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and type of what JAX makes an array of; None for anything else."""
    if isinstance(leaf, bool | int | float | complex):
        return (), np.dtype(jax.dtypes.result_type(leaf))
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return None
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
        return tuple(leaf.shape), leaf.dtype
    return tuple(leaf.shape), np.dtype(jax.dtypes.canonicalize_dtype(leaf.dtype))


def _text(leaf: Any) -> str:
    kind = _kind(leaf)
    return f"a {type(leaf).__name__}" if kind is None else f"{kind[1]}{list(kind[0])}"


def _check_is(what: str, found: Any, shape: tuple[int, ...], dtype: Any) -> None:
    if _kind(found) != (shape, np.dtype(dtype)):
        raise Violation(f"{what} must be {np.dtype(dtype).name}{list(shape)}, got {_text(found)}.")


def check_reset(spec: Spec, result: Any) -> None:
    """Raise `Violation` unless `reset` returned a state of arrays and an observation of the specified size."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise Violation(f"reset must return (state, obs), got {_returned(result)}.")
    state, obs = result
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if _kind(leaf) is None:
            where = jax.tree_util.keystr(path)
            raise Violation(f"a state must be a pytree of arrays, but state{where} is {_text(leaf)}.")
    _check_is("the observation of reset", obs, (spec.obs_size,), jax.dtypes.result_type(float))


def _returned(result: Any) -> str:
    size = f" of {len(result)}" if isinstance(result, tuple) else ""
    return f"a {type(result).__name__}{size}"


def check_step(spec: Spec, result: Any) -> None:
    """Raise `Violation` unless `step` returned (state, obs, reward, terminated) of the right sizes and types.

    The state is checked by `check_state`.
    """
    if not isinstance(result, tuple) or len(result) != 4:
        raise Violation(
            f"step must return (state, obs, reward, terminated), got {_returned(result)}; a time limit belongs into "
            "spec.time_limit."
        )
    _, obs, reward, terminated = result
    _check_is("the observation of step", obs, (spec.obs_size,), jax.dtypes.result_type(float))
    _check_is("the reward", reward, (), jax.dtypes.result_type(float))
    _check_is("terminated", terminated, (), bool)


def _leaves(tree: Any) -> dict[str, str]:
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _text(leaf) for path, leaf in paths}


def check_state(before: Any, after: Any) -> None:
    """Raise `Violation` unless the state after a step has the structure, shapes and types of the one before."""
    old, new = _leaves(before), _leaves(after)
    for path in [*old, *new]:
        if old.get(path) != new.get(path):
            raise Violation(
                f"step must keep structure, shapes and types of the state: state{path} is {old.get(path, 'missing')} "
                f"after reset and {new.get(path, 'missing')} after step."
            )
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise Violation(
            "step must keep the structure of the state; its containers are of other types after step."
        )
