"""Argument checks: one sentence that names the argument, the value given and what is allowed.

Hyperparameters may be traced arrays (`vmap(lambda lam: train(sdac(temperature=lam)))`); their values cannot be read
in Python, so every check passes tracers through.
"""

import difflib
import inspect
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.core
import numpy as np

_MOST = 2**31 - 1  # JAX counts in 32 bits


def _numbers(value: Any) -> np.ndarray | None:
    """The concrete number(s) behind `value`; None for anything else, such as booleans and text."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    real = any(jax.dtypes.issubdtype(array.dtype, kind) for kind in (np.integer, np.floating))
    return array.astype(np.float64) if real and array.size else None


def _computed(number: Any) -> Any:
    """A number as the computation sees it: in single precision, unless JAX's double precision is on."""
    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        return number
    with np.errstate(over="ignore", under="ignore"):
        single = np.float32(number)
    return np.where(np.abs(single) < np.finfo(np.float32).tiny, np.float32(0), single)


def in_range(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    ndim: tuple[int, ...] = (0,),
) -> None:
    """Raise `ValueError` unless `value` is a finite number in the interval from `low` to `high`.

    With `ndim` it may be, or is, an array or sequence of them. A number that is rounded to infinity, or onto an end
    that does not belong to the interval, is refused as well.
    """
    if isinstance(value, jax.core.Tracer):
        return
    left = "(" if open_low or math.isinf(low) else "["
    right = ")" if open_high or math.isinf(high) else "]"
    noun = "a finite number" if 0 in ndim else "a non-empty sequence of finite numbers"
    allowed = f"{noun} in {left}{low:g}, {high:g}{right}"
    number = _numbers(value)
    if number is None or number.ndim not in ndim:
        raise ValueError(f"{name} must be {allowed}, got {value!r}.")

    def inside(rounded: Any) -> bool:
        x = rounded(number)
        above = x > rounded(low) if open_low else number >= low
        below = x < rounded(high) if open_high else number <= high
        return bool(np.all(np.isfinite(x) & above & below))

    if not inside(_computed):
        precision = ", rounded to single precision" if inside(lambda exact: exact) else ""
        raise ValueError(f"{name} must be {allowed}{precision}, got {value!r}.")
    if isinstance(value, (int, np.integer)) and abs(value) > _MOST:
        raise ValueError(f"{name} must be written as a float beyond {_MOST}, such as 1e12, got {value!r}.")


def positive(name: str, value: Any, *, ndim: tuple[int, ...] = (0,)) -> None:
    """Raise `ValueError` unless `value` is a finite number above zero (see `in_range` for `ndim`)."""
    in_range(name, value, 0.0, open_low=True, ndim=ndim)


