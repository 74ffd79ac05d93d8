"""Published settings of the on-policy methods, table by table.

IsaacLab tasks by the names of release 2; `isaaclab/*` patterns match release 3's names too, which drop the version.
"""

import math
from typing import Any

from dpolicy.presets.preset import Preset, Table, joined

# DP-CPPO (arXiv 2603.04790): what its tables 6 to 13 share. Discount and initial deviation are not given; the recipe's
# defaults stand for them. Its table 2 is of 1,000 iterations, which are taken for all tasks.
_CPPO = {"trace": 0.95, "clip": 0.2, "max_grad_norm": 1.0, "value_coefficient": 1.0, "value_clip": 0.2}
_CPPO_LOOP = {"epochs": 5, "minibatches": 4, "num_envs": 4096}
_CPPO_FLOW = {
    "flow_steps": 16,
    "flow_learning_rate": 1e-3,
    "ema_decay": 0.999,
    "flow_minibatches": 4,
    "flow_epochs": 15,
}
# Task: table, KL target (DP-CPPO, PPO), rate, entropy, score, rollout, widths, activation (DP-CPPO, PPO).
_CPPO_TASKS: list[tuple[str, int, tuple, tuple, tuple, float, int, tuple, tuple]] = [
    ("Isaac-Ant*", 6, (0.01, 0.01), (5e-4, 5e-4), (0.005, 0.01), 0.1, 32, (400, 200, 100), ("elu", "elu")),
    (
        "Isaac-Lift-Cube-Franka*",
        7,
        (0.008, 0.01),
        (1e-4, 1e-4),
        (0.004, 0.006),
        0.1,
        24,
        (256, 128, 64),
        ("elu", "elu"),
    ),
    ("Isaac-Quadcopter*", 8, (0.01, 0.01), (5e-4, 5e-4), (0.01, 0.01), 0.5, 24, (64, 64), ("mish", "elu")),
    (
        "Isaac-Velocity-Flat-Anymal-D*",
        9,
        (0.01, 0.01),
        (1e-3, 1e-3),
        (0.001, 0.005),
        0.1,
        24,
        (128, 128, 128),
        ("elu", "elu"),
    ),
    (
        "Isaac-Velocity-Rough-H1*",
        10,
        (0.01, 0.01),
        (5e-4, 1e-3),
        (0.005, 0.01),
        0.1,
        24,
        (512, 256, 128),
        ("elu", "elu"),
    ),
    (
        "Isaac-Velocity-Rough-Unitree-Go2*",
        11,
        (0.01, 0.01),
        (1e-3, 1e-3),
        (0.005, 0.01),
        0.1,
        24,
        (512, 256, 128),
        ("elu", "elu"),
    ),
    (
        "Isaac-Navigation-Flat-Anymal-C*",
        12,
        (0.01, 0.01),
        (1e-3, 1e-3),
        (0.001, 0.005),
        0.1,
        8,
        (128, 128),
        ("mish", "elu"),
    ),
    (
        "Isaac-Velocity-Rough-G1*",
        13,
        (0.01, 0.01),
        (1e-3, 1e-3),
        (0.001, 0.008),
        0.1,
        24,
        (512, 256, 128),
        ("elu", "elu"),
    ),
]


def _cppo_isaaclab() -> Table:
    table: Table = {"dp_cppo": [], "ppo": []}
    for task, number, kl, rate, entropy, score, rollout, widths, activation in _CPPO_TASKS:
        source = f"DP-CPPO, arXiv 2603.04790, table {number}"
        for column, algorithm in enumerate(("dp_cppo", "ppo")):
            values: dict[str, Any] = {
                **_CPPO,
                **_CPPO_LOOP,
                "target_kl": kl[column],
                "learning_rate": rate[column],
                "entropy_coefficient": entropy[column],
                "steps": 1_000 * _CPPO_LOOP["num_envs"] * rollout,
                "rollout": rollout,
                "hidden": widths,
                "value_hidden": widths,
                "activation": activation[column],
            }
            if algorithm == "dp_cppo":
                values |= {**_CPPO_FLOW, "score_coefficient": score, "flow_hidden": widths}
                source += " (flow: table 5)"
            table[algorithm].append((f"isaaclab/{task}", Preset(values, source, "dp-cppo")))
    return table


# DP-CPPO, table 14: Playground, with its exceptions per task.
_CPPO_PLAYGROUND: dict[str, dict[str, Any]] = {
    "BallInCup": {"clip": 0.05, "value_clip": None, "learning_rate": 1e-4},
    "CheetahRun": {"value_clip": None, "epochs": 10},
    "FingerSpin": {"epochs": 10, "entropy_coefficient": 0.005},
    "PointMass": {"target_kl": None, "learning_rate": 5e-4},
    "ReacherEasy": {"entropy_coefficient": 0.005},
    "ReacherHard": {"entropy_coefficient": 0.005},
    "*": {},
}


