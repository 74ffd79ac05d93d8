"""Log-likelihoods of stored actions, exact or by proxy, and the log-ratios made of them.

A log-likelihood is a function `(model, example, key) -> scalar or vector`. At rollout its value goes into
`example.extras["log_prob"]`; at the update the log-ratio is the new value minus the stored one. Both go
through the same function, so the ratio is 1 while the parameters are unchanged: exactly, or up to rounding (1e-6)
where an inverse is computed, as in GenPO. A log-ratio is called like a log-likelihood, but has a type of its own,
`LogRatio`: one in the place of the other would train on, towards something else.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import (
    array,
    boolean,
    function,
    in_range,
    integer,
    loss_value,
    one_key,
    one_of,
    ordered,
    positive,
    same_shapes,
    vector,
)
from dpolicy._types import Key, Loss, Number

LogLikelihood: TypeAlias = Callable[[Any, Any, Key], Array]


# Not x + stop_gradient(y - x), which is y up to rounding only, and nan for an infinite x.
@jax.custom_jvp
def _straight_through(x: Array, y: Array) -> Array:
    return y


@_straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    return primals[1], tangents[0]


def straight_through_clamp(
    x: Float[Array, "*batch"], low: Number | None = None, high: Number | None = None
) -> Float[Array, "*batch"]:
    """clip(x, low, high) whose gradient is the identity, also outside the range.

    Examples:
        >>> clamp = lambda x: straight_through_clamp(x, high=1.0)
        >>> print(*jax.value_and_grad(clamp)(jnp.array(3.0)))
        1.0 1.0
    """
    array("x", x)
    for name, bound in (("low", low), ("high", high)):
        if bound is not None:
            in_range(name, bound)
    ordered("low", low, "high", high)
    return _straight_through(x, jnp.clip(x, low, high))


def log_ratio_from_losses(
    new: Float[Array, " n"],
    old: Float[Array, " n"],
    average: str = "mean_then_exp",
    *,
    clamp: Number = 3.0,
) -> Array:
    """Log of the likelihood ratio with minus a loss as the log-likelihood, from `n` draws of the loss (FPO).

    - `mean_then_exp`: mean(old) - mean(new), one number;
    - `per_sample`: old - new, `n` numbers (FPO++);
    - `exp_then_mean`: log mean exp clip(old - new, -clamp, clamp), one number, never below the first
      (Jensen).

    At unchanged parameters all are 0 with the same gradient -mean(grad new) (the vector's by its mean).

    Raises:
        ValueError: Unless there are as many old losses as new ones, of the same draws.

    Examples:
        >>> new, old = jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0])
        >>> print(log_ratio_from_losses(new, old), log_ratio_from_losses(new, old, "per_sample"))
        1.5 [1. 2.]
    """
    same_shapes(new=new, old=old)
    vector("new", new)
    positive("clamp", clamp)
    one_of("average", average, ("mean_then_exp", "per_sample", "exp_then_mean"))
    if average == "mean_then_exp":
        return jnp.mean(old) - jnp.mean(new)
    if average == "per_sample":
        return old - new
    # By logsumexp, so that the largest draw does not overflow; bounded, since one draw would carry the whole mean.
    difference = jnp.clip(old - new, -clamp, clamp)
    return jax.nn.logsumexp(difference) - jnp.log(jnp.asarray(difference.size, difference.dtype))


def ratio_from_losses(
    new: Float[Array, " n"],
    old: Float[Array, " n"],
    average: str = "mean_then_exp",
    *,
    clamp: Number = 3.0,
) -> Array:
    """exp of `log_ratio_from_losses`.

    Examples:
        >>> ratio = ratio_from_losses(jnp.array([1.0, 2.0]), jnp.array([2.0, 2.0]))
        >>> print(f"{ratio:.3f}")
        1.649
    """
    return jnp.exp(log_ratio_from_losses(new, old, average, clamp=clamp))


class LogRatio(eqx.Module):
    """log p_new - log p_old of a stored action, called as `(model, example, key)`.

    `log_likelihood` is what to store at rollout as `extras["log_prob"]`; `combine(new, old)` makes the
    log-ratio.

    Examples:
        >>> likelihood = lambda model, example, key: model * example.action[0]
        >>> ratio = LogRatio(likelihood, lambda new, old: jnp.minimum(new - old, 0.5))
        >>> print(ratio(jnp.array(10.0), stored(log_prob=jnp.array(1.0)), key))
        0.5
    """

    log_likelihood: LogLikelihood
    combine: Callable[[Array, Array], Array] = jnp.subtract

    def __check_init__(self) -> None:
        function("log_likelihood", self.log_likelihood, "(model, example, key) -> scalar or vector")
        if isinstance(self.log_likelihood, LogRatio):
            raise ValueError(
                "log_likelihood must be a log-likelihood, such as gaussian_log_likelihood, got a LogRatio."
            )
        function("combine", self.combine, "(new, old) -> log-ratio")

    def __call__(self, model: Any, example: Any, key: Key) -> Array:
        old = jax.lax.stop_gradient(example.extras["log_prob"])
        new = self.log_likelihood(model, example, key)
        same_shapes(**{"the log-likelihood": new, "extras['log_prob']": old})
        return self.combine(new, old)


def log_ratio(log_likelihood: LogLikelihood, *, clip: Number | None = None) -> LogRatio:
    """New minus stored log-likelihood; with `clip`, bounded above by it, straight-through (no gradient is cut).

    Examples:
        >>> likelihood = lambda model, example, key: model * example.action[0]
        >>> print(log_ratio(likelihood)(jnp.array(10.0), stored(log_prob=jnp.array(1.5)), key))
        0.5
    """
    if clip is None:
        return LogRatio(log_likelihood)
    positive("clip", clip)
    return LogRatio(log_likelihood, lambda new, old: straight_through_clamp(new - old, high=clip))


def gaussian_log_likelihood(model: Any, example: Any, key: Key) -> Array:
    """log p(a | s) = model.log_prob(obs, action).

    Examples:
        >>> policy = dp.Gaussian(1, 2, hidden=(4,), initial_std=1.0, final_scale=0.0, key=key)
        >>> print(f"{gaussian_log_likelihood(policy, stored(), key):.3f}")
        -1.938
    """
    return model.log_prob(example.obs, example.action)


def tanh_gaussian_log_likelihood(model: Any, example: Any, key: Key) -> Array:
    """log p(tanh(u) | s) = model.log_prob_from_unsquashed(obs, u), with u = example.extras["unsquashed"].

    Examples:
        >>> policy = dp.TanhGaussian(1, 2, hidden=(4,), final_scale=0.0, key=key)
        >>> value = tanh_gaussian_log_likelihood(policy, stored(unsquashed=jnp.zeros(2)), key)
        >>> print(f"{value:.3f}")
        -1.838
    """
    return model.log_prob_from_unsquashed(example.obs, example.extras["unsquashed"])


def residual_gaussian_log_likelihood(model: Any, example: Any, key: Key) -> Array:
    """log p(a | a0, s) = model.log_prob(obs, base, action), a0 = example.extras["base"] (arXiv 2603.04790).

    Examples:
        >>> policy = dp.ResidualGaussian(1, 2, hidden=(4,), initial_std=1.0, final_scale=0.0, key=key)
        >>> print(f"{residual_gaussian_log_likelihood(policy, stored(base=action), key):.3f}")
        -1.838
    """
    return model.log_prob(example.obs, example.extras["base"], example.action)


def flow_matching_log_likelihood(
    loss: Loss, draws: int = 8, *, per_draw: bool = False, loss_clip: Number | None = None
) -> LogLikelihood:
    """Minus a matching loss, averaged over `draws` draws of its noise: FPO's proxy of log p(a | s).

    The draws come from example.extras["key"], the key stored with the transition, never from the key of the update:
    the same (t, eps) then enter the old and the new value, as the ratio requires. The proxy is biased: for a
    Gaussian of width s, velocity error and t uniform, a log-ratio of means is (pi s / 2) times the true one.
    Source: FPO (arXiv 2507.21053).

    Args:
        loss: Such as matching(perturb(schedule)).
        draws: How many (t, eps) are drawn for each transition.
        per_draw: Return the `draws` values instead of their mean.
        loss_clip: Each loss is bounded above by it, without gradient beyond (FPO++: 20).

    Examples:
        >>> likelihood = flow_matching_log_likelihood(matching(perturb(schedule)), 4, per_draw=True)
        >>> print(likelihood(field, stored(key=key), key).shape)
        (4,)
    """
    function("loss", loss, "(model, example, key) -> (scalar, metrics)")
    boolean("per_draw", per_draw)
    integer("draws", draws)
    if loss_clip is not None:
        positive("loss_clip", loss_clip)

    def log_likelihood(model: Any, example: Any, key: Key) -> Array:
        keys = jax.random.split(one_key(example.extras["key"], "extras['key']"), draws)
        values = jax.vmap(lambda key: loss_value("loss", loss(model, example, key))[0])(keys)
        values = values if loss_clip is None else jnp.minimum(values, loss_clip)
        return -values if per_draw else -jnp.mean(values)

    return log_likelihood


def flow_matching_log_ratio(
    loss: Loss,
    *,
    draws: int = 8,
    average: str = "mean_then_exp",
    clamp: Number = 3.0,
    loss_clip: Number | None = None,
    old_loss_clip: Number | None = None,
    clip: Number | None = None,
) -> LogRatio:
    """FPO's log-ratio from a matching loss: see `flow_matching_log_likelihood` and `log_ratio_from_losses`.

    FPO: `mean_then_exp`, 8 draws. FPO++: `per_sample`, loss_clip=20, clip=10. Store
    `ratio.log_likelihood(model, example, key)` at rollout: a number for `mean_then_exp`, else a vector of
    `draws`.

    Args:
        loss: Such as matching(perturb(schedule)).
        draws: How many (t, eps) are drawn for each transition.
        average: How one ratio is made of them: see `log_ratio_from_losses`.
        clamp: Bound on each difference for `exp_then_mean`.
        loss_clip: Each loss is bounded above by it, without gradient beyond.
        old_loss_clip: Bound of the stored loss alone, so that an action that was badly fitted cannot gain more than
            it (FPO++ when fine-tuning: 4).
        clip: Upper bound of the log-ratio, straight-through.

    Examples:
        >>> ratio = flow_matching_log_ratio(matching(perturb(schedule)), draws=4)
        >>> old = ratio.log_likelihood(field, stored(key=key), key)
        >>> print(f"{ratio(field, stored(key=key, log_prob=old - 0.5), key):.2f}")
        0.50
    """
    positive("clamp", clamp)
    one_of("average", average, ("mean_then_exp", "per_sample", "exp_then_mean"))
    if clip is not None:
        positive("clip", clip)
    if old_loss_clip is not None:
        positive("old_loss_clip", old_loss_clip)
    likelihood = flow_matching_log_likelihood(
        loss, draws, per_draw=average != "mean_then_exp", loss_clip=loss_clip
    )

    def combine(new: Array, old: Array) -> Array:
        old = old if old_loss_clip is None else jnp.maximum(old, -old_loss_clip)
        difference = (
            log_ratio_from_losses(-new, -old, average, clamp=clamp)
            if average == "exp_then_mean"
            else new - old
        )
        return difference if clip is None else straight_through_clamp(difference, high=clip)

    return LogRatio(likelihood, combine)


gaussian_log_ratio = log_ratio(gaussian_log_likelihood)
tanh_gaussian_log_ratio = log_ratio(tanh_gaussian_log_likelihood)
residual_gaussian_log_ratio = log_ratio(residual_gaussian_log_likelihood)
