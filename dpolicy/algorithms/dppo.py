"""Diffusion Policy Policy Optimisation: PPO over the steps of the denoising chain."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._settings import Fraction, NonNegative, Positive
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Denoising,
    FieldPolicy,
    Pretrained,
    check_follows,
    denoising,
    field_policy,
    proximal,
    starting_from,
)
from dpolicy.learning import frozen
from dpolicy.losses import add, clip_schedule, clipped, denoising_discounts, log_ratio
from dpolicy.recipe import composed


@composed(
    field_policy,
    denoising,
    proximal,
    without=("schedule", "prediction", "sampler", "embedding"),
    sampler_steps=10,
    initialisation="torch",
    hidden=(256, 256, 256),
    value_hidden=(256, 256, 256),
    activation="mish",
    learning_rate=1e-4,
    value_learning_rate=1e-3,
    stop_kl=1.0,
    normalise_advantages="minibatch",
    value_coefficient=0.25,
    epochs=10,
    max_grad_norm=1e6,
)
def dppo(
    make_field: Callable[..., FieldPolicy],
    make_chain: Callable[..., Denoising],
    make_algorithm: Callable[..., Algorithm],
    *,
    clip: Positive = 0.1,
    clip_low: Positive | None = None,
    clip_rate: Positive = 3.0,
    denoising_discount: Fraction = 1.0,
    squash: bool = False,
    pretrained: Pretrained | None = None,
    cloning_coefficient: NonNegative | None = None,
) -> Algorithm:
    """DPPO: every denoising step is a Gaussian decision with a clipped ratio of its own (arXiv 2409.00588).

    ratio_j = exp(mean over the action of log N(x_{k-1}; mean_k, std_k^2), new minus old), j = 0 the noisiest trained
    step; its advantage is denoising_discount^(K'-1-j) A(s, a), its clip grows from `clip_low` to `clip`. The value
    network knows the environment's state only. All ratios of a transition share a minibatch (the reference shuffles
    transition and step together, the same in expectation).

    Defaults are the reference's for training from scratch, with plain networks (its own are in the presets). It
    fine-tunes a cloned policy with 20 steps, the last 10 of them trained, clip 0.01, denoising discount 0.99 and chunks
    of 4 actions.

    With `denoiser="euler"` it is the baseline that FPO's paper calls DPPO, in its code a "denoising MDP" (table 1: clip
    0.2, exploration_std 0.05): one ratio for each step of a flow, the same advantage for all.

    Args:
        clip: Clip range of the ratio at the last step.
        clip_low: Clip range at the noisiest trained step; None for the same.
        clip_rate: How sharply the clip range grows in between.
        denoising_discount: Discount of the advantage per step away from the last one.
        squash: Whether the environment receives tanh of the chain's last point.
        pretrained: A field to start from, with its schedule, prediction and network; its weights serve the steps that
            are not trained. It must have been fitted to observations as they are, and is given them so
            (`normalise_observations=False`). A configuration, as the command line, names the directory of the run of bc
            that fitted it (`dpolicy.train.pretrained_field`: its average, of the first seed that has not failed).
        cloning_coefficient: Weight of staying likely to produce the pretrained policy's actions; None for none.
    """
    chain, cloned = make_chain(), cloning_coefficient is not None
    if pretrained is not None:
        check_follows(pretrained, chain.steps)
    elif len(chain.betas) % chain.steps:
        raise ValueError(
            f"schedule_steps must be a multiple of the sampler_steps of {chain.steps}, got {len(chain.betas)}."
        )
    elif cloned:
        raise ValueError(f"cloning_coefficient needs a pretrained field, got {cloning_coefficient!r}.")
    if clip_low is not None:
        _checks.ordered("clip_low", clip_low, "clip", clip)
    clips = clip_schedule(chain.trained, clip if clip_low is None else clip_low, clip, clip_rate)
    discounts = denoising_discounts(chain.trained, denoising_discount)
    # Without frozen steps or cloning the pretrained weights are a start and no more.
    keeps = pretrained is not None and (chain.trained < chain.steps or cloned)
    early, executed = "pretrained" if keeps else None, jnp.tanh if squash else lambda x: x
    terms: dict[str, Any] = {"ppo": (1.0, clipped(log_ratio(chain.likelihood), eps=clips, weights=discounts))}
    if cloned:
        terms["cloning"] = (cloning_coefficient, chain.cloning)
    return make_algorithm(
        name="dppo",
        make_policy=make_field(**chain.network).make if pretrained is None else starting_from(pretrained),
        explore=chain.explore(executed, early=early, cloned=cloned),
        evaluate=chain.evaluate(executed, early=early),
        policy_loss=add(**terms),
        kl="ppo/kl",
        stages={"pretrained": frozen(lambda key, spec: pretrained)} if keeps else None,
    )
