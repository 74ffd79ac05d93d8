"""Proximal Policy Optimisation with a Gaussian policy."""

from typing import Any

from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Mode, Number, Observation, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.losses import add, clipped, entropy, gaussian_log_ratio
from dpolicy.policies import Gaussian, gaussian_kl
from dpolicy.proximal import proximal


def ppo(
    *,
    clip: Number = 0.2,
    entropy_coefficient: Number = 0.005,
    initial_std: Number = 1.0,
    learning_rate: Number = 1e-3,
    target_kl: Number | None = 0.01,
    discount: Number = 0.99,
    trace: Number = 0.95,
    gae_dialect: str = "exact",
    value_coefficient: Number = 1.0,
    value_clip: Number | None = None,
    epochs: int = 5,
    minibatches: int = 4,
    max_grad_norm: Number = 1.0,
    hidden: tuple[int, ...] = (256, 256),
    value_hidden: tuple[int, ...] = (256, 256),
    activation: str = "elu",
    initialisation: str = "torch",
) -> Algorithm:
    """Proximal Policy Optimisation with a diagonal Gaussian of state-independent width (arXiv 1707.06347).

    Args:
        clip: Clip range of the likelihood ratio.
        entropy_coefficient: Weight of the entropy bonus.
        initial_std: Starting standard deviation of the policy, in action units.
        learning_rate: Adam's rate, or its start where it adapts.
        target_kl: KL per minibatch that the rate adapts to; None keeps it fixed.
        discount: Discount gamma.
        trace: Trace lambda of generalised advantage estimation.
        gae_dialect: exact, rsl, brax or leaky: how advantages treat time limits.
        value_coefficient: Weight of the value loss.
        value_clip: Largest change of a value per iteration before its loss flattens; None switches it off.
        epochs: Passes over each rollout.
        minibatches: Minibatches per pass; must divide the samples of a rollout.
        max_grad_norm: Largest global gradient norm.
        hidden: Widths of the policy's network.
        value_hidden: Widths of the value network.
        activation: Activation of both.
        initialisation: Of the weights: torch (RSL-RL's), orthogonal, lecun_normal, lecun_uniform, he_normal or
            xavier_uniform.
    """
    _checks.positive("clip", clip)
    _checks.non_negative("entropy_coefficient", entropy_coefficient)
    _checks.positive("initial_std", initial_std)

    def propose(
        policy: Gaussian, extra: Any, obs: Observation, key: Key, mode: Mode
    ) -> tuple[Action, dict[str, Any]]:
        if mode == "evaluate":
            return policy.mode(obs), {}
        action, log_prob = policy.sample(obs, key)
        return action, {"log_prob": log_prob, "mean": policy.mean(obs), "log_std": policy.log_std}

    def kl(policy: Gaussian, example: Transition) -> Float[Array, ""]:
        old = example.extras
        return gaussian_kl(old["mean"], old["log_std"], policy.mean(example.obs), policy.log_std)

    return proximal(
        name="ppo",
        make_policy=lambda key, spec: Gaussian(
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
            ppo=(1.0, clipped(gaussian_log_ratio, eps=clip)), entropy=(-entropy_coefficient, entropy)
        ),
        kl=kl,
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
