"""The examples in the docstrings of losses and samplers show what they give."""

import doctest
import functools
import inspect

import numpy as np
import pytest

from dpolicy import losses, samplers

PACKAGES = (losses, samplers)


def public(package):
    """The public functions and classes of a package, by name; its constants, types and instances have no docstring."""
    named = {name: value for name, value in vars(package).items() if not name.startswith("_")}
    return {
        name: value for name, value in named.items() if inspect.isfunction(value) or inspect.isclass(value)
    }


def failures(text, names):
    """What an example does not give as it shows it, in words; the names that it makes are added to `names`."""
    example = doctest.DocTestParser().get_doctest(text, names, "example", None, None)
    report = []
    doctest.DocTestRunner(verbose=False).run(example, out=report.append, clear_globs=False)
    names |= example.globs
    return "".join(report)


@pytest.fixture(scope="module", autouse=True)
def printed_as_before():
    """The shared names come with a precision of what is printed, which other modules do not want."""
    with np.printoptions():
        yield


@functools.cache
def shared(package):
    """The names that the examples of a package begin with."""
    names = {}
    assert failures(package.__doc__, names) == ""
    return names


MODULES = sorted(
    {(package, value.__module__) for package in PACKAGES for value in public(package).values()},
    key=lambda pair: pair[1],
)


@pytest.mark.parametrize(("package", "module"), MODULES, ids=[module for _, module in MODULES])
def test_examples_show_what_they_give(package, module):
    for name, value in public(package).items():
        if value.__module__ == module:
            assert failures(value.__doc__, dict(shared(package))) == "", name


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_everything_public_has_an_example(package):
    without = [name for name, value in public(package).items() if ">>> " not in value.__doc__]
    assert public(package)
    assert without == []


def test_a_wrong_example_is_noticed():
    assert "Expected:\n    3\nGot:\n    2" in failures(">>> one = 1\n>>> one + one\n3\n", {})
