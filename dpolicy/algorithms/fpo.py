"""Flow Policy Optimisation: PPO whose likelihood is the flow-matching loss."""

from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Action, Key, Mode, Number, Observation, Prediction, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.field_policy import FieldPolicy, field_policy
from dpolicy.fields import AbstractField
from dpolicy.losses import clipped, flow_matching_log_likelihood, grid_times, log_ratio, matching, perturb
from dpolicy.proximal import proximal
from dpolicy.recipe import composed


@composed(
    field_policy,
    proximal,
    without=("schedule", "prediction", "sampler", "embedding", "target_kl"),
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
    sampler_steps: int = 10,
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
        hidden: Widths of the velocity network.
        activation: Activation of velocity and value network.
        initialisation: Of their weights: lecun_uniform (the reference's), orthogonal, torch, lecun_normal, he_normal
            or xavier_uniform.
        max_grad_norm: Largest global gradient norm; the reference does not clip.
    """
    _checks.positive("clip", clip)
    _checks.one_of("supervise", supervise, ("noise", "velocity"))
    _checks.one_of("times", times, ("grid", "uniform"))
    policy = make_field(
        schedule="rectified_flow",
        prediction="velocity",
        sampler="euler",
        sampler_steps=sampler_steps,
        embedding="cos_sin",
        clip=None,
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

    return train(
        name="fpo",
        make_policy=policy.make,
        propose=propose,
        policy_loss=clipped(log_ratio(log_likelihood), eps=clip),
    )
