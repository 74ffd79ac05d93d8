"""Presets: each builds its algorithm, says where it comes from, and holds the numbers of its table."""

import json

import pytest

from dpolicy.algorithms import ALGORITHMS
from dpolicy.cli import main
from dpolicy.cli.train import configuration_of
from dpolicy.presets import PRESETS, preset, presets_for, resolve
from dpolicy.train import PROGRAMS

EVERY = [
    (algorithm, pattern.replace("*", "x"), chosen.name)
    for algorithm, rows in PRESETS.items()
    for pattern, chosen in rows
]


@pytest.mark.parametrize(("algorithm", "env", "name"), EVERY)
def test_every_preset_builds_its_algorithm(algorithm, env, name):
    config = resolve(algorithm, env, choose=name)
    assert config["source"]
    assert set(config["program"]) == set(resolve(algorithm, env, choose="none")["program"])
    assert ALGORITHMS[algorithm].recipe(**config["hyperparameters"]).family in PROGRAMS


@pytest.mark.parametrize(
    ("algorithm", "env", "name", "expected"),
    [
        (
            "dppo",
            "gymnax/Pendulum-v1",
            "tuned",
            {"steps": 224_000, "rollout": 50, "normalise_observations": False},
        ),
        # arXiv 2603.04790, tables 6, 8, 12 and 14
        ("dp_cppo", "isaaclab/Isaac-Ant-v0", "dp-cppo", {"learning_rate": 5e-4, "hidden": (400, 200, 100)}),
        ("dp_cppo", "isaaclab/Isaac-Ant", "dp-cppo", {"rollout": 32, "flow_epochs": 15}),
        ("ppo", "isaaclab/Isaac-Ant-v0", "dp-cppo", {"entropy_coefficient": 0.01, "value_clip": 0.2}),
        (
            "dp_cppo",
            "isaaclab/Isaac-Quadcopter-Direct-v0",
            "dp-cppo",
            {"score_coefficient": 0.5, "activation": "mish"},
        ),
        (
            "ppo",
            "isaaclab/Isaac-Navigation-Flat-Anymal-C-v0",
            "dp-cppo",
            {"activation": "elu", "rollout": 8},
        ),
        ("dp_cppo", "playground/BallInCup", "dp-cppo", {"clip": 0.05, "learning_rate": 1e-4}),
        ("dp_cppo", "playground/PointMass", "dp-cppo", {"target_kl": None, "learning_rate": 5e-4}),
        ("dp_cppo", "playground/WalkerRun", "dp-cppo", {"flow_hidden": (128, 64, 32), "epochs": 5}),
        # arXiv 2507.21053, table A.2
        ("fpo", "playground/FingerSpin", "fpo", {"discount": 0.95, "clip": 0.05, "epochs": 16}),
        ("ppo", "playground/CheetahRun", "playground", {"clip": 0.3, "learning_rate": 1e-3}),
        # arXiv 2603.27450, table 4
        ("dppo", "isaaclab/Isaac-Humanoid-v0", "flowrl", {"sampler_steps": 10, "value_learning_rate": 1e-3}),
        ("idem", "brax/hopper", "flowrl", {"time_weight": "uniform", "obs_hidden": (128, 128)}),
        ("qvpo", "brax/hopper", "flowrl", {"ranking": "online_mean", "critic_first": False}),
        # arXiv 2502.11612, code
        ("maxentdp", "brax/hopper", "maxentdp", {"decay_updates": 2_000_000, "decay_shape": "cosine"}),
        # arXiv 2601.06133, tables 10 and 11
        ("genpo", "isaaclab/Isaac-Repose-Cube-Allegro-v0", "review", {"discount": 0.998, "minibatches": 12}),
        ("ppo", "isaaclab/Isaac-Velocity-Flat-H1-v0", "review", {"discount": 0.995, "learning_rate": 1e-3}),
    ],
)
def test_numbers_of_the_tables(algorithm, env, name, expected):
    values = preset(algorithm, env, name)
    assert {setting: values[setting] for setting in expected} == expected


