"""Policy mirror descent on the critic's own next actions: what DPMD and FPMD share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Critic, Loss, Number, Transition
from dpolicy.actor_critic import ActorCritic, ActorLoss
from dpolicy.extras import FromState, Updated, running_statistics
from dpolicy.fields import AbstractSchedule
from dpolicy.losses import boltzmann, chain, given, perturb
from dpolicy.losses.match import Transform
from dpolicy.recipe import tunable


def at_next(example: Transition) -> Transition:
    """The next observation with the action that the temporal-difference target drew there."""
    return dataclasses.replace(example, obs=example.next_obs, action=example.extras["next_action"])


@tunable("temperature", "q_clip", "statistics_rate")
def mirror_descent(
    *,
    behaviour: Mapping[str, Any],
    schedule: AbstractSchedule,
    regression: Callable[[Transform], Loss],
    times: str = "uniform",
    temperature: Number | None = None,
    q_clip: Number | None = 3.0,
    statistics_rate: Number = 0.001,
) -> dict[str, Any]:
    """The slots of `actor_critic` for one weighted step away from the current policy.

    The critic's next actions a' (of `noisy_best`) are what the field is fitted to, with one weight each:

        w = exp( Z / lambda ),  Z = clip((Q(s', a') - M) / R, -q_clip, q_clip)

    with the running mean M and standard deviation R of Q. The fixed point of one step is proportional to (law of a')
    times w. lambda is the learned noise factor unless it is given. Without a clip the weights are divided by the
    largest of the batch.

    Args:
        behaviour: The slots of `noisy_best`, which these are added to.
        schedule: The field's noise schedule.
        regression: Makes the loss of a chain of transforms, such as `matching`.
        times: Law of the training times; see `perturb`.
        temperature: lambda, in units of the running standard deviation of Q; None for the learned noise factor.
        q_clip: Bound of the standardised Q; None for none.
        statistics_rate: Share of each batch in the running mean and standard deviation of Q.

    Raises:
        ValueError: for a value out of its range.
    """
    if temperature is not None:
        _checks.positive("temperature", temperature)
    if q_clip is not None:
        _checks.positive("q_clip", q_clip)

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
            return given(at_next, regression(chain(weights, perturb(schedule, times=times))))

        return improve

    def next_values(updated: Updated) -> Float[Array, " b"]:
        return jax.vmap(updated.q)(updated.batch.next_obs, updated.batch.extras["next_action"])

    statistics = {"statistics": running_statistics(next_values, statistics_rate)}
    return {
        **behaviour,
        "actor_loss": FromState(actor_loss),
        "extras": {**behaviour["extras"], **statistics},
    }
