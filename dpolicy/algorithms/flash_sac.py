"""FlashSAC: SAC with few updates of large networks, whose weights, features and returns are bounded."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
import optax

from dpolicy._settings import Count, Finite, Fraction, Positive, Sizes, at_least
from dpolicy._types import Key, Loss, Model
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    KIND_SETTINGS,
    Critics,
    JointCritics,
    actor_optimiser,
    acts,
    carrying,
    critic_function,
    over_the_batch,
    q_critics,
)
from dpolicy.learning import Seen, algorithm, every, trained, tuned
from dpolicy.losses import categorical_error, soft_value
from dpolicy.losses.categorical import check_support
from dpolicy.networks import Activation, AtomicQ, CategoricalQ, FlashNet, TanhGaussian, on_backbone, unit_rows
from dpolicy.recipe import composed


@composed(
    actor_optimiser,
    q_critics,
    without=("critic_learning_rate", "critic_weight_decay", "critic_subset", *KIND_SETTINGS),
    critic_hidden=(256, 256),
    target_rate=0.01,
)
def flash_sac(
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    temperature: Positive = 0.01,
    target_std: Positive = 0.15,
    hidden: Sizes = (128, 128),
    activation: Activation = "relu",
    atoms: Annotated[int, at_least(2)] = 101,
    value_low: Finite = -5.0,
    value_high: Finite = 5.0,
    norm_rate: Fraction = 0.01,
    actor_interval: Count = 2,
) -> Algorithm:
    r"""FlashSAC: SAC with few updates of large networks, all of whose norms are bounded (arXiv 2604.04539).

    Actor and critics are a `FlashNet`: batch norm in residual blocks, an RMS norm after them; after every step all rows
    of weights, and what the norms learn, are scaled back to a fixed norm (`unit_rows`). Critics have laws over atoms.
    They and their slow copies each take both pairs in one pass, so that both halves are normalised alike, and learn the
    law of the copy with the lower mean at s':

    $$ Z = r + \gamma (1 - \mathrm{terminated}) \big( \bar Z_{j^*}(s', a') - \lambda \log \pi(a' | s') \big), \qquad
       L_\pi = \lambda \log \pi(a | s) - \min_j \mathbb{E} Z_j(s, a), $$

    a' of the actor by its running statistics. lambda holds the entropy of a Gaussian of deviation `target_std` in each
    of the d dimensions, H = d/2 log(2 pi e sigma^2), the same for every body. Actor and lambda move first, at every
    second update, then the critics by what these are now, then the copies. All have one rate, which falls to a half by
    the end of a run (`decay_updates`, `decay_share`, `decay_shape`) where a preset says when that is.

    Three parts of the method are the training loop's: exploration keeps its noise for up to 16 steps
    (`noise_repeats=16`); rewards are scaled so that returns keep within the atoms (`reward_discount`, `return_bound`);
    and 1024 environments make 2 updates of 2048 transitions for each step of them all
    (`dpolicy train flash_sac --env playground/... --print-config`).

    In the code the actor moves at the first of two updates, and each rate counts its own steps, so that the actor's
    falls half as fast. Warming up starts, as published, from the rate at which it ends, and is left out.

    Args:
        temperature: Weight lambda of the entropy at first.
        target_std: sigma, of the target entropy.
        hidden: The width of the actor's network, once for each block.
        activation: Activation of the actor.
        atoms: Atoms of the critics' laws.
        value_low: The lowest atom. Values outside the atoms, entropy included, cannot be learned.
        value_high: The highest atom.
        norm_rate: Share of a batch that enters the running statistics at each step.
        actor_interval: Actor and temperature move at every so many updates.
    """
    check_support(value_low, value_high, atoms, "value_{}")
    network = lambda *sizes, **given: AtomicQ(
        CategoricalQ(*sizes, atoms=atoms, **given), value_low, value_high
    )
    made = make_critics(network=on_backbone(network, FlashNet))
    made = made._replace(optimiser=make_optimiser(), project=unit_rows, error=categorical_error())
    critics = JointCritics(made, norm_rate)
    sample = lambda actor, q, obs, key: actor.sample(obs, key)

    def make(key: Key, spec: Any) -> Model:
        bounds: dict[str, Any] = {"width": "tanh", "log_std_min": -10.0, "log_std_max": 2.0}
        policy = on_backbone(TanhGaussian, FlashNet)
        return policy(
            spec.obs_size, spec.action_size, hidden=hidden, activation=activation, **bounds, key=key
        )

    def improve(s: Seen) -> Loss:
        lower = critic_function(s.before.critic)
        return over_the_batch(soft_value(TanhGaussian.sample, lower, s.before.temperature), following=True)

    def gap(s: Seen) -> Any:
        each = 0.5 * (math.log(2 * math.pi * math.e) + 2 * jnp.log(target_std))
        return s.metrics["actor/entropy"] - each * s.batch.action.shape[-1]

    actor = carrying(trained(make, improve, make_optimiser(), project=unit_rows), critics.moved)
    return algorithm(
        "flash_sac",
        "off_policy",
        explore=acts(sample),
        evaluate=acts(lambda actor, q, obs, key: (actor.mode(obs), jnp.zeros(()))),
        actor=every(actor, actor_interval),
        temperature=every(tuned(temperature, gap, make_optimiser(), multiplier="value"), actor_interval),
        critic=critics.fitted(sample, lambda s: s.now.temperature, found=False, target="target"),
        target=critics.averaged(),
    )
