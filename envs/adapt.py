"""What adapters of other packages' environments share."""

import importlib
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp


def require(module: str, extra: str | None, what: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ImportError: one sentence that says what needs it and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        target = f'"dpolicy[{extra}]"' if extra else "dpolicy"
        raise ImportError(
            f"{what} needs the package {error.name}, which is not installed: pip install {target}."
        ) from error


def foreign() -> AbstractContextManager[Any]:
    """Around calls of another package: its broadcasting is not held to `jax_numpy_rank_promotion="raise"`."""
    return jax.numpy_rank_promotion("allow")


def strong(tree: Any) -> Any:
    """Every leaf as an array with a type of its own: a Python number in a state would change type on the way."""

    def one(leaf: Any) -> jax.Array:
        array = jnp.asarray(leaf)
        return array if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else jnp.asarray(array, array.dtype)

    return jax.tree.map(one, tree)


def like(new: Any, old: Any) -> Any:
    """`new` with the leaf types of `old`, so that a state can be carried through a loop."""
    same = lambda a, b: a if jnp.issubdtype(b.dtype, jax.dtypes.prng_key) else jnp.asarray(a, b.dtype)
    return jax.tree.map(same, new, old)
