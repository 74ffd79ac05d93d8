"""Deterministic actors that climb twin critics and wait for them (TD3), on replay or data, free or held to the data."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from dpolicy._settings import Count, NonNegative
from dpolicy._types import Key, Loss, Number, Transition
from dpolicy.algorithm import Algorithm, Family
from dpolicy.blocks._actor_optimiser import actor_optimiser
from dpolicy.blocks._bootstrap import NextValue, Policy, next_value
from dpolicy.blocks._critics import Critics, acts, guide, q_critics
from dpolicy.blocks._deterministic import DeterministicPolicy, deterministic_policy
from dpolicy.learning import Seen, algorithm, average, every, trained
from dpolicy.recipe import composed, tunable


def charged_for_leaving(policy: Policy, weight: Number) -> Callable[[Seen], NextValue]:
    """The lower target value of the slow actor's action, less `weight` |a' - a'_data|^2 (ReBRAC, arXiv 2305.09836).

    a'_data is extras["next_action"], the action that followed in the data; where the data end nobody knows it
    (extras["next_action_known"]), and nothing is charged.
    """

    def value(s: Seen) -> NextValue:
        def one(example: Transition, key: Key) -> Any:
            def act(actor: Any, q: Any, obs: Any, key: Key) -> Any:
                action, _ = policy(actor, q, obs, key)
                away = jnp.sum((action - example.extras["next_action"]) ** 2)
                return action, away * example.extras["next_action_known"]

            q, target = guide(s.before, "online_min"), guide(s.before, "target_min")
            # A cost of the action, in the place of that of its density.
            return next_value(act, s.before.target_actor, q, target, weight)(example, key)

        return one

    return value


@tunable("exploration_noise", "target_noise", "target_noise_clip", "actor_interval")
@composed(deterministic_policy, actor_optimiser, q_critics)
def twin_delayed(
    make_policy: Callable[..., DeterministicPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    name: str,
    improve: Callable[[DeterministicPolicy], Callable[[Seen], Loss]],
    value: Callable[[Policy], Callable[[Seen], NextValue]] | None = None,
    family: Family = "off_policy",
    exploration_noise: NonNegative = 0.1,
    target_noise: NonNegative = 0.2,
    target_noise_clip: NonNegative = 0.5,
    actor_interval: Count = 2,
) -> Algorithm:
    """TD3 around any loss of the actor: critics at every update, the actor and all slow copies at every second.

    Args:
        name: The algorithm's name.
        improve: `policy -> (seen -> loss)` of the actor, which sees the critics after this update's step.
        value: `policy -> (seen -> value of where a transition leads)`, of the smoothed policy, whose actor is the part
            "target_actor"; the lower target value of its action unless given.
        family: `off_policy`, or `offline` for the same update on a data set.
        exploration_noise: Standard deviation of Gaussian noise added to the action while exploring, which is clipped
            to the box.
        target_noise: Standard deviation of the noise on the target policy's action.
        target_noise_clip: That noise is clipped to plus or minus this.
        actor_interval: The actor and all slow copies move at every so many updates.
    """
    policy, critics = make_policy(), make_critics()
    smoothed = policy.noisy(target_noise, bound=target_noise_clip)
    backed_up = critics.backed_up(smoothed, actor="target_actor")
    delayed = lambda stage: every(stage, actor_interval)
    return algorithm(
        name,
        family,
        explore=acts(policy.noisy(exploration_noise)),
        evaluate=acts(policy.act),
        critic=backed_up if value is None else critics.fitted(value(smoothed)),
        actor=delayed(trained(policy.make, improve(policy), make_optimiser())),
        target_actor=delayed(average("actor", critics.target_rate)),
        target=delayed(critics.averaged()),
    )
