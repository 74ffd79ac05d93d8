"""Every published preset beside its table, value by value, as the table prints it."""

import math
from fnmatch import fnmatch

import pytest
from tables import REVIEW, table

from dpolicy.presets import preset, resolve
from dpolicy.presets.on_policy import PUBLISHED

SETTING = {
    "lambda": "trace",
    "kl": "target_kl",
    "grad": "max_grad_norm",
    "value": "value_coefficient",
    "value clip": "value_clip",
    "rate": "learning_rate",
    "entropy": "entropy_coefficient",
    "score": "score_coefficient",
    "rollouts": "rollout",
    "envs": "num_envs",
    "flow": "flow_hidden",
    "critic": "value_hidden",
    "gamma": "discount",
}


# What no table says: how simulators are reset, and how often is evaluated.
OURS = ("resets", "iterations_per_evaluation", "evaluation_episodes")


def check(algorithm, env, name, expected):
    """Compare what a run would be given, defaults included, with what a table says under its own headings."""
    config = resolve(algorithm, env, choose=name)
    found = {**config["hyperparameters"], **config["program"], "steps": config["steps"]}
    wanted = {SETTING.get(heading, heading): value for heading, value in expected.items()}
    assert {setting: found[setting] for setting in wanted} == wanted, (algorithm, env)
    unsaid = set(preset(algorithm, env, name)) - {"source", *OURS} - set(wanted)
    assert not unsaid, (algorithm, env)


# DP-CPPO, arXiv 2603.04790, tables 6 to 13: the columns are DP-CPPO | PPO.
SHARED = {
    "lambda": 0.95,
    "clip": 0.2,
    "grad": 1.0,
    "value": 1.0,
    "value clip": 0.2,
    "epochs": 5,
    "minibatches": 4,
}
CPPO = """
task                                kl          rate          entropy      score  rollouts  hidden       activation
Isaac-Ant-v0                        .01 .01     .0005 .0005   .005 .01     .1     32        400,200,100  elu elu
Isaac-Lift-Cube-Franka-v0           .008 .01    .0001 .0001   .004 .006    .1     24        256,128,64   elu elu
Isaac-Quadcopter-Direct-v0          .01 .01     .0005 .0005   .01 .01      .5     24        64,64        mish elu
Isaac-Velocity-Flat-Anymal-D-v0     .01 .01     .001 .001     .001 .005    .1     24        128,128,128  elu elu
Isaac-Velocity-Rough-H1-v0          .01 .01     .0005 .001    .005 .01     .1     24        512,256,128  elu elu
Isaac-Velocity-Rough-Unitree-Go2-v0 .01 .01     .001 .001     .005 .01     .1     24        512,256,128  elu elu
Isaac-Navigation-Flat-Anymal-C-v0   .01 .01     .001 .001     .001 .005    .1     8         128,128      mish elu
Isaac-Velocity-Rough-G1-v0          .01 .01     .001 .001     .001 .008    .1     24        512,256,128  elu elu
"""


@pytest.mark.parametrize("row", table(CPPO), ids=lambda row: row[0])
def test_dp_cppo_on_isaaclab(row):
    task, kl, kl_ppo, rate, rate_ppo, entropy, entropy_ppo, score, rollouts, hidden, activation, of_ppo = row
    shared = SHARED | {"envs": 4096, "rollouts": int(rollouts), "hidden": hidden, "critic": hidden}
    shared |= {"steps": 1_000 * 4096 * int(rollouts)}  # table 2: a thousand iterations
    flow = {
        "flow_steps": 16,
        "flow_learning_rate": 1e-3,
        "ema_decay": 0.999,
        "flow_minibatches": 4,
    }  # table 5
    own = {"kl": float(kl), "rate": float(rate), "entropy": float(entropy), "activation": activation}
    own |= {"score": float(score), "flow": hidden, "flow_epochs": 15}
    check("dp_cppo", f"isaaclab/{task}", "dp-cppo", shared | flow | own)
    of = {"kl": float(kl_ppo), "rate": float(rate_ppo), "entropy": float(entropy_ppo), "activation": of_ppo}
    check("ppo", f"isaaclab/{task}", "dp-cppo", shared | of | {"policy": "gaussian"})
    # PPO has no flow that another table tells of.
    sources = {name: preset(name, f"isaaclab/{task}", "dp-cppo")["source"] for name in ("dp_cppo", "ppo")}
    assert sources["dp_cppo"] == f"{sources['ppo']} (flow: table 5)"


