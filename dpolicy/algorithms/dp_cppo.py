"""Diffusion Policy with Conditional PPO."""

from collections.abc import Callable
from typing import Annotated, Any

from dpolicy._settings import Count, Fraction, NonNegative, Positive, one_of
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import RESIDUAL_MODES, FieldPolicy, ResidualFlow, flow_policy, improved, proximal
from dpolicy.learning import average, passes, trained
from dpolicy.losses import (
    add,
    clipped,
    entropy,
    given,
    matching,
    perturb,
    residual_gaussian_log_ratio,
    score_regulariser,
)
from dpolicy.networks import ResidualGaussian, gaussian_policy
from dpolicy.optimisers import adam
from dpolicy.recipe import composed, prefixed


@composed(
    gaussian_policy,
    prefixed("flow_", flow_policy, "hidden", shared=("activation", "initialisation")),
    proximal,
    flow_hidden=(256, 256),
    target_kl=0.01,
    value_clip=0.2,
)
def dp_cppo(
    make_residual: Callable[..., Any],
    make_flow: Callable[..., FieldPolicy],
    make_algorithm: Callable[..., Algorithm],
    *,
    clip: Positive = 0.2,
    entropy_coefficient: NonNegative = 0.005,
    score_coefficient: NonNegative = 0.1,
    evaluate: Annotated[str, one_of(RESIDUAL_MODES)] = "flow+residual",
    flow_steps: Count = 16,
    flow_learning_rate: Positive = 1e-3,
    flow_epochs: Count = 15,
    flow_minibatches: Count = 4,
    ema_decay: Fraction = 0.999,
) -> Algorithm:
    """DP-CPPO: a flow proposes a0, PPO trains a Gaussian residual around it, the flow is refitted (arXiv 2603.04790).

    a = a0 + mu(a0, s) + std * n with a0 from the flow. PPO's ratio is that of the conditional p(a | a0, s), whose
    policy gradient is that of the marginal policy; then the flow is fitted to fresh actions of the improved policy
    and followed by its moving average, which samples the next iteration.

    Unlike the paper's, advantages bootstrap from the true last observation at a time limit (`gae_dialect` rsl is the
    paper's); Sigma is held fixed in the score term.

    loss = clipped surrogate - entropy_coefficient H(p) + score_coefficient |mu(a0, s) + 1/2 Sigma a0|^2   (eq. 15)

    Args:
        clip: Clip range of the conditional likelihood ratio.
        entropy_coefficient: Weight alpha of the residual's entropy.
        score_coefficient: Weight beta of the score regulariser, which keeps a from drifting off N(0, I).
        evaluate: flow (a0), flow+residual (a0 + mu) or flow+residual+noise: how it acts in evaluation. (`improved` is
            the policy that the flow was last fitted to: its predecessor with the same residual and noise.)
        flow_steps: Euler steps of the flow's sampler.
        flow_learning_rate: Adam's rate for the flow.
        flow_epochs: Passes of flow matching per iteration.
        flow_minibatches: Minibatches per flow pass; must divide the samples of a rollout.
        ema_decay: Decay of the flow's moving average, per gradient step.
        flow_hidden: Widths of the flow's network.
        activation: Activation of all three.
    """
    flow = make_flow(sampler_steps=flow_steps)
    policy, fit = ResidualFlow(flow), given(improved, matching(perturb(flow.schedule)))
    return make_algorithm(
        name="dp_cppo",
        make_policy=make_residual(ResidualGaussian),
        explore=policy.acting("flow+residual+noise"),
        evaluate=policy.acting(evaluate),
        modes={mode: policy.acting(mode) for mode in RESIDUAL_MODES},
        policy_loss=add(
            ppo=(1.0, clipped(residual_gaussian_log_ratio, eps=clip)),
            entropy=(-entropy_coefficient, entropy),
            score=(score_coefficient, score_regulariser),
        ),
        kl=policy.kl,
        stages={
            "improved": policy.improved(),
            "refit": passes(
                epochs=flow_epochs,
                minibatches=flow_minibatches,
                name="flow_minibatches",
                flow=trained(flow.make, lambda s: fit, adam(flow_learning_rate)),
                average=average("flow", 1 - ema_decay),
            ),
            # The base of the policy that the flow was just fitted to.
            "previous": average("average", 1, found=True),
        },
    )
