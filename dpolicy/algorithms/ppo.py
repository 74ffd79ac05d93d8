"""Proximal Policy Optimisation with a Gaussian policy."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._settings import NonNegative, Positive
from dpolicy._types import Action, Key, Observation, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import proximal
from dpolicy.learning import Parts
from dpolicy.losses import (
    add,
    clipped,
    entropy,
    estimated_entropy,
    gaussian_log_ratio,
    tanh_gaussian_log_ratio,
)
from dpolicy.networks import Gaussian, TanhGaussian, gaussian_kl, gaussian_policy
from dpolicy.recipe import composed


@composed(gaussian_policy, proximal, target_kl=0.01)
def ppo(
    make_policy: Callable[..., Any],
    make_algorithm: Callable[..., Algorithm],
    *,
    policy: Literal["gaussian", "tanh_gaussian"] = "gaussian",
    clip: Positive = 0.2,
    entropy_coefficient: NonNegative = 0.005,
) -> Algorithm:
    """Proximal Policy Optimisation with a diagonal Gaussian policy (arXiv 1707.06347).

    As in RSL-RL its width is one vector, the same in every state, and its actions are unbounded. As in Brax
    (`policy="tanh_gaussian"`) the network gives the width too, softplus(q) + 0.001, the action is tanh of the draw, and
    the entropy is estimated with a fresh draw.

    Args:
        policy: gaussian or tanh_gaussian.
        clip: Clip range of the likelihood ratio.
        entropy_coefficient: Weight of the entropy bonus.
    """
    squashed = policy == "tanh_gaussian"

    def explore(parts: Parts) -> Callable[[Observation, Key], tuple[Action, dict[str, Any]]]:
        actor: Gaussian | TanhGaussian = parts.policy

        def act(obs: Observation, key: Key) -> tuple[Action, dict[str, Any]]:
            mean, log_std = actor.parameters(obs)
            extras = {"mean": mean, "log_std": log_std}
            if isinstance(actor, TanhGaussian):
                u = actor.unsquashed(obs, key)
                log_prob = actor.log_prob_from_unsquashed(obs, u)
                return jnp.tanh(u), {**extras, "unsquashed": u, "log_prob": log_prob}
            action, log_prob = actor.sample(obs, key)
            return action, {**extras, "log_prob": log_prob}

        return act

    def kl(actor: Gaussian | TanhGaussian, example: Transition, key: Key) -> Float[Array, ""]:
        # The squash is the same in both: it does not change the divergence.
        old = example.extras
        return gaussian_kl(old["mean"], old["log_std"], *actor.parameters(example.obs))

    ratio = tanh_gaussian_log_ratio if squashed else gaussian_log_ratio
    return make_algorithm(
        name="ppo",
        make_policy=make_policy(partial(TanhGaussian, width="softplus") if squashed else Gaussian),
        explore=explore,
        evaluate=lambda parts: lambda obs, key: parts.policy.mode(obs),
        policy_loss=add(
            ppo=(1.0, clipped(ratio, eps=clip)),
            entropy=(-entropy_coefficient, estimated_entropy if squashed else entropy),
        ),
        kl=kl,
    )
