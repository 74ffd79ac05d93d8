"""What an annotation declares, who refuses the rest and with which sentence."""

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import pytest

from dpolicy import (
    Count,
    Finite,
    Fraction,
    NonNegative,
    Number,
    Positive,
    Sizes,
    _checks,
    at_least,
    checked,
    composed,
    one_of,
    prefixed,
    tunable,
    within,
)
from dpolicy._settings import Allowed, declared, setting
from dpolicy.algorithm import Algorithm
from dpolicy.algorithms import ALGORITHMS

TABLE = {"mish": 1, "relu": 2}


def sentence(call, *args, **given):
    with pytest.raises(ValueError) as error:
        call(*args, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


# An annotation, what it takes, what it refuses, and the check whose sentence it has.
DECLARATIONS = {
    "Finite": (Finite, [-3, 0.5], [float("nan"), "1", True, None], _checks.in_range),
    "Positive": (Positive, [1, 0.5], [0, -1, None], _checks.positive),
    "NonNegative": (NonNegative, [0, 0.5], [-1, None], _checks.non_negative),
    "Fraction": (Fraction, [0, 1, 0.5], [-0.1, 1.1, None], _checks.fraction),
    "Count": (Count, [1, 7], [0, 1.0, True, None], _checks.integer),
    "Sizes": (Sizes, [(), (3, 4), [5]], [(0,), 3, None], _checks.sizes),
    "at_least": (Annotated[int, at_least(2)], [2, 3], [1, 2.0], lambda n, v: _checks.integer(n, v, 2)),
    "within": (
        Annotated[Number, within(0, 2, open_low=True)],
        [0.1, 2],
        [0, 2.1],
        lambda n, v: _checks.in_range(n, v, 0.0, 2.0, open_low=True),
    ),
    "below": (
        Annotated[Number, within(high=1, open_high=True)],
        [-7, 0.9],
        [1],
        lambda n, v: _checks.in_range(n, v, high=1.0, open_high=True),
    ),
    "one_of": (
        Annotated[str, one_of(TABLE)],
        ["mish"],
        ["mesh", 1],
        lambda n, v: _checks.one_of(n, v, TABLE),
    ),
    "Literal": (Literal["a", "b"], ["a"], ["c"], lambda n, v: _checks.one_of(n, v, ("a", "b"))),
    "bool": (bool, [True, False], [1, "True", None], _checks.boolean),
    "or None": (Positive | None, [None, 2.0], [0, "x"], _checks.positive),
    "bool or None": (bool | None, [None, True], [0], _checks.boolean),
    "or a function": (
        Annotated[str, one_of(TABLE)] | Callable[[int], int],
        ["relu", abs],
        ["x", 3],
        lambda n, v: _checks.one_of(n, v, TABLE),
    ),
}


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_setting_takes_what_its_annotation_declares(name):
    annotation, good, bad, check = DECLARATIONS[name]

    def function(*, setting=None):
        return setting

    function.__annotations__ = {"setting": annotation}
    function.__kwdefaults__ = {"setting": good[0]}
    refusing = checked(function)
    assert refusing() == good[0]
    for value in good:
        assert refusing(setting=value) == value
    for value in bad:
        assert sentence(refusing, setting=value) == sentence(check, "setting", value)


@pytest.mark.parametrize(
    "annotation", [int, float, str, Number, Number | None, Any, Callable, "x", list[int]]
)
def test_a_plain_type_declares_nothing(annotation):
    assert setting(annotation) is None


def test_values_may_be_traced_and_tables_may_grow():
    table = {"a": 1}

    @checked
    def function(*, rate: Positive = 1.0, name: Annotated[str, one_of(table)] = "a") -> Any:
        return rate, name

    assert jax.jit(lambda rate: function(rate=rate)[0] * 2)(jnp.asarray(-1.0)) == -2.0
    assert "must be one of a; got 'b'" in sentence(function, name="b")
    table["b"] = 2
    assert function(name="b") == (1.0, "b")


def test_what_a_range_is_called():
    named = [typing.get_args(kind)[1] for kind in (Finite, Positive, NonNegative, Fraction, Count, Sizes)]
    assert {repr(declared): declared.words for declared in named} == {
        "Finite": "",
        "Positive": "above 0",
        "NonNegative": "at least 0",
        "Fraction": "from 0 to 1",
        "Count": "at least 1",
        "Sizes": "each at least 1",
    }
    assert (repr(at_least(2)), at_least(2).words) == ("at_least(2)", "at least 2")
    half = within(-0.5, 2, open_high=True)
    assert (repr(half), half.words) == (
        "within(low=-0.5, high=2, open_high=True)",
        "at least -0.5 and below 2",
    )
    above = within(0, open_low=True)
    assert (repr(above), above.words) == ("within(low=0, open_low=True)", "above 0")
    assert repr(one_of(TABLE)) == "one_of(['mish', 'relu'])"


@tunable("size")
def block(*, size: Count = 2, kind: Literal["a", "b"] = "a") -> tuple[int, str]:
    """A block.

    Args:
        size: How large.
        kind: Nobody's business.
    """
    return size, kind


def made(*given) -> Algorithm:
    return Algorithm(str(given), "offline", *[lambda *_: None] * 3)


def test_a_recipe_checks_its_own_settings_and_each_block_its_own():
    seen = []

    def watched(name, value):
        seen.append(name)
        _checks.integer(name, value)

    watched_count = Annotated[int, Allowed("watched", watched)]

    @tunable("size")
    def inner(*, size: watched_count = 2) -> int:
        """Inner.

        Args:
            size: How large.
        """
        return size

    @composed(inner)
    def recipe(make, *, draws: watched_count = 4, sharp: bool = True) -> Algorithm:
        return made(make(), draws)

    seen.clear()
    assert recipe(size=3, draws=5).name == "(3, 5)"
    assert seen == ["draws", "size"]
    assert sentence(recipe, size=0) == "size must be an integer of at least 1, got 0."
    assert sentence(recipe, draws=0) == "draws must be an integer of at least 1, got 0."
    assert sentence(recipe, sharp=1) == "sharp must be True or False, got 1."


def test_what_is_no_setting_of_a_block_is_checked_too():
    assert "kind must be one of a, b; got 'c'" in sentence(block, kind="c")


def test_a_setting_of_two_blocks_may_keep_its_name():
    @tunable("size", "rate")
    def one(*, size: Count = 1, rate: Positive = 0.1):
        """One.

        Args:
            size: How large.
            rate: How fast.
        """
        return size, rate

    @composed(one, prefixed("slow_", one, shared=("size",)))
    def recipe(make, make_slow) -> Algorithm:
        return made(make(), make_slow())

    assert list(inspect.signature(recipe).parameters) == ["size", "rate", "slow_rate"]
    assert recipe(size=3, slow_rate=0.5).name == "((3, 0.1), (3, 0.5))"
    assert sentence(recipe, slow_rate=0) == "slow_rate must be a finite number in (0, inf), got 0."
    assert sentence(prefixed, "slow_", one, shared=("depth",)).startswith(
        "tunable argument of one must be one of"
    )


def test_what_is_composed_may_be_anything_and_have_settings_of_its_own():
    @tunable("own")
    @composed(block)
    def pair(make, *, name: str, own: Count = 5) -> tuple[str, int, Any]:
        """A pair.

        Args:
            name: Given by the outer one.
            own: Its own.
        """
        return name, own, make()

    assert pair(name="x", size=7) == ("x", 5, (7, "a"))
    assert inspect.signature(pair).return_annotation == tuple[str, int, Any]

    @composed(pair)
    def recipe(make) -> Algorithm:
        return made(make(name="y"))

    assert list(inspect.signature(recipe).parameters) == ["own", "size"]
    assert recipe(own=6).name == "(('y', 6, (2, 'a')),)"
    assert sentence(recipe, own=0) == "own must be an integer of at least 1, got 0."
    assert "own: Its own." in recipe.__doc__ and "size: How large." in recipe.__doc__


def test_a_prefixed_block_says_its_new_name():
    @composed(prefixed("slow_", block))
    def recipe(make) -> Algorithm:
        return made(make())

    assert recipe(slow_size=3).name == "((3, 'a'),)"
    assert sentence(recipe, slow_size=0) == "slow_size must be an integer of at least 1, got 0."
    assert inspect.signature(recipe).parameters["slow_size"].annotation == Count


@pytest.mark.usefixtures("unchecked_types")
def test_bad_declarations_are_refused_where_they_are_made():
    def low(*, size: Count = 0): ...
    def bare(*, size: at_least(2) = 2): ...  # pyright: ignore[reportInvalidTypeForm]
    def double(*, rate: Annotated[float, within(0), within(high=1)] = 0.5): ...
    def unclear(*, rate: Positive | Literal["auto"] = 0.5): ...
    def anything(*, rate: Positive | typing.TypeVar("T") = 0.5): ...

    assert sentence(checked, low) == "default of low: size must be an integer of at least 1, got 0."
    assert sentence(composed(), low) == "default of low: size must be an integer of at least 1, got 0."
    assert sentence(tunable("size"), low) == "default of low: size must be an integer of at least 1, got 0."
    assert sentence(checked, bare) == (
        "size of bare must be of a type, such as Annotated[int, at_least(2)], got at_least(2)."
    )
    assert sentence(checked, double) == (
        "rate of double must declare one thing, got within(low=0) and within(high=1)."
    )
    assert sentence(checked, unclear) == (
        "rate of unclear must declare one thing, got Positive and one_of(['auto'])."
    )
    assert sentence(checked, anything) == "rate of anything must be Positive or of a class, got ~T."

    def function(make): ...

    assert sentence(composed(block, size=0), function) == (
        "default of function: size must be an integer of at least 1, got 0."
    )
    assert "choices must be a table" in sentence(one_of, "abc")
    assert "choices must be a table" in sentence(one_of, {})
    assert "low must be an integer, got 0.5" in sentence(at_least, 0.5)
    assert "low must not exceed high, got 2 and 1" in sentence(within, 2, 1)


def test_annotations_may_be_text():
    def function(*, size: "Count" = 2, other: "NotThere" = 1): ...  # pyright: ignore
    def readable(*, size: "Count" = 2): ...

    checked(function)(size=0)  # a type checker's business: what it takes cannot be read
    assert sentence(checked(readable), size=0) == "size must be an integer of at least 1, got 0."


def test_a_function_that_declares_nothing_is_itself():
    def function(*, size: int = 2): ...

    assert checked(function) is function


# Settings of recipes whose range no annotation can say, and what checks them.
BY_CODE = {
    "output_scale": "a Python number, for it is structure",
    "target_kl": "gempo's: below the logarithm of its candidates",
    "position": "different entries of an observation",
    "clustered_episodes": "at most as many as are remembered",
    "atoms": "of a support, with its ends",
    "value_low": "below value_high",
    "value_high": "above value_low",
    "learning_rate_warmup": "within a cycle",
    "trained_steps": "at most the sampler's",
}


def test_every_setting_of_every_recipe_declares_what_it_takes():
    plain = {
        name
        for entry in ALGORITHMS.values()
        for name in inspect.signature(entry.recipe).parameters
        if name not in declared(entry.recipe)
    }
    assert plain == set(BY_CODE)
