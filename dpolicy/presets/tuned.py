"""Settings found here, for tasks that two cores can learn; each with the page that shows what they reach."""

from dpolicy.presets.preset import Preset

_SMALL = (64, 64)
_MULTIGOAL = "benchmarks/results/multigoal_sweep.md"

# Four goals learned equally well (wide starts), RSL-RL's conventions: raw observations, torch's initial weights.
_MULTIGOAL_ON_POLICY = {
    "steps": 95 * 4_096,
    "num_envs": 128,
    "rollout": 32,
    "normalise_observations": False,
    "hidden": _SMALL,
    "value_hidden": _SMALL,
    "entropy_coefficient": 0.02,
}

_METHODS = "benchmarks/results/ablations/methods-multigoal-multigoal.md"
_MULTIGOAL_FIELD = {k: v for k, v in _MULTIGOAL_ON_POLICY.items() if k != "entropy_coefficient"}

_LEARNING = "benchmarks/results/learning/learning.md"
_FINE_TUNING = "benchmarks/results/finetune/finetune.md (from scratch; there in chunks)"

# Pendulum: rewards to a tenth, a short horizon (0.95), as its episodes of 200 steps have no end to plan for.
_PENDULUM_ON_POLICY = {
    "steps": 50 * 4_096,
    "num_envs": 64,
    "rollout": 64,
    "reward_scale": 0.1,
    "discount": 0.95,
    "hidden": _SMALL,
    "value_hidden": _SMALL,
}
_PENDULUM_OFF_POLICY = {
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
    "hidden": _SMALL,
    "critic_hidden": _SMALL,
    "learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
}
_PENDULUM_DIFFUSION = {**_PENDULUM_OFF_POLICY, "sampler_steps": 10}

TUNED: dict[str, list[tuple[str, Preset]]] = {
    "dp_cppo": [
        (
            "multigoal/*",
            Preset(
                {
                    **_MULTIGOAL_ON_POLICY,
                    # More than one mode at every saddle point for every seed of the sweep, flow alone included.
                    "entropy_coefficient": 0.05,
                    "flow_hidden": _SMALL,
                    "flow_steps": 8,
                    "flow_epochs": 5,
                    "ema_decay": 0.99,
                    "value_clip": None,
                },
                _MULTIGOAL,
            ),
        ),
        (
            "gymnax/Pendulum-v1",
            Preset(
                {
                    **_PENDULUM_ON_POLICY,
                    "flow_hidden": _SMALL,
                    "flow_epochs": 5,
                    "ema_decay": 0.99,
                    "value_clip": None,
                },
                _LEARNING,
            ),
        ),
    ],
    "ppo": [
        ("multigoal/*", Preset(_MULTIGOAL_ON_POLICY, _MULTIGOAL)),
        ("gymnax/Pendulum-v1", Preset(_PENDULUM_ON_POLICY, _LEARNING)),
        (
            "brax/*",
            Preset(
                {
                    "steps": 2_048_000,
                    "num_envs": 128,
                    "rollout": 64,
                    "resets": "pool",
                    "iterations_per_evaluation": 25,
                    "evaluation_episodes": 32,
                    "learning_rate": 3e-4,
                    "hidden": _SMALL,
                    "value_hidden": _SMALL,
                    "minibatches": 16,
                    "entropy_coefficient": 0.0,
                    "reward_scale": 0.1,
                },
                _LEARNING,
            ),
        ),
    ],
    "fpo": [
        (
            "multigoal/*",
            Preset(
                _MULTIGOAL_FIELD
                | {
                    "learning_rate": 5e-4,
                    "epochs": 5,
                    "minibatches": 4,
                    "max_grad_norm": 1.0,
                    "discount": 0.99,
                    "gae_dialect": "exact",
                    "value_coefficient": 1.0,
                },
                _METHODS,
            ),
        ),
        (
            "gymnax/Pendulum-v1",
            Preset(
                {
                    **_PENDULUM_ON_POLICY,
                    "steps": 80 * 4_096,
                    "epochs": 8,
                    "minibatches": 8,
                    # At 1e-3 one seed in three fell back late or never rose.
                    "learning_rate": 5e-4,
                    "max_grad_norm": 1.0,
                },
                _LEARNING,
            ),
        ),
    ],
    "sac": [
        ("gymnax/Pendulum-v1", Preset(_PENDULUM_OFF_POLICY, _LEARNING)),
        (
            "brax/*",
            Preset(
                {
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
                },
                _LEARNING,
            ),
        ),
    ],
    "sdac": [
        (
            "multigoal/*",
            Preset(
                {
                    "steps": 4_096 + 5 * 8_192,
                    "num_envs": 32,
                    "batch_size": 128,
                    "updates_per_step": 2,
                    "sampler_steps": 10,
                    "warmup": 4_096,
                    "evaluation_interval": 8_192,
                    "evaluation_episodes": 16,
                    "replay_size": 65_536,
                    "hidden": _SMALL,
                    "critic_hidden": _SMALL,
                    # A reference for its distribution: single samples also in evaluation, which compile faster.
                    "evaluation_candidates": 1,
                    "samples": 16,
                    "temperature": 0.5,
                    "learning_rate": 1e-3,
                    "critic_learning_rate": 1e-3,
                },
                _MULTIGOAL,
            ),
        ),
        ("gymnax/Pendulum-v1", Preset({**_PENDULUM_DIFFUSION, "samples": 32}, _LEARNING)),
    ],
    "genpo": [
        (
            "multigoal/*",
            Preset(
                _MULTIGOAL_FIELD | {"learning_rate": 1e-3, "value_clip": None, "activation": "elu"}, _METHODS
            ),
        )
    ],
    "dppo": [
        (
            "multigoal/*",
            Preset(_MULTIGOAL_FIELD | {"learning_rate": 3e-4, "epochs": 5, "sampler_steps": 8}, _METHODS),
        ),
        (
            "gymnax/Pendulum-v1",
            Preset(
                {
                    **_PENDULUM_ON_POLICY,
                    # In chunks of 4 actions, with a discount of 0.8, 96,000 decisions are enough.
                    "steps": 70 * 3_200,
                    "rollout": 50,
                    # With standardised ones it learns more slowly.
                    "normalise_observations": False,
                    "learning_rate": 1e-3,
                    "epochs": 10,
                    "clip": 0.1,
                    "sampler_steps": 10,
                },
                _FINE_TUNING,
            ),
        ),
    ],
    "fpopp": [
        (
            "multigoal/*",
            Preset(
                _MULTIGOAL_FIELD
                | {"learning_rate": 1e-3, "epochs": 10, "draws": 8, "sampler_steps": 16, "ema_after": 20},
                _METHODS,
            ),
        )
    ],
    "qsm": [("gymnax/Pendulum-v1", Preset(_PENDULUM_DIFFUSION, _LEARNING))],
}
