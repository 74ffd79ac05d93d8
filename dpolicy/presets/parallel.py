"""Off-policy training of thousands of environments at once: FastTD3's settings, for it and for other actors."""

from typing import Any

from dpolicy.presets._preset import Preset, Table

_ENVS = 1_024
_LOOP: dict[str, Any] = {
    "num_envs": _ENVS,
    "replay_size": 10_240 * _ENVS,
    "warmup": 10 * _ENVS,
    "batch_size": 32_768,
    "updates_per_step": 2,
    "normalise_observations": True,
    "evaluation_interval": 5_000 * _ENVS,
    "evaluation_episodes": 128,
    "resets": "pool",
}
_CRITICS: dict[str, Any] = {
    "critic": "c51",
    "critic_low": -10.0,
    "critic_high": 10.0,
    "critic_atoms": 101,
    "critic_hidden": (1024, 512, 256),
    "critic_reduction": "sum",
    "target_rate": 0.1,
    "discount": 0.97,
    "weight_decay": 0.1,
    "learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
}
# Steps of all environments together, and what a task changes; of `fast_td3` only what follows the bar.
_GO1: dict[str, Any] = {"steps": 50_000 * _ENVS, "updates_per_step": 8}
_GO1_NOISE: dict[str, Any] = {"exploration_low": 0.2, "exploration_high": 0.8, "target_noise": 0.2}
_G1: dict[str, Any] = {"steps": 100_000 * _ENVS}
_MEAN: dict[str, Any] = {"target_noise": 0.2, "actor_value": "mean"}
_TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "G1JoystickFlatTerrain": (_G1, {}),
    "G1JoystickRoughTerrain": (_G1, {}),
    "T1JoystickFlatTerrain": (_G1, {}),
    "T1JoystickRoughTerrain": (_G1, {}),
    "Go1JoystickFlatTerrain": (_GO1, _GO1_NOISE),
    "Go1JoystickRoughTerrain": (_GO1, _GO1_NOISE),
    "Go1Getup": (_GO1, _GO1_NOISE),
    "LeapCubeReorient": (
        {
            "steps": 150_000 * _ENVS,
            "n_step": 3,
            "discount": 0.99,
            "critic_low": -50.0,
            "critic_high": 50.0,
        },
        _MEAN,
    ),
    "LeapCubeRotateZAxis": ({"steps": 150_000 * _ENVS, "discount": 0.99}, _MEAN),
    "CheetahRun": (
        {"steps": 150_000 * _ENVS, "n_step": 3, "critic_low": -500.0, "critic_high": 500.0},
        {"exploration_low": 0.1, "target_noise": 0.1},
    ),
}
# Whose place its actor can take: with their own networks and samplers.
_ACTORS = ("sac", "qsm", "sdac", "dpmd", "maxentdp")


def _fast_td3() -> Table:
    """FastTD3 (arXiv 2505.22642) on Playground, from its code; and other actors with its loop and critics.

    Its code averages float32 and bfloat16, randomises some of these domains, and shows critics more than actors where a
    task has that: not here.
    """
    shared, source = _LOOP | _CRITICS, "FastTD3, arXiv 2505.22642, its code"
    table: Table = {
        "fast_td3": [
            (f"playground/{task}", Preset(shared | of_all | own, source, "fast_td3"))
            for task, (of_all, own) in _TASKS.items()
        ]
    }
    other = "the loop and critics of FastTD3 (arXiv 2505.22642, its code), its actor replaced; not tuned"
    for name in _ACTORS:
        table[name] = [
            (f"playground/{task}", Preset(shared | of_all, other, "parallel"))
            for task, (of_all, _) in _TASKS.items()
        ]
    return table


PUBLISHED = _fast_td3()
