"""Published settings of the off-policy methods, table by table."""

from typing import Any

from dpolicy.presets._preset import Preset, Table, joined

# FlowRL's tasks, by the names that they have here; Gym's locomotion is brax's.
_GYM = ("ant", "halfcheetah", "hopper", "humanoid", "swimmer", "walker2d")
# Its quadruped and dog are not in MuJoCo Playground.
_DMC = ("CartpoleBalance", "HopperStand", "CheetahRun", "HumanoidWalk", "HumanoidRun", "HumanoidStand")

# What the authors' codes share on Gym: one environment, one update per step, ten thousand random steps.
_GYM_LOOP: dict[str, Any] = {
    "steps": 1_000_000,
    "num_envs": 1,
    "batch_size": 256,
    "replay_size": 1_000_000,
    "warmup": 10_000,
    "evaluation_interval": 10_000,
    "evaluation_episodes": 10,
    "resets": "pool",
}


def _flowrl_task(task: str) -> dict[str, Any]:
    """Tables 3 and A.3: what all of its off-policy methods share on one task."""
    gym = task in _GYM
    return _GYM_LOOP | {
        "batch_size": 256 if gym else 512,
        "discount": 0.99,
        "warmup": 5_000 if gym else 10_000,
        "normalise_observations": False,
        "hidden": (256, 256, 256) if gym else (512, 512, 512),
        "critic_hidden": (256, 256) if gym else (512, 512, 512),
        "critic_activation": "relu" if gym else "elu",
        "critics": 2,
        "target_rate": 0.005,
        "learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
    }


def _flowrl_own(algorithm: str, task: str) -> dict[str, Any]:
    """A.3: what one method has for itself, on one task."""
    gym = task in _GYM
    field: dict[str, Any] = {
        "activation": "mish",
        "embedding": "fourier_mlp",
        "sampler": "ddpm",
        "sampler_steps": 20,
        "schedule": "cosine",
        "prediction": "noise",
        "obs_hidden": (128, 128),  # the encoder of the observation, in its code only
    }
    # Two layers of 256 for QVPO and SAC; on DMC the text gives all actors three of 512.
    narrow: dict[str, Any] = {"hidden": (256, 256)} if gym else {}
    drawn = {"halfcheetah": 4, "hopper": 1}.get(task, 2)
    own: dict[str, dict[str, Any]] = {
        "sac": {**narrow, "tune_temperature": True},
        # Of these two its code alone has settings; TD3's actor on Gym is SAC's.
        "td3": {
            **narrow,
            "activation": "relu",
            "critic_activation": "relu",
            "actor_value": "mean",
            "actor_interval": 2 if gym else 1,
            "target_noise_clip": 0.5 if gym else 0.3,
            "exploration_noise": 0.1 if gym else 0.2,
        },
        "dacer": field
        | {
            "critic_form": "huber",
            "noise_in_loss": False,
            "learning_rate": 1e-4,
            "critic_learning_rate": 1e-4,
            "exploration_noise": 0.15 if task in ("halfcheetah", "humanoid") else 0.1,
            "reward_scale": 0.2 if gym else 1.0,
        },
        # The ten samples that the text gives to its update are those of evaluation in its code.
        "qsm": field | {"temperature": 0.1, "evaluation_candidates": 10},
        "sdac": field | {"samples": 500, "temperature": 0.05 if gym else 0.01},
        "maxentdp": field | {"samples": 500, "temperature": 0.05 if gym else 0.01, "soft": False},
        # In its code only, with the shared settings.
        "idem": field | {"samples": 500, "temperature": 0.05, "time_weight": "uniform"},
        # Its DPMD: samples of a frozen policy, and a temperature that holds a divergence.
        "gempo": field
        | {
            "weight": "linear",
            "candidates": 64,
            "reference_interval": 1_000,
            "reference_noise": 0.1 if task == "ant" else 0.2,
            "target_kl": 2.5,
            "learning_rate": 1e-4,
        },
        "qvpo": field
        | narrow
        | {
            "candidates": 64,
            "uniform_weight": 0.01,
            "final_uniform_weight": 0.01,
            "max_grad_norm": None,
            "exploration_candidates": 1,
            "backup_candidates": drawn,
            "evaluation_candidates": 32,
            "ranking": "online_mean",
            "critic_first": False,
        },
    }
    return own[algorithm]


def _flowrl() -> Table:
    """FlowRL (arXiv 2603.27450), section A.3 and table 3: one environment, one update per step.

    Its frame skip of 2 on DMC is the tasks' own action repeat here, where they have one.
    """
    source = "FlowRL, arXiv 2603.27450, section A.3 and table 3"
    tasks = [("brax", task) for task in _GYM] + [("playground", task) for task in _DMC]
    table: Table = {}
    for algorithm in ("sac", "td3", "dacer", "qsm", "sdac", "maxentdp", "idem", "gempo", "qvpo"):
        for family, task in tasks:
            values = _flowrl_task(task) | _flowrl_own(algorithm, task)
            if algorithm == "sac":
                values.pop("critic_activation")  # SAC's networks share `activation`
                values["activation"] = "relu" if task in _GYM else "elu"
            table.setdefault(algorithm, []).append((f"{family}/{task}", Preset(values, source, "flowrl")))
    return table


def _dipo() -> Table:
    """DIPO's own rows per task (arXiv 2305.13122 and its code), for brax's versions of Gym's tasks."""
    source = "DIPO, arXiv 2305.13122, and its code"
    rows = {
        "hopper": {"max_grad_norm": 1.0, "ascent_norm": 0.3},
        "walker2d": {"max_grad_norm": 2.0, "ascent_norm": 0.08},
        "ant": {"max_grad_norm": 0.8, "ascent_norm": 0.1},
        "halfcheetah": {"max_grad_norm": 2.0, "ascent_norm": 0.08, "ascent_steps": 40},
        "humanoid": {"max_grad_norm": 2.0, "ascent_norm": 0.1},
    }
    return {"dipo": [(f"brax/{task}", Preset(_GYM_LOOP | own, source, "dipo")) for task, own in rows.items()]}


def _maxentdp() -> Table:
    """MaxEntDP's temperatures per task (arXiv 2502.11612 and its code), for brax's versions of Gym's tasks."""
    source = "MaxEntDP, arXiv 2502.11612, and its code"
    decay: dict[str, Any] = {"decay_updates": 2_000_000, "decay_shape": "cosine"}
    temperatures = {
        "halfcheetah": 0.2,
        "humanoid": 0.02,
        "ant": 0.05,
        "walker2d": 0.01,
        "hopper": 0.05,
        "swimmer": 0.01,
    }
    return {
        "maxentdp": [
            (f"brax/{task}", Preset(_GYM_LOOP | decay | {"temperature": value}, source, "maxentdp"))
            for task, value in temperatures.items()
        ]
    }


def _bro() -> Table:
    """BRO's loop (arXiv 2405.16158, its code): ten updates a step, which its resets are counted for."""
    loop = _GYM_LOOP | {"updates_per_step": 10, "batch_size": 128, "warmup": 2_500}
    source = "BRO, arXiv 2405.16158, its code"
    return {"bro": [(f"{family}/*", Preset(loop, source, "bro")) for family in ("brax", "playground")]}


PUBLISHED = joined(_flowrl(), _dipo(), _maxentdp(), _bro())