def non_negative(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is a finite number, zero or above."""
    in_range(name, value, 0.0)


def fraction(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` lies in [0, 1]."""
    in_range(name, value, 0.0, 1.0)


def integer(name: str, value: Any, low: int = 1, high: int | None = None) -> None:
    """Raise `ValueError` unless `value` is a Python int of at least `low` (and at most `high`)."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if high is None and is_integer and value > _MOST:
        high = _MOST
    allowed = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    if not is_integer or value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be {allowed}, got {value!r}.")


def count(name: str, value: Any, *, each: int = 1) -> None:
    """Raise `ValueError` unless `value` is a Python int of at least 1, of things of which 32 bits count every part.

    Args:
        name: Of the argument.
        value: Its value.
        each: Parts of one of them: 2^31 - 1 are allowed of all together.
    """
    integer(name, value)
    integer(name, value, 1, max((2**31 - 1) // each, 1))


def widths(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `value` is a positive number, or an array of `shape` of them."""
    if np.shape(value) not in ((), shape):
        raise ValueError(f"{name} must be a number or of the shape {shape}, got {np.shape(value)}.")
    positive(name, value, ndim=(0, len(shape)))


def ordered(low_name: str, low: Any, high_name: str, high: Any) -> None:
    """Raise `ValueError` when `low` is not below or at `high`; None is no bound."""
    unknown = any(bound is None or isinstance(bound, jax.core.Tracer) for bound in (low, high))
    if not unknown and not np.all(np.asarray(low) <= np.asarray(high)):
        raise ValueError(f"{low_name} must not exceed {high_name}, got {low!r} and {high!r}.")


def sizes(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is a tuple (or list) of Python ints of at least 1."""
    if not isinstance(value, (tuple, list)):
        raise ValueError(f"{name} must be a tuple of integers of at least 1, got {value!r}.")
    for size in value:
        integer(name, size)


def boolean(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}.")


def function(name: str, value: Any, allowed: str) -> None:
    """Raise `ValueError` unless `value` can be called; `allowed` is its signature, `(obs, action) -> scalar`."""
    if not callable(value):
        raise ValueError(f"{name} must be a function {allowed}, got {value!r}.")


def slot(name: str, value: Any, count: int, allowed: str, *optional: str) -> set[str]:
    """Which of the `optional` arguments a function has.

    Raises:
        ValueError: Unless it takes `count` others.
    """
    function(name, value, allowed)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # a builtin
        return set()
    has = {argument for argument in optional if argument in signature.parameters}
    try:
        signature.bind(*[None] * count, **dict.fromkeys(has))
    except TypeError as error:
        raise ValueError(f"{name} must be a function {allowed}, got one of {signature}.") from error
    return has


def critic(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` can be called, as a critic is."""
    function(name, value, "(obs, action) -> scalar")


def returned(name: str, value: Any, shape: tuple[int, ...] = ()) -> Any:
    """What the function `name` returned.

    Raises:
        ValueError: Unless it is an array (or number) of `shape`: a critic of two numbers, or of one number in an array
            of length one, would be broadcast against the candidates.
    """
    is_array = isinstance(value, (jax.Array, np.ndarray, np.generic, int, float))
    if not is_array or np.shape(value) != shape:
        wanted = f"an array of shape {shape}" if shape else "a scalar"
        found = f"shape {np.shape(value)}" if is_array else type(value).__name__
        raise ValueError(f"{name} must return {wanted}, got {found}.")
    return value


def paired(name: str, value: Any, allowed: str) -> tuple[Any, Any]:
    """What the function `name` returned.

    Raises:
        ValueError: Unless it is a pair, which `allowed` says in words.
    """
    if not isinstance(value, tuple) or len(value) != 2:
        found = f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"
        raise ValueError(f"{name} must return {allowed}, got {found}.")
    return value


def loss_value(name: str, value: Any) -> tuple[Any, dict[str, Any]]:
    """What the loss `name` returned.

    Raises:
        ValueError: Unless it is (scalar, metrics).
    """
    allowed = "(scalar, metrics), with a dict of metrics"
    result, metrics = paired(name, value, allowed)
    if not isinstance(metrics, dict):
        raise ValueError(f"{name} must return {allowed}, got {metrics!r} as the metrics.")
    return returned(name, result), metrics


def instance(name: str, value: Any, kind: type, allowed: str) -> None:
    """Raise `ValueError` unless `value` is a `kind`, which `allowed` says in words."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {allowed}, got {value!r}.")


def shaped(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `value` is an array of `shape`: blocks take one example, a batch goes through vmap."""
    if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
        raise ValueError(f"{name} must be an array of shape {shape}, got {value!r}.")
    if value.shape != shape:
        batch = value.ndim > len(shape) and value.shape[value.ndim - len(shape) :] == shape
        hint = ": a batch goes through jax.vmap" if batch else ""
        raise ValueError(f"{name} must have the shape {shape}, got {value.shape}{hint}.")


def vector(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is an array of one axis, of any length."""
    shaped(name, value, np.shape(value)[-1:] or (1,))


def field_value(name: str, value: Any, x: Any) -> Any:
    """What the field `name` returned at `x`.

    Raises:
        ValueError: Unless it is floats of the same shape.
    """
    returned(name, value, np.shape(x))
    if not jax.dtypes.issubdtype(jax.dtypes.result_type(value), np.floating):
        raise ValueError(f"{name} must return floats, got {jax.dtypes.result_type(value)}.")
    return value


def one_key(value: Any, name: str = "key", *, typed: bool = False) -> Any:
    """`value`, one random key of `jax.random.key` or (unless it must be `typed`) the older `PRNGKey`.

    Raises:
        ValueError: For anything else, such as a seed or an array of keys.
    """
    is_array = isinstance(value, (jax.Array, np.ndarray))
    is_typed = is_array and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    is_raw = is_array and value.dtype == np.uint32 and value.shape[-1:] in ((2,), (4,)) and not typed
    if not (is_typed or is_raw):
        raise ValueError(f"{name} must be a key such as jax.random.key(0), got {value!r}.")
    shape = value.shape if is_typed else value.shape[:-1]
    if shape:
        raise ValueError(f"{name} must be one key, got keys of shape {shape}: a batch goes through jax.vmap.")
    return value


def array(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is an array or a number: JAX takes no lists."""
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, int, float)):
        raise ValueError(f"{name} must be an array, got {value!r}.")


def scalars(**values: Any) -> None:
    """Raise `ValueError` unless every value is a number or an array of no axis."""
    for name, value in values.items():
        array(name, value)
        if np.shape(value):
            raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}.")


def masks(**arrays: Any) -> None:
    """Raise `ValueError` unless every array is boolean."""
    for name, value in arrays.items():
        array(name, value)
        if jax.dtypes.result_type(value) != np.dtype(bool):
            raise ValueError(f"{name} must be True or False, got {jax.dtypes.result_type(value)}.")


def same_shapes(**arrays: Any) -> None:
    """Raise `ValueError` unless all arrays have one shape: broadcasting would pass a mistake on."""
    for name, value in arrays.items():
        array(name, value)
    shapes = [tuple(np.shape(array)) for array in arrays.values()]
    if any(shape != shapes[0] for shape in shapes):
        listing = ", ".join(str(shape) for shape in shapes)
        raise ValueError(f"{', '.join(arrays)} must have the same shape, got {listing}.")


def one_of(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`; near matches are named first."""
    options = list(choices)
    if not isinstance(value, (np.ndarray, jax.Array)) and value in options:
        return
    near = difflib.get_close_matches(str(value), [str(option) for option in options], n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    listing = ", ".join(str(option) for option in options)
    raise ValueError(f"{name} must be one of {listing}; got {value!r}.{hint}")