# DP-CPPO, table 14, with the exceptions it lists.
PLAYGROUND = {
    "BallInCup": {"clip": 0.05, "value clip": None, "rate": 1e-4},
    "CheetahRun": {"value clip": None, "epochs": 10},
    "FingerSpin": {"epochs": 10, "entropy": 0.005},
    "PointMass": {"kl": None, "rate": 5e-4},
    "ReacherEasy": {"entropy": 0.005},
    "ReacherHard": {"entropy": 0.005},
    "WalkerRun": {},
    "WalkerWalk": {},
}


@pytest.mark.parametrize("task", PLAYGROUND)
def test_dp_cppo_on_playground(task):
    general = {"kl": 0.01, "rate": 1e-3, "entropy": 0.001, "score": 0.1, "rollouts": 32, "envs": 4096}
    flow = {"flow_steps": 16, "flow_learning_rate": 1e-3, "ema_decay": 0.999, "flow_minibatches": 4}
    nets = {"flow": (128, 64, 32), "hidden": (512, 256, 128), "critic": (512, 256, 128), "activation": "elu"}
    general |= {"steps": 60_000_000}  # those of FPO, which it is compared with
    expected = SHARED | general | flow | nets | {"flow_epochs": 15} | PLAYGROUND[task]
    check("dp_cppo", f"playground/{task}", "dp-cppo", expected)


# FPO, arXiv 2507.21053, table A.2 and code; MuJoCo Playground's dm_control_suite_params for its PPO.
FPO_TASKS = ("BallInCup", "CartpoleBalance", "CheetahRun", "FingerSpin", "FingerTurnEasy", "FingerTurnHard", "FishSwim",
             "PointMass", "ReacherEasy", "ReacherHard")  # fmt: skip
LOOP = {
    "envs": 2048,
    "rollouts": 480,
    "recompute_segment": 30,
    "minibatches": 32,
    "epochs": 16,
    "lambda": 0.95,
    "reward_scale": 10.0,
    "normalise_observations": True,
    "gae_dialect": "brax",
    "normalise_advantages": "minibatch",
    "value": 0.25,
    "value clip": None,
    "kl": None,
    "hidden": (32,) * 4,
    "critic": (256,) * 5,
    "activation": "silu",
    "initialisation": "lecun_uniform",
    "grad": 1e6,  # none
}


# Brax's policy, whose width softplus(q) + 0.001 starts at q = 0.
BRAX = LOOP | {"policy": "tanh_gaussian", "initial_std": math.log(2) + 1e-3, "entropy": 0.01}


@pytest.mark.parametrize("task", FPO_TASKS)
def test_fpo_and_its_baselines(task):
    env = f"playground/{task}"
    loop = LOOP | {"gamma": 0.95 if task in ("BallInCup", "FingerSpin") else 0.995, "steps": 60_000_000}
    flow = {"sampler_steps": 10, "output_scale": 0.25, "rate": 3e-4}
    fpo = {"draws": 8, "supervise": "noise", "times": "grid", "average": "mean_then_exp", "clip": 0.05}
    check("fpo", env, "fpo", loop | flow | fpo | {"surrogate": "ppo", "action_noise": None})
    chain = {
        "denoiser": "euler",
        "clip": 0.2,
        "exploration_std": 0.05,
        "likelihood_std": None,
        "squash": True,
    }
    chain |= {
        "reduction": "sum",
        "log_prob_low": None,
        "log_prob_high": None,
        "noise_bound": None,
        "denoising_discount": 1.0,
    }
    check("dppo", env, "fpo", loop | flow | chain | {"value_learning_rate": None, "stop_kl": None})
    check("ppo", env, "fpo", {"rate": 3e-4, "clip": 0.1} | BRAX | loop)
    check("ppo", env, "playground", {"rate": 1e-3, "clip": 0.3} | BRAX | loop)


def test_what_brax_calls_a_batch():
    """32 minibatches of 1024 segments of 30 steps."""
    assert LOOP["envs"] * LOOP["rollouts"] == 32 * 1024 * 30


STEPS_AND_EPOCHS = {
    "AcrobotSwingup": (100_000_000, 16),
    "AcrobotSwingupSparse": (100_000_000, 16),
    "SwimmerSwimmer6": (100_000_000, 16),
    "WalkerRun": (100_000_000, 16),
    "PendulumSwingup": (60_000_000, 4),
    "WalkerWalk": (60_000_000, 16),
}


@pytest.mark.parametrize("task", STEPS_AND_EPOCHS)
def test_tasks_of_playground_with_settings_of_their_own(task):
    steps, epochs = STEPS_AND_EPOCHS[task]
    own = {"steps": steps, "epochs": epochs, "gamma": 0.995, "rate": 1e-3, "clip": 0.3}
    check("ppo", f"playground/{task}", "playground", BRAX | own)


