"""Flags from signatures: a keyword-only argument becomes a flag, its line under `Args:` the help text.

tyro converts the words and writes the help; what it would say in a box about a wrong word is said here in one sentence.
"""

import contextlib
import dataclasses
import difflib
import inspect
import io
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from dpolicy.cli._usage import UsageError

REQUIRED = inspect.Parameter.empty
_WORDS = {int: "an integer", float: "a number", bool: "True or False", str: "a word", Path: "a path"}
_NoneType = type(None)
# An argument that takes a field, which a configuration names by the directory of the run that fitted it.
_PRETRAINED = "pretrained"


class Flag(NamedTuple):
    """One flag.

    Attributes:
        name: As typed, with underscores.
        type: What it converts to, in types that tyro knows.
        default: Its value when absent; `REQUIRED` if it must be given.
        help: Its explanation.
        metavar: What stands for its value in the help; tyro's choice when empty.
        positional: Whether it is given by place and not by name.
        repeated: Whether it may be given several times, its values in a row; a tuple then.
    """

    name: str
    type: Any
    default: Any = REQUIRED
    help: str = ""
    metavar: str = ""
    positional: bool = False
    repeated: bool = False

    @property
    def switch(self) -> bool:
        """Whether it takes no value: `--name` or `--no-name`."""
        return self.type is bool and self.default is not REQUIRED

    @property
    def dashed(self) -> str:
        """As it is typed."""
        return self.name.upper() if self.positional else "--" + self.name.replace("_", "-")


def command_line_type(annotation: Any, default: Any) -> Any:
    """The part of an annotation that can be typed on a command line; None if there is none.

    Array types are left out (a number given as an array, for a sweep, cannot be typed), and an `int` next to a
    `float` is a number like any other. Names out of a table (`one_of`) are typed as those of a `Literal` are.
    """
    if annotation in _WORDS:
        return annotation
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        names = [name for declared in _declared(annotation) for name in declared.choices or ()]
        return Literal[tuple(names)] if names else command_line_type(args[0], default)
    if origin is Literal:
        return annotation
    if origin in (tuple, Sequence):
        inner = [command_line_type(arg, None) for arg in args if arg is not Ellipsis]
        if not inner or None in inner:
            return None
        return tuple[inner[0], ...] if origin is Sequence or Ellipsis in args else tuple[tuple(inner)]
    if origin in (typing.Union, types.UnionType):
        known = [kind for arg in args if arg is not _NoneType and (kind := command_line_type(arg, None))]
        known = [kind for kind in known if not (kind is int and float in known)]
        if not known:
            return None
        return typing.Union[tuple(known + [None] * (_NoneType in args))]  # noqa: UP007 (built at run time)
    if isinstance(default, tuple) and default and type(default[0]) in _WORDS:
        same = all(type(item) is type(default[0]) for item in default)
        return tuple[type(default[0]), ...] if same else None
    return type(default) if type(default) in _WORDS else None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:
        return {}  # names that only a type checker sees; the defaults then say what may be typed


def _declared(annotation: Any) -> list[Any]:
    """The ranges and choices that an annotation declares."""
    from dpolicy._settings import allowed, alternatives

    return [declared for kind in alternatives(annotation) for declared in allowed(kind)]


def _with_range(text: str, annotation: Any) -> str:
    """The help of a flag, and the range of its values where the annotation declares one and tyro does not show it."""
    ranges = [f"{declared.words.capitalize()}." for declared in _declared(annotation) if declared.words]
    return " ".join(filter(None, [text, *ranges]))


