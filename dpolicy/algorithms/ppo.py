"""Proximal Policy Optimisation with a Gaussian policy."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Mode, Number, Observation, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.losses import add, clipped, entropy, gaussian_log_ratio
from dpolicy.policies import Gaussian, gaussian_kl, gaussian_policy
from dpolicy.proximal import proximal
from dpolicy.recipe import composed


@composed(gaussian_policy, proximal, target_kl=0.01)
def ppo(
    policy: Callable[..., Any],
    train: Callable[..., Algorithm],
    *,
    clip: Number = 0.2,
    entropy_coefficient: Number = 0.005,
) -> Algorithm:
    """Proximal Policy Optimisation with a diagonal Gaussian of state-independent width (arXiv 1707.06347).

    Args:
        clip: Clip range of the likelihood ratio.
        entropy_coefficient: Weight of the entropy bonus.
    """
    _checks.positive("clip", clip)
    _checks.non_negative("entropy_coefficient", entropy_coefficient)

    def propose(
        policy: Gaussian, extra: Any, obs: Observation, key: Key, mode: Mode
    ) -> tuple[Action, dict[str, Any]]:
        if mode == "evaluate":
            return policy.mode(obs), {}
        action, log_prob = policy.sample(obs, key)
        return action, {"log_prob": log_prob, "mean": policy.mean(obs), "log_std": policy.log_std}

    def kl(policy: Gaussian, example: Transition, key: Key) -> Float[Array, ""]:
        old = example.extras
        return gaussian_kl(old["mean"], old["log_std"], policy.mean(example.obs), policy.log_std)

    return train(
        name="ppo",
        make_policy=policy(Gaussian),
        propose=propose,
        policy_loss=add(
            ppo=(1.0, clipped(gaussian_log_ratio, eps=clip)), entropy=(-entropy_coefficient, entropy)
        ),
        kl=kl,
    )
