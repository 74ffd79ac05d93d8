"""DSAC-T: SAC with Gaussian critics."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from dpolicy._settings import Count, Finite, Positive, Sizes
from dpolicy._types import Key, Loss, Model
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    NextValue,
    actor_optimiser,
    acts,
    critic_function,
    next_value,
    q_critics,
)
from dpolicy.learning import Seen, algorithm, average, every, trained, tuned
from dpolicy.losses import soft_value
from dpolicy.networks import Activation, TanhGaussian
from dpolicy.optimisers import adam
from dpolicy.recipe import composed


@composed(
    actor_optimiser,
    q_critics,
    learning_rate=1e-4,
    critic="gaussian",
    critic_reduction="sum",
    critic_hidden=(256, 256, 256),
    critic_activation="gelu",
    critic_learning_rate=1e-4,
)
def dsac_t(
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    temperature: Positive = math.e,
    target_entropy_scale: Finite = 1.0,
    temperature_learning_rate: Positive = 3e-4,
    hidden: Sizes = (256, 256, 256),
    activation: Activation = "gelu",
    actor_interval: Count = 2,
) -> Algorithm:
    r"""DSAC-T: SAC whose critics know the law of the return as a Gaussian, with three refinements (arXiv 2310.05858).

    The mean is fitted to the expected value, the deviation to a sample of the return no further than three running
    deviations off, both of the critic with the lower mean at s'; the running deviation b makes gradients independent
    of the scale of rewards (`dpolicy.losses.gaussian_value_loss`):

    $$ y = r + \gamma (1 - \mathrm{terminated}) \big( \min_j \bar m_j(s', a') - \lambda \log \pi(a' | s') \big),
       \quad a' \sim \bar\pi(s'), \qquad L_\pi = \lambda \log \pi(a | s) - \min_j m_j(s, a). $$

    Actor, temperature and the slow copies of actor and critics move at every second update, and every gradient is taken
    where the update found the parameters.

    Other than the code, whose first update moves all, the actor moves first at the second; the code has published
    runs of one update for 20 steps of the environment (`num_envs=20`). Its later loss is `critic_form="huber"`; with
    another `critic` all else stays.

    Args:
        temperature: Weight lambda of the entropy at first.
        target_entropy_scale: The target entropy is minus this times the number of action dimensions, in nats.
        temperature_learning_rate: Adam's rate for log lambda.
        hidden: Widths of the actor's network.
        activation: Activation of the actor.
        actor_interval: Actor, temperature and all slow copies move at every so many updates.
    """
    critics = make_critics()
    delayed = lambda stage: every(stage, actor_interval)
    sample = lambda actor, q, obs, key: actor.sample(obs, key)

    def make(key: Key, spec: Any) -> Model:
        network: dict[str, Any] = {"hidden": hidden, "activation": activation, "log_std_max": 0.5}
        return TanhGaussian(spec.obs_size, spec.action_size, **network, key=key)

    def bootstrap(s: Seen) -> NextValue:
        q, target = critic_function(s.before.critic), critic_function(s.before.target)
        return next_value(sample, s.before.target_actor, q, target, s.before.temperature)

    def improve(s: Seen) -> Loss:
        return soft_value(TanhGaussian.sample, critic_function(s.before.critic), s.before.temperature)

    def gap(s: Seen) -> Any:
        return s.metrics["actor/entropy"] + target_entropy_scale * s.batch.action.shape[-1]

    return algorithm(
        "dsac_t",
        "off_policy",
        explore=acts(sample),
        evaluate=acts(lambda actor, q, obs, key: (actor.mode(obs), jnp.zeros(()))),
        critic=critics.fitted(bootstrap),
        actor=delayed(trained(make, improve, make_optimiser())),
        temperature=delayed(tuned(temperature, gap, adam(temperature_learning_rate))),
        target_actor=delayed(average("actor", critics.target_rate)),
        target=delayed(critics.averaged()),
    )
