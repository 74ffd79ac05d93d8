"""Wrapped environments on the command line: stored with the run, and there again whatever is done with it."""

import json
from pathlib import Path

import pytest
from toy_commands import config_of, mistake, run
from toy_commands import stand_ins as stand_ins  # the same toy algorithm and program

from dpolicy.envs import ActionChunk
from dpolicy.plots.curves import _panels
from dpolicy.presets import resolve
from dpolicy.train import load_run
from dpolicy.train.building import build
from dpolicy.train.configuration import env_title, read_config

FLAGS = ("--action-chunk", "4", "--action-repeat", "2", "--frame-stack", "3", "--time-limit", "5")
OPTIONS = {"action_chunk": 4, "action_repeat": 2, "frame_stack": 3, "time_limit": 5}
TITLE = "probe/time_limit action_chunk=4 action_repeat=2 frame_stack=3 time_limit=5"


def test_flags_enter_the_configuration_where_they_say_something(capsys):
    plain = config_of(capsys, "--env", "probe/time_limit")
    assert "env_options" not in plain
    assert config_of(capsys, "--env", "probe/time_limit", "--action-chunk", "1") == plain
    assert config_of(capsys, "--env", "probe/time_limit", *FLAGS) == {**plain, "env_options": OPTIONS}
    assert config_of(capsys, "--env", "probe/time_limit", "--action-repeat", "1")["env_options"] == {
        "action_repeat": 1
    }


def test_a_run_keeps_its_environment(capsys, tmp_path):
    code, out, err = run(
        capsys, "train", "toy", "--env", "probe/time_limit", *FLAGS, "--steps", "20", "--out", "a"
    )
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"toy on {TITLE}, 1 seed, in a"
    assert read_config(Path("a"))["env_options"] == OPTIONS
    for _ in range(2):
        loaded = load_run("a")
        assert loaded.env.spec.name == "probe/time_limit action_repeat=2 frame_stack=3 action_chunk=4"
        assert (loaded.env.spec.action_size, loaded.env.spec.obs_size, loaded.env.spec.time_limit) == (
            4,
            3,
            5,
        )
        assert loaded.state.algorithm["constant"].shape == (1, 4)
        code, out, _ = run(capsys, "evaluate", "a", "--episodes", "2")
        assert code == 0
        assert out.splitlines()[-1].startswith(f"toy on {TITLE}, mode evaluate: return 0")
        # Five steps of the policy are forty of the probe.
        assert out.splitlines()[2].split()[-1] == "5"
        code, out, err = run(capsys, "train", "--resume", "a", "--steps", "40")
        assert (code, err) == (0, "")
    assert read_config(Path("a"))["env_options"] == OPTIONS
    assert loaded.state.steps.tolist() == [40]


def test_the_same_task_wrapped_otherwise_is_another_panel(capsys, tmp_path):
    words = ("train", "toy", "--env", "probe/time_limit", "--no-progress", "--steps", "10", "--out")
    assert run(capsys, *words, "plain")[0] == run(capsys, *words, "chunks", "--action-chunk", "2")[0] == 0
    assert list(_panels(["plain", "chunks", "plain"], "")) == [
        "probe/time_limit",
        "probe/time_limit action_chunk=2",
    ]


def test_a_run_from_before_there_were_wrappers_still_loads():
    config = {**resolve("toy", "probe/action"), "seeds": 1, "seed": 0}
    assert "env_options" not in json.loads(json.dumps(config))
    assert build(config)[1].spec.name == env_title(config) == "probe/action"
    assert env_title({}) == ""


def test_a_resolved_configuration_builds_its_wrapped_environment():
    config = resolve(
        "toy", "probe/action", {"temperature": 0.1}, env_options={"action_chunk": 3, "time_limit": 2}
    )
    env = build(config)[1]
    assert isinstance(env, ActionChunk)
    assert (env.size, env.spec.time_limit) == (3, 2)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--action-chunk 0", "action_chunk must be an integer of at least 1, got 0."),
        (
            "--action-chunk 2",
            "ActionChunk needs a size that divides the time limit of probe/action, 1, got 2: ",
        ),
        ("--frame-stak 2", "unknown flag --frame-stak; did you mean --frame-stack"),
        ("--time-limit 0", "time_limit must be an integer of at least 1, got 0."),
    ],
)
def test_a_mistake_is_one_sentence(capsys, flags, sentence):
    assert mistake(capsys, "train", "toy", "--env", "probe/action", *flags.split()).startswith(
        f"dpolicy train toy: {sentence}"
    )
