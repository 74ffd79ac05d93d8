"""Formulas of value learning, and the losses made of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dpolicy._checks import (
    array,
    critic,
    fraction,
    function,
    in_range,
    masks,
    one_of,
    positive,
    returned,
    same_shapes,
    vector,
)
from dpolicy._select import weighed
from dpolicy._spread import root, spread
from dpolicy._types import Key, Loss, Metrics, Number, Scalar
from dpolicy.networks import mean_of


def td_target(
    reward: Float[Array, "*batch"],
    terminated: Bool[Array, "*batch"],
    next_value: Float[Array, "*batch"],
    discount: Number,
) -> Float[Array, "*batch"]:
    """reward + discount (1 - terminated) next_value. A time limit does not cut the bootstrap.

    Examples:
        >>> reward, next_value = jnp.array([1.0, 1.0]), jnp.array([10.0, 10.0])
        >>> print(td_target(reward, jnp.array([False, True]), next_value, 0.5))
        [6. 1.]
    """
    same_shapes(reward=reward, terminated=terminated, next_value=next_value)
    masks(terminated=terminated)
    fraction("discount", discount)
    # Selected, not multiplied: the successor of an end may have any value, nan as well.
    return reward + weighed(discount, jnp.where(terminated, 0, next_value))


def reduce_ensemble(
    values: Float[Array, "n *batch"], how: str = "min", *, pessimism: Number = 1.0
) -> Float[Array, "*batch"]:
    """One value from the members of an ensemble, stacked on the first axis.

    - `min`, `mean`;
    - `lcb`: mean - pessimism * std with the population standard deviation. For two members `pessimism=1` is
      the minimum and `pessimism=0` the mean; below 0 it is an upper bound. Where all members agree, the deviation has
      no gradient.

    Examples:
        >>> print(reduce_ensemble(jnp.array([1.0, 3.0])), reduce_ensemble(jnp.array([1.0, 3.0]), "mean"))
        1.0 2.0
    """
    one_of("how", how, ("min", "mean", "lcb"))
    array("values", values)
    if not np.ndim(values):
        raise ValueError("values must have the members on its first axis, got a scalar.")
    if how == "min":
        return jnp.min(values, axis=0)
    if how == "mean":
        return jnp.mean(values, axis=0)
    in_range("pessimism", pessimism)
    deviation = root(jnp.var(values - values[:1], axis=0))  # of equal members exactly 0
    return jnp.mean(values, axis=0) - weighed(pessimism, deviation)


def softmax_value(values: Float[Array, " n"], temperature: Number) -> Scalar:
    """sum_i softmax_i(v / temperature) v_i: the mean of v over samples weighed by exp(v / temperature).

    Their mean for a temperature towards infinity, their maximum towards 0; temperature log mean exp(v / temperature),
    which has both limits too, lies below it. Of critics at actions of the behaviour policy it is the in-support value
    of SfBC (arXiv 2209.14548), QGPO (2304.12824) and QIPO (2503.04975).

    Args:
        values: Values of several actions of one state.
        temperature: In their units; above 0.

    Examples:
        >>> print([round(float(softmax_value(jnp.array([0.0, 1.0]), t)), 3) for t in (100.0, 1.0, 0.01)])
        [0.502, 0.731, 1.0]
    """
    vector("values", values)
    positive("temperature", temperature)
    return jnp.sum(jax.nn.softmax(values / temperature) * values)


def expectile_weight(u: Float[Array, "*batch"], tau: Number) -> Float[Array, "*batch"]:
    """|tau - 1(u < 0)|: with u = Q - V the weight of IDQL's implicit policy (arXiv 2304.10573).

    Examples:
        >>> print(expectile_weight(jnp.array([-1.0, 2.0]), 0.75))
        [0.25 0.75]
    """
    array("u", u)
    in_range("tau", tau, 0.0, 1.0, open_low=True, open_high=True)
    return jnp.where(u < 0, 1 - tau, tau) * jnp.ones_like(u)


def expectile(u: Float[Array, "*batch"], tau: Number) -> Float[Array, "*batch"]:
    """|tau - 1(u < 0)| u^2, u = target - value: the asymmetric loss of IQL (arXiv 2110.06169, eq. 5).

    Examples:
        >>> print(expectile(jnp.array([-1.0, 2.0]), 0.75))
        [0.25 3.  ]
    """
    return expectile_weight(u, tau) * u**2


def clipped_value_loss(
    value: Float[Array, "*batch"],
    old_value: Float[Array, "*batch"],
    target: Float[Array, "*batch"],
    eps: Number,
) -> Float[Array, "*batch"]:
    """max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2), without a factor 1/2; `eps` in units of V.

    Examples:
        >>> print(clipped_value_loss(jnp.array(2.0), jnp.array(0.0), jnp.array(2.0), eps=0.5))
        2.25
    """
    same_shapes(value=value, old_value=old_value, target=target)
    positive("eps", eps)
    clipped = old_value + jnp.clip(value - old_value, -eps, eps)
    return jnp.maximum((value - target) ** 2, (clipped - target) ** 2)


def f_dice_conjugate(u: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """f*(u) = u^2 / 4 + u for u >= 0, exp(u) - 1 otherwise (Diffusion-DICE, arXiv 2407.20109).

    Examples:
        >>> print(f_dice_conjugate(jnp.array([0.0, 2.0])))
        [0. 3.]
    """
    # The branch not taken must be finite: its gradient enters as 0 times it.
    return jnp.where(u >= 0, u**2 / 4 + u, jnp.expm1(jnp.minimum(u, 0)))


def f_dice_weight(u: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The derivative of `f_dice_conjugate`: u / 2 + 1 for u >= 0, exp(u) otherwise; u = (Q - V) / eta.

    Examples:
        >>> print(f_dice_weight(jnp.array([0.0, 2.0])))
        [1. 2.]
    """
    return jnp.where(u >= 0, u / 2 + 1, jnp.exp(jnp.minimum(u, 0)))


