"""What is in a user's own file, by its place."""

import re
import subprocess
import sys
import textwrap

import pytest

from dpolicy import _places
from dpolicy._places import absolute, digests, is_place, place_of, thing_at, title


def refused(call, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory to write modules into, whose names are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_names_and_places():
    assert [is_place(name) for name in ("a/b.py:C", "m.n:C", "b.py", "family/task", "sac", 3)] == [
        *(True, True, True, False, False, False)
    ]
    assert title("/a/b/own.py:Cart") == "own.py:Cart"
    assert title("package.module:Cart") == "package.module:Cart"
    assert title("multigoal/multigoal") == "multigoal/multigoal"
    assert absolute("package.module:Cart") == "package.module:Cart"


def test_a_file_is_run_once_and_again_when_it_has_changed(folder):
    (folder / "own_file.py").write_text("count = []\nclass A: pass\n")
    (folder / "own_other.py").write_text("from own_file import A\n")
    first = thing_at("own_file.py:A")
    assert thing_at(f"{folder}/own_file.py:A") is first
    # Python's own import of it, here by a file beside it, is the same module.
    assert thing_at("own_other.py:A") is first
    assert absolute("own_file.py:A") == f"{folder}/own_file.py:A"
    before = digests(["own_file.py:A", "family/task"])
    # Of the same length and within the same second: what a cache of bytecode would not notice.
    (folder / "own_file.py").write_text("count = []\nclass A: bass\n".replace("bass", "B=2 "))
    assert thing_at("own_file.py:A").B == 2
    after = digests(["own_file.py:A"])
    assert list(before) == list(after) == [f"{folder}/own_file.py"]
    assert before != after
    assert not (folder / "__pycache__" / "own_file.cpython-311.pyc").exists()


def test_two_files_of_one_name_and_a_name_that_python_knows(folder):
    for i in (1, 2):
        (folder / str(i)).mkdir()
        (folder / str(i) / "own_twice.py").write_text(f"x = {i}\nclass A: pass\n")
    assert [thing_at(f"{i}/own_twice.py:x") for i in (1, 2, 1)] == [1, 2, 1]
    classes = [thing_at(f"{i}/own_twice.py:A") for i in (1, 2)]
    assert [place_of(each) for each in classes] == [f"{folder}/{i}/own_twice.py:A" for i in (1, 2)]
    (folder / "colorsys.py").write_text("x = 3\n")
    assert thing_at("colorsys.py:x") == 3
    import colorsys

    assert not hasattr(colorsys, "x")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "own.py has no 'Cart'."),
        ("Card = 1", "own.py has no 'Cart'. Did you mean Card?"),
        ("\n1 / 0", "own.py cannot be imported: ZeroDivisionError: division by zero (line 2)."),
        ("def f(:", "own.py cannot be imported: SyntaxError: "),
        (
            "raise SystemExit(0)",
            "own.py cannot be imported: SystemExit: 0 (line 1): put what it runs under if ",
        ),
        (
            "import no_such",
            "own.py cannot be imported: ModuleNotFoundError: No module named 'no_such' (line 1).",
        ),
        ("from . import x", "own.py cannot be imported: ImportError: attempted relative import"),
        (
            "from dpolicy._places import thing_at\nthing_at(__file__ + ':Cart')",
            "own.py cannot be imported: ValueError: own.py asks for itself while it is loaded: put what it runs",
        ),
        (None, "own.py is not a file."),
    ],
)
def test_what_a_file_does_wrong_is_one_sentence(folder, text, sentence):
    if text is not None:
        (folder / "own.py").write_text(text)
    for _ in range(2):  # a file that failed is not taken for one that was loaded
        refused(lambda: thing_at("own.py:Cart"), sentence)


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("own.py", "own.py needs the name of what is in it: own.py:NAME."),
        (":", "what is in a file of your own is named path/to/file.py:NAME or module:NAME, got ':'."),
        ("own.py:", "got 'own.py:'."),
        ("own.py:a b", "got 'own.py:a b'."),
        ("no such:x", "got 'no such:x'."),
        ("no_such.module:x", "there is no module no_such.module."),
    ],
)
def test_a_place_that_is_none(folder, place, sentence):
    refused(lambda: thing_at(place), sentence)


def test_what_can_be_found_again(folder):
    from dpolicy.envs import MultiGoal

    assert thing_at(place_of(MultiGoal)) is MultiGoal
    assert place_of(MultiGoal) == "dpolicy.envs.multigoal:MultiGoal"
    for thing in (lambda: None, MultiGoal(), 3, type("Local", (), {})):
        refused(lambda thing=thing: place_of(thing), "at the top level of a file, got ")


def test_a_script_that_runs_is_not_run_again(folder):
    (folder / "script.py").write_text(
        textwrap.dedent(
            """
            from dpolicy._places import place_of, thing_at

            class Cart:
                pass

            print("ran")
            assert place_of(Cart) == __file__ + ":Cart"
            assert thing_at(place_of(Cart)) is Cart
            """
        )
    )
    done = subprocess.run([sys.executable, str(folder / "script.py")], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


def test_what_a_file_raises_is_told_with_its_line(folder):
    (folder / "own.py").write_text("def f(x):\n    return x[3]\n\ndef g():\n    return f([])\n")
    with pytest.raises(IndexError) as error:
        thing_at("own.py:g")()
    assert _places.blame(error.value) == "own.py raises IndexError: list index out of range (line 2)."
    with pytest.raises(ValueError, match="needs the name") as error:
        thing_at("own.py")
    assert _places.blame(error.value) is None


def test_what_is_called_is_asked_in_one_sentence(folder):
    (folder / "own.py").write_text("def f(*, size=1):\n    return 1 // size\n")
    assert _places.called("own.py:f", size=1) == 1
    refused(
        lambda: _places.called("own.py:f", size=0),
        "own.py:f raises ZeroDivisionError: integer division or modulo by zero (line 2).",
    )
    refused(
        lambda: _places.called("own.py:f", sise=0), "own.py:f raises TypeError: f() got an unexpected keyword"
    )
