"""Off-policy settings found here, for tasks that two cores can learn, with the page of what they reach."""

from typing import Any

from dpolicy.presets._preset import Preset, Table
from dpolicy.presets.tuned import LEARNING, MULTIGOAL, SMALL

_PENDULUM: dict[str, Any] = {
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
_MULTIGOAL_TASK: dict[str, Any] = {
    "steps": 4_096 + 5 * 8_192,
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
_FIELD: dict[str, Any] = {"sampler_steps": 10}
_FEW: dict[str, Any] = {"candidates": 16}
# Per method: on both tasks; on Pendulum only; on Multi-Goal only (single samples also in evaluation, which shows the
# distribution that is learned).
_ONE: dict[str, Any] = {"evaluation_candidates": 1}
_CLASSICS = ("ddpg", "td3", "crossq", "dsac_t")
_METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "sac": ({}, {}, {}),
    **{name: ({}, {}, {}) for name in _CLASSICS},
    # Its own temperature, which starts at e and moves at every second update, would fall too slowly for these budgets.
    "dsac_t": ({"temperature": 1.0, "temperature_learning_rate": 1e-3}, {}, {}),
    # Fewer quantiles than its 100, whose loss is of their square; one reset, within each of these short runs.
    "bro": ({"critic_atoms": 25}, {"reset_updates": (5_000,)}, {"reset_updates": (1_000,)}),
    # An episode of every environment in an assessment: after a lucky one alone no later policy would pass.
    "td7": (
        {"encoder_hidden": SMALL, "embedding_size": 64, "encoder_learning_rate": 1e-3},
        {"first_episodes": 4},
        {"first_episodes": 32},
    ),
    "fast_td3": (
        {},
        {"critic_low": -35.0, "critic_high": 0.0},
        {"critic_low": -100.0, "critic_high": 20.0, "discount": 0.99},
    ),
    # A temperature that starts at .001 rises too slowly for these budgets.
    "fast_sac": (
        {"temperature": 0.1, "temperature_learning_rate": 1e-3, "actor_interval": 2, "target_rate": 0.05},
        {"critic_low": -35.0, "critic_high": 5.0},
        {"critic_low": -100.0, "critic_high": 20.0, "discount": 0.99},
    ),
    "flash_sac": (
        {"noise_repeats": 16, "target_rate": 0.05},
        {"reward_discount": 0.95, "reward_scale": 1.0},
        {"reward_discount": 0.99, "discount": 0.99},
    ),
    "qsm": (_FIELD, {}, _ONE),
    "idem": (_FIELD | {"samples": 32}, {}, _ONE),
    "dps": (
        _FIELD | {"samples": 32},
        # Gaussian, as its tables of Pendulum and brax were measured.
        {
            "proposal": "gaussian",
            "initial_temperature": 0.5,
            "final_temperature": 0.05,
            "anneal_updates": 7_000,
        },
        {"initial_temperature": 1.0, "final_temperature": 0.25, "anneal_updates": 1_000},
    ),
    "sdac": (_FIELD, {"samples": 32}, _ONE | {"samples": 16, "temperature": 0.5}),
    "maxentdp": (_FIELD | {"soft": False}, {"samples": 32}, _ONE | {"samples": 16, "temperature": 0.5}),
    "qvpo": (_FIELD | _FEW, {}, _ONE),
    "dpmd": (_FIELD | {"candidates": 8}, {}, _ONE),
    "fpmd": ({"candidates": 8, "sampler_steps": 10}, {}, {}),
    "gempo": (_FIELD | _FEW | {"reference_interval": 200, "target_kl": 0.5}, {}, _ONE),
    "dipo": (_FIELD | {"ascent_steps": 20}, {}, {}),
    "dacer": (_FIELD | {"entropy_interval": 250, "learning_rate": 3e-4}, {}, {}),
    # Slow copies that move at every fifth update, after a thousand, would follow too slowly for these budgets.
    "cpql": ({"target_interval": 1, "target_after": 0}, {}, _ONE),
    "consistency_ac": (
        {"average_interval": 1, "average_after": 0},
        {"random_updates": 1_400},
        _ONE | {"random_updates": 250},
    ),
    "dacerv2": ({"entropy_interval": 250}, {"direction_weight": 0.01}, {}),
    # Returns cost 80 calls of the critics' networks for each transition; by its own settings 1,920.
    "dsac_d": (
        {
            **{"sampler_steps": 10, "value_steps": 5, "value_samples": 4, "value_bound": None},
            **{"entropy_interval": 250, "learning_rate": 1e-4},
        },
        {},
        {},
    ),
    # Atoms that hold the returns of each task; a temperature that starts at 1 falls too slowly for these budgets.
    "dime": (
        _FIELD | {"time_size": 64, "temperature": 0.1, "temperature_learning_rate": 3e-3},
        {"value_low": -50.0, "value_high": 20.0},
        {"value_low": -300.0, "value_high": 50.0},
    ),
}

_BRAX_SAC: dict[str, Any] = {
    "steps": 4_000 + 120_000,
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

_GOALS = "benchmarks/results/learning_multigoal/learning.md"
_LATER = "benchmarks/results/learning_pendulum/learning.md"
_OF_CLASSICS = "benchmarks/results/learning_classics/learning.md"
_OF_LARGE = "benchmarks/results/learning_large/learning.md"
_OF_FAST = "benchmarks/results/learning_fast/learning.md"
_OF_EMBEDDINGS = "benchmarks/results/learning_td7/learning.md"
_OF_RETURNS = "benchmarks/results/learning_returns/learning.md"
_OF_PATHWISE = "benchmarks/results/learning_pathwise/learning.md"
_OF_CONSISTENCY = "benchmarks/results/learning_consistency/learning.md"
_PAGES: dict[str, tuple[str, str]] = {  # of Multi-Goal and of Pendulum, where they are not these
    **dict.fromkeys(("sac", "qsm"), (_GOALS, LEARNING)),
    "sdac": (MULTIGOAL, LEARNING),
    **dict.fromkeys(_CLASSICS, (_OF_CLASSICS, _OF_CLASSICS)),
    **dict.fromkeys(("bro", "fast_td3"), (_OF_LARGE, _OF_LARGE)),
    **dict.fromkeys(("fast_sac", "flash_sac"), (_OF_FAST, _OF_FAST)),
    "td7": (_OF_EMBEDDINGS, _OF_EMBEDDINGS),
    **dict.fromkeys(("dacer", "dacerv2"), (_OF_PATHWISE, _OF_PATHWISE)),
    **dict.fromkeys(("dime", "dsac_d"), (_OF_RETURNS, _OF_RETURNS)),
    **dict.fromkeys(("cpql", "consistency_ac"), (_OF_CONSISTENCY, _OF_CONSISTENCY)),
}

# One rate serves actor and critics.
_ONE_RATE = ("flash_sac",)


def _for(name: str, of_task: dict[str, Any]) -> dict[str, Any]:
    return {key: of_task[key] for key in of_task if key != "critic_learning_rate" or name not in _ONE_RATE}


TUNED: Table = {
    name: [
        (
            "multigoal/*",
            Preset(_for(name, _MULTIGOAL_TASK) | both | goals, _PAGES.get(name, (_GOALS, _LATER))[0]),
        ),
        (
            "gymnax/Pendulum-v1",
            Preset(_for(name, _PENDULUM) | both | pendulum, _PAGES.get(name, (_GOALS, _LATER))[1]),
        ),
    ]
    for name, (both, pendulum, goals) in _METHODS.items()
}
TUNED["sac"].append(("brax/*", Preset(_BRAX_SAC, LEARNING)))