def huber(u: Float[Array, "*batch"], kappa: Number = 1.0) -> Float[Array, "*batch"]:
    """u^2 / 2 up to |u| = kappa, kappa (|u| - kappa / 2) beyond: its gradient is u, clipped to [-kappa, kappa].

    Examples:
        >>> print(huber(jnp.array([-0.5, 3.0])))
        [0.125 2.5  ]
    """
    array("u", u)
    positive("kappa", kappa)
    size = jnp.minimum(jnp.abs(u), kappa)
    return size * (jnp.abs(u) - size / 2)


def huber_error(*, kappa: Number = 1.0) -> Callable[[Any, Any], tuple[Array, Metrics]]:
    """`huber` of critics that return numbers, as an error of `bellman`.

    Where transitions are drawn in proportion to max(|u|, 1)^alpha (`dpolicy.blocks.prioritised`) it is the loss of LAP
    (arXiv 2007.06049, eq. 10): in expectation its gradient is, up to a common factor, that of u^2 / 2 up to 1 and of
    |u|^(1 + alpha) / (1 + alpha) beyond, over transitions drawn uniformly. A squared error would be biased there.

    Args:
        kappa: Where the loss turns linear, in the units of the values.

    Examples:
        >>> print(huber_error()(jnp.array([0.0, 1.0]), jnp.array(3.0))[0])
        [2.5 1.5]
    """
    positive("kappa", kappa)

    def error(prediction: Any, goal: Any) -> tuple[Array, Metrics]:
        if mean_of(prediction) is not prediction:
            raise ValueError(
                f"huber_error is of critics that return numbers, got a {type(prediction).__name__}."
            )
        return huber(prediction - _of_members(mean_of(goal), prediction), kappa), {}

    return error


def _of_members(goal: Any, prediction: Array) -> Any:
    """The target of all members of an ensemble, a number, or of each its own."""
    return returned("target", goal, jnp.shape(prediction) if jnp.ndim(goal) else ())


