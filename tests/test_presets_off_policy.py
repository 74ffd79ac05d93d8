"""Every off-policy preset and every setting found here, value by value, beside its table or its page.

A preset is compared whole: what it sets and a table does not name fails.
"""

from fnmatch import fnmatch

import pytest
from tables import REVIEW, table

from dpolicy.presets import PRESETS, preset
from dpolicy.presets.off_policy import PUBLISHED
from dpolicy.presets.tuned import TUNED as ON_POLICY
from dpolicy.presets.tuned_off_policy import TUNED as OFF_POLICY

SMALL = (64, 64)


def check(algorithm, env, name, expected, source):
    found = preset(algorithm, env, name)
    assert source in found.pop("source")
    assert found == expected, (algorithm, env)


# FlowRL, arXiv 2603.27450, table 3 and section A.3: Gym's locomotion is brax's here, DMC is Playground's.
GYM = ("ant", "halfcheetah", "hopper", "humanoid", "swimmer", "walker2d")
DMC = ("CartpoleBalance", "HopperStand", "CheetahRun", "HumanoidWalk", "HumanoidRun", "HumanoidStand")
LOOP = {
    "steps": 1_000_000,
    "num_envs": 1,
    "replay_size": 1_000_000,
    "evaluation_interval": 10_000,
    "evaluation_episodes": 10,
    "resets": "pool",  # ours
}
SHARED = LOOP | {
    "discount": 0.99,
    "normalise_observations": False,
    "critics": 2,
    "target_rate": 0.005,
    "learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
}
#    of     batch  random  actor        critics      activation
FLOWRL = {
    "gym": (256, 5_000, (256,) * 3, (256,) * 2, "relu"),
    "dmc": (512, 10_000, (512,) * 3, (512,) * 3, "elu"),
}
FIELD = {
    "activation": "mish",
    "embedding": "fourier_mlp",
    "sampler": "ddpm",
    "sampler_steps": 20,
    "schedule": "cosine",
    "prediction": "noise",
    "obs_hidden": (128, 128),
}


def flowrl(algorithm, task):
    """What the text says of one method on one task, under the names of the settings."""
    gym = task in GYM
    batch, random, actor, critics, activation = FLOWRL["gym" if gym else "dmc"]
    # "QVPO and SAC use a 2-layer (256, 256) actor"; on DMC all actors have 512.
    actor = (256, 256) if gym and algorithm in ("sac", "qvpo", "td3") else actor
    shared = SHARED | {"batch_size": batch, "warmup": random, "hidden": actor, "critic_hidden": critics}
    if algorithm == "sac":
        return shared | {"activation": activation, "tune_temperature": True}
    if algorithm == "td3":  # its code: freq, noise_clip, exploration_noise; both networks have ReLU
        own = (2, 0.5, 0.1) if gym else (1, 0.3, 0.2)
        own = dict(zip(("actor_interval", "target_noise_clip", "exploration_noise"), own, strict=True))
        return shared | own | {"activation": "relu", "critic_activation": "relu", "actor_value": "mean"}
    shared |= FIELD | {"critic_activation": activation}
    return (
        shared
        | {
            "dacer": {
                "critic_form": "huber",
                "noise_in_loss": False,
                "learning_rate": 1e-4,
                "critic_learning_rate": 1e-4,
                "exploration_noise": 0.15 if task in ("halfcheetah", "humanoid") else 0.1,
                "reward_scale": 0.2 if gym else 1.0,
            },
            "qsm": {"temperature": 0.1, "evaluation_candidates": 10},
            "sdac": {"samples": 500, "temperature": 0.05 if gym else 0.01},
            # The actor of SDAC under the target critics, in the paper's words; its own backup is not theirs.
            "maxentdp": {"samples": 500, "temperature": 0.05 if gym else 0.01, "soft": False},
            "idem": {"samples": 500, "temperature": 0.05, "time_weight": "uniform"},
            "gempo": {
                "weight": "linear",
                "candidates": 64,
                "reference_interval": 1_000,
                "reference_noise": 0.1 if task == "ant" else 0.2,
                "target_kl": 2.5,
                "learning_rate": 1e-4,
            },
            "qvpo": {
                "candidates": 64,
                "uniform_weight": 0.01,
                "final_uniform_weight": 0.01,
                "max_grad_norm": None,
                "exploration_candidates": 1,
                "backup_candidates": {"halfcheetah": 4, "hopper": 1}.get(task, 2),
                "evaluation_candidates": 32,
                "ranking": "online_mean",
                "critic_first": False,
            },
        }[algorithm]
    )


@pytest.mark.parametrize(
    "algorithm", ["sac", "td3", "dacer", "qsm", "sdac", "maxentdp", "idem", "gempo", "qvpo"]
)
def test_flowrl(algorithm):
    for family, tasks in (("brax", GYM), ("playground", DMC)):
        for task in tasks:
            check(algorithm, f"{family}/{task}", "flowrl", flowrl(algorithm, task), "arXiv 2603.27450")


