"""Published settings of DP-CPPO and of the PPO that it is compared with (arXiv 2603.04790, tables 5 to 14).

IsaacLab tasks by the names of release 2; `isaaclab/*` patterns match release 3's names too, which drop the version.
"""

from typing import Any

from dpolicy.presets._preset import Preset, Table, joined

# What its tables 6 to 13 share. Discount and initial deviation are not given; the recipe's
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
            flow = ""
            if algorithm == "dp_cppo":
                values |= {**_CPPO_FLOW, "score_coefficient": score, "flow_hidden": widths}
                flow = " (flow: table 5)"
            table[algorithm].append((f"isaaclab/{task}", Preset(values, source + flow, "dp-cppo")))
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


PUBLISHED = joined(_cppo_isaaclab(), _cppo_playground())
