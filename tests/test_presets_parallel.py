"""FastTD3's settings on Playground, value by value from its code, and the same loop for other actors."""

import pytest

from dpolicy.presets import preset, resolve

#                            iterations, updates, gamma, n-step, atoms up to, low, high, smoothing, value
CODE = {
    "G1JoystickFlatTerrain": (100_000, 2, 0.97, 1, 10, 0.001, 0.4, 0.001, "min"),
    "T1JoystickRoughTerrain": (100_000, 2, 0.97, 1, 10, 0.001, 0.4, 0.001, "min"),
    "Go1JoystickRoughTerrain": (50_000, 8, 0.97, 1, 10, 0.2, 0.8, 0.2, "min"),
    "Go1Getup": (50_000, 8, 0.97, 1, 10, 0.2, 0.8, 0.2, "min"),
    "LeapCubeReorient": (150_000, 2, 0.99, 3, 50, 0.001, 0.4, 0.2, "mean"),
    "LeapCubeRotateZAxis": (150_000, 2, 0.99, 1, 10, 0.001, 0.4, 0.2, "mean"),
    "CheetahRun": (150_000, 2, 0.97, 3, 500, 0.1, 0.4, 0.1, "min"),
}


@pytest.mark.parametrize("task", CODE)
def test_fast_td3_on_playground(task):
    iterations, updates, discount, n_step, bound, low, high, smoothing, value = CODE[task]
    config = resolve("fast_td3", f"playground/{task}")
    loop, own = config["program"], config["hyperparameters"]
    assert config["steps"] == 1_024 * iterations
    assert (loop["num_envs"], loop["batch_size"], loop["replay_size"]) == (1_024, 32_768, 1_024 * 10_240)
    assert (loop["updates_per_step"], loop["warmup"], loop["normalise_observations"]) == (
        updates,
        10_240,
        True,
    )
    assert (own["discount"], own["n_step"], own["target_rate"]) == (discount, n_step, 0.1)
    assert (own["critic"], own["critic_low"], own["critic_high"], own["critic_atoms"]) == (
        *("c51", -bound, bound),
        101,
    )
    assert (own["exploration_low"], own["exploration_high"], own["target_noise"]) == (low, high, smoothing)
    assert (own["actor_value"], own["actor_interval"], own["weight_decay"]) == (value, 2, 0.1)
    assert (own["learning_rate"], own["critic_learning_rate"]) == (3e-4, 3e-4)
    assert (own["hidden"], own["critic_hidden"]) == ((512, 256, 128), (1024, 512, 256))
    assert "2505.22642" in config["source"]


@pytest.mark.parametrize("name", ["sac", "qsm", "sdac", "dpmd", "maxentdp"])
def test_another_actor_takes_its_place_by_name(name):
    """The loop and the critics are FastTD3's, whatever is the actor's is the method's own."""
    task = "playground/LeapCubeReorient"
    theirs = preset("fast_td3", task)
    ours = preset(name, task, "parallel")
    assert "not tuned" in ours.pop("source")
    assert ours.items() <= theirs.items()
    assert set(theirs) - set(ours) == {"source", "target_noise", "actor_value"}
    config = resolve(name, task, choose="parallel")
    assert config["hyperparameters"]["critic"] == "c51" and config["program"]["num_envs"] == 1_024


@pytest.mark.parametrize("task", ["G1JoystickRoughTerrain", "T1JoystickFlatTerrain"])
def test_flash_sac_on_playground(task):
    """Its script for these tasks, over the settings of its configuration."""
    config = resolve("flash_sac", f"playground/{task}")
    loop, own = config["program"], config["hyperparameters"]
    assert config["steps"] == 50_000_896 == 1_024 * 48_829
    assert (loop["num_envs"], loop["batch_size"], loop["updates_per_step"]) == (1_024, 2_048, 2)
    assert (loop["warmup"], 0 <= loop["replay_size"] - 10_000_000 < 1_024) == (100_000, True)
    assert (loop["noise_repeats"], loop["normalise_observations"]) == (16, False)
    # Exponent 2 and bound 5, where the atoms end, are the defaults of what the two settings above switch on.
    assert (loop["reward_discount"], own["discount"], own["value_high"]) == (0.97, 0.97, 5.0)
    assert (own["learning_rate"], own["decay_updates"], own["decay_share"], own["decay_shape"]) == (
        *(3e-4, 2 * 48_829, 0.5),
        "cosine",
    )
    assert (own["n_step"], own["actor_interval"], own["target_rate"], own["target_std"]) == (1, 2, 0.01, 0.15)
    assert "2604.04539" in config["source"]


def test_fast_sac_on_playground():
    """The configuration of its code, which is of walking tasks of its own."""
    config = resolve("fast_sac", "playground/G1JoystickFlatTerrain")
    loop, own = config["program"], config["hyperparameters"]
    assert (loop["num_envs"], loop["batch_size"], loop["updates_per_step"]) == (4_096, 8_192, 8)
    assert (loop["replay_size"], loop["warmup"], config["steps"]) == (4_096 * 1_024, 40_960, 4_096 * 50_000)
    assert (own["discount"], own["target_rate"], own["temperature"], own["weight_decay"]) == (
        *(0.97, 0.125, 0.001),
        1e-3,
    )
    assert (own["critic_low"], own["critic_high"], loop["normalise_observations"]) == (-20.0, 20.0, True)
    assert "not run" in config["source"]


@pytest.mark.parametrize("name", ["sac", "qsm", "sdac", "dpmd", "maxentdp"])
def test_another_actor_takes_flash_sacs_place_by_name(name):
    """With its loop, its repeated noise and its atoms."""
    task = "playground/T1JoystickRoughTerrain"
    ours, theirs = preset(name, task, "flash"), preset("flash_sac", task)
    assert "not tuned" in ours.pop("source")
    assert {key for key in ours if ours[key] != theirs.get(key)} == {
        *("critic", "critic_low", "critic_high", "critic_atoms"),
        "critic_network",
    }
    config = resolve(name, task, choose="flash")
    assert config["program"]["noise_repeats"] == 16 and config["hyperparameters"]["critic_high"] == 5.0