GYM = {"hopper": 301, "walker2d": 501, "halfcheetah": 501}  # iterations from scratch


def test_dppo_on_gym():
    """arXiv 2409.00588, tables A7 to A11; batches are counted in pairs of a transition and a step."""
    networks = {"hidden": (512,) * 3, "residual": True, "activation": "relu", "critic": (256,) * 3}
    networks |= {"value_residual": True, "value_activation": "mish"}
    both = networks | {
        "gamma": 0.99,
        "lambda": 0.95,
        "rate": 1e-4,
        "value_learning_rate": 1e-3,
        "stop_kl": 1.0,
    }
    both |= {"exploration_std": 0.1, "likelihood_std": None, "noise_bound": 3.0, "value": 0.25, "grad": 1e6}
    both |= {
        "normalise_observations": False,
        "reward_discount": 0.99,
        "denoiser": "ddpm",
        "reduction": "mean",
    }
    both |= {
        "log_prob_low": -5.0,
        "log_prob_high": 2.0,
        "learning_rate_warmup": 10,
        "learning_rate_floor": 1.0,
    }
    both |= {
        "normalise_advantages": "minibatch",
        "advantage_low_quantile": None,
        "advantage_high_quantile": None,
    }
    scratch = {
        "sampler_steps": 10,
        "trained_steps": None,
        "envs": 10,
        "rollouts": 1000,
        "epochs": 10,
        "clip": 0.1,
    }
    scratch |= {"denoising_discount": 1.0, "minibatches": 10 * 1000 * 10 // 5000}
    for task, iterations in GYM.items():
        check("dppo", f"brax/{task}", "dppo", both | scratch | {"steps": iterations * 10 * 1000})
        tuning = {
            "sampler_steps": 20,
            "trained_steps": 10,
            "envs": 40,
            "rollouts": 500,
            "epochs": 5,
            "clip": 0.01,
        }
        tuning |= {"clip_low": None, "denoising_discount": 0.99, "minibatches": 40 * 500 * 10 // 50_000}
        check("dppo", f"brax/{task}", "dppo-fine-tuning", both | tuning | {"steps": 1000 * 40 * 500})


# FlowRL, arXiv 2603.27450, section A.3 and tables 3 and 4.
FLOWRL = {
    "dppo": {
        "activation": "mish",
        "value_activation": None,
        "sampler_steps": 10,
        "clip": 0.2,
        # Its code: densities summed over the action, discounted towards noise, one estimate a rollout.
        "reduction": "sum",
        "denoising_discount": 0.99,
        "normalise_advantages": "rollout",
        "stop_kl": None,
        "value": 1.0,
    },
    "fpo": {
        "activation": "silu",
        "value_activation": "elu",
        "sampler_steps": 10,
        "clip": 0.05,
        "draws": 8,
        # Its code, where no action with a negative advantage is pushed away.
        "action_noise": 0.1,
        "advantages": "positive",
        "output_scale": 0.25,
        "gae_dialect": "exact",
        "value": 1.0,
    },
    "genpo": {
        "activation": "elu",
        "sampler_steps": 5,
        "clip": 0.2,
        "compression_coefficient": 0.01,
        "value clip": 0.2,
    },
    "ppo": {"activation": "elu", "clip": 0.2, "entropy": 1e-4, "kl": None, "value clip": 0.2},
}


FLOWRL_TASKS = ("Ant-v0", "Humanoid-v0", "Lift-Cube-Franka-v0", "Velocity-Flat-Anymal-D-v0")


@pytest.mark.parametrize("task", FLOWRL_TASKS)
def test_flowrl(task):
    shared = {
        "steps": 100_000_000,
        "envs": 1024,
        "rollouts": 24,
        "epochs": 4,
        "minibatches": 4,
        "gamma": 0.99,
    }
    shared |= {"lambda": 0.95, "grad": 1.0, "hidden": (256,) * 3, "critic": (256,) * 3, "rate": 1e-4}
    shared |= {"value_learning_rate": 1e-3, "normalise_observations": True}
    for algorithm, own in FLOWRL.items():
        check(algorithm, f"isaaclab/Isaac-{task}", "flowrl", shared | own)


# GenPO, arXiv 2505.18763, tables 2 to 10.
GENPO = """
task                                rate  gamma  hidden
Isaac-Ant-v0                        1e-3  .99    400,200,100
Isaac-Humanoid-v0                   5e-4  .99    400,200,100
Isaac-Lift-Cube-Franka-v0           1e-4  .98    256,128,64
Isaac-Quadcopter-Direct-v0          5e-4  .99    64,64
Isaac-Velocity-Flat-Anymal-D-v0     1e-3  .99    128,128,128
Isaac-Velocity-Rough-Unitree-Go2-v0 1e-3  .99    512,256,128
Isaac-Velocity-Rough-H1-v0          1e-3  .99    512,256,128
Isaac-Repose-Cube-Shadow-Direct-v0  5e-4  .99    512,512,256,128
"""


@pytest.mark.parametrize("row", table(GENPO), ids=lambda row: row[0])
def test_genpo(row):
    task, rate, gamma, hidden = row
    shared = {"envs": 4096, "grad": 1.0, "lambda": 0.95, "clip": 0.2, "kl": 0.01, "mixing": 0.9}
    shared |= {"sampler_steps": 5, "compression_coefficient": 0.01, "hidden": hidden, "critic": hidden}
    loop = {"rollouts": 32, "steps": 1_000 * 4096 * 32, "epochs": 5, "minibatches": 4}  # its code
    shared |= loop
    check("genpo", f"isaaclab/{task}", "genpo", shared | {"rate": float(rate), "gamma": float(gamma)})


# FPO++, arXiv 2602.02481, table A.1 and its code.
FPOPP = """
task                               iterations  epochs  draws  value
Isaac-Velocity-Flat-Unitree-Go2-v0 1500        16      16     1
Isaac-Velocity-Flat-Spot-v0        1500        32      32     .5
Isaac-Velocity-Flat-H1-v0          2000        32      32     1
Isaac-Velocity-Flat-G1-v0          2000        32      32     1
"""


@pytest.mark.parametrize("row", table(FPOPP), ids=lambda row: row[0])
def test_fpopp(row):
    task, iterations, epochs, draws, value = row
    shared = {"envs": 4096, "rollouts": 24, "minibatches": 4, "gamma": 0.99, "lambda": 0.95, "grad": 1.0}
    shared |= {"clip": 0.05, "surrogate": "aspo", "rate": 1e-4, "weight_decay": 1e-4, "sampler_steps": 64}
    shared |= {"hidden": (256,) * 3, "critic": (768,) * 3, "activation": "elu", "action_noise": 0.02}
    shared |= {"ema_decay": 0.95, "ema_after": 500, "normalise_observations": True, "kl": None}
    own = {"steps": int(iterations) * 4096 * 24, "epochs": int(epochs), "draws": int(draws)}
    check("fpopp", f"isaaclab/{task}", "fpopp", shared | own | {"value": float(value)})


@pytest.mark.parametrize("row", table(REVIEW), ids=lambda row: row[0])
def test_review(row):
    task, hidden = row[0], row[2]
    headings = ("gamma", "rollouts", "epochs", "minibatches", "kl", "entropy", "value")
    numbers = dict(zip(headings, map(float, row[3:]), strict=True)) | {"rate": float(row[1])}
    shared = {"envs": 1024, "hidden": hidden, "critic": hidden, "grad": 1.0, "lambda": 0.95, "clip": 0.2}
    steps = 1_000 * 1024 * int(row[4])  # ours: a thousand iterations
    expected = numbers | shared | {"value clip": 0.2, "value_learning_rate": None, "steps": steps}
    check("ppo", f"isaaclab/{task}", "review", expected)
    del expected["entropy"]  # which GenPO's density does not depend on
    own = {"mixing": 0.9, "sampler_steps": 5, "compression_coefficient": 0.01}
    check("genpo", f"isaaclab/{task}", "review", expected | own)


def test_no_published_preset_is_without_its_table():
    """Each is what a task above is given."""
    isaaclab = {row[0] for text in (CPPO, REVIEW, GENPO, FPOPP) for row in table(text)} | {
        f"Isaac-{task}" for task in FLOWRL_TASKS
    }
    playground = {*PLAYGROUND, *FPO_TASKS, *STEPS_AND_EPOCHS}
    names = {"isaaclab": isaaclab, "playground": playground, "brax": GYM}
    tasks = [f"{family}/{task}" for family, of in names.items() for task in of]
    for algorithm, rows in PUBLISHED.items():
        used = set()
        for task in tasks:
            matching = [(pattern, chosen.name) for pattern, chosen in rows if fnmatch(task, pattern)]
            used |= {next(row for row in matching if row[1] == name) for _, name in matching}
        assert used == {(pattern, chosen.name) for pattern, chosen in rows}, algorithm
