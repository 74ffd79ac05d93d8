"""Off-policy training of thousands of environments at once: FastTD3, FastSAC, FlashSAC, and loops for other actors."""

from typing import Any

from dpolicy.presets._preset import Preset, Table, joined

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


# FastSAC's code has its own tasks of the same two robots, which stand here for Playground's.
_HUMANOIDS = (
    *("G1JoystickFlatTerrain", "G1JoystickRoughTerrain", "T1JoystickFlatTerrain", "T1JoystickRoughTerrain"),
)
_FAST_SAC_ENVS = 4_096
_FAST_SAC: dict[str, Any] = {
    "steps": 50_000 * _FAST_SAC_ENVS,
    "num_envs": _FAST_SAC_ENVS,
    "replay_size": 1_024 * _FAST_SAC_ENVS,
    "warmup": 10 * _FAST_SAC_ENVS,
    "batch_size": 8_192,
    "updates_per_step": 8,
    "normalise_observations": True,
    "evaluation_interval": 2_500 * _FAST_SAC_ENVS,
    "evaluation_episodes": 128,
    "resets": "pool",
    "critic_low": -20.0,
    "critic_high": 20.0,
    "critic_atoms": 101,
    "discount": 0.97,
    "target_rate": 0.125,
    "weight_decay": 1e-3,
    "learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
}
_FLASH_LOOP: dict[str, Any] = {
    "steps": 50_000_896,
    "num_envs": _ENVS,
    "replay_size": 9_766 * _ENVS,  # 10M, whole steps of all environments
    "warmup": 100_000,
    "batch_size": 2_048,
    "updates_per_step": 2,
    "noise_repeats": 16,
    "reward_discount": 0.97,
    "evaluation_interval": 5_000 * _ENVS,
    "evaluation_episodes": 50,
    "resets": "pool",
}
_FLASH: dict[str, Any] = {
    "discount": 0.97,
    "target_rate": 0.01,
    "learning_rate": 3e-4,
    "decay_updates": 97_658,
    "decay_share": 0.5,
    "decay_shape": "cosine",
}
_FLASH_CRITICS: dict[str, Any] = {
    "critic": "c51",
    "critic_low": -5.0,
    "critic_high": 5.0,
    "critic_atoms": 101,
    "discount": 0.97,
    "target_rate": 0.01,
    "critic_network": "layer_norm",
}


def _soft() -> Table:
    """FastSAC (arXiv 2512.01996) and FlashSAC (arXiv 2604.04539) on Playground; FlashSAC's loop for other actors.

    FlashSAC's settings are those that its code has for these tasks. FastSAC's are of the walking tasks of its own code,
    whose rewards, bounds of actions, randomised domains and mirrored data are not here. Both show critics more than
    actors, and average float32 and shorter numbers: not here.
    """
    own = "FastSAC, arXiv 2512.01996, its code, for walking tasks of its own; not run on these"
    source = "FlashSAC, arXiv 2604.04539, its code"
    other = "the loop of FlashSAC (arXiv 2604.04539, its code) and its atoms, its actor replaced; not tuned"
    of = lambda preset: [(f"playground/{task}", preset) for task in _HUMANOIDS]
    return {
        "fast_sac": of(Preset(_FAST_SAC, own, "fast_sac")),
        "flash_sac": of(Preset(_FLASH_LOOP | _FLASH, source, "flash_sac")),
        **{name: of(Preset(_FLASH_LOOP | _FLASH_CRITICS, other, "flash")) for name in _ACTORS},
    }


PUBLISHED = joined(_fast_td3(), _soft())
