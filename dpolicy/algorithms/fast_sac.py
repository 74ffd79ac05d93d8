"""FastSAC: SAC for thousands of environments at once."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import optax

from dpolicy._settings import Count, Finite, Positive, Sizes, within
from dpolicy._types import Key, Loss, Model, Number, Transition
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
from dpolicy.learning import Seen, algorithm, every, labelled, trained, tuned
from dpolicy.losses import soft_value
from dpolicy.networks import Activation, TanhGaussian, on_backbone
from dpolicy.optimisers import adam
from dpolicy.recipe import composed


@composed(
    actor_optimiser,
    q_critics,
    critic="c51",
    critic_low=-20.0,
    critic_high=20.0,
    critic_hidden=(768, 384, 192),
    critic_network="layer_norm",
    critic_activation="silu",
    critic_reduction="sum",
    target_rate=0.125,
    discount=0.97,
    weight_decay=1e-3,
)
def fast_sac(
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    temperature: Positive = 0.001,
    target_entropy_scale: Finite = 0.0,
    temperature_learning_rate: Positive = 3e-4,
    hidden: Sizes = (512, 256, 128),
    activation: Activation = "silu",
    adam_b2: Annotated[Number, within(0, 1, open_high=True)] = 0.95,
    actor_value: Literal["mean", "min"] = "mean",
    actor_interval: Count = 4,
) -> Algorithm:
    r"""FastSAC: SAC with normalised critics of laws over atoms, for thousands of environments (arXiv 2512.01996).

    Critics are not pessimistic: each is fitted to a target of its own, and the actor climbs the mean of both:

    $$ Z_j = r + \gamma (1 - \mathrm{terminated}) \big( \bar Z_j(s', a') - \lambda \log \pi(a' | s') \big), \qquad
       L_\pi = \lambda \log \pi(a | s) - \tfrac1n \sum_j \mathbb{E} Z_j(s, a). $$

    Critics, their targets and lambda step at every update, lambda by the entropy at s', and the actor at every fourth.
    Actor and critics have layer norms; the last layer of the actor starts at 0, and its width before the squash is from
    e^-5 to 1. The method plays 4096 environments with standardised observations and makes 8 updates of 8192 transitions
    for each step of them all (`dpolicy train fast_sac --env playground/... --print-config`).

    In the code lambda decays too, by 1 % of its rate, and of its eight updates for a step the second and the sixth move
    the actor. Bounds of actions by the limits of joints, and mirrored data, are the task's.

    Args:
        temperature: Weight lambda of the entropy at first.
        target_entropy_scale: The target entropy is minus this times the number of action dimensions, in nats: 0 for
            walking, .5 for tracking a motion.
        temperature_learning_rate: Adam's rate for log lambda.
        hidden: Widths of the actor's network.
        activation: Activation of the actor.
        adam_b2: Decay of Adam's second moment, of all.
        actor_value: mean, or min: targets and actor take the lower critic (clipped double Q).
        actor_interval: The actor moves at every so many updates.
    """
    critics = make_critics(b2=adam_b2)
    if critics.subset is not None and actor_value == "mean":
        raise ValueError(
            f"critic_subset needs actor_value min, got {critics.subset} where each has a target of its own."
        )
    sample = TanhGaussian.sample
    backed_up = "min" if actor_value == "min" else "each"

    def make(key: Key, spec: Any) -> Model:
        network: dict[str, Any] = {"hidden": hidden, "activation": activation, "final_scale": 0.0}
        bounds: dict[str, Any] = {"width": "tanh", "log_std_min": -5.0, "log_std_max": 0.0}
        policy = on_backbone(TanhGaussian, "layer_norm")
        return policy(spec.obs_size, spec.action_size, **network, **bounds, key=key)

    def following(s: Seen, example: Transition, key: Key) -> dict[str, Any]:
        action, log_prob = sample(s.before.actor, example.next_obs, key)
        return {"next_action": action, "next_log_prob": log_prob}

    def bootstrap(s: Seen) -> NextValue:
        target, weight = critic_function(s.before.target, backed_up), s.before.temperature

        def value(example: Transition, key: Key) -> Any:
            drawn = example.extras["next_action"], example.extras["next_log_prob"]
            return next_value(lambda *_: drawn, s.before.actor, target, target, weight)(example, key)

        return value

    def improve(s: Seen) -> Loss:
        return soft_value(sample, critic_function(s.now.critic, actor_value), s.now.temperature)

    def gap(s: Seen) -> Any:
        entropy = -jnp.mean(s.batch.extras["next_log_prob"])
        return entropy + target_entropy_scale * s.batch.action.shape[-1]

    rate = adam(temperature_learning_rate, b2=adam_b2)
    return algorithm(
        "fast_sac",
        "off_policy",
        explore=acts(lambda actor, q, obs, key: sample(actor, obs, key)),
        evaluate=acts(lambda actor, q, obs, key: (actor.mode(obs), jnp.zeros(()))),
        following=labelled(following),
        critic=critics.fitted(bootstrap),
        target=critics.averaged(),
        temperature=tuned(temperature, gap, rate, multiplier="value"),
        actor=every(trained(make, improve, make_optimiser(b2=adam_b2)), actor_interval),
    )
