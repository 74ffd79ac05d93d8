"""BRO: SAC with large regularised quantile critics, an optimistic explorer, and resets."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax

from dpolicy._settings import Finite, NonNegative, Positive, Sizes
from dpolicy._types import Key, Loss, Model
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    Explorer,
    NextValue,
    actor_optimiser,
    acts,
    critic_function,
    next_value,
    optimistic_explorer,
    q_critics,
    resetting,
)
from dpolicy.learning import Seen, algorithm, trained, tuned
from dpolicy.losses import soft_value
from dpolicy.networks import Activation, TanhGaussian, on_backbone
from dpolicy.optimisers import adam
from dpolicy.recipe import composed


@composed(
    actor_optimiser,
    q_critics,
    optimistic_explorer,
    critic="quantile",
    critic_network="bronet",
    critic_hidden=(512, 512),
    critic_reduction="sum",
    weight_decay=1e-4,
)
def bro(
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    make_explorer: Callable[..., Explorer],
    *,
    temperature: Positive = 1.0,
    target_entropy_scale: Finite = 0.5,
    temperature_learning_rate: Positive = 3e-4,
    pessimism: NonNegative = 0.0,
    hidden: Sizes = (256,),
    activation: Activation = "relu",
    reset_updates: Sizes = (
        *(125_000, 475_000, 2_475_000, 4_975_000, 7_475_000, 9_975_000, 14_975_000, 19_975_000),
    ),
) -> Algorithm:
    r"""BRO: bigger, regularised, optimistic: SAC with large quantile critics on BroNet and resets (arXiv 2405.16158).

    Critics are not pessimistic: the target's law lies between those of both, quantile by quantile, and the actor climbs
    the mean of both:

    $$ y_k = r + \gamma (1 - \mathrm{terminated})
       \big( \tfrac12 \sum_j \bar\psi_{jk}(s', a') - \lambda \log \pi(a' | s') \big), \qquad
       L_\pi = \lambda \log \pi(a | s) - \tfrac1{2n} \sum_{jk} \psi_{jk}(s, a). $$

    It explores by a second policy (`optimistic_explorer`) and is evaluated by tanh of the actor's mean. All networks,
    optimisers and numbers start anew after some updates (`resetting`), the replay stays.

    The method makes 10 updates for each step of the environment (`updates_per_step`), after 2,500 steps at random
    (`warmup`); with 2 it is BRO-fast, with `reset_updates=(25_000,)`. Other than in the code, the explorer's last layer
    has a bias.

    Args:
        temperature: Weight lambda of the entropy at first.
        target_entropy_scale: The target entropy is minus this times the number of action dimensions, in nats.
        temperature_learning_rate: Adam's rate for log lambda.
        pessimism: Deviations of the critics that the actor and the targets take off their mean.
        hidden: Widths of the actor's BroNet, one for each block.
        activation: Activation of actor and explorer.
        reset_updates: After which updates everything but the replay starts anew; () for never.
    """
    critics = make_critics()
    explorer = make_explorer(optimiser=make_optimiser(), activation=activation)
    sample = lambda actor, q, obs, key: actor.sample(obs, key)
    lower = lambda critic: critic_function(critic, "lcb", pessimism=pessimism)

    def make(key: Key, spec: Any) -> Model:
        sizes, bounds = (spec.obs_size, spec.action_size), {"log_std_min": -10.0, "log_std_max": 2.0}
        network: dict[str, Any] = {"hidden": hidden, "activation": activation, "width": "tanh", **bounds}
        actor = on_backbone(TanhGaussian, "bronet")(*sizes, key=key, **network)
        # The half that makes the width starts with gain 1.
        gain = jnp.repeat(jnp.array([1.0, math.sqrt(0.5)]), spec.action_size)[:, None]
        return eqx.tree_at(lambda a: a.mlp.layers[-1].weights[0], actor, replace_fn=lambda w: gain * w)

    def bootstrap(s: Seen) -> NextValue:
        q, target = critic_function(s.before.critic), lower(s.before.target)
        return next_value(sample, s.before.actor, q, target, s.before.temperature)

    def improve(s: Seen) -> Loss:
        return soft_value(TanhGaussian.sample, lower(s.now.critic), s.before.temperature)

    def gap(s: Seen) -> Any:
        return s.metrics["actor/entropy"] + target_entropy_scale * s.batch.action.shape[-1]

    method = algorithm(
        "bro",
        "off_policy",
        explore=explorer.explore,
        evaluate=acts(lambda actor, q, obs, key: (actor.mode(obs), jnp.zeros(()))),
        critic=critics.fitted(bootstrap),
        target=critics.averaged(),
        actor=trained(make, improve, make_optimiser()),
        explorer=explorer.explorer,
        temperature=tuned(temperature, gap, adam(temperature_learning_rate, b1=0.5), multiplier="value"),
        optimism=explorer.optimism,
        kl_weight=explorer.kl_weight,
    )
    return resetting(method, reset_updates)
