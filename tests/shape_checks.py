"""Run-time checks of types and shapes, by beartype, at a cost that closures can bear."""

from collections.abc import Callable
from typing import Any

from beartype import beartype

_CHECKED: dict[Any, Callable[..., Any]] = {}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype(function)`, made once for all functions with the same signature and a body that is the same.

    Losses are closures: each time one is built, jaxtyping asks for two functions that check a signature and do nothing
    else. To write their checks takes beartype milliseconds.
    """
    code = function.__code__
    if code.co_names or code.co_freevars:  # what it does depends on more than its arguments
        return beartype(function)
    try:
        key = (
            function.__module__,
            function.__qualname__,
            code.co_code,
            code.co_consts,
            code.co_varnames,
            (code.co_posonlyargcount, code.co_argcount, code.co_kwonlyargcount, code.co_flags),
            len(function.__defaults__ or ()),
            tuple(function.__kwdefaults__ or ()),
            tuple(function.__annotations__.items()),
        )
        if key not in _CHECKED:
            _CHECKED[key] = beartype(function)
    except TypeError:  # an annotation that cannot be hashed
        return beartype(function)
    return _CHECKED[key]
