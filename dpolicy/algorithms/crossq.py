"""CrossQ: SAC without target networks."""

from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
import optax

from dpolicy._settings import Count, Finite, Positive, Sizes, at_least, within
from dpolicy._types import Key, Loss, Model, Number
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    JointCritics,
    actor_optimiser,
    acts,
    carrying,
    critic_function,
    joint_critics,
    over_the_batch,
)
from dpolicy.learning import Seen, algorithm, every, trained, tuned
from dpolicy.losses import soft_value
from dpolicy.networks import Activation, TanhGaussian, renormalised
from dpolicy.optimisers import adam
from dpolicy.recipe import composed


@composed(actor_optimiser, joint_critics, learning_rate=1e-3)
def crossq(
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., JointCritics],
    *,
    temperature: Positive = 1.0,
    target_entropy_scale: Finite = 1.0,
    temperature_learning_rate: Positive = 1e-3,
    hidden: Sizes = (256, 256),
    activation: Activation = "relu",
    adam_b1: Annotated[Number, within(0, 1, open_high=True)] = 0.5,
    renorm_warmup: Annotated[int, at_least(0)] = 100_000,
    actor_interval: Count = 3,
) -> Algorithm:
    r"""CrossQ: SAC with batch renormalisation in wide critics, and no target networks (arXiv 1902.05605).

    One pass of the critics over [(s, a), (s', a')] gives both values, so that both halves are normalised alike; the
    half of the target has no gradient:

    $$ y = r + \gamma (1 - \mathrm{terminated}) \big( \min_j Q_j(s', a') - \lambda \log \pi(a' | s') \big), \qquad
       L = \sum_j (Q_j(s, a) - y)^2. $$

    The actor, normalised too, climbs the lower critic as the running statistics give it; it and the temperature move at
    every third update. It acts, and draws a', by its running statistics. See `BatchRenorm`. These lag by some 1 /
    `renorm_rate` updates, of which a short run with fast learning has too few: of 500 updates at a rate of .01 for all
    networks, a value of .9 was .64 by the running statistics, and .91 with `renorm_rate=0.1`.

    The code has half this loss, which matters to a bound on the gradient's norm only, and leaves epsilon out of one of
    the two deviations that make up d.

    Args:
        temperature: Weight lambda of the entropy at first.
        target_entropy_scale: The target entropy is minus this times the number of action dimensions, in nats.
        temperature_learning_rate: Adam's rate for log lambda.
        hidden: Widths of the actor's network.
        activation: Activation of the actor.
        adam_b1: Decay of Adam's first moment, of actor and critics.
        renorm_warmup: Steps of a network for which batches are normalised plainly, before they are renormalised.
        actor_interval: Actor and temperature move at every so many updates.
    """
    critics = make_critics(b1=adam_b1, renorm_warmup=renorm_warmup)
    make = renormalised(TanhGaussian, warmup=renorm_warmup)
    sample = lambda actor, q, obs, key: actor.sample(obs, key)

    def make_actor(key: Key, spec: Any) -> Model:
        return make(spec.obs_size, spec.action_size, hidden=hidden, activation=activation, key=key)

    def improve(s: Seen) -> Loss:
        lower = critic_function(s.now.critic)
        return over_the_batch(soft_value(TanhGaussian.sample, lower, s.before.temperature))

    def gap(s: Seen) -> Any:
        return s.metrics["actor/entropy"] + target_entropy_scale * s.batch.action.shape[-1]

    actor = carrying(trained(make_actor, improve, make_optimiser(b1=adam_b1)), critics.moved)
    lagrange = tuned(temperature, gap, adam(temperature_learning_rate), multiplier="value")
    return algorithm(
        "crossq",
        "off_policy",
        explore=acts(sample),
        evaluate=acts(lambda actor, q, obs, key: (actor.mode(obs), jnp.zeros(()))),
        critic=critics.fitted(sample, lambda s: s.before.temperature),
        actor=every(actor, actor_interval),
        temperature=every(lagrange, actor_interval),
    )
