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


env, number = Still(), 3


def needs(size):
    return Still()
"""


@pytest.fixture(autouse=True)
def own_environments(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "still_file.py").write_text(SOUND)
    (tmp_path / "still_module.py").write_text(SOUND)
    (tmp_path / "needs_more.py").write_text("import no_such_package")
    monkeypatch.chdir(tmp_path)


def run(capsys, *words):
    code = main(["check-env", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["probe/constant", "--frame-stack", "2"], "probe/constant frame_stack=2"),
        (["folder/still_file.py:Still", "--steps", "5", "--seed", "1"], "mine/still"),
    ],
)
def test_a_sound_environment_is_a_table_and_exit_code_0(capsys, words, name):
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.split("  +", lines[0]) == ["check", "what was seen"]
    assert lines[-1] == f"{name}: 15 checks passed."
    assert any(line.startswith("time limit ") for line in lines)


def test_a_broken_one_is_one_sentence_and_exit_code_1(capsys):
    code, out, err = run(capsys, "still_module:Broken")
    assert (code, out) == (1, "")
    assert err == (
        "dpolicy check-env: mine/still: actions outside [-1, 1] must act as the clipped ones, but the reward "
        "differs.\n"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("probe/constan", "env must be .*Did you mean probe/constant.*"),
        ("folder/nothing.py:env", "folder/nothing.py is not a file."),
        ("no_such_module:env", "there is no module no_such_module."),
        ("still_module:other", "still_module has no 'other'."),
        (
            "still_module:needs",
            "still_module:needs must be an environment or make one without arguments, .*size.*",
        ),
        ("still_module:env --action-chunk 3", "still_module:env is checked as it is: .* --action-chunk."),
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
    assert "no_such_package" in err


def test_something_else_is_no_environment(capsys):
    code, _, err = run(capsys, "still_module:number")
    assert code == 1
    assert err == "dpolicy check-env: int: env must be a dpolicy.envs.Environment with a Spec, got int.\n"
