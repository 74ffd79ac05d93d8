"""What every training program is: a pure `init` and a pure `step`, to be compiled by whoever runs it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from dpolicy import _checks
from dpolicy._types import Key, Metrics
from dpolicy.algorithm import Algorithm, Family
from dpolicy.envs import Environment
from dpolicy.learner import all_finite, keep_if
from dpolicy.train.normalise import Normaliser, RewardScale


class Program(NamedTuple):
    """Training as two pure functions.

    `jit(vmap(init))(keys)` and then `jit(vmap(step), donate_argnums=0)` again and again is a seed sweep.

    Attributes:
        init: `key -> state`.
        step: `state -> (state, metrics)`: one chunk of training and one evaluation.
        steps_per_call: Environment steps (offline: gradient steps) in one `step`.
        algorithm: What is being trained.
        steps_at_start: Environment steps that `init` takes.
    """

    init: Callable[[Key], Any]
    step: Callable[[Any], tuple[Any, Metrics]]
    steps_per_call: int
    algorithm: Algorithm
    steps_at_start: int = 0


class TrainState(eqx.Module):
    """Everything a run needs to go on: a checkpoint is this pytree."""

    algorithm: Any
    normaliser: Normaliser | None
    experience: Any  # environments, and the replay where there is one
    key: Key
    steps: Int[Array, "*seeds"]
    alive: Bool[Array, "*seeds"]
    failed_at: Int[Array, "*seeds"]
    rewards: RewardScale | None = None


def check_parts(algorithm: Any, env: Any, family: Family) -> None:
    """Refuse what is no algorithm of a program's family, or no environment.

    Raises:
        ValueError: if one of them is something else, such as a recipe that was not called.
    """
    called = f", as {algorithm.__name__}() is: call the recipe" if callable(algorithm) else ""
    _checks.instance("algorithm", algorithm, Algorithm, f"an Algorithm{called}")
    _checks.one_of("algorithm.family", algorithm.family, (family,))
    called = f", as {env.__name__}() is" if isinstance(env, type) else ""
    _checks.instance("env", env, Environment, f"an Environment{called}")


def check_observations(algorithm: Algorithm, normalise_observations: bool) -> None:
    """Refuse to standardise the observations of an algorithm that needs them as they are.

    Raises:
        ValueError: if it does, and they would be.
    """
    _checks.boolean("normalise_observations", normalise_observations)
    if algorithm.raw_observations and normalise_observations:
        raise ValueError(
            f"normalise_observations must be off (--no-normalise-observations) for {algorithm.name} that starts from a "
            "pretrained policy, which was fitted to observations as they are."
        )


def guard(old: Any, new: Any, metrics: Metrics, state: TrainState, steps: Array) -> tuple[Any, Array, Array]:
    """Keep `old` where the update produced a non-finite number: one diverged seed must not spoil the others.

    Returns what to go on with, whether the seed is alive, and the step at which it failed (-1).
    """
    alive = state.alive & all_finite(new) & all_finite(metrics)
    failed_at = jnp.where(state.alive & ~alive, steps, state.failed_at)
    return keep_if(alive, old, new), alive, failed_at
