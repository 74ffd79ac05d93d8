"""Flow Policy Optimisation: PPO whose likelihood is the flow-matching loss."""

from collections.abc import Callable
from functools import partial
from typing import cast

import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Number, Prediction
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import PLAIN_FLOW, FieldPolicy, explore_matched, field_policy, matched_ratio, proximal
from dpolicy.losses import clipped, flow_matching_log_ratio, grid_times, matching, perturb
from dpolicy.recipe import composed


@composed(
    field_policy,
    proximal,
    without=("schedule", "prediction", "sampler", "embedding"),
    output_scale=0.25,
    hidden=(32, 32, 32, 32),
    value_hidden=(256, 256, 256, 256, 256),
    activation="silu",
    initialisation="lecun_uniform",
    learning_rate=3e-4,
    discount=0.995,
    gae_dialect="brax",
    value_coefficient=0.25,
    epochs=16,
    minibatches=32,
    max_grad_norm=1e6,
)
def fpo(
    make_field: Callable[..., FieldPolicy],
    train: Callable[..., Algorithm],
    *,
    clip: Number = 0.05,
    draws: int = 8,
    supervise: str = "noise",
    times: str = "grid",
    average: str = "mean_then_exp",
    surrogate: str = "ppo",
    advantages: str = "signed",
    loss_clip: Number | None = None,
    log_ratio_clip: Number | None = None,
    action_noise: Number | None = None,
    sampler_steps: int = 10,
) -> Algorithm:
    """Flow Policy Optimisation: ratio = exp(mean old - mean new flow-matching loss of the action (arXiv 2507.21053).

    The pairs (t, eps) of an action are drawn once, with the action, and used in every pass, so the ratio at
    unchanged parameters is exactly 1. The environment receives tanh(x_0); the loss is taken on x_0.

    Where A < 0 the objective has no optimum: a matching loss, unlike a density, can be raised everywhere at once. The
    default leaves that to the small clip, as the reference does; `surrogate="aspo"` pulls an overshoot back,
    `loss_clip` and `log_ratio_clip` bound it, `advantages="positive"` or "softplus" never raise a loss.

    The baseline that the paper calls DPPO, a ratio for each noisy step of the same flow, is `dppo(denoiser="euler")`.

    Defaults are the reference's for 2048 environments, rollouts of 480 steps and rewards times 10. Unlike
    the reference's, advantages are computed and normalised once per rollout, not in every minibatch: that is
    `recompute_segment=30` with `normalise_advantages="minibatch"`, as in the presets of its tasks.

    Args:
        clip: Clip range of the ratio.
        draws: Pairs (t, eps) per action.
        supervise: What the loss compares: noise (velocity error times (1-t)^2, the reference's choice) or velocity.
        times: grid (the sampler's own times, the reference) or uniform (the paper).
        average: The draws' losses before the exponential (mean_then_exp), their ratios after it (exp_then_mean), or
            a clipped ratio for each (per_sample).
        surrogate: ppo, spo or aspo (ppo where A > 0, spo elsewhere).
        advantages: signed, positive (max(A, 0)) or softplus.
        loss_clip: Bound of each draw's loss; None for none.
        log_ratio_clip: Upper bound of the log-ratio, its gradient kept; None for none.
        action_noise: Standard deviation of Gaussian noise on x_0 while exploring; None for none.
        sampler_steps: Euler steps of the sampler.
        hidden: Widths of the velocity network.
        activation: Activation of velocity and value network.
        initialisation: Of their weights: lecun_uniform (the reference's), orthogonal, torch, lecun_normal, he_normal
            or xavier_uniform.
        max_grad_norm: Largest global gradient norm; the reference does not clip.
    """
    _checks.positive("clip", clip)
    if log_ratio_clip is not None:
        _checks.positive("log_ratio_clip", log_ratio_clip)
    _checks.one_of("supervise", supervise, ("noise", "velocity"))
    _checks.one_of("times", times, ("grid", "uniform"))
    if action_noise is not None:
        _checks.positive("action_noise", action_noise)
    policy = make_field(**PLAIN_FLOW, sampler_steps=sampler_steps)
    pairs = perturb(policy.schedule, times=grid_times(sampler_steps) if times == "grid" else "uniform")
    loss = matching(pairs, compare=cast(Prediction, supervise))
    ratio = matched_ratio(
        flow_matching_log_ratio(loss, draws=draws, mode=average, loss_clip=loss_clip, clip=log_ratio_clip)
    )
    explore = explore_matched(policy.sample, ratio, squash=jnp.tanh, noise=action_noise)

    return train(
        name="fpo",
        make_policy=policy.make,
        explore=lambda parts: partial(explore, parts.policy),
        evaluate=lambda parts: lambda obs, key: jnp.tanh(policy.sample(parts.policy, obs, key)),
        policy_loss=clipped(ratio, eps=clip, surrogate=surrogate, advantages=advantages),
        kl="kl",
    )
