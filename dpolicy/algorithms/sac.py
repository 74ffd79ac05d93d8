"""Soft Actor-Critic."""

from collections.abc import Callable

import jax.numpy as jnp

from dpolicy._settings import Finite, Positive, Sizes
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import actor_critic
from dpolicy.losses import soft_value
from dpolicy.networks import Activation, TanhGaussian
from dpolicy.recipe import composed


@composed(actor_critic, without=("critic_activation",))
def sac(
    make_algorithm: Callable[..., Algorithm],
    *,
    temperature: Positive = 1.0,
    tune_temperature: bool = True,
    target_entropy_scale: Finite = 1.0,
    temperature_learning_rate: Positive = 3e-4,
    hidden: Sizes = (256, 256),
    activation: Activation = "relu",
) -> Algorithm:
    """Soft Actor-Critic: a squashed Gaussian, twin soft critics, a tuned temperature (arXiv 1812.05905).

    Args:
        temperature: Weight lambda of the entropy: its start, or its value when it is not tuned.
        tune_temperature: Whether lambda is tuned to hold the entropy at its target.
        target_entropy_scale: The target entropy is minus this times the number of action dimensions, in nats.
        temperature_learning_rate: Adam's rate for log lambda.
        hidden: Widths of the actor's network.
        activation: Activation of actor and critics.
    """

    return make_algorithm(
        name="sac",
        make_actor=lambda key, spec: TanhGaussian(
            spec.obs_size, spec.action_size, hidden=hidden, activation=activation, key=key
        ),
        explore=lambda actor, q, obs, key: actor.sample(obs, key),
        evaluate=lambda actor, q, obs, key: (actor.mode(obs), jnp.zeros(())),
        actor_loss=lambda q, temperature: soft_value(TanhGaussian.sample, q, temperature),
        critic_activation=activation,
        temperature=temperature,
        target_entropy=(lambda size: -target_entropy_scale * size) if tune_temperature else None,
        temperature_learning_rate=temperature_learning_rate,
    )
