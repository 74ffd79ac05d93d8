"""What a setting takes, declared by its annotation: `temperature: Positive`, `sampler: Annotated[str, one_of(TABLE)]`.

`composed`, `tunable` and `checked` refuse every other value, in one sentence, before the function is called, and the
command line shows in its help what is allowed. A `bool` and a `Literal` say what they take as they are.
"""

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

from dpolicy import _checks
from dpolicy._types import Number

F = TypeVar("F", bound=Callable[..., Any])


class Allowed:
    """The values that a setting takes of its type, beside which it stands in `Annotated`.

    Attributes:
        written: The same as it is written in an annotation.
        check: `(name, value) -> None`, which raises `ValueError` for every other value.
        words: What is allowed, for the help; empty where the type says it all.
        choices: The values, where they are listed.
    """

    def __init__(
        self,
        written: str,
        check: Callable[[str, Any], None],
        words: str = "",
        choices: Collection[Any] | None = None,
    ):
        self.written, self.check, self.words, self.choices = written, check, words, choices

    def __repr__(self) -> str:
        return self.written


def within(
    low: float | int = -math.inf,
    high: float | int = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> Allowed:
    """A finite number from `low` to `high`: `Annotated[Number, within(0, 1, open_high=True)]`.

    Args:
        low: The least.
        high: The largest.
        open_low: Whether it must be above `low`.
        open_high: Whether it must be below `high`.

    Raises:
        ValueError: For a bound above the other.
    """
    _checks.ordered("low", low, "high", high)
    ends: dict[str, Any] = {"low": float(low), "high": float(high)}
    opened: dict[str, Any] = {"open_low": open_low, "open_high": open_high}
    written = [f"{end}={value:g}" for end, value in ends.items() if math.isfinite(value)]
    written += [f"{end}=True" for end, value in opened.items() if value]
    words = [f"{'above' if open_low else 'at least'} {low:g}"] * math.isfinite(low)
    words += [f"{'below' if open_high else 'at most'} {high:g}"] * math.isfinite(high)
    return Allowed(
        f"within({', '.join(written)})",
        lambda name, value: _checks.in_range(name, value, **ends, **opened),
        " and ".join(words),
    )


def at_least(low: int) -> Allowed:
    """An integer from `low` on: `Annotated[int, at_least(2)]`.

    Raises:
        ValueError: For a bound that is no integer.
    """
    _checks.instance("low", low, int, "an integer")
    return Allowed(
        f"at_least({low})", lambda name, value: _checks.integer(name, value, low), f"at least {low}"
    )


def one_of(choices: Collection[Any]) -> Allowed:
    """One of the keys of a table: `Annotated[str, one_of(ACTIVATIONS)]`, where a `Literal` would list them again.

    The table is read whenever a value is checked, so that it may grow.

    Raises:
        ValueError: For what holds no values.
    """
    if not isinstance(choices, Collection) or isinstance(choices, str) or not choices:
        raise ValueError(f"choices must be a table or another collection that is not empty, got {choices!r}.")
    return Allowed(
        f"one_of({list(choices)})",
        lambda name, value: _checks.one_of(name, value, choices),
        choices=choices,
    )


Finite: TypeAlias = Annotated[Number, Allowed("Finite", _checks.in_range)]
"""Any finite number."""
Positive: TypeAlias = Annotated[Number, Allowed("Positive", _checks.positive, "above 0")]
"""A finite number above 0."""
NonNegative: TypeAlias = Annotated[Number, Allowed("NonNegative", _checks.non_negative, "at least 0")]
"""A finite number, 0 or above."""
Fraction: TypeAlias = Annotated[Number, Allowed("Fraction", _checks.fraction, "from 0 to 1")]
"""A number from 0 to 1."""
Count: TypeAlias = Annotated[int, Allowed("Count", _checks.integer, "at least 1")]
"""An integer of at least 1."""
Sizes: TypeAlias = Annotated[tuple[int, ...], Allowed("Sizes", _checks.sizes, "each at least 1")]
"""A tuple of integers of at least 1, such as the widths of a network."""

_BOOLEAN = Allowed("bool", _checks.boolean)


class Setting(NamedTuple):
    """What the annotation of one argument declares.

    Attributes:
        allowed: The values that it takes of one type.
        others: Other types, such as None, of which it takes every value.
    """

    allowed: Allowed
    others: tuple[type, ...] = ()

    def check(self, name: str, value: Any) -> None:
        """Raise `ValueError` unless it takes this value, which was given under this name."""
        if not isinstance(value, self.others):
            self.allowed.check(name, value)


def annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Argument -> its type; what only a type checker can read is left out."""
    found = getattr(function, "__annotations__", {})
    if any(isinstance(kind, str) for kind in found.values()):
        try:
            return typing.get_type_hints(function, include_extras=True)
        except Exception:
            return {name: kind for name, kind in found.items() if not isinstance(kind, str)}
    return found


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types of a union; of anything else itself."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def allowed(annotation: Any) -> list[Allowed]:
    """What a type that is no union declares: mostly nothing."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is bool:
        return [_BOOLEAN]
    if origin is Literal:
        return [one_of(args)]
    return [entry for entry in args[1:] if isinstance(entry, Allowed)] if origin is Annotated else []


def setting(annotation: Any) -> Setting | None:
    """What an annotation declares; None if it declares nothing.

    Raises:
        ValueError: For one that cannot be checked; the sentence lacks the name of the argument.
    """
    if isinstance(annotation, type) and annotation is not bool:
        return None
    if isinstance(annotation, Allowed):
        raise ValueError(f"must be of a type, such as Annotated[int, {annotation!r}], got {annotation!r}.")
    found, others = [], []
    for kind in alternatives(annotation):
        declares = allowed(kind)
        found += declares
        others += [] if declares else [typing.get_origin(kind) or kind]
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(f"must declare one thing, got {' and '.join(map(repr, found))}.")
    for kind in others:
        if not isinstance(kind, type):
            raise ValueError(f"must be {found[0]!r} or of a class, got {kind!r}.")
    return Setting(found[0], tuple(others))


def declared(function: Callable[..., Any]) -> dict[str, Setting]:
    """Argument -> what its annotation declares, where it declares something.

    Raises:
        ValueError: For an annotation that cannot be checked.
    """
    settings = {}
    for name, annotation in annotations(function).items():
        try:
            found = None if name == "return" else setting(annotation)
        except ValueError as error:
            raise ValueError(f"{name} of {function.__name__} {error}") from error
        if found is not None:
            settings[name] = found
    return settings


def check_defaults(
    function: Callable[..., Any], settings: Mapping[str, Setting], defaults: Mapping[str, Any]
) -> None:
    """Raise `ValueError` for a default of the function that its setting does not take."""
    try:
        check(settings, defaults)
    except ValueError as error:
        raise ValueError(f"default of {function.__name__}: {error}") from error


def check(settings: Mapping[str, Setting], given: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a value that its setting does not take."""
    for name, value in given.items():
        if name in settings:
            settings[name].check(name, value)


def checked(function: F) -> F:
    """The function, which refuses what the annotations of its arguments do not take.

    Raises:
        ValueError: For an annotation that cannot be checked, or a default that it refuses.
    """
    if getattr(function, "checked", False) or not (settings := declared(function)):
        return function
    parameters = inspect.signature(function).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    check_defaults(function, settings, defaults)
    names = list(parameters)

    @functools.wraps(function)
    def with_checks(*args: Any, **given: Any) -> Any:
        check(settings, {**dict(zip(names, args, strict=False)), **given})
        return function(*args, **given)

    with_checks.checked = True  # pyright: ignore[reportAttributeAccessIssue]
    return with_checks  # pyright: ignore[reportReturnType]
