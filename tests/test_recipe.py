"""Recipes composed of blocks: settings, defaults, descriptions and mistakes."""

import ast
import inspect

import pytest

from dpolicy import composed, prefixed, tunable
from dpolicy.algorithm import Algorithm
from dpolicy.cli._flags import flags_of


@tunable("size", "rate")
def first(*, name: str = "first", size: int = 1, rate: float = 0.1):
    """A block.

    Args:
        name: Nobody's business.
        size: How many, on a line
            and a half.
        rate: Of the first.

    Raises:
        ValueError: never.
    """
    return name, size, rate


@tunable("rate", "depth")
def second(*, rate: float = 0.2, depth: int = 3):
    """Another.

    Args:
        rate: Of the second.
        depth: How deep.
    """
    return rate, depth


def made(*given, **keywords):
    """A stand-in for an algorithm that keeps what it was made of."""
    return Algorithm(str((given, keywords)), "offline", *[lambda *_: None] * 3)


def made_of(algorithm):
    return ast.literal_eval(algorithm.name)[0]


@composed(first, second, depth=5)
def method(one, other, *, own: float = 1.0) -> Algorithm:
    """A method.

    Args:
        own: Its own.
    """
    return made(one(), other(), own=own)


def test_settings_reach_their_blocks_and_shared_names_reach_all():
    assert method().name == str(((("first", 1, 0.1), (0.1, 5)), {"own": 1.0}))
    assert method(rate=0.5, size=2, own=3.0).name == str(((("first", 2, 0.5), (0.5, 5)), {"own": 3.0}))


def test_signature_and_description_are_those_of_the_parts():
    defaults = {name: p.default for name, p in inspect.signature(method).parameters.items()}
    assert defaults == {"own": 1.0, "size": 1, "rate": 0.1, "depth": 5}
    texts = {flag.name: (flag.type, flag.help) for flag in flags_of(method)}
    assert texts["size"] == (int, "How many, on a line and a half.")
    assert texts["rate"] == (float, "Of the first.")
    assert texts["own"] == (float, "Its own.")


def test_a_method_may_take_a_setting_over_or_fix_it():
    @composed(first, second, without=("size",))
    def other(one, two, *, rate: float = 7.0) -> Algorithm:
        """Another method.

        Args:
            rate: Its own rate.
            depth: As this method means it.
        """
        return made(one(size=9), two(), rate)

    assert list(inspect.signature(other).parameters) == ["rate", "depth"]
    assert other(rate=8.0).name == str(((("first", 9, 0.1), (0.2, 3), 8.0), {}))
    assert {flag.name: flag.help for flag in flags_of(other)} == {
        "rate": "Its own rate.",
        "depth": "As this method means it.",
    }


def test_mistakes_are_one_sentence():
    with pytest.raises(
        ValueError, match="hyperparameter of method must be one of .* got 'sise'. Did you mean"
    ):
        method(sise=2)
    with pytest.raises(ValueError, match="tunable argument of second"):
        tunable("width")(second)
    with pytest.raises(ValueError, match="default must be one of"):
        composed(first, width=3)
    with pytest.raises(ValueError, match="without must be one of"):
        composed(first, without=("width",))


def test_a_block_twice_under_other_names():
    @composed(first, prefixed("slow_", first, "rate"), slow_rate=0.7)
    def both(one, two, *, name: str = "both") -> Algorithm:
        return made(one(), two())

    assert list(inspect.signature(both).parameters) == ["name", "size", "rate", "slow_rate"]
    assert made_of(both(rate=0.3)) == (("first", 1, 0.3), ("first", 1, 0.7))
    assert "slow_rate: Of the first." in both.__doc__
    with pytest.raises(ValueError, match="tunable argument of first must be one of size, rate; got 'name'"):
        prefixed("slow_", first, "name")


def test_a_recipe_of_blocks_is_a_block():
    @composed(second, depth=5)
    def inner(block, *, name: str) -> Algorithm:
        """Inner.

        Args:
            name: Given by the outer one.

        Raises:
            ValueError: never.
        """
        return made(name, block())

    @composed(inner, rate=0.9)
    def outer(block, *, own: int = 1) -> Algorithm:
        return block(name="x")

    assert list(inspect.signature(outer).parameters) == ["own", "rate", "depth"]
    assert made_of(outer()) == ("x", (0.9, 5))
    assert {flag.name for flag in flags_of(outer)} == {"own", "rate", "depth"}
    with pytest.raises(ValueError, match="inner must be given name"):
        inner()
