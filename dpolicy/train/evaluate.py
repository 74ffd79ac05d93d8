"""Evaluation without exploration, and the summary of a chunk's metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dpolicy import _checks
from dpolicy._metrics import reduce_metrics
from dpolicy._types import Action, Key, Metrics, Mode, Observation
from dpolicy.algorithm import Algorithm, check_algorithm
from dpolicy.envs import Environment, Step
from dpolicy.envs.evaluation import play_episodes
from dpolicy.learner import all_finite
from dpolicy.train.program import TrainState


def policy_of(
    algorithm: Algorithm, state: TrainState, mode: Mode = "evaluate"
) -> Callable[[Observation, Key], Action]:
    """The trained policy as a function `(obs, key) -> action` of raw observations, in the given acting mode.

    Raises:
        ValueError: for what is no algorithm, or no state of a program, and for an unknown mode.
    """
    check_algorithm(algorithm)
    _checks.instance("state", state, TrainState, "a TrainState, as a program's init gives it")
    _checks.one_of("mode", mode, algorithm.modes)

    def policy(obs: Observation, key: Key) -> Action:
        seen = obs if state.normaliser is None else state.normaliser(obs)
        return algorithm.act(state.algorithm, seen, key, mode)[0]

    return policy


# Metrics that a chunk adds up; all others are reduced by their endings.
_SUMS = ("train/episodes", "train/return_sum", "train/diverged", "train/not_finite")


def of_experience(step: Step) -> Metrics:
    """What the steps of an iteration show.

    `train/reward` is the mean reward. `train/episodes` whole episodes ended (those that began late, after their clock,
    are none) with undiscounted returns of `train/return_sum` in all, and `train/diverged` episodes because their
    simulation diverged.
    """
    return {
        "train/episodes": jnp.sum(step.whole),
        "train/return_sum": jnp.sum(jnp.where(step.whole, step.episode_return, 0.0)),
        "train/diverged": jnp.sum(step.diverged),
        "train/reward": jnp.mean(step.reward),
    }


def of_data(action: Array, *shown: Array) -> Metrics:
    """`train/not_finite`: 1 for an update that is given something not finite by the environment, not by its actions."""
    return {"train/not_finite": (all_finite(action) & ~all_finite(shown)).astype(jnp.int32)}


def summarise(metrics: Metrics) -> Metrics:
    """One number per metric from a stack of them: `_SUMS` by their sum, all others by `reduce_metrics`."""
    sums = {name: jnp.sum(metrics[name]) for name in _SUMS if name in metrics}
    others = {name: values.astype(float) for name, values in metrics.items() if name not in sums}
    return {**reduce_metrics(others), **sums}


def on_host(metrics: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A chunk's metrics as they are shown and stored: `train/return`, the mean over episodes, for their sum and number.

    Without an episode it is nan, which on the device would look like divergence to whoever watches for that
    (`jax_debug_nans`).
    """
    shown = {name: np.asarray(values) for name, values in metrics.items()}
    if "train/return_sum" in shown and "train/episodes" in shown:
        total, episodes = shown.pop("train/return_sum"), shown.pop("train/episodes")
        mean = np.where(episodes > 0, total / np.maximum(episodes, 1), np.nan)
        shown["train/return"] = mean.astype(total.dtype)
    return shown


def evaluation(
    algorithm: Algorithm, env: Environment, episodes: int, modes: tuple[str, ...] = ("evaluate",)
) -> Callable[[TrainState, Metrics], tuple[TrainState, Metrics]]:
    """The end of a chunk: run whole episodes with the learned policy and attach their statistics.

    Every mode acts under the same keys. Its metrics are `evaluate/return`, `evaluate/length` and
    `evaluate/diverged` (episodes whose simulation diverged) for the mode "evaluate" and `evaluate/MODE/return`, ... for
    others.

    Raises:
        ValueError: for a mode that the algorithm does not know, or without "evaluate".
    """
    _checks.count("evaluation_episodes", episodes)
    if not isinstance(modes, (tuple, list)):
        raise ValueError(f"evaluation_modes must be a tuple of modes, got {modes!r}.")
    if "evaluate" not in modes:
        raise ValueError(f'evaluation_modes must hold "evaluate", got {modes!r}.')
    for mode in modes:
        _checks.one_of("evaluation_modes", mode, algorithm.modes)
        if modes.count(mode) > 1:
            raise ValueError(f"evaluation_modes must hold each mode once, got {modes!r}.")

    def evaluate(state: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
        key, evaluation_key = jax.random.split(state.key)
        summary = summarise(metrics)
        for mode in modes:
            policy = policy_of(algorithm, state, mode)
            played = play_episodes(env, policy, evaluation_key, episodes, env.spec.time_limit)
            prefix = "evaluate" if mode == "evaluate" else f"evaluate/{mode}"
            summary[f"{prefix}/return"] = jnp.mean(played.returns)
            summary[f"{prefix}/length"] = jnp.mean(played.lengths.astype(float))
            summary[f"{prefix}/diverged"] = jnp.sum(played.diverged)
        return eqx.tree_at(lambda s: s.key, state, key), summary

    return evaluate
