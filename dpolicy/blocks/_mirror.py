"""Policy mirror descent on the critic's own next actions: what DPMD and FPMD share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from dpolicy._settings import Fraction, Positive
from dpolicy._types import Key, Loss, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.blocks._actor_optimiser import actor_optimiser
from dpolicy.blocks._bootstrap import NextValue, Policy
from dpolicy.blocks._critic_function import critic_function, outcome_of
from dpolicy.blocks._critics import Critics, acts, q_critics
from dpolicy.blocks._field_policy import FieldPolicy
from dpolicy.blocks._noisy_best import Behaviour, noisy_best
from dpolicy.learning import Seen, algorithm, labelled, statistics, trained
from dpolicy.losses import boltzmann, chain, given, perturb
from dpolicy.losses.match import Transform
from dpolicy.recipe import composed, tunable


def at_next(example: Transition) -> Transition:
    """The next observation with the action that the temporal-difference target drew there."""
    return dataclasses.replace(example, obs=example.next_obs, action=example.extras["next_action"])


@tunable("temperature", "q_clip", "statistics_rate")
@composed(noisy_best, actor_optimiser, q_critics)
def mirror_descent(
    behave: Callable[..., Behaviour],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    name: str,
    policy: FieldPolicy,
    evaluate: Policy,
    regression: Callable[[Transform], Loss],
    noisy_candidates: bool = False,
    times: str = "uniform",
    temperature: Positive | None = None,
    q_clip: Positive | None = 3.0,
    statistics_rate: Fraction = 0.001,
) -> Algorithm:
    """One weighted step away from the current policy at each update.

    The critic's next actions a' (of `noisy_best`) are what the field is fitted to, with one weight each:

        w = exp( Z / lambda ),  Z = clip((Q(s', a') - M) / R, -q_clip, q_clip)

    with the running mean M and standard deviation R of Q. The fixed point of one step is proportional to (law of a')
    times w. lambda is the learned noise factor unless it is given. Without a clip the weights are divided by the
    largest of the batch.

    Args:
        name: The algorithm's name.
        policy: The field policy.
        evaluate: How the averaged actor acts in evaluation.
        regression: Makes the loss of a chain of transforms, such as `matching`.
        noisy_candidates: Whether noise is added to every candidate of its behaviour before the best is chosen; see
            `noisy_best`.
        times: Law of the training times; see `perturb`.
        temperature: lambda, in units of the running standard deviation of Q; None for the learned noise factor.
        q_clip: Bound of the standardised Q; None for none.
        statistics_rate: Share of each batch in the running mean and standard deviation of Q.

    Raises:
        ValueError: For a value out of its range.
    """
    critics, behaviour = make_critics(), behave(policy=policy, noisy_candidates=noisy_candidates)

    def draw(s: Seen, example: Transition, key: Key) -> dict[str, Any]:
        return {"next_action": behaviour.acting(s.before)(example.next_obs, key)}

    def bootstrap(s: Seen) -> NextValue:
        target = outcome_of(critic_function(s.before.target))
        return lambda example, key: target(example.next_obs, example.extras["next_action"])

    def improve(s: Seen) -> Loss:
        q, standard = critic_function(s.now.critic), s.before.statistics
        weights = boltzmann(
            lambda obs, action: standard(q(obs, action)),
            s.before.noise if temperature is None else temperature,
            normalise=False,
            clip=q_clip,
            rescale=q_clip is None,
        )
        return given(at_next, regression(chain(weights, perturb(policy.schedule, times=times))))

    def next_values(s: Seen) -> Float[Array, " b"]:
        q = critic_function(s.now.critic)
        return jax.vmap(q)(s.batch.next_obs, s.batch.extras["next_action"])

    return algorithm(
        name,
        "off_policy",
        explore=behaviour.explore,
        evaluate=acts(evaluate, actor="average"),
        next_action=labelled(draw),
        critic=critics.fitted(bootstrap),
        target=behaviour.delayed(critics.averaged()),
        actor=behaviour.delayed(trained(policy.make, improve, make_optimiser())),
        **behaviour.stages,
        statistics=statistics(next_values, statistics_rate),
    )
