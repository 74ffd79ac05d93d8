"""`dpolicy check-env` on names, modules and files."""

import re

import pytest

from dpolicy.cli import main

SOUND = """
import jax.numpy as jnp
from dpolicy.envs import Environment, Spec


class Still(Environment):
    spec: Spec = Spec("mine/still", 1, 1, 3)

    def reset(self, key):
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, state, action, key):
        return state, state, jnp.zeros(()), jnp.asarray(False)


class Broken(Still):
    def step(self, state, action, key):
        return state, state, jnp.sum(action**2), jnp.asarray(False)


class Plain(Still):
    def step(self, state, action, key):
        return state, state, 1.0, False


class Exits(Still):
    def reset(self, key):
        raise SystemExit


env, number = Still(), 3


def leaves():
    raise SystemExit(0)


def needs(size):
    return Still()
"""


@pytest.fixture(autouse=True)
def own_environments(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "still_file.py").write_text(SOUND)
    (tmp_path / "still_module.py").write_text(SOUND)
    (tmp_path / "folder" / "beside.py").write_text("import still_file\nStill = still_file.Still")
    (tmp_path / "needs_more.py").write_text("import no_such_package")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit()")
    (tmp_path / "raises.py").write_text("\nraise ValueError('no\\ncompany')")
    (tmp_path / "malformed.py").write_text("def f(:")
    (tmp_path / "binary.py").write_bytes(b"\x00\xff")
    monkeypatch.chdir(tmp_path)


def run(capsys, *words):
    code = main(["check-env", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["probe/constant", "--frame-stack", "2"], "probe/constant frame_stack=2"),
        (["folder/still_file.py:Plain", "--steps", "5", "--seed", "1"], "mine/still"),
        (["folder/beside.py:Still"], "mine/still"),
        (["still_module:needs", "--env-option", "size=3", "--frame-stack=2"], "mine/still frame_stack=2"),
    ],
)
def test_a_sound_environment_is_a_table_and_exit_code_0(capsys, words, name):
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.split("  +", lines[0]) == ["check", "what was seen"]
    assert lines[-1] == f"{name}: 15 checks passed."
    assert any(line.startswith("time limit ") for line in lines)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Broken", "actions outside [-1, 1] must act as the clipped ones, but the reward differs."),
        ("Exits", "reset raises SystemExit."),
    ],
)
def test_a_broken_one_is_one_sentence_and_exit_code_1(capsys, name, sentence):
    code, out, err = run(capsys, f"still_module:{name}")
    assert (code, out) == (1, "")
    assert err == f"dpolicy check-env: mine/still: {sentence}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("probe/constan", "env must be .*Did you mean probe/constant.*"),
        ("folder/nothing.py:env", "folder/nothing.py is not a file."),
        ("no_such_module:env", "there is no module no_such_module."),
        ("still_module:other", "still_module has no 'other'."),
        (
            "still_module:needs",
            "still_module:needs needs an option size, as it has no default for it.",
        ),
        ("still_module:env --env-option size=3", "still_module:env takes no options; got 'size'."),
        ("still_module:needs --env-option sise=3", "still_module:needs takes size; .*Did you mean size.*"),
        ("still_module:needs --env-option size", "--env-option must be NAME=VALUE, got 'size'."),
        ("still_module:number", "still_module:number must be a dpolicy.envs.Environment, or .*, got 3."),
        (
            "still_module:leaves",
            "still_module:leaves raises SystemExit: 0 "
            rf"\(line {SOUND.splitlines().index('    raise SystemExit(0)') + 1}\).",
        ),
        ("exits.py:env", r"exits.py cannot be imported: SystemExit \(line 2\): put what it .*"),
        ("exits:env", r"exits cannot be imported: SystemExit \(line 2\): put what it .*"),
        ("raises.py:env", "raises.py cannot be imported: ValueError: no company \\(line 2\\)."),
        ("malformed:env", "malformed cannot be imported: SyntaxError: .*\\(line 1\\)."),
        ("binary.py:env", "binary.py cannot be imported: SyntaxError: .*"),
        (":", "what is in a file .* is named path/to/file.py:NAME or .*, got ':'."),
        (
            "..still_module:env",
            "what is in .* is named path/to/file.py:NAME or .*, got '..still_module:env'.",
        ),
        ("still_module:", "what is in .* is named path/to/file.py:NAME or .*, got 'still_module:'."),
        ("folder/still_file.py", "folder/still_file.py needs the name of .*: folder/still_file.py:NAME."),
        ("probe/constant --seed -1", "seed must be an integer from 0 to 4294967295, got -1."),
        ("probe/constant --seed 1e40", "seed must be an integer from 0 to 4294967295, got 1.*"),
        ("probe/constant --steps 2e9", "steps must fit into the .* of memory there is, at most .*"),
        ("probe/constant --steps 0", "steps must be an integer of at least 1, got 0."),
        ("", "ENV is missing: FAMILY/TASK, .*"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(capsys, words, sentence):
    code, out, err = run(capsys, *words.split())
    assert (code, out) == (2, "")
    assert re.fullmatch(f"dpolicy check-env: {sentence}\n", err), err


def test_a_module_that_imports_what_is_missing_is_not_said_to_be_missing(capsys):
    code, _, err = run(capsys, "needs_more:env")
    assert code == 2
    assert (
        "needs_more cannot be imported: ModuleNotFoundError: No module named 'no_such_package' (line 1)"
        in err
    )


def test_what_was_seen_fits_the_terminal(capsys, monkeypatch):
    _, whole, _ = run(capsys, "probe/constant")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, shown, _ = run(capsys, "probe/constant")
    rows = lambda text: [line for line in text.splitlines() if "  " in line]
    assert max(map(len, rows(whole))) > 60 >= max(map(len, rows(shown)))
