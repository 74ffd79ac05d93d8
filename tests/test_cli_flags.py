from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pytest
from jaxtyping import Array, Float

from dpolicy import Positive, at_least, one_of
from dpolicy._types import Number, Prediction
from dpolicy.cli import UsageError
from dpolicy.cli._flags import REQUIRED, Flag, command_line_type, describe, flags_of, parse


def recipe(
    spec: object,
    *,
    temperature: Number = 1,
    bound: Number | None = None,
    samples: int = 64,
    hidden: tuple[int, ...] = (256, 256),
    prediction: Prediction = "noise",
    name: str = "a",
    twin: bool = True,
    shape: tuple[int, float] = (1, 2.0),
    clip: float = float("inf"),
    make: Callable[[], int] = int,
    must: float,
) -> None:
    """A recipe.

    Args:
        spec: Sizes.
        temperature: Temperature lambda,
            in units of reward.
        samples: Proposals.
    """


FLAGS = flags_of(recipe)


def values(*words):
    return parse({"hyperparameters": FLAGS}, ["--must", "1", *words], prog="dpolicy test", description="d")[0]


def sentence(*words, must=True):
    with pytest.raises(UsageError) as error:
        parse(
            {"hyperparameters": FLAGS},
            ["--must", "1"] * must + list(words),
            prog="dpolicy test",
            description="d",
        )
    assert (error.value.code, error.value.prog) == (2, "dpolicy test")
    return str(error.value)


def test_flags_come_from_signature_and_docstring():
    by_name = {flag.name: flag for flag in FLAGS}
    assert list(by_name) == [
        *("temperature", "bound", "samples", "hidden", "prediction", "name", "twin", "shape", "clip", "must")
    ]
    assert by_name["temperature"].type is float
    assert repr(by_name["temperature"].default) == "1.0"
    assert by_name["temperature"].help == "Temperature lambda, in units of reward."
    assert by_name["bound"].type == float | None
    assert by_name["samples"].help == "Proposals."
    assert by_name["prediction"].type == Prediction
    assert by_name["must"].default is REQUIRED
    assert by_name["twin"].switch


@pytest.mark.parametrize(
    ("annotation", "default", "expected"),
    [
        (Float[Array, ""], 0.5, float),
        (Float[Array, ""], None, None),
        (Annotated[int, "units"], 1, int),
        (Sequence[int], (1,), tuple[int, ...]),
        (tuple[Callable, ...], (), None),
        (Callable | str, "x", str),
        (float | int | None, 1.0, float | None),
        (Literal["a", "b"] | None, None, Literal["a", "b"] | None),
        (Positive | None, None, float | None),
        (Annotated[int, at_least(2)], 2, int),
        (Annotated[str, one_of({"a": 1, "b": 2})] | Callable, "a", Literal["a", "b"]),
        (Callable, int, None),
        (Path, Path(), Path),
    ],
)
def test_command_line_type(annotation, default, expected):
    assert command_line_type(annotation, default) == expected


def test_help_says_what_a_setting_takes(capsys):
    def recipe(
        *,
        rate: Positive | None = 1.0,
        draws: Annotated[int, at_least(2)] = 4,
        kind: Annotated[str, one_of({"mish": 1, "relu": 2})] | Callable = "mish",
    ):
        """A recipe.

        Args:
            rate: How fast; None for not at all.
            draws: How many.
        """

    flags = flags_of(recipe)
    assert [flag.help for flag in flags] == [
        "How fast; None for not at all. Above 0.",
        "How many. At least 2.",
        "",
    ]
    with pytest.raises(SystemExit):
        parse({"settings": flags}, ["--help"], prog="dpolicy test", description="d")
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--rate {None}|FLOAT How fast; None for not at all. Above 0. (default: 1.0)" in printed
    assert "--kind {mish,relu}" in printed
    with pytest.raises(UsageError) as error:
        parse({"settings": flags}, ["--kind", "mush"], prog="p", description="d")
    assert str(error.value) == "--kind must be one of mish, relu, got 'mush'. Did you mean mish?"


