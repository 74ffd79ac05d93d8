"""No function of the library is long, none takes many arguments, no file is large, nor is the algebra of stages."""

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES, MOST_ARGUMENTS, MOST_OF_A_FILE = 100, 20, 400
MOST_OF_LEARNING = 900  # the algebra of stages is read in one sitting
MEDIAN_RECIPE, LONGEST_RECIPE = 40, 150  # code lines
FOLDERS = ("dpolicy", "losses", "samplers", "envs")


def files():
    """Every source file of the library, once: links inside dpolicy/ lead to folders that are looked at themselves."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = [ROOT.joinpath(*path.relative_to(ROOT).parts[:i]) for i in range(1, 5)]
            if not any(parent.is_symlink() for parent in inside):
                yield path


def too_large(source):
    """Names of the functions in a source text that are too long or take too much, methods and inner ones included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            taken = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            if (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES or len(taken) > MOST_ARGUMENTS:
                yield node.name


def test_sizes_are_counted():
    of = lambda lines, arguments: f"def f({', '.join(arguments)}):\n" + "    pass\n" * (lines - 1)
    names = [f"a{i}" for i in range(21)]
    assert list(too_large(of(100, names[:20]))) == []
    assert list(too_large(of(101, []))) == ["f"]
    assert list(too_large(of(2, [*names[:10], "*", *names[10:]]))) == ["f"]


def test_functions_are_short_and_take_few_arguments():
    found = {name for path in files() for name in too_large(path.read_text(encoding="utf-8"))}
    assert len(list(files())) > 100
    assert found == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_are_short(folder):
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for path in files()
        if path.is_relative_to(ROOT / folder)
    }
    assert len(lengths) > 5
    assert [path for path, length in lengths.items() if length > MOST_OF_A_FILE] == []


def test_the_algebra_of_stages_is_short():
    lengths = [
        len(path.read_text(encoding="utf-8").splitlines())
        for path in files()
        if path.is_relative_to(ROOT / "dpolicy" / "learning")
    ]
    assert len(lengths) > 3
    assert sum(lengths) <= MOST_OF_LEARNING


def code_lines(source):
    """Lines that are not blank, a comment, a docstring or an import."""
    left_out = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and ast.get_docstring(node) is not None
        ):
            left_out |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and i not in left_out for i, line in lines
    )


def test_code_lines_are_counted():
    source = '''"""A module.

of two paragraphs."""

import os
from pathlib import (
    Path,
)

# A comment.
ONE = 1  # another


class Two:
    """A class."""

    text = """of

    four lines"""

    def method(self):
        """One line."""
        import sys

        # Why.
        return (
            sys,
        )
'''
    assert code_lines(source) == 1 + 1 + 2 + 1 + 3  # a blank line of a text counts as blank
    assert code_lines("") == 0


def test_recipes_are_short():
    from dpolicy.algorithms import ALGORITHMS

    folder = ROOT / "dpolicy" / "algorithms"
    lengths = {path.stem: code_lines(path.read_text(encoding="utf-8")) for path in folder.glob("[a-z]*.py")}
    assert set(lengths) == set(ALGORITHMS)
    assert statistics.median(lengths.values()) <= MEDIAN_RECIPE
    assert max(lengths.values()) <= LONGEST_RECIPE
