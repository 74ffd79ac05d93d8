"""Values under a regulariser that keeps a policy near the data, found without a sample of the policy."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import critic, function, in_range, positive, returned
from dpolicy._types import Critic, Key, Loss, Metrics, Number, Scalar

# Of u = (Q - V) / temperature, elementwise: a conjugate f*, or the weight that is its derivative.
OfAdvantage: TypeAlias = Callable[[Array], Array]


def sparse_conjugate(u: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """max(1 + u / 2, 0)^2: of the regulariser pi / nu - 1, the chi-squared divergence (SQL, arXiv 2303.15810).

    Examples:
        >>> print(sparse_conjugate(jnp.array([-3.0, 0.0, 2.0])))
        [0. 1. 4.]
    """
    return sparse_weight(u) ** 2


def sparse_weight(u: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The derivative of `sparse_conjugate`: max(1 + u / 2, 0), nothing below u = -2; u = (Q - V) / alpha.

    Examples:
        >>> print(sparse_weight(jnp.array([-3.0, 0.0, 2.0])))
        [0. 1. 2.]
    """
    return jnp.maximum(1 + u / 2, 0)


def exponential_conjugate(u: Float[Array, "*batch"], bound: Number | None = None) -> Float[Array, "*batch"]:
    """exp(u): of the regulariser log(pi / nu), the KL divergence (EQL, arXiv 2303.15810).

    Beyond a bound it goes on in its tangent there, so that it stays convex, its derivative being exp(bound).

    Examples:
        >>> print(exponential_conjugate(jnp.array([0.0, 2.0]), 1.0))
        [1.    5.437]
    """
    if bound is None:
        return jnp.exp(u)
    in_range("bound", bound)
    return jnp.exp(jnp.minimum(u, bound)) * (1 + jnp.maximum(u - bound, 0))


def regularised_value(q: Critic, conjugate: OfAdvantage, temperature: Number) -> Loss:
    r"""Fit V(s) to the value of the best policy that is charged for leaving the data; the model is called `value(obs)`.

    $$ L = f^*(u) + V(s) / \alpha, \qquad u = (Q(s, a) - V(s)) / \alpha, $$

    over the data's actions only. It is stationary where the weights of the data's actions, the derivative of the
    conjugate, have mean 1: then nu times them is a policy, the best one. With `exponential_conjugate` V is
    alpha log E exp(Q / alpha), with `sparse_conjugate` a threshold below which actions weigh nothing
    (implicit value regularisation, arXiv 2303.15810, SQL and EQL); with `f_dice_conjugate` that of Diffusion-DICE
    (arXiv 2407.20109).

    Args:
        q: The critic.
        conjugate: f*, elementwise.
        temperature: alpha, in units of q; above 0.

    Examples:
        >>> loss = regularised_value(lambda obs, action: jnp.array(2.0), sparse_conjugate, 0.5)
        >>> print(loss(lambda obs: jnp.array(1.0), example, key)[0])
        6.0
    """
    critic("q", q)
    function("conjugate", conjugate, "u -> f*(u)")
    positive("temperature", temperature)

    def loss(value: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        prediction = returned("the model", value(example.obs))
        goal = jax.lax.stop_gradient(returned("q", q(example.obs, example.action)))
        cost = returned("conjugate", conjugate((goal - prediction) / temperature))
        result = cost + prediction / temperature
        return result, {"loss": result, "value": prediction}

    return loss


def regularised_weight(
    q: Critic,
    value: Callable[[Any], Scalar],
    weight: OfAdvantage,
    temperature: Number,
    *,
    largest: Number = 100.0,
) -> Callable[[Any], Scalar]:
    """What the data's action weighs in the policy of `regularised_value`: min(weight(u), largest); for `weighted`.

    Args:
        q: The critic.
        value: obs -> scalar, what was fitted.
        weight: The derivative of the conjugate: `sparse_weight`, `f_dice_weight`; for the exponential there is
            `exponential_advantage`.
        temperature: In units of q; above 0.
        largest: Bound on the weight.

    Examples:
        >>> weight = regularised_weight(q, lambda obs: jnp.array(-0.2), sparse_weight, 0.1)
        >>> print(f"{weight(example):.2f}")
        1.00
    """
    critic("q", q)
    function("value", value, "obs -> scalar")
    function("weight", weight, "u -> weight")
    positive("temperature", temperature)
    positive("largest", largest)

    def weigh(example: Any) -> Scalar:
        gap = returned("q", q(example.obs, example.action)) - returned("value", value(example.obs))
        return jax.lax.stop_gradient(jnp.minimum(returned("weight", weight(gap / temperature)), largest))

    return weigh