def flags_of(function: Callable[..., Any]) -> list[Flag]:
    """A flag per argument of `function` that can be typed and is keyword-only or has a default."""
    import docstring_parser

    documented = docstring_parser.parse(inspect.getdoc(function) or "").params
    texts = {entry.arg_name: " ".join((entry.description or "").split()) for entry in documented}
    hints = _hints(function)
    flags = []
    for name, parameter in inspect.signature(function).parameters.items():
        optional = (
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is not parameter.empty
        )
        if parameter.kind is not parameter.KEYWORD_ONLY and not optional:
            continue
        kind = command_line_type(hints.get(name), parameter.default)
        if kind is None and name == _PRETRAINED:
            kind = str | None if parameter.default is None else str
        if kind is not None:
            default: Any = parameter.default
            default = float(default) if kind is float and _is_int(default) else default
            flags.append(Flag(name, kind, default, _with_range(texts.get(name, ""), hints.get(name))))
    return flags


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def describe(kind: Any) -> str:
    """What may be typed for a value of this type, in words."""
    if kind in _WORDS:
        return _WORDS[kind]
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple and Ellipsis in args:
        return {int: "integers", float: "numbers"}.get(args[0], "words") + " with blanks between them"
    if origin is tuple:
        return f"{len(args)} values"
    return " or ".join("None" if arg is _NoneType else describe(arg) for arg in args)


def _takes_many(kind: Any) -> bool:
    args = typing.get_args(kind)
    return typing.get_origin(kind) is tuple or any(typing.get_origin(arg) is tuple for arg in args)


def _quietly(kind: Any, words: Sequence[str], prog: str, description: str = "") -> Any:
    """tyro's conversion; `SystemExit` instead of its message."""
    import tyro

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return tyro.cli(
            kind, args=words, prog=prog, description=description, config=(tyro.conf.OmitArgPrefixes,)
        )


def _has_nonfinite(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_has_nonfinite(item) for item in value)
    return isinstance(value, float) and not math.isfinite(value)


def _integer_word(word: str) -> str:
    # "1e6" is how people write a million.
    with contextlib.suppress(ValueError, OverflowError):
        if not word.lstrip("+-").isdigit() and float(word) == int(float(word)):
            return str(int(float(word)))
    return word


