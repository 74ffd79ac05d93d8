"""Clipped surrogate objectives: formulas to maximise, and the loss `clipped` around them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import array, in_range, instance, one_of, ordered, positive, same_shapes, widths
from dpolicy._select import sound, weighed
from dpolicy._types import Key, Loss, Metrics, Number, Scalar
from dpolicy.losses.ratios import LogRatio, straight_through_clamp


def ppo_clip(
    log_ratio: Float[Array, "*batch"], advantage: Float[Array, "*batch"], eps: Number | Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = exp(log_ratio) (PPO, arXiv 1707.06347, eq. 7).

    rho is held at e^80 from there on, so that it and its gradient are finite in single precision.

    Examples:
        >>> log_ratio, advantage = jnp.log(jnp.array([1.5, 0.5])), jnp.array([1.0, 1.0])
        >>> print(ppo_clip(log_ratio, advantage, 0.25))
        [1.25 0.5 ]
    """
    same_shapes(log_ratio=log_ratio, advantage=advantage)
    widths("eps", eps, log_ratio.shape)
    # The gradient of the branch that is not taken enters as 0 times it, so it must be finite.
    ratio = jnp.exp(straight_through_clamp(log_ratio, high=80.0))
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - eps, 1 + eps) * advantage)


def spo(
    log_ratio: Float[Array, "*batch"], advantage: Float[Array, "*batch"], eps: Number | Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """rho A - |A| (rho - 1)^2 / (2 eps), whose maximum is at rho = 1 + eps sign(A): it pulls an overshoot back.

    rho is held at e^40 from there on, whose square is finite in single precision.

    Examples:
        >>> log_ratio, advantage = jnp.log(jnp.array([1.25, 1.5])), jnp.array([1.0, 1.0])
        >>> print(spo(log_ratio, advantage, 0.25))
        [1.125 1.   ]
    """
    same_shapes(log_ratio=log_ratio, advantage=advantage)
    widths("eps", eps, log_ratio.shape)
    ratio = jnp.exp(straight_through_clamp(log_ratio, high=40.0))
    return ratio * advantage - jnp.abs(advantage) / (2 * eps) * (ratio - 1) ** 2


def aspo(
    log_ratio: Float[Array, "*batch"], advantage: Float[Array, "*batch"], eps: Number | Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """`ppo_clip` where A > 0, `spo` elsewhere (FPO++, arXiv 2602.02481, eqs. 11-13; at A = 0 as in its code).

    Examples:
        >>> log_ratio, advantage = jnp.log(jnp.array([1.5, 1.5])), jnp.array([1.0, -1.0])
        >>> print(aspo(log_ratio, advantage, 0.25))
        [ 1.25 -2.  ]
    """
    return jnp.where(advantage > 0, ppo_clip(log_ratio, advantage, eps), spo(log_ratio, advantage, eps))


# Each with the log-ratio at which the ratio is held.
_SURROGATES = {"ppo": (ppo_clip, 80.0), "spo": (spo, 40.0), "aspo": (aspo, 80.0)}
ADVANTAGES = ("signed", "positive", "softplus")


def kl_k1(log_ratio: Float[Array, "*batch"]) -> Scalar:
    """mean(log p_old - log p_new) over samples of the old policy: unbiased for KL(old || new), may be negative.

    Examples:
        >>> print(f"{kl_k1(jnp.log(jnp.array([0.5, 1.0]))):.3f}")
        0.347
    """
    array("log_ratio", log_ratio)
    return -jnp.mean(log_ratio)


def kl_k3(log_ratio: Float[Array, "*batch"]) -> Scalar:
    """mean(exp(d) - 1 - d), d = log p_new - log p_old: unbiased for KL(old || new) and never negative.

    exp(d) is held at e^80 from there on.

    Examples:
        >>> print(f"{kl_k3(jnp.log(jnp.array([0.5, 1.0]))):.3f}")
        0.097
    """
    array("log_ratio", log_ratio)
    return jnp.mean(jnp.expm1(jnp.minimum(log_ratio, 80.0)) - log_ratio)


def adaptive_rate(
    rate: Number,
    kl: Number,
    target: Number,
    *,
    factor: float = 1.5,
    low: float = 1e-5,
    high: float = 1e-2,
    floor: Number = 0.0,
) -> Scalar:
    """The "adaptive KL" learning rate of RSL-RL.

    rate / factor when kl > 2 target, rate * factor when floor < kl < target / 2, each kept inside [low, high]. An
    estimate that may be negative wants a `floor` below zero (GenPO's code: -1e-4 with k1), or the rate never rises.

    Raises:
        ValueError: For a factor below 1, a `low` above `high` and other arguments out of range.

    Examples:
        >>> slower, faster = adaptive_rate(0.3, 0.05, 0.01, high=1.0), adaptive_rate(0.3, 0.001, 0.01, high=1.0)
        >>> print(f"{slower:.2f} {faster:.2f}")
        0.20 0.45
    """
    for name, value in (("rate", rate), ("target", target), ("low", low), ("high", high)):
        positive(name, value)
    in_range("kl", kl)
    in_range("factor", factor, 1.0)
    in_range("floor", floor)
    ordered("low", low, "high", high)
    rate = jnp.asarray(rate)
    down, up = jnp.maximum(rate / factor, low), jnp.minimum(rate * factor, high)
    return jnp.where(kl > 2 * target, down, jnp.where((kl > floor) & (kl < target / 2), up, rate))


def bounded_advantage(advantage: Float[Array, "*batch"], how: str = "signed") -> Float[Array, "*batch"]:
    """The advantage as a surrogate takes it.

    `signed`: as it is. `positive`: max(A, 0). `softplus`: log(1 + e^A). A flow-matching loss can be raised without
    bound, unlike a density, so FPO's objective has no optimum where A < 0; the last two never raise it.

    Examples:
        >>> print(bounded_advantage(jnp.array([-1.0, 2.0]), "positive"))
        [0. 2.]
    """
    one_of("advantages", how, ADVANTAGES)
    array("advantage", advantage)
    return {"signed": lambda a: a, "positive": jax.nn.relu, "softplus": jax.nn.softplus}[how](advantage)


def clipped(
    log_ratio: LogRatio,
    *,
    eps: Number | Float[Array, " n"],
    surrogate: str = "ppo",
    advantages: str = "signed",
    weights: Float[Array, " n"] | None = None,
) -> Loss:
    """Minus a clipped surrogate of the ratio exp(log_ratio(model, example, key)), A = example.extras["advantage"].

    The log-ratio may be one number or a vector (a ratio for each draw of FPO++, for each denoising step of
    DPPO); the surrogate is averaged over it. At ratio 1 the gradient is -A grad log_ratio.

    Args:
        log_ratio: Such as `gaussian_log_ratio` or log_ratio(log_likelihood).
        eps: Half-width of the clip range of the ratio; for a vector of ratios a vector of them may be given.
        surrogate: `ppo`, `spo` or `aspo`.
        advantages: `signed`, `positive` or `softplus`; see `bounded_advantage`.
        weights: Factors on the advantage, one for each ratio of the vector (DPPO's denoising discount).

    Returns:
        A loss whose metrics are `loss`, `ratio`, `ratio_min`, `ratio_max` (held where the surrogate holds the
        ratio), `clip_fraction`, `kl` (k3), `kl_k1`.

    Raises:
        ValueError: For anything but a `LogRatio`, such as a log-likelihood, and an unknown option; when called, for a
            vector of `eps` or `weights` of another length than that of the ratios.

    Examples:
        >>> likelihood = lambda model, example, key: model * example.action[0]
        >>> loss = clipped(log_ratio(likelihood), eps=0.2)
        >>> seen = stored(log_prob=jnp.array(1.0), advantage=jnp.array(2.0))
        >>> value, metrics = loss(jnp.array(10.0), seen, key)
        >>> print(f"{value:.1f}", f"{metrics['ratio']:.2f}", metrics["clip_fraction"])
        -2.4 2.72 1.0
    """
    instance("log_ratio", log_ratio, LogRatio, "a log-ratio, such as log_ratio(log_likelihood)")
    positive("eps", eps, ndim=(0, 1))
    one_of("surrogate", surrogate, _SURROGATES)
    one_of("advantages", advantages, ADVANTAGES)
    objective, bound = _SURROGATES[surrogate]

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        logs = jnp.atleast_1d(log_ratio(model, example, key))
        advantage = jnp.broadcast_to(bounded_advantage(example.extras["advantage"], advantages), logs.shape)
        if weights is not None:
            same_shapes(ratios=logs, weights=weights)
            logs, advantage = sound(jnp.asarray(weights) != 0, logs), weighed(weights, advantage)
        result = -jnp.mean(objective(logs, advantage, eps))
        ratio = jnp.exp(jnp.minimum(logs, bound))
        metrics = {
            "loss": result,
            "ratio": jnp.mean(ratio),
            "ratio_min": jnp.min(ratio),
            "ratio_max": jnp.max(ratio),
            "clip_fraction": jnp.mean(jnp.abs(ratio - 1) > eps),
            "kl": kl_k3(logs),
            "kl_k1": kl_k1(logs),
        }
        return result, metrics

    return loss
