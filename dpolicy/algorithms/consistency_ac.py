"""Consistency-AC: a consistency policy of a few steps that ascends normalised critics through all of them."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from dpolicy._settings import Count, Fraction, NonNegative, Positive, at_least
from dpolicy._types import Action, Key, Loss, Observation
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    FieldPolicy,
    actor_optimiser,
    acts,
    backpropagated,
    consistency_policy,
    linear_levels,
    q_critics,
)
from dpolicy.learning import Parts, Seen, algorithm, average, every, trained
from dpolicy.losses import add, bptt_of_either, consistency_levels, consistency_matching
from dpolicy.networks import mean_of
from dpolicy.optimisers import annealed
from dpolicy.recipe import composed


@composed(
    consistency_policy,
    backpropagated,
    actor_optimiser,
    q_critics,
    sampler_steps=5,
    learning_rate=1e-5,
    critic_hidden=(256, 256, 256),
    critic_activation="mish",
    critic_reduction="sum",
    max_grad_norm=1.0,
)
def consistency_ac(
    make_policy: Callable[..., FieldPolicy],
    make_gradient: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    q_weight: NonNegative = 1.0,
    consistency_weight: NonNegative = 0.0,
    levels: Annotated[int, at_least(2)] = 150,
    level_updates: Count | None = None,
    scaled: bool = False,
    candidates: Count = 50,
    evaluation_candidates: Count = 50,
    selection_temperature: Positive = 1.0,
    random_share: Fraction = 0.01,
    random_updates: Count = 25_000,
    average_rate: Fraction = 0.005,
    average_interval: Count = 5,
    average_after: Annotated[int, at_least(0)] = 1_000,
    offline: bool = False,
) -> Algorithm:
    r"""Consistency-AC: a few steps of a consistency function climb Q_j / mean |Q_k| (arXiv 2309.16984).

    $$ L = -c_Q \frac{Q_j(s, a)}{\mathrm{mean} |Q_k(s, a)|}
       + c_C\, | f(a' + h' z, h', s) - \bar f(a' + h z, h, s) |^2, $$

    a the end of the sampler, through all steps of which the gradient passes (its noise falls linearly from 80 to 2), j
    by a coin, k the other critic; a' the replay's action, h < h' neighbours on a grid. The critics' next action is the
    slow copy's, which is the target of the second term, too. It acts by one of 50 samples, drawn with probability
    softmax of the lower target value; while exploring also at random, with a share that falls from 1.

    Online the second term is off (c_C = 0): nothing then holds the policy to anything, and it collapses to one maximum,
    or to a face of the box, beyond which there is no gradient but with `inward=True`. With the term what the replay
    holds stays. For data sets: `offline=True, consistency_weight=1, learning_rate=3e-4`, with `level_updates` the
    updates of the run, over which levels grow from 2; q_weight and max_grad_norm are by task.

    The network is given the noise and the noised action as they are, up to 80. Other than the code: with
    `sampler_steps=1` its only call is at noise of 80, where the code's is at 2.

    Args:
        q_weight: c_Q.
        consistency_weight: c_C.
        levels: Levels of noise of the second term (at the end).
        level_updates: Updates over which they grow to that from 2; None for as many from the start. Only with the term.
        scaled: Whether the second term is divided by h' - h. Only with the term.
        candidates: Samples among which its action is chosen while exploring.
        evaluation_candidates: The same in evaluation.
        selection_temperature: Of the softmax over them.
        random_share: Share of random actions while exploring, at the end.
        random_updates: Updates over which it falls to that from 1 (published: a tenth of the run).
        average_rate: Share of the actor that enters its slow copy whenever that steps.
        average_interval: The slow copy moves at every so many updates.
        average_after: Updates at the start through which it waits.
        offline: Whether it learns from a data set, by `dpolicy.train.offline` from Python.
        sigma_min: The least noise, at which the function is the identity; below 2 but for a single step.
        sigma_max: The noise that it starts from; above 2 but for a single step.
        sampler_steps: Calls of the function for an action.
        learning_rate: Adam's rate for the actor.
    """
    held = not (isinstance(consistency_weight, float | int) and consistency_weight == 0)
    if not held and (scaled or level_updates is not None):
        name, value = ("scaled", scaled) if scaled else ("level_updates", level_updates)
        raise ValueError(f"{name} needs a consistency_weight above 0, got {value!r} without.")
    policy = make_policy(
        preconditioned=False,
        clip_inside=False,
        later=lambda schedule, steps: linear_levels(steps, schedule),
    )
    critics, climber = make_critics(), make_gradient(policy=policy)

    def improve(s: Seen) -> Loss:
        climb = bptt_of_either(climber.sample, lambda obs, action: mean_of(s.now.critic(obs, action)))
        if not held:
            return add(q=(q_weight, climb))
        count = levels
        if level_updates is not None:
            count = consistency_levels(annealed(s.before.updates, 0.0, 1.0, level_updates), high=levels)
        fit = consistency_matching(s.before.average, levels=count, scaled=scaled)
        return add(q=(q_weight, climb), fit=(consistency_weight, fit))

    def select(candidates: int) -> Any:
        return acts(policy.best(candidates, temperature=selection_temperature), select="target_min")

    def explore(parts: Parts) -> Callable[[Observation, Key], Action]:
        share = annealed(parts.updates, 1.0, random_share, random_updates)
        return _partly_random(select(candidates)(parts), share)

    return algorithm(
        "consistency_ac",
        "offline" if offline else "off_policy",
        explore=explore,
        evaluate=select(evaluation_candidates),
        critic=critics.backed_up(policy.act, actor="average"),
        actor=trained(policy.make, improve, make_optimiser()),
        average=every(average("actor", average_rate), average_interval, after=average_after),
        target=critics.averaged(),
    )


def _partly_random(greedy: Callable[[Observation, Key], Action], share: Any) -> Callable[..., Action]:
    """`greedy`, but for a share of its actions, uniform in the box."""

    def act(obs: Observation, key: Key) -> Action:
        greedy_key, random_key, choice_key = jax.random.split(key, 3)
        action = greedy(obs, greedy_key)
        random = jax.random.uniform(random_key, action.shape, action.dtype, -1.0, 1.0)
        return jnp.where(jax.random.bernoulli(choice_key, share), random, action)

    return act
