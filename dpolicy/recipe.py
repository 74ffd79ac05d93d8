"""Recipes made of blocks: a method states what is its own, and takes the settings of its blocks over from them."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

from dpolicy import _checks
from dpolicy._settings import annotations, check_defaults, checked, declared
from dpolicy.algorithm import Algorithm

F = TypeVar("F", bound=Callable[..., Any])
Made = TypeVar("Made")


def tunable(*names: str) -> Callable[[F], F]:
    """Declare which keyword-only arguments of a block are settings that a recipe passes on to its users.

    The block refuses what the annotations of its arguments do not take, as a recipe does; see `composed`.

    Args:
        names: Arguments that have a default; the others are the method's own business.

    Raises:
        ValueError: For a name that is no keyword-only argument with a default, or a default that is not allowed.
    """

    def declare(block: F) -> F:
        known = _keywords(block)
        for name in names:
            _checks.one_of(f"tunable argument of {block.__name__}", name, known)
        block = checked(block)
        # What is composed has the settings of its blocks, and these of its own.
        block.tunable = (*names, *getattr(block, "tunable", ()))  # pyright: ignore[reportFunctionMemberAccess]
        return block

    return declare


def composed(
    *blocks: Callable[..., Any], without: tuple[str, ...] = (), **defaults: Any
) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """Make a recipe out of a function of blocks.

    The function takes the blocks in order, each with its settings filled in, and its own hyperparameters by keyword:

        @composed(field_policy, actor_critic, sampler="ddim")
        def mine(make_policy, make_algorithm, *, temperature: Positive = 0.1) -> Algorithm:
            policy = make_policy()
            return make_algorithm(name="mine", make_actor=policy.make, ...)

    The recipe it becomes has, besides its own, every `tunable` argument of the blocks, with the block's default and
    description: `mine(temperature=0.2, learning_rate=1e-3)`. An argument that several blocks have sets it in all.
    Its own are checked against their annotations before the function is called, the others by their blocks.

    Args:
        blocks: Functions with `tunable` arguments.
        without: Tunable arguments that this method fixes; it must pass them on itself where the block's default is
            not meant. Those it declares as its own hyperparameters are left out as well.
        **defaults: Defaults of this method, where they differ from the blocks'.

    Raises:
        ValueError: For a name that no block has, a default that is not allowed, or an annotation that cannot be
            checked.
    """
    offered = {name: block for block in reversed(blocks) for name in _tunables(block)}
    for what, names in (("without", without), ("default", defaults)):
        for name in names:
            _checks.one_of(what, name, offered)

    def compose(function: Callable[..., Made]) -> Callable[..., Made]:
        function = checked(function)
        own, returned = _keywords(function), annotations(function).get("return", Algorithm)
        for block in blocks:
            theirs = {name: value for name, value in defaults.items() if name in _tunables(block)}
            if theirs:
                check_defaults(function, declared(block), theirs)
        taken = {*own, *without}
        passed = [[name for name in _tunables(block) if name not in taken] for block in blocks]
        # Of a setting that several blocks have, default and description are those of the first.
        offers = [(_keywords(block), _descriptions(block)) for block in blocks]
        shared, texts = {}, {}
        for (keywords, words), names in reversed(list(zip(offers, passed, strict=True))):
            for name in names:
                parameter = keywords[name]
                shared[name] = parameter.replace(default=defaults.get(name, parameter.default))
                texts[name] = words.get(name, "")
        in_order = list(dict.fromkeys(name for names in passed for name in names))
        parameters = own | {name: shared[name] for name in in_order}

        @functools.wraps(function)
        def recipe(**given: Any) -> Made:
            for name in given:
                _checks.one_of(f"hyperparameter of {function.__name__}", name, parameters)
            values = {name: given.get(name, parameter.default) for name, parameter in parameters.items()}
            for name, value in values.items():
                if value is inspect.Parameter.empty:
                    raise ValueError(f"{function.__name__} must be given {name}.")
            filled = [
                functools.partial(block, **{name: values[name] for name in names})
                for block, names in zip(blocks, passed, strict=True)
            ]
            return function(*filled, **{name: values[name] for name in own})

        recipe.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
            list(parameters.values()), return_annotation=returned
        )
        recipe.__annotations__ = {name: p.annotation for name, p in parameters.items()} | {"return": returned}
        described = _descriptions(function)
        lines = [f"    {name}: {texts[name]}" for name in in_order if name not in described]
        recipe.__doc__ = _with_arguments(inspect.getdoc(function) or "", lines)
        recipe.checked = True  # pyright: ignore[reportAttributeAccessIssue]
        # What is made of blocks is a block itself, whose settings are those of its blocks.
        recipe.tunable = tuple(in_order)  # pyright: ignore[reportAttributeAccessIssue]
        return recipe

    return compose


def prefixed(prefix: str, block: F, *names: str, shared: tuple[str, ...] = ()) -> F:
    """A block whose settings have other names, for a recipe with two of its kind: `flow_hidden` beside `hidden`.

    `composed(field_policy, prefixed("flow_", field_policy, "hidden"))` gives a recipe both, with their descriptions.

    Args:
        prefix: What stands before each name.
        block: A function with `tunable` arguments.
        names: Those that are passed on under their new names; all but `shared` unless given.
        shared: Those that are passed on as they are, and so set in all blocks that have them.

    Raises:
        ValueError: For a name that the block has not.
    """
    offered = _tunables(block)
    for name in (*names, *shared):
        _checks.one_of(f"tunable argument of {block.__name__}", name, offered)
    renamed = {name: f"{prefix}{name}" for name in names or offered if name not in shared}
    renamed |= {name: name for name in shared}
    back = {new: old for old, new in renamed.items()}

    @functools.wraps(block)
    def with_prefix(**given: Any) -> Any:
        try:
            return block(**{back.get(name, name): value for name, value in given.items()})
        except ValueError as error:
            old, _, rest = str(error).partition(" ")
            raise ValueError(f"{renamed.get(old, old)} {rest}") from error

    parameters = [p.replace(name=renamed.get(name, name)) for name, p in _keywords(block).items()]
    with_prefix.__annotations__ = {p.name: p.annotation for p in parameters}
    with_prefix.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    texts = _descriptions(block)
    with_prefix.__doc__ = "\n".join(
        [
            f"`{block.__name__}` by other names.",
            "",
            "Args:",
            *(f"    {renamed[name]}: {texts[name]}" for name in renamed),
        ]
    )
    with_prefix.tunable = tuple(renamed.values())  # pyright: ignore[reportAttributeAccessIssue]
    return with_prefix  # pyright: ignore[reportReturnType]


def _keywords(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _tunables(block: Callable[..., Any]) -> tuple[str, ...]:
    return block.tunable  # pyright: ignore[reportFunctionMemberAccess]


def _with_arguments(text: str, lines: list[str]) -> str:
    """The docstring with further lines at the end of its `Args:`, which other sections may follow."""
    start = text.find("\nArgs:\n")
    section = re.search(r"\n\n(?=\S)", text[start + 1 :]) if start >= 0 else None
    if section is None:
        return "\n".join([text, *lines])
    end = start + 1 + section.start()
    return "\n".join([text[:end], *lines]) + text[end:]


def _descriptions(function: Callable[..., Any]) -> dict[str, str]:
    """Argument -> its text under `Args:`, which is the last or followed by another section."""
    section = re.search(r"^Args:\n((?:[ ].*\n|\n)*)", (inspect.getdoc(function) or "") + "\n", re.MULTILINE)
    found = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", section.group(1) if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