def test_words_become_values():
    plain = values()
    assert plain["hidden"] == (256, 256)
    assert plain["clip"] == float("inf")
    typed = values(
        *("--temperature", "-1e-3", "--bound=2", "--samples", "1e6", "--hidden", "32", "16", "--no-twin"),
        *("--prediction", "data", "--shape", "3", "4.5", "--clip", "inf", "--name", "x"),
    )
    assert typed == {
        "temperature": -1e-3,
        "bound": 2.0,
        "samples": 1_000_000,
        "hidden": (32, 16),
        "twin": False,
        "prediction": "data",
        "shape": (3, 4.5),
        "clip": float("inf"),
        "name": "x",
        "must": 1.0,
    }
    assert values("--samples", "1_000")["samples"] == 1000
    assert values("--bound", "None")["bound"] is None


def test_given_names_are_reported():
    _, given = parse({"a": FLAGS}, ["--must", "1", "--no-twin"], prog="p", description="d")
    assert given == {"must", "twin"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--temprature", "1"], "unknown flag --temprature; did you mean --temperature?"),
        (["--zzz"], "unknown flag --zzz; --help lists them all."),
        (["-t", "1"], "unknown flag -t; --help lists them all."),
        (["--temperature", "hot"], "--temperature must be a number, got 'hot'."),
        (["--temperature"], "--temperature must be a number, got nothing."),
        (["--temperature", "1", "2"], "--temperature takes one value, got '1 2'."),
        (["--temperature", "nan"], "--temperature must be finite, got 'nan'."),
        (["--temperature", "-inf"], "--temperature must be finite, got '-inf'."),
        (["--samples", "1.5"], "--samples must be an integer, got '1.5'."),
        (["--samples", "nan"], "--samples must be an integer, got 'nan'."),
        (["--hidden", "32", "x"], "--hidden must be integers with blanks between them, got '32 x'."),
        (["--bound", "x"], "--bound must be a number or None, got 'x'."),
        (["--shape", "1"], "--shape must be 2 values, got '1'."),
        (
            ["--prediction", "noize"],
            "--prediction must be one of noise, score, velocity, data, got 'noize'. Did you mean noise?",
        ),
        (["--twin", "False"], "--twin takes no value (write --twin or --no-twin), got 'False'."),
        (["--samples", "1", "--samples", "2"], "--samples was given twice."),
        (["--twin", "--no-twin"], "--twin was given twice."),
    ],
)
def test_a_wrong_word_gets_one_sentence(words, expected):
    assert sentence(*words) == expected


def test_missing_and_superfluous_words():
    assert sentence(must=False).startswith("--must is missing")
    with pytest.raises(UsageError, match="unexpected 'x'"):
        parse({"a": []}, ["x"], prog="p", description="d")
    places = [Flag("dirs", tuple[Path, ...], help="the runs.", positional=True), Flag("n", int, 1)]
    with pytest.raises(UsageError, match=r"DIRS is missing: the runs\."):
        parse({"a": places}, ["--n", "2"], prog="p", description="d")
    assert parse({"a": places}, ["x", "y", "--n", "2"], prog="p", description="d")[0] == {
        "dirs": (Path("x"), Path("y")),
        "n": 2,
    }


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as exit:
        parse({"hyperparameters": FLAGS}, ["--help"], prog="dpolicy test", description="What it does.")
    assert exit.value.code in (0, None)
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "usage: dpolicy test" in printed
    assert "What it does." in printed
    assert "--temperature FLOAT Temperature lambda, in units of reward. (default: 1.0)" in printed
    assert "--hidden" in printed
    assert "(default: 256 256)" in printed


def test_describe():
    assert describe(tuple[float, ...]) == "numbers with blanks between them"
    assert describe(Literal["a", "b"]) == "one of a, b"
    assert describe(int | None) == "an integer or None"