def bellman(
    target: Callable[[Any, Key], Any],
    *,
    reduction: str = "mean",
    error: Callable[[Any, Any], tuple[Array, Metrics]] | None = None,
) -> Loss:
    """Temporal-difference error of a critic or an ensemble of critics, squared unless it is given.

    mean_i (Q_i(s, a) - y)^2 with y = target(example, key), built over target networks by the caller, e.g.
    `lambda example, key: td_target(example.reward, example.terminated, next_value(example, key), discount)`.
    The model is called as `critic(obs, action)` and may return one value or a vector of them; y is one number, or one
    for each of them. Their sum instead (`reduction="sum"`) has their number times the gradient, which under Adam
    matters to a norm bound only.
    Critics that return laws (`dpolicy.networks.ReturnLaw`) take another `error`, and a target that is a law or a
    number: `categorical_error`, `quantile_error`, `gaussian_error`.

    Examples:
        >>> loss = bellman(lambda example, key: td_target(example.reward, no, jnp.array(2.0), 0.5))
        >>> print(loss(lambda obs, action: jnp.zeros(2), example, key)[0])
        4.0
    """
    function("target", target, "(example, key) -> scalar")
    one_of("reduction", reduction, ("mean", "sum"))

    def loss(critic: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        goal = jax.lax.stop_gradient(target(example, key))
        value = critic(example.obs, example.action)
        if error is None:
            if mean_of(value) is not value:
                kind = type(value).__name__
                raise ValueError(
                    f"error must be given for a critic that returns a {kind}, such as quantile_error()."
                )
            errors, metrics = (value - _of_members(goal, value)) ** 2, {}
        else:
            errors, metrics = error(value, goal)
        result = jnp.sum(errors) if reduction == "sum" else jnp.mean(errors)
        value, goal = jnp.mean(mean_of(value)), jnp.mean(mean_of(goal))
        return result, {"loss": result, "value": value, "target": goal, **metrics}

    return loss


def expectile_regression(q: Callable[[Any, Any], Scalar], tau: Number) -> Loss:
    """Fit V(s) to the tau-expectile of q(s, a) over the data's actions; the model is called `value(obs)`.

    Examples:
        >>> loss = expectile_regression(lambda obs, action: jnp.array(2.0), 0.75)
        >>> print(loss(lambda obs: jnp.array(0.0), example, key)[0])
        3.0
    """
    critic("q", q)
    in_range("tau", tau, 0.0, 1.0, open_low=True, open_high=True)

    def loss(value: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        prediction = returned("the model", value(example.obs))
        goal = jax.lax.stop_gradient(returned("q", q(example.obs, example.action)))
        result = expectile(goal - prediction, tau)
        return result, {"loss": result, "value": prediction}

    return loss


def value_regression(*, eps: Number | None = None) -> Loss:
    """(V(s) - R)^2 with R = example.extras["return"], clipped around extras["value"] by `eps` when given.

    Value clipping depends on the scale of returns (see `clipped_value_loss`).

    Examples:
        >>> seen = stored(**{"return": jnp.array(2.0)})
        >>> print(value_regression()(lambda obs: jnp.array(0.0), seen, key)[0])
        4.0
    """
    if eps is not None:
        positive("eps", eps)

    def loss(value: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        prediction, target = returned("the model", value(example.obs)), example.extras["return"]
        if eps is None:
            same_shapes(**{"the value": prediction, "extras['return']": target})
            result = (prediction - target) ** 2
        else:
            result = clipped_value_loss(prediction, example.extras["value"], target, eps)
        return result, {"loss": result, "value": prediction}

    return loss


def explained_variance(value: Float[Array, "*batch"], target: Float[Array, "*batch"]) -> Scalar:
    """1 - Var(target - value) / Var(target): 1 is perfect, 0 no better than a constant.

    It is 0 for a target that is constant up to rounding.

    Examples:
        >>> target = jnp.array([1.0, 2.0, 3.0])
        >>> print(explained_variance(target, target), explained_variance(jnp.zeros(3), target))
        1.0 0.0
    """
    same_shapes(value=value, target=target)
    _, _, deviation = spread(target)
    safe = jnp.where(deviation > 0, deviation, 1)
    _, _, left = spread(target - value)
    return jnp.where(deviation > 0, 1 - (left / safe) ** 2, 0)
