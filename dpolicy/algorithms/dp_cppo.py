"""Diffusion Policy with Conditional PPO."""

from typing import Any

import jax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Metrics, Mode, Number, Observation, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.cloning import Cloned, clone_step, cloned
from dpolicy.field_policy import field_policy
from dpolicy.learner import adam
from dpolicy.losses import (
    add,
    clipped,
    entropy,
    matching,
    perturb,
    residual_gaussian_log_ratio,
    score_regulariser,
)
from dpolicy.policies import ResidualGaussian, gaussian_kl
from dpolicy.proximal import minibatches as over_minibatches
from dpolicy.proximal import proximal

MODES = ("explore", "evaluate", "flow", "flow+residual", "flow+residual+noise")


def dp_cppo(
    *,
    clip: Number = 0.2,
    entropy_coefficient: Number = 0.005,
    score_coefficient: Number = 0.1,
    initial_std: Number = 1.0,
    evaluate: str = "flow+residual",
    learning_rate: Number = 1e-3,
    target_kl: Number | None = 0.01,
    discount: Number = 0.99,
    trace: Number = 0.95,
    gae_dialect: str = "exact",
    value_coefficient: Number = 1.0,
    value_clip: Number | None = 0.2,
    epochs: int = 5,
    minibatches: int = 4,
    max_grad_norm: Number = 1.0,
    flow_steps: int = 16,
    flow_learning_rate: Number = 1e-3,
    flow_epochs: int = 15,
    flow_minibatches: int = 4,
    ema_decay: Number = 0.999,
    hidden: tuple[int, ...] = (256, 256),
    flow_hidden: tuple[int, ...] = (256, 256),
    value_hidden: tuple[int, ...] = (256, 256),
    activation: str = "elu",
    initialisation: str = "torch",
) -> Algorithm:
    """DP-CPPO: a flow proposes a0, PPO trains a Gaussian residual around it, the flow is refitted (arXiv 2603.04790).

    a = a0 + mu(a0, s) + std * n with a0 from the flow. PPO's ratio is that of the conditional p(a | a0, s), whose
    policy gradient is that of the marginal policy; then the flow is fitted to fresh actions of the improved policy
    and followed by its moving average, which samples the next iteration.

    loss = clipped surrogate - entropy_coefficient H(p) + score_coefficient |mu(a0, s) + 1/2 Sigma a0|^2   (eq. 15)

    Args:
        clip: Clip range of the conditional likelihood ratio.
        entropy_coefficient: Weight alpha of the residual's entropy.
        score_coefficient: Weight beta of the score regulariser, which keeps a from drifting off N(0, I).
        initial_std: Starting standard deviation of the residual, in action units.
        evaluate: flow (a0), flow+residual (a0 + mu) or flow+residual+noise: how it acts in evaluation.
        learning_rate: Adam's rate for residual and value, or its start where it adapts.
        target_kl: Conditional KL per minibatch that the rate adapts to; None keeps it fixed.
        discount: Discount gamma.
        trace: Trace lambda of generalised advantage estimation.
        gae_dialect: exact, rsl, brax or leaky: how advantages treat time limits.
        value_coefficient: Weight of the value loss.
        value_clip: Largest change of a value per iteration before its loss flattens; None switches it off.
        epochs: PPO passes over each rollout.
        minibatches: Minibatches per PPO pass; must divide the samples of a rollout.
        max_grad_norm: Largest global gradient norm of the PPO step.
        flow_steps: Euler steps of the flow's sampler.
        flow_learning_rate: Adam's rate for the flow.
        flow_epochs: Passes of flow matching per iteration.
        flow_minibatches: Minibatches per flow pass; must divide the samples of a rollout.
        ema_decay: Decay of the flow's moving average, per gradient step.
        hidden: Widths of the residual's network.
        flow_hidden: Widths of the flow's network.
        value_hidden: Widths of the value network.
        activation: Activation of all three.
        initialisation: Of the weights: torch (RSL-RL's), orthogonal, lecun_normal, lecun_uniform, he_normal or
            xavier_uniform.
    """
    _checks.positive("clip", clip)
    _checks.non_negative("entropy_coefficient", entropy_coefficient)
    _checks.non_negative("score_coefficient", score_coefficient)
    _checks.positive("initial_std", initial_std)
    _checks.one_of("evaluate", evaluate, MODES[2:])
    _checks.fraction("ema_decay", ema_decay)
    _checks.positive("flow_learning_rate", flow_learning_rate)
    _checks.integer("flow_epochs", flow_epochs)
    _checks.integer("flow_minibatches", flow_minibatches)
    flow = field_policy(
        schedule="rectified_flow",
        prediction="velocity",
        sampler="euler",
        steps=flow_steps,
        hidden=flow_hidden,
        activation=activation,
        embedding="cos_sin",
        initialisation=initialisation,
        clip=None,
    )
    flow_loss = matching(perturb(flow.schedule))
    flow_optimiser = adam(flow_learning_rate)

    def propose(
        residual: ResidualGaussian, fitted: Cloned, obs: Observation, key: Key, mode: Mode
    ) -> tuple[Action, dict[str, Any]]:
        flow_key, key = jax.random.split(key)
        base = flow.sample(fitted.average, obs, flow_key)
        mode = evaluate if mode == "evaluate" else mode
        if mode == "flow":
            return base, {}
        mean = residual.mean(obs, base)
        if mode == "flow+residual":
            return mean, {}
        action, log_prob = residual.sample(obs, base, key)
        return action, {"base": base, "log_prob": log_prob, "mean": mean, "log_std": residual.log_std}

    def kl(residual: ResidualGaussian, example: Transition) -> Float[Array, ""]:
        old = example.extras
        mean = residual.mean(example.obs, old["base"])
        return gaussian_kl(old["mean"], old["log_std"], mean, residual.log_std)

    def refit(
        residual: ResidualGaussian, fitted: Cloned, examples: Transition, key: Key
    ) -> tuple[Cloned, Metrics]:
        draw_key, fit_key = jax.random.split(key)

        def improved(obs: Observation, key: Key) -> Action:
            return propose(residual, fitted, obs, key, "explore")[0]

        actions = jax.vmap(improved)(examples.obs, jax.random.split(draw_key, examples.reward.shape[0]))
        data = Transition(
            examples.obs, actions, examples.reward, examples.next_obs, examples.terminated, examples.truncated
        )

        def body(fitted: Cloned, inputs: tuple[Transition, Key]) -> tuple[Cloned, Metrics]:
            return clone_step(fitted, flow_loss, *inputs, flow_optimiser, ema_decay)

        fitted, metrics = over_minibatches(
            body, fitted, data, fit_key, epochs=flow_epochs, count=flow_minibatches
        )
        return fitted, {f"flow/{name}": value for name, value in metrics.items()}

    return proximal(
        name="dp_cppo",
        make_policy=lambda key, spec: ResidualGaussian(
            spec.obs_size,
            spec.action_size,
            hidden=hidden,
            activation=activation,
            initial_std=initial_std,
            initialisation=initialisation,
            key=key,
        ),
        propose=propose,
        policy_loss=add(
            ppo=(1.0, clipped(residual_gaussian_log_ratio, eps=clip)),
            entropy=(-entropy_coefficient, entropy),
            score=(score_coefficient, score_regulariser),
        ),
        kl=kl,
        make_extra=lambda key, spec: cloned(flow.make(key, spec), flow_optimiser),
        afterwards=refit,
        modes=MODES,
        learning_rate=learning_rate,
        target_kl=target_kl,
        discount=discount,
        trace=trace,
        gae_dialect=gae_dialect,
        value_coefficient=value_coefficient,
        value_clip=value_clip,
        value_hidden=value_hidden,
        value_activation=activation,
        value_initialisation=initialisation,
        epochs=epochs,
        minibatch_count=minibatches,
        max_grad_norm=max_grad_norm,
    )
