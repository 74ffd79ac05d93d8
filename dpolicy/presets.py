"""Settings per algorithm and environment, as data; each with its source. Flags override them."""

import inspect
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any, NamedTuple


class Preset(NamedTuple):
    """Overrides of a recipe's and a training program's defaults, and where they come from.

    `steps`, where given, is how long a run lasts unless told otherwise.
    """

    values: dict[str, Any]
    source: str


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

_LEARNING = "benchmarks/results/learning/learning.md"

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

# The first pattern that matches `family/task` is used.
PRESETS: dict[str, list[tuple[str, Preset]]] = {
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
        )
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
    "qsm": [("gymnax/Pendulum-v1", Preset(_PENDULUM_DIFFUSION, _LEARNING))],
}

DEFAULT_STEPS = {"on_policy": 1_000_000, "off_policy": 100_000, "offline": 10_000}


def preset(algorithm: str, env: str) -> dict[str, Any]:
    """The settings for `algorithm` on `env` ("family/task") with their "source"; empty where there are none."""
    for pattern, chosen in PRESETS.get(algorithm, []):
        if fnmatch(env, pattern):
            return {**chosen.values, "source": chosen.source}
    return {}


def defaults(function: Any) -> dict[str, Any]:
    """The keyword-only arguments of a function that have a default, with it."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is not inspect.Parameter.empty
    }


def resolve(
    algorithm: str,
    env: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    env_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole configuration of a run: defaults, then the preset, then `overrides`.

    Args:
        algorithm: Name in `dpolicy.algorithms.ALGORITHMS`.
        env: "family/task".
        overrides: Hyperparameters of the recipe, settings of the program, and `steps`.
        env_options: What `dpolicy.envs.make` is told beside the name, e.g. `action_chunk`.

    Returns:
        `algorithm`, `env`, `steps`, `hyperparameters`, `program`, the preset's `source` (or None), and `env_options`
        where there are any.

    Raises:
        ValueError: for an override that neither the recipe nor the program knows.
    """
    from dpolicy import _checks
    from dpolicy.algorithms import ALGORITHMS
    from dpolicy.train import PROGRAMS

    _checks.one_of("algorithm", algorithm, ALGORITHMS)
    entry = ALGORITHMS[algorithm]
    hyperparameters, program = defaults(entry.recipe), defaults(PROGRAMS[entry.family])
    settings = preset(algorithm, env)
    source = settings.pop("source", None)
    settings |= overrides or {}
    steps = settings.pop("steps", DEFAULT_STEPS[entry.family])
    for name, value in settings.items():
        _checks.one_of("setting", name, [*hyperparameters, *program])
        (hyperparameters if name in hyperparameters else program)[name] = value
    config = {
        "algorithm": algorithm,
        "env": env,
        "steps": steps,
        "hyperparameters": hyperparameters,
        "program": program,
        "source": source,
    }
    # Left out where empty: a run goes on only with the very configuration that it was started with.
    return {**config, "env_options": dict(env_options)} if env_options else config