# The authors' codes on Gym: batches of 256, ten thousand random steps.
AUTHORS = LOOP | {"batch_size": 256, "warmup": 10_000}
# DIPO, arXiv 2305.13122, its code: ac_grad_norm, ratio, and the steps of the ascent where they are not 20.
DIPO = """
task         gradient ratio steps
hopper       1        .3    20
walker2d     2        .08   20
ant          .8       .1    20
halfcheetah  2        .08   40
humanoid     2        .1    20
"""


@pytest.mark.parametrize("row", table(DIPO), ids=lambda row: row[0])
def test_dipo(row):
    task, gradient, ratio, steps = row
    own = {"max_grad_norm": float(gradient), "ascent_norm": float(ratio)}
    own |= {} if steps == "20" else {"ascent_steps": int(steps)}
    check("dipo", f"brax/{task}", "dipo", AUTHORS | own, "arXiv 2305.13122")


def test_bro():
    """Ten updates of 128 transitions a step, from 2,500 steps on: its first reset is then within 15,000 steps."""
    own = {"updates_per_step": 10, "batch_size": 128, "warmup": 2_500}
    for env in ("brax/ant", "playground/CheetahRun"):
        check("bro", env, "bro", AUTHORS | own, "arXiv 2405.16158")


# MaxEntDP, arXiv 2502.11612, the readme of its code; rates fall along a cosine of two million updates.
MAXENTDP = {
    "halfcheetah": 0.2,
    "humanoid": 0.02,
    "ant": 0.05,
    "walker2d": 0.01,
    "hopper": 0.05,
    "swimmer": 0.01,
}


@pytest.mark.parametrize("task", MAXENTDP)
def test_maxentdp(task):
    decay = {"decay_updates": 2_000_000, "decay_shape": "cosine"}
    expected = AUTHORS | decay | {"temperature": MAXENTDP[task]}
    check("maxentdp", f"brax/{task}", "maxentdp", expected, "arXiv 2502.11612")


@pytest.mark.parametrize("row", table(REVIEW), ids=lambda row: row[0])
def test_review(row):
    """arXiv 2601.06133, tables 9, 10 and 12: one replay of one batch, four random steps of 1,024 environments."""
    task, rate, hidden, gamma = row[0], float(row[1]), row[2], float(row[3])
    shared = {
        "num_envs": 1024,
        "steps": 24_000 * 1024,  # ours
        "batch_size": 4096,
        "replay_size": 4096,
        "warmup": 4 * 1024,
        "evaluation_interval": 1_000 * 1024,  # ours
        "learning_rate": rate,
        "critic_learning_rate": rate,
        "hidden": hidden,
        "critic_hidden": hidden,
        "discount": gamma,
        "target_rate": 0.005,
        "max_grad_norm": 1.0,
    }
    dipo = {"sampler_steps": 100, "ascent_steps": 20, "ascent_rate": 0.03}
    qvpo = {"sampler_steps": 20, "candidates": 64, "uniform_candidates": 10}
    qvpo |= {"uniform_weight": 0.02, "final_uniform_weight": 0.02}
    for algorithm, own in (("sac", {}), ("dipo", dipo), ("qvpo", qvpo)):
        check(algorithm, f"isaaclab/{task}", "review", shared | own, "arXiv 2601.06133")


