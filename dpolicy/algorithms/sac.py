"""Soft Actor-Critic."""

from collections.abc import Callable
from typing import Literal

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
    actor_value: Literal["min", "mean"] = "min",
    hidden: Sizes = (256, 256),
    activation: Activation = "relu",
) -> Algorithm:
    """Soft Actor-Critic: a squashed Gaussian, twin soft critics, a tuned temperature (arXiv 1812.05905).

    REDQ (arXiv 2101.05982) is `critics=10, critic_subset=2, actor_value="mean"` with 20 updates for each step
    (`updates_per_step` of the program); other than there the actor moves at each of them.

    Args:
        temperature: Weight lambda of the entropy: its start, or its value when it is not tuned.
        tune_temperature: Whether lambda is tuned to hold the entropy at its target.
        target_entropy_scale: The target entropy is minus this times the number of action dimensions, in nats.
        temperature_learning_rate: Adam's rate for log lambda.
        actor_value: What the actor climbs: the min or the mean of the critics.
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
        actor_critic_values="online_mean" if actor_value == "mean" else "online_min",
        critic_activation=activation,
        temperature=temperature,
        target_entropy=(lambda size: -target_entropy_scale * size) if tune_temperature else None,
        temperature_learning_rate=temperature_learning_rate,
    )
