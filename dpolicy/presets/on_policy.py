"""Published settings of the on-policy methods, table by table.

IsaacLab tasks by the names of release 2; `isaaclab/*` patterns match release 3's names too, which drop the version.
"""

import math
from typing import Any

from dpolicy.presets._preset import Preset, Table, joined
from dpolicy.presets.dp_cppo import PUBLISHED as DP_CPPO


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


def _genpo_isaaclab() -> Table:
    """GenPO's own settings (arXiv 2505.18763, tables 2 to 10); rollouts, passes and iterations as in its code.

    Its entropy coefficients are left out, as the density's entropy is a constant, and so is the smaller time embedding
    of the quadcopter, which is no setting.
    """
    shared: dict[str, Any] = {
        "num_envs": 4096,
        "rollout": 32,
        "steps": 1_000 * 4096 * 32,
        "epochs": 5,
        "minibatches": 4,
        "discount": 0.99,
        "trace": 0.95,
        "clip": 0.2,
        "target_kl": 0.01,
        "max_grad_norm": 1.0,
        "sampler_steps": 5,
        "mixing": 0.9,
        "compression_coefficient": 0.01,
    }
    tasks: dict[str, tuple[float, tuple[int, ...]]] = {
        "Isaac-Ant*": (1e-3, (400, 200, 100)),
        "Isaac-Humanoid*": (5e-4, (400, 200, 100)),
        "Isaac-Lift-Cube-Franka*": (1e-4, (256, 128, 64)),
        "Isaac-Quadcopter*": (5e-4, (64, 64)),
        "Isaac-Velocity-Flat-Anymal-D*": (1e-3, (128, 128, 128)),
        "Isaac-Velocity-*-Unitree-Go2*": (1e-3, (512, 256, 128)),
        "Isaac-Velocity-*-H1*": (1e-3, (512, 256, 128)),
        "Isaac-Repose-Cube-Shadow*": (5e-4, (512, 512, 256, 128)),
    }
    source = "GenPO, arXiv 2505.18763, tables 2 to 10"
    rows: list[tuple[str, Preset]] = []
    for task, (rate, widths) in tasks.items():
        values = {**shared, "learning_rate": rate, "hidden": widths, "value_hidden": widths}
        if "Franka" in task:
            values["discount"] = 0.98
        rows.append((f"isaaclab/{task}", Preset(values, source, "genpo")))
    return {"genpo": rows}


def _fpopp_isaaclab() -> Table:
    """FPO++'s own settings for locomotion (arXiv 2602.02481, table A.1 and its code).

    Draws and passes are the code's: 16 of each for Go2, 32 for the others.
    """
    rows: list[tuple[str, Preset]] = []
    # Task: passes and draws, iterations, weight of the value loss.
    for task, passes, iterations, value in (
        ("Unitree-Go2", 16, 1_500, 1.0),
        ("Spot", 32, 1_500, 0.5),
        ("H1", 32, 2_000, 1.0),
        ("G1", 32, 2_000, 1.0),
    ):
        values: dict[str, Any] = {
            "num_envs": 4096,
            "rollout": 24,
            "steps": iterations * 4096 * 24,
            "epochs": passes,
            "draws": passes,
            "minibatches": 4,
            "clip": 0.05,
            "learning_rate": 1e-4,
            "discount": 0.99,
            "trace": 0.95,
            "value_coefficient": value,
            "max_grad_norm": 1.0,
            "sampler_steps": 64,
        }
        source = "FPO++, arXiv 2602.02481, table A.1 and its code"
        rows.append((f"isaaclab/Isaac-Velocity-Flat-{task}*", Preset(values, source, "fpopp")))
    return {"fpopp": rows}


PUBLISHED = joined(
    DP_CPPO,
    _fpo_playground(),
    _dppo_gym(),
    _genpo_isaaclab(),
    _fpopp_isaaclab(),
    _flowrl_isaaclab(),
)
