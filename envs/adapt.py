"""What adapters of other packages' environments share."""

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dpolicy import _checks
from dpolicy._types import Observation, Scalar


def require(module: str, extra: str | None, what: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ImportError: One sentence that says what needs it and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        target = f'"dpolicy[{extra}]"' if extra else "dpolicy"
        raise ImportError(
            f"{what} needs the package {error.name}, which is not installed: pip install {target}."
        ) from error


def check_like(name: str, value: Any, default: Any) -> None:
    """Refuse a value for an option that is of another kind than its default: a switch, a number or several numbers.

    Raises:
        ValueError: If it is; a default of no such kind says nothing.
    """
    if isinstance(default, bool):
        _checks.boolean(name, value)
    elif isinstance(default, (int, float)):
        _checks.in_range(name, value)
    elif isinstance(default, tuple) and default and all(isinstance(each, (int, float)) for each in default):
        _checks.in_range(name, value, ndim=(1,))
        if len(value) != len(default):
            raise ValueError(f"{name} must be {len(default)} numbers, got {value!r}.")


def foreign() -> AbstractContextManager[Any]:
    """Around calls of another package: its broadcasting is not held to `jax_numpy_rank_promotion="raise"`."""
    return jax.numpy_rank_promotion("allow")


@contextlib.contextmanager
def making(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Around another package's constructor that is given a user's options: what it says of them, in one sentence."""
    try:
        with foreign():
            yield
    except Exception as error:
        if not options:
            raise
        listing = ", ".join(f"{option}={value!r}" for option, value in options.items())
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{name} cannot be made with {listing}: {said}.") from error


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


def has_parts(name: str, env: Any, *parts: str) -> None:
    """Raise `ValueError` unless another package's environment has the parts that its adapter calls."""
    missing = [part for part in parts if not hasattr(env, part)]
    if missing:
        raise ValueError(f"{name} must have {', '.join(parts)}; {env!r} has no {missing[0]}.")


def vector_size(what: str, obs: Any) -> int:
    """Numbers in an observation that must be a vector."""
    shape = getattr(obs, "shape", None)
    if shape is None or len(shape) != 1:
        given = type(obs).__name__ if shape is None else f"the shape {list(shape)}"
        raise ValueError(f"{what} must be a vector, got {given}.")
    return shape[0]


def ended(done: Any, obs: Observation, reward: Scalar) -> Bool[Array, ""]:
    """Whether a simulator says that an episode is over, or has diverged: its comparisons may not see what is nan."""
    return (jnp.asarray(done) > 0) | ~(jnp.all(jnp.isfinite(obs)) & jnp.isfinite(reward))
