"""Acting by the best of several samples plus noise that is learned: what SDAC, DPMD and FPMD share as published."""

from collections.abc import Callable
from typing import Any

from dpolicy import _checks
from dpolicy._types import Number
from dpolicy.actor_critic import ActorCritic, Policy, acting, noisy
from dpolicy.extras import FromState, averaged_actor, tuned_noise
from dpolicy.field_policy import FieldPolicy
from dpolicy.recipe import tunable

INITIAL_NOISE = 5.0


def noisy_best_policy(
    policy: FieldPolicy, candidates: int, std: Number, *, noisy_candidates: bool = False
) -> Callable[[ActorCritic], Policy]:
    """`state -> policy`: the best of `candidates` samples plus std alpha N(0, I), alpha the state's learned "noise"."""

    def behave(state: ActorCritic) -> Policy:
        noise = std * state.extra["noise"].value
        if noisy_candidates:
            return policy.best(candidates, noise=noise)
        return noisy(policy.best(candidates), noise)

    return behave


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
    evaluate: Policy,
    noisy_candidates: bool = False,
    candidates: int = 32,
    exploration_noise: Number = 0.1,
    initial_noise: Number = INITIAL_NOISE,
    target_entropy_scale: Number = 0.9,
    noise_learning_rate: Number = 7e-3,
    noise_interval: int = 250,
    average_rate: Number = 0.005,
    actor_interval: int = 2,
) -> dict[str, Any]:
    """The slots of `actor_critic` for how a policy behaves; the actor's loss is the method's.

    It explores, and backs the critic up, by the best of several samples under the online critic, plus noise of
    standard deviation exploration_noise * alpha, alpha tuned (`tuned_noise`; the state's "noise"). The critic's next
    action is the current actor's; the average of the actor explores and is evaluated.

    Args:
        policy: The field policy.
        evaluate: How the averaged actor acts in evaluation.
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
        ValueError: for a value out of its range.
    """
    _checks.integer("candidates", candidates)
    _checks.positive("noise_learning_rate", noise_learning_rate)
    behave = noisy_best_policy(policy, candidates, exploration_noise, noisy_candidates=noisy_candidates)
    return {
        "make_actor": policy.make,
        "explore": FromState(lambda state: acting(state.extra["average"], behave(state))),
        "backup": FromState(behave),
        "evaluate": FromState(lambda state: acting(state.extra["average"], evaluate)),
        "actor_interval": actor_interval,
        "extras": {
            "average": averaged_actor(average_rate),
            "noise": tuned_noise(
                initial_noise,
                std=exploration_noise,
                target_entropy_scale=target_entropy_scale,
                learning_rate=noise_learning_rate,
                interval=noise_interval,
            ),
        },
    }
