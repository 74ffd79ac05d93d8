"""Flow Policy Optimisation: PPO whose likelihood is the flow-matching loss."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Action, Key, Mode, Number, Observation, Prediction, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.field_policy import field_policy
from dpolicy.fields import AbstractField
from dpolicy.losses import clipped, flow_matching_log_likelihood, grid_times, log_ratio, matching, perturb
from dpolicy.proximal import proximal


def fpo(
    *,
    clip: Number = 0.05,
    draws: int = 8,
    supervise: str = "noise",
    times: str = "grid",
    sampler_steps: int = 10,
    output_scale: float = 0.25,
    learning_rate: Number = 3e-4,
    discount: Number = 0.995,
    trace: Number = 0.95,
    gae_dialect: str = "brax",
    value_coefficient: Number = 0.25,
    epochs: int = 16,
    minibatches: int = 32,
    max_grad_norm: Number = 1e6,
    hidden: tuple[int, ...] = (32, 32, 32, 32),
    value_hidden: tuple[int, ...] = (256, 256, 256, 256, 256),
    activation: str = "silu",
    initialisation: str = "lecun_uniform",
) -> Algorithm:
    """Flow Policy Optimisation: ratio = exp(mean old - mean new flow-matching loss of the action (arXiv 2507.21053).

    The pairs (t, eps) of an action are drawn once, with the action, and used in every pass, so the ratio at
    unchanged parameters is exactly 1. The environment receives tanh(x_0); the loss is taken on x_0.

    Defaults are the reference's for 2048 environments, rollouts of 480 steps and rewards times 10. Unlike it,
    advantages are computed and normalised once per rollout instead of in every minibatch.

    Args:
        clip: Clip range of the ratio.
        draws: Pairs (t, eps) per action.
        supervise: What the loss compares: noise (velocity error times (1-t)^2, the reference's choice) or velocity.
        times: grid (the sampler's own times, the reference) or uniform (the paper).
        sampler_steps: Euler steps of the sampler.
        output_scale: Factor on the velocity network's output.
        learning_rate: Adam's rate for policy and value.
        discount: Discount gamma.
        trace: Trace lambda of generalised advantage estimation.
        gae_dialect: exact, rsl, brax or leaky: how advantages treat time limits.
        value_coefficient: Weight of the value loss (V - R)^2.
        epochs: Passes over each rollout.
        minibatches: Minibatches per pass; must divide the samples of a rollout.
        max_grad_norm: Largest global gradient norm; the reference does not clip.
        hidden: Widths of the velocity network.
        value_hidden: Widths of the value network.
        activation: Activation of both.
        initialisation: Of the weights: lecun_uniform (the reference's), orthogonal, torch, lecun_normal, he_normal or
            xavier_uniform.
    """
    _checks.positive("clip", clip)
    _checks.one_of("supervise", supervise, ("noise", "velocity"))
    _checks.one_of("times", times, ("grid", "uniform"))
    policy = field_policy(
        schedule="rectified_flow",
        prediction="velocity",
        sampler="euler",
        steps=sampler_steps,
        hidden=hidden,
        activation=activation,
        embedding="cos_sin",
        initialisation=initialisation,
        clip=None,
        output_scale=output_scale,
    )
    pairs = perturb(policy.schedule, times=grid_times(sampler_steps) if times == "grid" else "uniform")
    cfm = flow_matching_log_likelihood(matching(pairs, compare=cast(Prediction, supervise)), draws=draws)

    def log_likelihood(field: AbstractField, example: Transition, key: Key):
        unsquashed = eqx.tree_at(lambda e: e.action, example, example.extras["unsquashed"])
        return cfm(field, unsquashed, key)

    def propose(
        field: AbstractField, extra: Any, obs: Observation, key: Key, mode: Mode
    ) -> tuple[Action, dict[str, Any]]:
        sample_key, pair_key = jax.random.split(key)
        x = policy.sample(field, obs, sample_key)
        if mode == "evaluate":
            return jnp.tanh(x), {}
        extras = {"unsquashed": x, "key": pair_key}
        no, zero = jnp.asarray(False), jnp.zeros(())
        example = Transition(obs, x, zero, obs, no, no, extras)
        return jnp.tanh(x), {**extras, "log_prob": log_likelihood(field, example, pair_key)}

    return proximal(
        name="fpo",
        make_policy=policy.make,
        propose=propose,
        policy_loss=clipped(log_ratio(log_likelihood), eps=clip),
        learning_rate=learning_rate,
        discount=discount,
        trace=trace,
        gae_dialect=gae_dialect,
        value_coefficient=value_coefficient,
        value_hidden=value_hidden,
        value_activation=activation,
        value_initialisation=initialisation,
        epochs=epochs,
        minibatch_count=minibatches,
        max_grad_norm=max_grad_norm,
    )
