"""Acting by the best of several samples plus noise that is learned: what SDAC, DPMD and FPMD share as published."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._settings import Count, Finite, Fraction, Positive
from dpolicy._types import Action, Key, Number, Observation, Scalar
from dpolicy.blocks._bootstrap import NextValue, Policy, next_value
from dpolicy.blocks._critic_function import critic_function
from dpolicy.blocks._critics import acting, noisy
from dpolicy.blocks._field_policy import FieldPolicy
from dpolicy.learning import Parts, Seen, Stage, average, every, tuned
from dpolicy.optimisers import adam
from dpolicy.recipe import tunable

INITIAL_NOISE = 5.0


def tuned_noise(
    start: Number,
    *,
    std: Number,
    target_entropy_scale: Number,
    learning_rate: Number = 7e-3,
    interval: int = 250,
    part: str = "noise",
) -> Stage:
    """The factor alpha of additive noise std alpha N(0, I) whose entropy approaches -target_entropy_scale d.

    H(alpha) = d/2 log(2 pi e (std alpha)^2). Adam on log alpha descends log alpha (H - H_target), at every
    `interval`-th update. Neither policy nor critic enters: it is an anneal from `start` to exp(-target_entropy_scale)
    / (std sqrt(2 pi e)). Source: DPMD (arXiv 2502.00361), code.

    Args:
        start: alpha at first.
        std: Standard deviation of the noise at alpha = 1.
        target_entropy_scale: The target entropy is minus this times the number of action dimensions, in nats.
        learning_rate: Adam's rate for log alpha.
        interval: Updates between two steps.
        part: The name it has in the state.

    Raises:
        ValueError: For a number out of its range.
    """
    _checks.positive("initial_noise", start)
    _checks.positive("exploration_noise", std)
    _checks.in_range("target_entropy_scale", target_entropy_scale)
    _checks.integer("noise_interval", interval)
    _checks.positive("noise_learning_rate", learning_rate)

    def slack(s: Seen) -> Scalar:
        size, log = s.batch.action.shape[-1], s.now[part].log.model
        entropy = size * (0.5 * math.log(2 * math.pi * math.e) + jnp.log(std) + log)
        return entropy - (-target_entropy_scale * size)

    return every(tuned(start, slack, adam(learning_rate)), interval)


class Behaviour(NamedTuple):
    """How a policy behaves while it learns, and what that asks of an algorithm's stages.

    Attributes:
        policy: `parts -> policy`: how it acts, and how the next action of the critic is drawn.
        explorer: The part whose parameters explore, and are evaluated.
        interval: The actor and the target critics move at every so many updates.
        stages: The stages that it takes, by name, which stand after the actor's.
    """

    policy: Callable[[Parts], Policy]
    explorer: str = "actor"
    interval: int = 1
    stages: Mapping[str, Any] = MappingProxyType({})

    def acting(self, parts: Parts, actor: str = "actor") -> Callable[[Observation, Key], Action]:
        """`(obs, key) -> action`, selecting by the online critics."""
        return acting(self.policy(parts), getattr(parts, actor), critic_function(parts.critic))

    def explore(self, parts: Parts) -> Callable[[Observation, Key], Action]:
        """An acting slot: the same with the parameters that explore."""
        return self.acting(parts, self.explorer)

    def next_value(self, s: Seen) -> NextValue:
        """The lower target value of its action in the next observation, of what the update found."""
        q, target = critic_function(s.before.critic), critic_function(s.before.target)
        return next_value(self.policy(s.before), s.before.actor, q, target)

    def delayed(self, stage: Stage) -> Stage:
        """The stage at every `interval`-th update."""
        return every(stage, self.interval)


@tunable(
    "candidates",
    "exploration_noise",
    "initial_noise",
    "target_entropy_scale",
    "noise_learning_rate",
    "noise_interval",
    "average_rate",
    "actor_interval",
)
def noisy_best(
    *,
    policy: FieldPolicy,
    noisy_candidates: bool = False,
    candidates: Count = 32,
    exploration_noise: Positive = 0.1,
    initial_noise: Positive = INITIAL_NOISE,
    target_entropy_scale: Finite = 0.9,
    noise_learning_rate: Positive = 7e-3,
    noise_interval: Count = 250,
    average_rate: Fraction = 0.005,
    actor_interval: Count = 2,
) -> Behaviour:
    """How a policy behaves; the actor's loss is the method's.

    It explores, and backs the critic up, by the best of several samples under the online critic, plus noise of
    standard deviation exploration_noise * alpha, alpha tuned (`tuned_noise`; the part "noise"). The critic's next
    action is the current actor's; the average of the actor explores and is evaluated.

    Args:
        policy: The field policy.
        noisy_candidates: Whether the noise is added to every candidate, clipped, before the best is chosen.
        candidates: Samples among which the behaviour and the critic's next action are the best.
        exploration_noise: Standard deviation of additive action noise, times the learned factor.
        initial_noise: Start of the learned noise factor.
        target_entropy_scale: The noise approaches an entropy of minus this times the number of action dimensions.
        noise_learning_rate: Adam's rate for the logarithm of the noise factor.
        noise_interval: Updates between two steps of the noise factor.
        average_rate: Share of the actor that enters its average whenever it steps.
        actor_interval: The actor and the target critics move at every so many updates.

    Source: Ma et al. 2025 (arXiv 2502.00361), code.

    Raises:
        ValueError: For a value out of its range.
    """
    noise = tuned_noise(
        initial_noise,
        std=exploration_noise,
        target_entropy_scale=target_entropy_scale,
        learning_rate=noise_learning_rate,
        interval=noise_interval,
    )

    def behave(parts: Parts) -> Policy:
        std = exploration_noise * parts.noise
        if noisy_candidates:
            return policy.best(candidates, noise=std)
        return noisy(policy.best(candidates), std)

    slow = every(average("actor", average_rate), actor_interval)
    return Behaviour(behave, "average", actor_interval, {"average": slow, "noise": noise})
