"""Policy mirror descent on the critic's own next actions: what DPMD and FPMD share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Critic, Loss, Number, Transition
from dpolicy.actor_critic import ActorCritic, ActorLoss, Policy, acting, noisy
from dpolicy.extras import FromState, Updated, averaged_actor, running_statistics, tuned_noise
from dpolicy.field_policy import FieldPolicy
from dpolicy.losses import boltzmann, chain, given, perturb
from dpolicy.losses.match import Transform
from dpolicy.recipe import tunable


def at_next(example: Transition) -> Transition:
    """The next observation with the action that the temporal-difference target drew there."""
    return dataclasses.replace(example, obs=example.next_obs, action=example.extras["next_action"])


@tunable(
    "candidates",
    "temperature",
    "q_clip",
    "statistics_rate",
    "exploration_noise",
    "initial_noise",
    "target_entropy_scale",
    "noise_learning_rate",
    "noise_interval",
    "average_rate",
    "actor_interval",
)
def mirror_descent(
    *,
    policy: FieldPolicy,
    evaluate: Policy,
    regression: Callable[[Transform], Loss],
    times: str = "uniform",
    noisy_candidates: bool = False,
    candidates: int = 32,
    temperature: Number | None = None,
    q_clip: Number | None = 3.0,
    statistics_rate: Number = 0.001,
    exploration_noise: Number = 0.1,
    initial_noise: Number = 5.0,
    target_entropy_scale: Number = 0.9,
    noise_learning_rate: Number = 7e-3,
    noise_interval: int = 250,
    average_rate: Number = 0.005,
    actor_interval: int = 2,
) -> dict[str, Any]:
    """The slots of `actor_critic` for one weighted step away from the current policy.

    Next actions a' are the best of several samples of the current actor, plus noise; they enter the critic's target
    and are what the field is fitted to, with one weight each:

        w = exp( Z / lambda ),  Z = clip((Q(s', a') - M) / R, -q_clip, q_clip)

    with the running mean M and standard deviation R of Q. The fixed point of one step is proportional to (law of a')
    times w. The noise is exploration_noise * alpha, alpha tuned (`tuned_noise`); lambda is alpha as well unless it is
    given. Without a clip the weights are divided by the largest of the batch. The average of the actor explores and
    is evaluated.

    Args:
        policy: The field policy.
        evaluate: How the averaged actor acts in evaluation.
        regression: Makes the loss of a chain of transforms, such as `matching`.
        times: Law of the training times; see `perturb`.
        noisy_candidates: Whether the noise is added to every candidate, clipped, before the best is chosen.
        candidates: Samples among which the behaviour and the critic's next action are the best.
        temperature: lambda, in units of the running standard deviation of Q; None for the learned noise factor.
        q_clip: Bound of the standardised Q; None for none.
        statistics_rate: Share of each batch in the running mean and standard deviation of Q.
        exploration_noise: Standard deviation of additive action noise, times the learned factor.
        initial_noise: Start of the learned noise factor.
        target_entropy_scale: The noise approaches an entropy of minus this times the number of action dimensions.
        noise_learning_rate: Adam's rate for the logarithm of the noise factor.
        noise_interval: Updates between two steps of the noise factor.
        average_rate: Share of the actor that enters its average whenever it steps.
        actor_interval: The actor and the target critics move at every so many updates.

    Raises:
        ValueError: for a value out of its range.
    """
    _checks.integer("candidates", candidates)
    if temperature is not None:
        _checks.positive("temperature", temperature)
    if q_clip is not None:
        _checks.positive("q_clip", q_clip)

    def behave(state: ActorCritic) -> Policy:
        noise = exploration_noise * state.extra["noise"].value
        if noisy_candidates:
            return policy.best(candidates, noise=noise)
        return noisy(policy.best(candidates), noise)

    def actor_loss(state: ActorCritic) -> ActorLoss:
        statistics = state.extra["statistics"]
        scale = state.extra["noise"].value if temperature is None else temperature

        def improve(q: Critic, _: Float[Array, ""]) -> Loss:
            weights = boltzmann(
                lambda obs, action: statistics(q(obs, action)),
                scale,
                normalise=False,
                clip=q_clip,
                rescale=q_clip is None,
            )
            return given(at_next, regression(chain(weights, perturb(policy.schedule, times=times))))

        return improve

    def next_values(updated: Updated) -> Float[Array, " b"]:
        return jax.vmap(updated.q)(updated.batch.next_obs, updated.batch.extras["next_action"])

    return {
        "make_actor": policy.make,
        "explore": FromState(lambda state: acting(state.extra["average"], behave(state))),
        "backup": FromState(behave),
        "evaluate": FromState(lambda state: acting(state.extra["average"], evaluate)),
        "actor_loss": FromState(actor_loss),
        "actor_interval": actor_interval,
        "extras": {
            "average": averaged_actor(average_rate),
            "statistics": running_statistics(next_values, statistics_rate),
            "noise": tuned_noise(
                initial_noise,
                std=exploration_noise,
                target_entropy_scale=target_entropy_scale,
                learning_rate=noise_learning_rate,
                interval=noise_interval,
            ),
        },
    }
