"""Diffusion Policy with Conditional PPO."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Observation, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import PLAIN_FLOW, FieldPolicy, field_policy, proximal
from dpolicy.learning import Acting, Parts, Seen, average, labelled, passes, trained
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
from dpolicy.networks import ResidualGaussian, gaussian_kl, gaussian_policy
from dpolicy.optimisers import adam
from dpolicy.recipe import composed, prefixed

MODES = ("flow", "flow+residual", "flow+residual+noise", "improved")


def _acting(flow: FieldPolicy, mode: str) -> Acting:
    """The action a0 of the flow, with the residual's mean or a draw of it."""

    def acting(parts: Parts) -> Callable[[Observation, Key], tuple[Action, dict[str, Any]]]:
        residual = parts.policy

        def act(obs: Observation, key: Key) -> tuple[Action, dict[str, Any]]:
            flow_key, key = jax.random.split(key)
            base = flow.sample(parts.previous if mode == "improved" else parts.average, obs, flow_key)
            if mode == "flow":
                return base, {}
            mean = residual.mean(obs, base)
            if mode == "flow+residual":
                return mean, {}
            action, log_prob = residual.sample(obs, base, key)
            return action, {"base": base, "log_prob": log_prob, "mean": mean, "log_std": residual.log_std}

        return act

    return acting


def _kl(residual: ResidualGaussian, example: Transition, key: Key) -> Float[Array, ""]:
    old = example.extras
    mean = residual.mean(example.obs, old["base"])
    return gaussian_kl(old["mean"], old["log_std"], mean, residual.log_std)


def _on_improved(example: Transition) -> Transition:
    return dataclasses.replace(example, action=example.extras["improved"])


@composed(
    gaussian_policy,
    prefixed("flow_", field_policy, "hidden"),
    proximal,
    flow_hidden=(256, 256),
    target_kl=0.01,
    value_clip=0.2,
)
def dp_cppo(
    residual_policy: Callable[..., Any],
    make_flow: Callable[..., FieldPolicy],
    train: Callable[..., Algorithm],
    *,
    clip: Number = 0.2,
    entropy_coefficient: Number = 0.005,
    score_coefficient: Number = 0.1,
    evaluate: str = "flow+residual",
    flow_steps: int = 16,
    flow_learning_rate: Number = 1e-3,
    flow_epochs: int = 15,
    flow_minibatches: int = 4,
    ema_decay: Number = 0.999,
    activation: str = "elu",
    initialisation: str = "torch",
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
        initialisation: Of the weights: torch (RSL-RL's), orthogonal, lecun_normal, lecun_uniform, he_normal or
            xavier_uniform.
    """
    _checks.positive("clip", clip)
    _checks.non_negative("entropy_coefficient", entropy_coefficient)
    _checks.non_negative("score_coefficient", score_coefficient)
    _checks.one_of("evaluate", evaluate, MODES)
    _checks.fraction("ema_decay", ema_decay)
    _checks.positive("flow_learning_rate", flow_learning_rate)
    _checks.integer("flow_steps", flow_steps)
    _checks.integer("flow_epochs", flow_epochs)
    _checks.integer("flow_minibatches", flow_minibatches)
    shared = {"activation": activation, "initialisation": initialisation}
    flow = make_flow(**PLAIN_FLOW, sampler_steps=flow_steps, **shared)
    acting = partial(_acting, flow)

    def improved(s: Seen, example: Transition, key: Key) -> dict[str, Action]:
        return {"improved": acting("flow+residual+noise")(s.now)(example.obs, key)[0]}

    fit = given(_on_improved, matching(perturb(flow.schedule)))
    return train(
        name="dp_cppo",
        make_policy=residual_policy(ResidualGaussian, **shared),
        explore=acting("flow+residual+noise"),
        evaluate=acting(evaluate),
        modes={mode: acting(mode) for mode in MODES},
        policy_loss=add(
            ppo=(1.0, clipped(residual_gaussian_log_ratio, eps=clip)),
            entropy=(-entropy_coefficient, entropy),
            score=(score_coefficient, score_regulariser),
        ),
        kl=_kl,
        stages={
            "improved": labelled(improved),
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
        **shared,
    )
