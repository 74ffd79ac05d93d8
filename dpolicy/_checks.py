"""Argument checks: one sentence that names the argument, the value given and what is allowed.

Hyperparameters may be traced arrays (`vmap(lambda lam: train(sdac(temperature=lam)))`); their values cannot be read
in Python, so every check passes tracers through.
"""

import difflib
import math
from collections.abc import Iterable
from typing import Any

import jax.core
import numpy as np


def _values(name: str, value: Any, allowed: str) -> np.ndarray | None:
    """The concrete number(s) behind `value`; None for a tracer; an error for anything that is no number."""
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, (bool, str)) or value is None:
        raise ValueError(f"{name} must be {allowed}, got {value!r}.")
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {allowed}, got {value!r}.") from None


def in_range(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise `ValueError` unless `value` is a finite number in the interval from `low` to `high`."""
    left = "(" if open_low or math.isinf(low) else "["
    right = ")" if open_high or math.isinf(high) else "]"
    allowed = f"a finite number in {left}{low:g}, {high:g}{right}"
    number = _values(name, value, allowed)
    if number is None:
        return
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if not bool(np.all(np.isfinite(number) & above & below)):
        raise ValueError(f"{name} must be {allowed}, got {value!r}.")


def positive(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is a finite number above zero."""
    in_range(name, value, 0.0, open_low=True)


def non_negative(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is a finite number, zero or above."""
    in_range(name, value, 0.0)


def fraction(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` lies in [0, 1]."""
    in_range(name, value, 0.0, 1.0)


def integer(name: str, value: Any, low: int = 1, high: int | None = None) -> None:
    """Raise `ValueError` unless `value` is a Python int of at least `low` (and at most `high`)."""
    allowed = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be {allowed}, got {value!r}.")


def one_of(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`; near matches are named first."""
    options = list(choices)
    if value in options:
        return
    near = difflib.get_close_matches(str(value), [str(option) for option in options], n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    listing = ", ".join(str(option) for option in options)
    raise ValueError(f"{name} must be one of {listing}; got {value!r}.{hint}")