def _cppo_playground() -> Table:
    shared: dict[str, Any] = {
        **_CPPO,
        **_CPPO_LOOP,
        **_CPPO_FLOW,
        "target_kl": 0.01,
        "learning_rate": 1e-3,
        "entropy_coefficient": 0.001,
        "score_coefficient": 0.1,
        "steps": 60_000_000,  # not given: FPO's, which it compares with
        "rollout": 32,
        "flow_hidden": (128, 64, 32),
        "hidden": (512, 256, 128),
        "value_hidden": (512, 256, 128),
        "activation": "elu",
        "resets": "pool",
    }
    source = "DP-CPPO, arXiv 2603.04790, tables 5 and 14"
    rows = [
        (f"playground/{task}", Preset(shared | changes, source, "dp-cppo"))
        for task, changes in _CPPO_PLAYGROUND.items()
    ]
    return {"dp_cppo": rows}


def _fpo_playground() -> Table:
    """FPO's own settings and those of its baselines (arXiv 2507.21053, tables 1 and A.1-A.2).

    60 million steps in rollouts of 480 (16 unrolls of 30) from 2048 environments. The baselines are Brax's PPO: a
    squashed Gaussian whose width depends on the state, at first softplus(0) + 0.001 where the network gives 0;
    and what its table 1 calls DPPO, the steps of FPO's flow as decisions.
    """
    shared: dict[str, Any] = {
        "steps": 60_000_000,
        "num_envs": 2048,
        "rollout": 480,
        "epochs": 16,
        "minibatches": 32,
        "trace": 0.95,
        "reward_scale": 10.0,
        "resets": "pool",
        "iterations_per_evaluation": 6,
        "evaluation_episodes": 128,
        "gae_dialect": "brax",
        "recompute_segment": 30,
        "normalise_advantages": "minibatch",
    }
    networks = {"hidden": (32, 32, 32, 32), "value_hidden": (256, 256, 256, 256, 256), "activation": "silu"}
    baseline: dict[str, Any] = {
        **shared,
        **networks,
        "policy": "tanh_gaussian",
        "initial_std": math.log(2) + 0.001,
        "entropy_coefficient": 0.01,
        "value_coefficient": 0.25,
        "value_clip": None,
        "target_kl": None,
        "initialisation": "lecun_uniform",
        "max_grad_norm": 1e6,
    }
    denoising: dict[str, Any] = {
        **shared,
        **networks,
        "denoiser": "euler",
        "sampler_steps": 10,
        "clip": 0.2,
        "exploration_std": 0.05,
        "squash": True,
        "reduction": "sum",
        "log_prob_low": None,
        "log_prob_high": None,
        "noise_bound": None,
        "stop_kl": None,
        "learning_rate": 3e-4,
        "value_learning_rate": None,
        "initialisation": "lecun_uniform",
        "output_scale": 0.25,
    }
    table: Table = {"fpo": [], "dppo": [], "ppo": []}
    rows: dict[str, dict[str, Any]] = {
        **{task: {"steps": 100_000_000} for task in ("AcrobotSwingup*", "Swimmer*", "WalkerRun")},
        "PendulumSwingup": {"epochs": 4},
        **{task: {"discount": 0.95} for task in ("BallInCup", "FingerSpin")},
        "*": {},
    }
    for task, discount in (("BallInCup", 0.95), ("FingerSpin", 0.95), ("*", 0.995)):
        pattern, chosen = f"playground/{task}", {"discount": discount}
        fpo = {**shared, **chosen, "sampler_steps": 10, "draws": 8, "clip": 0.05, "learning_rate": 3e-4}
        table["fpo"].append((pattern, Preset(fpo, "FPO, arXiv 2507.21053, table A.2 and its code", "fpo")))
        steps = Preset(
            {**denoising, **chosen}, "FPO, arXiv 2507.21053, table 1 (there DPPO) and its code", "fpo"
        )
        table["dppo"].append((pattern, steps))
        tuned = {**baseline, **chosen, "clip": 0.1, "learning_rate": 3e-4}
        table["ppo"].append(
            (pattern, Preset(tuned, "FPO, arXiv 2507.21053, table A.1 (tuned baseline)", "fpo"))
        )
    for task, own in rows.items():
        brax = {**baseline, "discount": 0.995, "clip": 0.3, "learning_rate": 1e-3, **own}
        table["ppo"].append(
            (
                f"playground/{task}",
                Preset(brax, "MuJoCo Playground, dm_control_suite_params", "playground"),
            )
        )
    return table


