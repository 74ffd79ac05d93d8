"""Soft Actor-Critic."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Critic, Key, Number, Observation
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import actor_critic
from dpolicy.losses import soft_value
from dpolicy.networks import ACTIVATIONS, TanhGaussian
from dpolicy.recipe import composed


@composed(actor_critic, without=("critic_activation",))
def sac(
    train: Callable[..., Algorithm],
    *,
    temperature: Number = 1.0,
    tune_temperature: bool = True,
    target_entropy_scale: Number = 1.0,
    temperature_learning_rate: Number = 3e-4,
    hidden: tuple[int, ...] = (256, 256),
    activation: str = "relu",
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
    _checks.positive("temperature", temperature)
    _checks.boolean("tune_temperature", tune_temperature)
    _checks.in_range("target_entropy_scale", target_entropy_scale)
    _checks.sizes("hidden", hidden)
    _checks.one_of("activation", activation, ACTIVATIONS)

    def explore(
        actor: TanhGaussian, q: Critic, obs: Observation, key: Key
    ) -> tuple[Action, Float[Array, ""]]:
        return actor.sample(obs, key)

    def evaluate(
        actor: TanhGaussian, q: Critic, obs: Observation, key: Key
    ) -> tuple[Action, Float[Array, ""]]:
        return actor.mode(obs), jnp.zeros(())

    return train(
        name="sac",
        make_actor=lambda key, spec: TanhGaussian(
            spec.obs_size, spec.action_size, hidden=hidden, activation=activation, key=key
        ),
        explore=explore,
        evaluate=evaluate,
        actor_loss=lambda q, temperature: soft_value(TanhGaussian.sample, q, temperature),
        critic_activation=activation,
        temperature=temperature,
        target_entropy=(lambda size: -target_entropy_scale * size) if tune_temperature else None,
        temperature_learning_rate=temperature_learning_rate,
    )
