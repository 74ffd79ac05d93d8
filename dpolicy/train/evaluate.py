"""Evaluation without exploration, and the summary of a chunk's metrics."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._metrics import reduce_metrics
from dpolicy._types import Action, Key, Metrics, Mode, Observation
from dpolicy.algorithm import Algorithm
from dpolicy.envs import Environment, evaluate_episodes
from dpolicy.train.program import TrainState


def policy_of(
    algorithm: Algorithm, state: TrainState, mode: Mode = "evaluate"
) -> Callable[[Observation, Key], Action]:
    """The trained policy as a function `(obs, key) -> action` of raw observations, in the given acting mode."""

    def policy(obs: Observation, key: Key) -> Action:
        seen = obs if state.normaliser is None else state.normaliser(obs)
        return algorithm.act(state.algorithm, seen, key, mode)[0]

    return policy


def summarise(metrics: Metrics) -> Metrics:
    """One number per metric from a chunk's stack: episode returns by episode, everything else by iteration."""
    metrics = {name: values.astype(float) for name, values in metrics.items()}
    summary = {}
    if "train/episodes" in metrics:
        episodes = jnp.sum(metrics.pop("train/episodes"))
        total = jnp.sum(metrics.pop("train/return_sum"))
        # A chunk in which no episode ends has no return; nan says so (and is no sign of divergence).
        summary["train/return"] = jnp.where(episodes > 0, total / jnp.maximum(episodes, 1), jnp.nan)
    return {**reduce_metrics(metrics), **summary}


def evaluation(
    algorithm: Algorithm, env: Environment, episodes: int, modes: tuple[str, ...] = ("evaluate",)
) -> Callable[[TrainState, Metrics], tuple[TrainState, Metrics]]:
    """The end of a chunk: run whole episodes with the learned policy and attach their statistics.

    Every mode acts under the same keys. Its metrics are `evaluate/return` and `evaluate/length` for the mode
    "evaluate" and `evaluate/MODE/return`, ... for others.

    Raises:
        ValueError: for a mode that the algorithm does not know, or without "evaluate".
    """
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
            returns, lengths = evaluate_episodes(env, policy, evaluation_key, episodes, env.spec.time_limit)
            prefix = "evaluate" if mode == "evaluate" else f"evaluate/{mode}"
            summary[f"{prefix}/return"] = jnp.mean(returns)
            summary[f"{prefix}/length"] = jnp.mean(lengths.astype(float))
        return eqx.tree_at(lambda s: s.key, state, key), summary

    return evaluate
