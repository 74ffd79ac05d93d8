"""Evaluation without exploration, and the metrics of a chunk."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dpolicy import _checks
from dpolicy._metrics import accumulated
from dpolicy._types import Action, Key, Metrics, Mode, Observation
from dpolicy.algorithm import Algorithm, check_algorithm
from dpolicy.envs import Environment, Step
from dpolicy.envs.evaluation import play_episodes
from dpolicy.optimisers import all_finite
from dpolicy.train.program import TrainState


def policy_of(
    algorithm: Algorithm, state: TrainState, mode: Mode = "evaluate"
) -> Callable[[Observation, Key], Action]:
    """The trained policy as a function `(obs, key) -> action` of raw observations, in the given acting mode.

    Raises:
        ValueError: For what is no algorithm, or no state of a program, and for an unknown mode.
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


def summarised(
    body: Callable[[Any, Any], tuple[Any, Metrics]],
    state: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    ahead: tuple[int, Callable[[Any, Any], Any]] | None = None,
) -> tuple[Any, Metrics]:
    """`lax.scan` of a body that measures: one number per metric, `_SUMS` added up (see `dpolicy._metrics`)."""
    return accumulated(body, state, xs, length=length, sums=_SUMS, ahead=ahead)


def of_stages(metrics: Metrics) -> Metrics:
    """The metrics of stages that run now and then as means over the updates at which they ran.

    "NAME/due" is the share of updates at which the stage NAME ran. Its metrics, "NAME" and "NAME/...", are 0 in the
    others: their means over all updates are divided by that share, of nested stages by that of the innermost. Where it
    never ran they stay as they are, and are nan on the host. Extremes ("..._min", "..._max") need no division.
    """

    def mean(name: str, value: Any) -> Any:
        due = metrics.get(due_of(name, metrics))
        if due is None or name.endswith(("_min", "_max")):
            return value
        return jnp.where(due > 0, value / jnp.where(due > 0, due, 1), value)

    return {name: mean(name, value) for name, value in metrics.items()}


def due_of(name: str, metrics: Mapping[str, Any]) -> str:
    """The name under which the share of updates stands at which the stage of a metric ran; "" where it always does."""
    rooms = name.split("/")
    names = ["/".join([*rooms[:i], "due"]) for i in range(len(rooms), 0, -1)]
    return "" if rooms[-1] == "due" else next((due for due in names if due in metrics), "")


def on_host(metrics: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A chunk's metrics as they are shown and stored: `train/return`, the mean over episodes, for their sum and number.

    Without an episode it is nan, and so are the metrics of a stage that never ran (see `of_stages`); on the device that
    would look like divergence to whoever watches for that (`jax_debug_nans`).
    """
    shown = {name: np.asarray(values) for name, values in metrics.items()}
    for name, values in shown.items():
        if due := due_of(name, shown):
            shown[name] = np.where(shown[due] > 0, values, np.nan).astype(values.dtype)
    if "train/return_sum" in shown and "train/episodes" in shown:
        total, episodes = shown.pop("train/return_sum"), shown.pop("train/episodes")
        mean = np.where(episodes > 0, total / np.maximum(episodes, 1), np.nan)
        shown["train/return"] = mean.astype(total.dtype)
    return shown


def evaluation(
    algorithm: Algorithm, env: Environment, episodes: int, modes: tuple[str, ...] = ("evaluate",)
) -> Callable[[TrainState, Metrics], tuple[TrainState, Metrics]]:
    """The end of a chunk: run whole episodes with the learned policy and attach their statistics to its metrics.

    Every mode acts under the same keys. Its metrics are `evaluate/return`, `evaluate/length` and
    `evaluate/diverged` (episodes whose simulation diverged) for the mode "evaluate" and `evaluate/MODE/return`, ... for
    others; and `evaluate/success`, the share of episodes that terminated, where that is success (`Spec.success`).

    Raises:
        ValueError: For a mode that the algorithm does not know, or without "evaluate".
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
        summary = of_stages(metrics)
        for mode in modes:
            policy = policy_of(algorithm, state, mode)
            played = play_episodes(env, policy, evaluation_key, episodes, env.spec.time_limit)
            prefix = "evaluate" if mode == "evaluate" else f"evaluate/{mode}"
            summary[f"{prefix}/return"] = jnp.mean(played.returns)
            summary[f"{prefix}/length"] = jnp.mean(played.lengths.astype(float))
            summary[f"{prefix}/diverged"] = jnp.sum(played.diverged)
            if env.spec.success:
                summary[f"{prefix}/success"] = jnp.mean(played.terminated.astype(float))
        return eqx.tree_at(lambda s: s.key, state, key), summary

    return evaluate