def test_what_is_given_wins_over_a_preset_and_a_preset_over_the_defaults():
    """Of hyperparameters, of the program's settings and of the steps, with a preset and without."""
    given = {"learning_rate": 0.125, "num_envs": 7, "steps": 11}
    for choose in (None, "flowrl", "none"):
        config = resolve("ppo", "isaaclab/Isaac-Ant-v0", given, choose=choose)
        plain = resolve("ppo", "isaaclab/Isaac-Ant-v0", choose=choose)
        assert config["hyperparameters"] == plain["hyperparameters"] | {"learning_rate": 0.125}
        assert config["program"] == plain["program"] | {"num_envs": 7}
        assert (config["steps"], config["source"]) == (11, plain["source"])
    defaults = resolve("ppo", "isaaclab/Isaac-Ant-v0", choose="none")
    chosen = resolve("ppo", "isaaclab/Isaac-Ant-v0", choose="flowrl")
    values = preset("ppo", "isaaclab/Isaac-Ant-v0", "flowrl")
    for group in ("hyperparameters", "program"):
        wanted = {name: values.get(name, default) for name, default in defaults[group].items()}
        assert chosen[group] == wanted != defaults[group]
    assert (chosen["steps"], defaults["steps"]) == (values["steps"], 1_000_000)


@pytest.mark.parametrize(
    ("algorithm", "critic", "given", "expected"),
    [
        ("bro", "c51", {}, {"critic_atoms": None, "critic_low": None}),  # its preset has 25 quantiles
        ("bro", "c51", {"critic_atoms": 51}, {"critic_atoms": 51}),
        ("bro", "quantile", {}, {"critic_atoms": 25}),
        ("fast_td3", "hl_gauss", {}, {"critic_low": -35.0, "critic_high": 0.0}),
        ("fast_td3", "scalar", {}, {"critic_low": None, "critic_high": None}),
    ],
)
def test_what_was_chosen_for_another_kind_of_critic_does_not_stay(algorithm, critic, given, expected):
    config = resolve(algorithm, "gymnax/Pendulum-v1", {"critic": critic, **given})
    found = config["hyperparameters"]
    assert found["critic"] == critic and {name: found[name] for name in expected} == expected
    ALGORITHMS[algorithm].recipe(**found)


def test_a_kind_of_critic_on_the_command_line_leaves_the_bounds_of_a_preset_behind():
    words = ["--env", "gymnax/Pendulum-v1", "--critic", "scalar"]
    settings = configuration_of("fast_sac", words)[0]["hyperparameters"]
    assert settings["critic"] == "scalar" and settings["critic_low"] is settings["critic_high"] is None
    settings = configuration_of("fast_sac", [*words[:3], "hl_gauss", "--critic-low", "-9"])[0][
        "hyperparameters"
    ]
    assert (settings["critic_low"], settings["critic_high"]) == (-9.0, 5.0)


def test_choosing_among_several():
    several = presets_for("ppo", "isaaclab/Isaac-Ant-v0")
    assert list(several) == ["dp-cppo", "flowrl", "review"]
    assert preset("ppo", "isaaclab/Isaac-Ant-v0") == preset("ppo", "isaaclab/Isaac-Ant-v0", "dp-cppo")
    assert preset("ppo", "isaaclab/Isaac-Ant-v0", "none") == preset("ppo", "bandit/linear") == {}
    with pytest.raises(ValueError, match="preset must be one of dp-cppo, flowrl, review, none; got 'flow'"):
        preset("ppo", "isaaclab/Isaac-Ant-v0", "flow")


def test_on_the_command_line(capsys):
    words = ["train", "ppo", "--env", "gymnax/Pendulum-v1", "--print-config"]
    assert main(words) == 0
    tuned = json.loads(capsys.readouterr().out)
    assert tuned["source"]
    assert main([*words, "--preset", "none"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["source"] is None
    assert plain["hyperparameters"]["discount"] == 0.99 != tuned["hyperparameters"]["discount"]
    assert main([*words, "--preset", "tund"]) == 2
    assert "preset must be one of tuned, none; got 'tund'" in capsys.readouterr().err
