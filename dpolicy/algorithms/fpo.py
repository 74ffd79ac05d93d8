"""Flow Policy Optimisation: PPO whose likelihood is the flow-matching loss."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from dpolicy._settings import Positive
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, MatchedFlow, flow_policy, matched_flow, proximal
from dpolicy.losses import clipped, matching, perturb
from dpolicy.recipe import composed


@composed(
    flow_policy,
    matched_flow,
    proximal,
    without=("old_loss_clip",),
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
    make_flow: Callable[..., FieldPolicy],
    make_matched: Callable[..., MatchedFlow],
    make_algorithm: Callable[..., Algorithm],
    *,
    clip: Positive = 0.05,
    supervise: Literal["noise", "velocity"] = "noise",
    times: Literal["grid", "uniform"] = "grid",
    surrogate: Literal["ppo", "spo", "aspo"] = "ppo",
    advantages: Literal["signed", "positive", "softplus"] = "signed",
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
        supervise: What the loss compares: noise (velocity error times (1-t)^2, the reference's choice) or velocity.
        times: grid (the sampler's own times, the reference) or uniform (the paper).
        surrogate: ppo, spo or aspo (ppo where A > 0, spo elsewhere).
        advantages: signed, positive (max(A, 0)) or softplus.
        hidden: Widths of the velocity network.
        activation: Activation of velocity and value network.
        initialisation: Of their weights: lecun_uniform (the reference's), orthogonal, torch, lecun_normal, he_normal
            or xavier_uniform.
        max_grad_norm: Largest global gradient norm; the reference does not clip.
    """
    flow = make_flow()
    pairs = perturb(flow.schedule, times=flow.times if times == "grid" else "uniform")
    policy = make_matched(flow=flow, loss=matching(pairs, compare=supervise), squash=jnp.tanh)
    return make_algorithm(
        name="fpo",
        make_policy=flow.make,
        explore=policy.explore(),
        evaluate=policy.evaluate,
        policy_loss=clipped(policy.ratio, eps=clip, surrogate=surrogate, advantages=advantages),
        kl="kl",
    )
