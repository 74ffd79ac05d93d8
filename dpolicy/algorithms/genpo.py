"""Generative Policy Optimisation: PPO on the exact density of an invertible flow."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Observation
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import PLAIN_FLOW, FieldPolicy, acted, field_policy, proximal
from dpolicy.fields import Projected, Sinusoidal
from dpolicy.learning import Acting, Parts
from dpolicy.losses import add, clipped, compression, exact_log_likelihood, log_ratio
from dpolicy.recipe import composed
from dpolicy.samplers import action_of, coupled

STARTS = ("random", "zero")
# The estimates of the KL among the metrics of `clipped`.
KL = {"k1": "kl_k1", "k3": "kl"}


def _embedding(key: Key) -> Projected:
    return Projected(Sinusoidal(32), 32, hidden=(256, 256), key=key)


@composed(
    field_policy,
    proximal,
    without=("schedule", "prediction", "sampler", "embedding"),
    hidden=(256, 256),
    initialisation="torch",
    target_kl=0.01,
    value_clip=0.2,
)
def genpo(
    make_field: Callable[..., FieldPolicy],
    train: Callable[..., Algorithm],
    *,
    clip: Number = 0.2,
    sampler_steps: int = 5,
    mixing: Number | None = 0.9,
    compression_coefficient: Number = 0.01,
    gap: str = "norm",
    start: str = "random",
    kl_estimator: str = "k1",
    rematerialise: bool | None = None,
) -> Algorithm:
    """GenPO: PPO on the exact density of an invertible flow over a doubled action (arXiv 2505.18763).

    ratio = exp((|z_old|^2 - |z_new|^2) / 2) with z the inverse of the stored pair: the determinant of the map is a
    constant, so no Jacobian is ever formed. The environment receives the mean of the pair. The density's entropy is a
    constant too, so there is no entropy bonus: the reference's pushes the policy away from the old one.

    Args:
        clip: Clip range of the ratio.
        sampler_steps: Coupled steps of the flow.
        mixing: How much of itself each half keeps at a step, in (0, 1]; None ties it to the steps.
        compression_coefficient: Weight of the gap between the halves of fresh actions.
        gap: norm (the reference code) or squared (the paper's text).
        start: Of evaluation: random, or zero for a deterministic action.
        kl_estimator: Of the KL that the adaptive rate reads: k1 (the reference's) or k3, which is never negative.
        rematerialise: Whether gradients compute each step anew: up to a fifth more time, the memory of one step in
            place of all `sampler_steps`. None for more than 10 steps.
    """
    _checks.positive("clip", clip)
    _checks.integer("sampler_steps", sampler_steps)
    _checks.non_negative("compression_coefficient", compression_coefficient)
    _checks.one_of("start", start, STARTS)
    _checks.one_of("kl_estimator", kl_estimator, KL)
    sampler = coupled(steps=sampler_steps, mixing=mixing, rematerialise=rematerialise)
    policy = make_field(**PLAIN_FLOW | {"embedding": _embedding}, sampler_steps=sampler_steps)
    likelihood = exact_log_likelihood(sampler)
    ratio = log_ratio(likelihood)

    def explore(parts: Parts) -> Callable[[Observation, Key], tuple[Action, dict[str, Any]]]:
        def act(obs: Observation, key: Key) -> tuple[Action, dict[str, Any]]:
            pair = sampler.forward(parts.policy, sampler.start(parts.policy, key), obs)
            # By the inverse, like the update's, so that the first ratio is 1 up to rounding (1e-6).
            example = acted(obs, action_of(pair), {"pair": pair})
            return example.action, {"pair": pair, "log_prob": likelihood(parts.policy, example, key)}

        return act

    def starting(how: str) -> Acting:
        def act(parts: Parts) -> Callable[[Observation, Key], Action]:
            zero = jnp.zeros((2, parts.policy.action_size))
            first = lambda key: zero if how == "zero" else sampler.start(parts.policy, key)
            return lambda obs, key: action_of(sampler.forward(parts.policy, first(key), obs))

        return act

    return train(
        name="genpo",
        make_policy=policy.make,
        explore=explore,
        evaluate=starting(start),
        modes={how: starting(how) for how in STARTS},
        policy_loss=add(
            ppo=(1.0, clipped(ratio, eps=clip)),
            compression=(compression_coefficient, compression(sampler, gap=gap)),
        ),
        kl=f"ppo/{KL[kl_estimator]}",
        # The reference lets the rate rise where k1, which may be negative, is above this.
        kl_floor=-1e-4 if kl_estimator == "k1" else 0.0,
    )
