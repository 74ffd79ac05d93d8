"""Policy mirror descent on the critic's own next actions: what DPMD and FPMD share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Key, Loss, Number, Scalar, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.blocks._critics import Critics, Policy, acting, critic_function
from dpolicy.blocks._noisy_best import NoisyBest
from dpolicy.learning import Seen, algorithm, labelled, statistics, trained
from dpolicy.losses import boltzmann, chain, given, perturb
from dpolicy.losses.match import Transform
from dpolicy.recipe import tunable


def at_next(example: Transition) -> Transition:
    """The next observation with the action that the temporal-difference target drew there."""
    return dataclasses.replace(example, obs=example.next_obs, action=example.extras["next_action"])


@tunable("temperature", "q_clip", "statistics_rate")
def mirror_descent(
    *,
    name: str,
    behaviour: NoisyBest,
    evaluate: Policy,
    critics: Critics,
    optimiser: optax.GradientTransformation,
    regression: Callable[[Transform], Loss],
    times: str = "uniform",
    temperature: Number | None = None,
    q_clip: Number | None = 3.0,
    statistics_rate: Number = 0.001,
) -> Algorithm:
    """One weighted step away from the current policy at each update.

    The critic's next actions a' (of `noisy_best`) are what the field is fitted to, with one weight each:

        w = exp( Z / lambda ),  Z = clip((Q(s', a') - M) / R, -q_clip, q_clip)

    with the running mean M and standard deviation R of Q. The fixed point of one step is proportional to (law of a')
    times w. lambda is the learned noise factor unless it is given. Without a clip the weights are divided by the
    largest of the batch.

    Args:
        name: The algorithm's name.
        behaviour: How it acts while it learns.
        evaluate: How the averaged actor acts in evaluation.
        critics: Its critics.
        optimiser: Of the actor.
        regression: Makes the loss of a chain of transforms, such as `matching`.
        times: Law of the training times; see `perturb`.
        temperature: lambda, in units of the running standard deviation of Q; None for the learned noise factor.
        q_clip: Bound of the standardised Q; None for none.
        statistics_rate: Share of each batch in the running mean and standard deviation of Q.

    Raises:
        ValueError: For a value out of its range.
    """
    if temperature is not None:
        _checks.positive("temperature", temperature)
    if q_clip is not None:
        _checks.positive("q_clip", q_clip)
    policy = behaviour.policy

    def draw(s: Seen, example: Transition, key: Key) -> dict[str, Any]:
        act = acting(behaviour.behaviour(s.before), s.before.actor, critic_function(s.before.critic))
        return {"next_action": act(example.next_obs, key)}

    def bootstrap(s: Seen) -> Callable[[Transition, Key], Scalar]:
        target = critic_function(s.before.target)
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
        explore=lambda s: acting(behaviour.behaviour(s), s.average, critic_function(s.critic)),
        evaluate=lambda s: acting(evaluate, s.average, critic_function(s.critic)),
        next_action=labelled(draw),
        critic=critics.fitted(bootstrap),
        target=behaviour.delayed(critics.averaged()),
        actor=behaviour.delayed(trained(policy.make, improve, optimiser)),
        average=behaviour.average,
        noise=behaviour.noise,
        statistics=statistics(next_values, statistics_rate),
    )