def _checked(flag: Flag, words: list[str], prog: str) -> list[str]:
    """The words of one flag, or a sentence about them."""

    def wrong(text: str) -> UsageError:
        return UsageError(text, prog=prog)

    name, given = flag.dashed, " ".join(words)
    if flag.switch:
        if words:
            off = name.replace("--", "--no-", 1)
            raise wrong(f"{name} takes no value (write {name} or {off}), got {given!r}.")
        return words
    if not words and not _takes_many(flag.type):
        raise wrong(f"{name} must be {describe(flag.type)}, got nothing.")
    if len(words) > 1 and not _takes_many(flag.type):
        raise wrong(f"{name} takes one value, got {given!r}.")
    if Path in (flag.type, *typing.get_args(flag.type)) and given in ("", "None"):
        raise wrong(f"{name} must be a path, got {given!r}.")
    if int in (flag.type, *typing.get_args(flag.type)):
        words = [_integer_word(word) for word in words]
    kinds = [flag.type, *typing.get_args(flag.type)]
    choices = [
        str(name) for kind in kinds if typing.get_origin(kind) is Literal for name in typing.get_args(kind)
    ]
    try:
        value = _quietly(flag.type, words, prog)
    except SystemExit:
        near = difflib.get_close_matches(given, choices, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise wrong(f"{name} must be {describe(flag.type)}, got {given!r}.{hint}") from None
    if _has_nonfinite(value) and value != flag.default:
        raise wrong(f"{name} must be finite, got {given!r}.")
    return words


def _is_flag(word: str) -> bool:
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _normalised(flags: Sequence[Flag], args: Sequence[str], prog: str) -> tuple[list[str], set[str]]:
    """The words as tyro is to see them, each checked, and the names of the flags that were given."""
    by_word = {flag.dashed: flag for flag in flags if not flag.positional}
    by_word |= {
        flag.dashed.replace("--", "--no-", 1): flag for flag in flags if flag.switch and not flag.positional
    }
    places = [flag for flag in flags if flag.positional]
    words, given = [], set()
    repeated: dict[str, list[str]] = {}
    start = next((i for i, word in enumerate(args) if _is_flag(word)), len(args))
    placed = list(args[:start])
    i = start
    while i < len(args):
        name, equals, value = args[i].partition("=")
        name = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
        end = next((j for j in range(i + 1, len(args)) if _is_flag(args[j])), len(args))
        values = [value] * bool(equals) + list(args[i + 1 : end])
        i = end
        if name not in by_word:
            near = difflib.get_close_matches(name, by_word, n=2, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else "--help lists them all."
            raise UsageError(f"unknown flag {name}; {hint}", prog=prog)
        flag = by_word[name]
        if flag.repeated:
            flag = flag._replace(type=typing.get_args(flag.type)[0])
        if places and not equals and not flag.switch and not _takes_many(flag.type):
            # What follows its one value is given by place.
            values, rest = values[:1], values[1:]
            placed += rest
        if flag.name in given and not flag.repeated:
            raise UsageError(f"{flag.dashed} was given twice.", prog=prog)
        given.add(flag.name)
        if flag.repeated:
            repeated.setdefault(name, []).extend(_checked(flag, values, prog))
        else:
            words += [name, *_checked(flag, values, prog)]
    if len(placed) > len(places) and not any(_takes_many(flag.type) for flag in places):
        raise UsageError(f"unexpected {placed[len(places)]!r}.", prog=prog)
    if len(placed) < len(places) and places[len(placed)].default is REQUIRED:
        missing = places[len(placed)]
        raise UsageError(f"{missing.dashed} is missing: {missing.help}", prog=prog)
    words = placed + words + [word for name, values in repeated.items() for word in (name, *values)]
    for flag in flags:
        if flag.default is REQUIRED and not flag.positional and flag.name not in given:
            raise UsageError(f"{flag.dashed} is missing: {flag.help}", prog=prog)
    return words, given


def _as_class(name: str, flags: Sequence[Flag]) -> type:
    import tyro

    fields = []
    for flag in sorted(flags, key=lambda flag: flag.default is not REQUIRED):
        argument = tyro.conf.arg(help=flag.help or None, metavar=flag.metavar or None)
        kind = Annotated[tyro.conf.Positional[flag.type] if flag.positional else flag.type, argument]
        field = dataclasses.field() if flag.default is REQUIRED else dataclasses.field(default=flag.default)
        fields.append((flag.name, kind, field))
    return dataclasses.make_dataclass(name, fields)


def parse(
    groups: Mapping[str, Sequence[Flag]], args: Sequence[str], *, prog: str, description: str
) -> tuple[dict[str, Any], set[str]]:
    """Read the words of a command.

    Args:
        groups: Flags by the heading they have in the help; names differ over all groups.
        args: The words.
        prog: The command, for messages.
        description: The help's first paragraph.

    Returns:
        The value of every flag, and the names of those that were given.

    Raises:
        UsageError: With one sentence.
        SystemExit: With code 0 after printing the help, if that was asked for.
    """
    import tyro

    fields = []
    for title, flags in groups.items():
        group = _as_class("Group", flags)
        group.__doc__ = " "
        title = title.replace(" ", "_")
        required = any(flag.default is REQUIRED for flag in flags)
        fields.append(
            (title, group) if required else (title, group, dataclasses.field(default_factory=group))
        )
    fields.sort(key=len)
    whole = dataclasses.make_dataclass("Flags", fields)
    if "--help" in args or "-h" in args:
        tyro.cli(
            whole, args=["--help"], prog=prog, description=description, config=(tyro.conf.OmitArgPrefixes,)
        )
    flags = [flag for group in groups.values() for flag in group]
    words, given = _normalised(flags, args, prog)
    parsed = _quietly(whole, words, prog)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(whole):
        values |= vars(getattr(parsed, field.name))
    return values, given
