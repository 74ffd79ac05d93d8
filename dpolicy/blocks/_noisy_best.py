"""Acting by the best of several samples plus noise that is learned: what SDAC, DPMD and FPMD share as published."""

import math
from typing import NamedTuple

import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Number, Scalar
from dpolicy.blocks._critics import Policy, noisy
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


class NoisyBest(NamedTuple):
    """How such a policy behaves, and the stages that it takes, which stand after the actor's.

    Attributes:
        policy: The field policy.
        candidates: Samples among which the action is the best.
        std: Standard deviation of the noise, times the part "noise".
        noisy_candidates: Whether the noise is added to every candidate, clipped, before the best is chosen.
        interval: The actor and the target critics move at every so many updates.
        average: The stage of the averaged actor.
        noise: The stage of the noise's factor.
    """

    policy: FieldPolicy
    candidates: int
    std: Number
    noisy_candidates: bool
    interval: int
    average: Stage
    noise: Stage

    def behaviour(self, parts: Parts) -> Policy:
        """The best of the candidates plus std alpha N(0, I), alpha the part "noise"."""
        noise = self.std * parts.noise
        if self.noisy_candidates:
            return self.policy.best(self.candidates, noise=noise)
        return noisy(self.policy.best(self.candidates), noise)

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
    candidates: int = 32,
    exploration_noise: Number = 0.1,
    initial_noise: Number = INITIAL_NOISE,
    target_entropy_scale: Number = 0.9,
    noise_learning_rate: Number = 7e-3,
    noise_interval: int = 250,
    average_rate: Number = 0.005,
    actor_interval: int = 2,
) -> NoisyBest:
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
    _checks.integer("candidates", candidates)
    _checks.fraction("average_rate", average_rate)
    _checks.integer("actor_interval", actor_interval)
    noise = tuned_noise(
        initial_noise,
        std=exploration_noise,
        target_entropy_scale=target_entropy_scale,
        learning_rate=noise_learning_rate,
        interval=noise_interval,
    )
    slow = every(average("actor", average_rate), actor_interval)
    return NoisyBest(policy, candidates, exploration_noise, noisy_candidates, actor_interval, slow, noise)