# Settings found here. Off policy: on Multi-Goal and on Pendulum, what all methods share and what is one's own.
GOALS = {
    "steps": 45_056,
    "num_envs": 32,
    "batch_size": 128,
    "updates_per_step": 2,
    "warmup": 4_096,
    "evaluation_interval": 8_192,
    "evaluation_episodes": 16,
    "replay_size": 65_536,
    "hidden": SMALL,
    "critic_hidden": SMALL,
    "learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
}
PENDULUM = {
    "steps": 15_000,
    "num_envs": 4,
    "updates_per_step": 4,
    "batch_size": 128,
    "replay_size": 20_000,
    "warmup": 1_000,
    "evaluation_interval": 1_000,
    "evaluation_episodes": 32,
    "reward_scale": 0.1,
    "discount": 0.95,
    "hidden": SMALL,
    "critic_hidden": SMALL,
    "learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
}
TEN, ONE = {"sampler_steps": 10}, {"evaluation_candidates": 1}
OWN = {  # on both tasks; on Multi-Goal; on Pendulum
    "sac": ({}, {}, {}),
    "ddpg": ({}, {}, {}),
    "td3": ({}, {}, {}),
    "crossq": ({}, {}, {}),
    "dsac_t": ({"temperature": 1.0, "temperature_learning_rate": 1e-3}, {}, {}),
    "qsm": (TEN, ONE, {}),
    "idem": (TEN | {"samples": 32}, ONE, {}),
    "dps": (
        TEN | {"samples": 32},
        {"initial_temperature": 1.0, "final_temperature": 0.25, "anneal_updates": 1_000},
        {
            "proposal": "gaussian",
            "initial_temperature": 0.5,
            "final_temperature": 0.05,
            "anneal_updates": 7_000,
        },
    ),
    "sdac": (TEN, ONE | {"samples": 16, "temperature": 0.5}, {"samples": 32}),
    "maxentdp": (TEN | {"soft": False}, ONE | {"samples": 16, "temperature": 0.5}, {"samples": 32}),
    "qvpo": (TEN | {"candidates": 16}, ONE, {}),
    "dpmd": (TEN | {"candidates": 8}, ONE, {}),
    "fpmd": (TEN | {"candidates": 8}, {}, {}),
    "gempo": (TEN | {"candidates": 16, "reference_interval": 200, "target_kl": 0.5}, ONE, {}),
    "dipo": (TEN | {"ascent_steps": 20}, {}, {}),
    "td7": (
        {"encoder_hidden": (64, 64), "embedding_size": 64, "encoder_learning_rate": 1e-3},
        {"first_episodes": 32},
        {"first_episodes": 4},
    ),
    "fast_td3": (
        {},
        {"critic_low": -100.0, "critic_high": 20.0, "discount": 0.99},
        {"critic_low": -35.0, "critic_high": 0.0},
    ),
    "fast_sac": (
        {"temperature": 0.1, "temperature_learning_rate": 1e-3, "actor_interval": 2, "target_rate": 0.05},
        {"critic_low": -100.0, "critic_high": 20.0, "discount": 0.99},
        {"critic_low": -35.0, "critic_high": 5.0},
    ),
    "flash_sac": (
        {"noise_repeats": 16, "target_rate": 0.05},
        {"reward_discount": 0.99, "discount": 0.99},
        {"reward_discount": 0.95, "reward_scale": 1.0},
    ),
    "bro": ({"critic_atoms": 25}, {"reset_updates": (1_000,)}, {"reset_updates": (5_000,)}),
    "dacer": (TEN | {"entropy_interval": 250, "learning_rate": 3e-4}, {}, {}),
    "consistency_ac": (
        {"average_interval": 1, "average_after": 0},
        ONE | {"random_updates": 250},
        {"random_updates": 1_400},
    ),
    "cpql": ({"target_interval": 1, "target_after": 0}, ONE, {}),
    "dacerv2": ({"entropy_interval": 250}, {}, {"direction_weight": 0.01}),
    "dsac_d": (
        {
            **{"sampler_steps": 10, "value_steps": 5, "value_samples": 4, "value_bound": None},
            **{"entropy_interval": 250, "learning_rate": 1e-4},
        },
        {},
        {},
    ),
    "dime": (
        TEN | {"time_size": 64, "temperature": 0.1, "temperature_learning_rate": 3e-3},
        {"value_low": -300.0, "value_high": 50.0},
        {"value_low": -50.0, "value_high": 20.0},
    ),
}
BRAX_SAC = {
    "steps": 124_000,
    "num_envs": 16,
    "updates_per_step": 8,
    "batch_size": 128,
    "replay_size": 128_000,
    "warmup": 4_000,
    "resets": "pool",
    "evaluation_interval": 8_000,
    "evaluation_episodes": 32,
    "hidden": (128, 128),
    "critic_hidden": (128, 128),
    "learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "normalise_observations": True,
}


@pytest.mark.parametrize("algorithm", OWN)
def test_settings_found_here_off_policy(algorithm):
    both, goals, pendulum = OWN[algorithm]
    later = dict.fromkeys(("ddpg", "td3", "crossq", "dsac_t"), "learning_classics/")
    later |= dict.fromkeys(("cpql", "consistency_ac"), "learning_consistency/")
    later |= dict.fromkeys(("dacer", "dacerv2"), "learning_pathwise/")
    later |= dict.fromkeys(("dime", "dsac_d"), "learning_returns/")
    later["td7"] = "learning_td7/"
    later |= dict.fromkeys(("bro", "fast_td3"), "learning_large/")
    later |= dict.fromkeys(("fast_sac", "flash_sac"), "learning_fast/")
    of_task = [dict(task) for task in (GOALS, PENDULUM)]
    if algorithm == "flash_sac":  # whose rate is one
        [task.pop("critic_learning_rate") for task in of_task]
    page = {"sdac": "multigoal_sweep", **later}.get(algorithm, "learning_multigoal/")
    check(algorithm, "multigoal/multigoal", "tuned", of_task[0] | both | goals, f"benchmarks/results/{page}")
    page = {**dict.fromkeys(("sac", "sdac", "qsm"), "learning/"), **later}.get(
        algorithm, "learning_pendulum/"
    )
    check(
        algorithm, "gymnax/Pendulum-v1", "tuned", of_task[1] | both | pendulum, f"benchmarks/results/{page}"
    )