def _dppo_gym() -> Table:
    """DPPO's gym settings (arXiv 2409.00588, tables A7 to A11, and its code), for brax's versions of those tasks.

    A minibatch holds the reference's number of pairs (transition, step), all steps of a transition together. Networks
    and iterations as in its code.
    """
    shared: dict[str, Any] = {
        "denoiser": "ddpm",
        "learning_rate": 1e-4,
        "value_learning_rate": 1e-3,
        "discount": 0.99,
        "trace": 0.95,
        "reward_discount": 0.99,
        "normalise_observations": False,
        "resets": "pool",
        "iterations_per_evaluation": 10,
        "hidden": (512, 512, 512),
        "residual": True,
        "activation": "relu",
        "value_residual": True,
        "value_activation": "mish",
    }
    scratch: dict[str, Any] = {
        "steps": 301 * 10_000,
        "num_envs": 10,
        "rollout": 1_000,
        "sampler_steps": 10,
        "clip": 0.1,
        "epochs": 10,
        "minibatches": 20,
    }
    tuning: dict[str, Any] = {
        "steps": 1_000 * 20_000,
        "num_envs": 40,
        "rollout": 500,
        "sampler_steps": 20,
        "trained_steps": 10,
        "clip": 0.01,
        "denoising_discount": 0.99,
        "epochs": 5,
        "minibatches": 4,
    }
    longer, source = {"steps": 501 * 10_000}, "DPPO, arXiv 2409.00588, gym from scratch"
    rows = [
        ("brax/walker2d", Preset(shared | scratch | longer, source, "dppo")),
        ("brax/halfcheetah", Preset(shared | scratch | longer, source, "dppo")),
        ("brax/*", Preset(shared | scratch, source, "dppo")),
        (
            "brax/*",
            Preset(
                shared | tuning,
                "DPPO, arXiv 2409.00588, gym fine-tuning (with --action-chunk 4 and a pretrained field)",
                "dppo-fine-tuning",
            ),
        ),
    ]
    return {"dppo": rows}


def _flowrl_isaaclab() -> Table:
    """FlowRL (arXiv 2603.27450), section A.3 and tables 3 and 4: four IsaacLab tasks."""
    shared: dict[str, Any] = {
        "steps": 100_000_000,
        "num_envs": 1024,
        "rollout": 24,
        "epochs": 4,
        "minibatches": 4,
        "trace": 0.95,
        "discount": 0.99,
        "clip": 0.2,
        "max_grad_norm": 1.0,
        "normalise_observations": True,
        "hidden": (256, 256, 256),
        "value_hidden": (256, 256, 256),
        "learning_rate": 1e-4,
        "value_learning_rate": 1e-3,
    }
    own: dict[str, dict[str, Any]] = {
        "ppo": {"activation": "elu", "target_kl": None, "entropy_coefficient": 1e-4, "value_clip": 0.2},
        # The sizes of the time embeddings (32, 16) are the recipes' own (16, 8); the rest as its code has it.
        "dppo": {
            "activation": "mish",
            "sampler_steps": 10,
            "clip": 0.2,
            "reduction": "sum",
            "denoising_discount": 0.99,
            "normalise_advantages": "rollout",
            "stop_kl": None,
            "value_coefficient": 1.0,
        },
        "fpo": {
            "activation": "silu",
            "value_activation": "elu",
            "sampler_steps": 10,
            "draws": 8,
            "clip": 0.05,
            "action_noise": 0.1,
            "advantages": "positive",
            "output_scale": 0.25,
            "gae_dialect": "exact",
            "value_coefficient": 1.0,
        },
        "genpo": {
            "activation": "elu",
            "sampler_steps": 5,
            "compression_coefficient": 0.01,
            "value_clip": 0.2,
        },
    }
    source = "FlowRL, arXiv 2603.27450, section A.3 and tables 3 and 4"
    tasks = ("Isaac-Ant*", "Isaac-Humanoid*", "Isaac-Lift-Cube-Franka*", "Isaac-Velocity-Flat-Anymal-D*")
    return {
        algorithm: [(f"isaaclab/{task}", Preset(shared | values, source, "flowrl")) for task in tasks]
        for algorithm, values in own.items()
    }


PUBLISHED = joined(
    _cppo_isaaclab(),
    _cppo_playground(),
    _fpo_playground(),
    _dppo_gym(),
    _flowrl_isaaclab(),
)