# On policy, on the same two tasks.
ON_GOALS = {
    "steps": 389_120,
    "num_envs": 128,
    "rollout": 32,
    "normalise_observations": False,
    "hidden": SMALL,
    "value_hidden": SMALL,
}
ON_PENDULUM = {
    "steps": 204_800,
    "num_envs": 64,
    "rollout": 64,
    "reward_scale": 0.1,
    "discount": 0.95,
    "hidden": SMALL,
    "value_hidden": SMALL,
}
FLOW = {"flow_hidden": SMALL, "flow_epochs": 5, "ema_decay": 0.99, "value_clip": None}
ON_OWN = {
    ("ppo", "multigoal/multigoal"): ON_GOALS | {"entropy_coefficient": 0.02},
    ("dp_cppo", "multigoal/multigoal"): ON_GOALS | FLOW | {"entropy_coefficient": 0.05, "flow_steps": 8},
    ("fpo", "multigoal/multigoal"): ON_GOALS
    | {
        "learning_rate": 5e-4,
        "epochs": 5,
        "minibatches": 4,
        "max_grad_norm": 1.0,
        "discount": 0.99,
        "gae_dialect": "exact",
        "value_coefficient": 1.0,
    },
    ("genpo", "multigoal/multigoal"): ON_GOALS
    | {"learning_rate": 1e-3, "value_clip": None, "activation": "elu"},
    ("dppo", "multigoal/multigoal"): ON_GOALS | {"learning_rate": 3e-4, "epochs": 5, "sampler_steps": 8},
    ("fpopp", "multigoal/multigoal"): ON_GOALS
    | {"learning_rate": 1e-3, "epochs": 10, "draws": 8, "sampler_steps": 16, "ema_after": 20},
    ("ppo", "gymnax/Pendulum-v1"): ON_PENDULUM,
    ("dp_cppo", "gymnax/Pendulum-v1"): ON_PENDULUM | FLOW,
    ("fpo", "gymnax/Pendulum-v1"): ON_PENDULUM
    | {"steps": 327_680, "epochs": 8, "minibatches": 8, "learning_rate": 5e-4, "max_grad_norm": 1.0},
    ("dppo", "gymnax/Pendulum-v1"): ON_PENDULUM
    | {
        "steps": 224_000,
        "rollout": 50,
        "normalise_observations": False,
        "learning_rate": 1e-3,
        "epochs": 10,
        "clip": 0.1,
        "sampler_steps": 10,
    },
    ("ppo", "brax/any"): {
        "steps": 2_048_000,
        "num_envs": 128,
        "rollout": 64,
        "resets": "pool",
        "iterations_per_evaluation": 25,
        "evaluation_episodes": 32,
        "learning_rate": 3e-4,
        "hidden": SMALL,
        "value_hidden": SMALL,
        "minibatches": 16,
        "entropy_coefficient": 0.0,
        "reward_scale": 0.1,
    },
    ("sac", "brax/any"): BRAX_SAC,
}


@pytest.mark.parametrize(("algorithm", "env"), ON_OWN)
def test_settings_found_here(algorithm, env):
    check(algorithm, env, "tuned", ON_OWN[algorithm, env], "benchmarks/results/")


def test_no_preset_is_without_its_table():
    """Published ones are those of the tasks above; of what was found here each pattern is in a table."""
    tasks = {"flowrl": {f"brax/{t}" for t in GYM} | {f"playground/{t}" for t in DMC}}
    tasks |= {"dipo": {f"brax/{row[0]}" for row in table(DIPO)}, "maxentdp": {f"brax/{t}" for t in MAXENTDP}}
    tasks["bro"] = {"brax/*", "playground/*"}
    for algorithm, rows in PUBLISHED.items():
        for pattern, chosen in rows:
            assert pattern in tasks[chosen.name], (algorithm, pattern)
    of_review = {
        (a, chosen.name) for a, rows in PRESETS.items() for _, chosen in rows if chosen.name == "review"
    }
    assert {a for a, _ in of_review} == {"sac", "dipo", "qvpo", "ppo", "genpo"}
    found = {
        (a, pattern) for tuned in (ON_POLICY, OFF_POLICY) for a, rows in tuned.items() for pattern, _ in rows
    }
    shown = [(a, env) for a, env in ON_OWN]
    shown += [(a, env) for a in OWN for env in ("multigoal/multigoal", "gymnax/Pendulum-v1")]
    assert {(a, p) for a, p in found if any(a == b and fnmatch(env, p) for b, env in shown)} == found
