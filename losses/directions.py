"""The score of a policy matched to the direction of the critic's gradient, along the policy's own chain."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy._checks import critic, in_range, positive, returned
from dpolicy._types import Action, Critic, Key, Loss, Metrics, Number, Observation, Scalar
from dpolicy.fields import convert
from dpolicy.fields._predictions import evaluate


def q_direction(
    q: Critic, obs: Observation, x: Action, weight: Number = 1.0, *, floor: Number = 1e-6
) -> Action:
    """weight * grad_a Q(s, x) / (|grad_a Q(s, x)| + floor): zero where the gradient is.

    Examples:
        >>> print(q_direction(q, obs, jnp.array([3.0, -4.0]), 2.0))
        [-1.2  1.6]
    """
    critic("q", q)
    in_range("weight", weight)
    positive("floor", floor)
    gradient = jax.grad(lambda a: returned("q", q(obs, a)))(x)
    return weight * gradient / (jnp.sqrt(jnp.sum(gradient**2)) + floor)


def match_directions(
    sampler: Any, q: Critic, *, slope: Number = 0.4, offset: Number = -1.8, floor: Number = 1e-6
) -> Loss:
    """|S(s, x_i, t_i) - w(i) grad_a Q(s, x_i) / (|grad_a Q(s, x_i)| + floor)|^2: DACERv2 (arXiv 2505.23426).

    x_i is a state of the policy's own chain before one of its steps, i = N (noise) to 1 uniformly, and carries no
    gradient; S is the field's score; w(i) = exp(slope i + offset). So that the early steps have a signal of their own.

    It is a bias: the gradient of Q at a noised action is not the score of the noised law, only of its sign where Q is
    quadratic, and its size is lost.

    Args:
        sampler: With `chain` and `grid`, as all of fixed steps have.
        q: Whose gradient it follows; (obs, action) -> scalar.
        slope: Of log w in i; the paper leaves it open, .4 and -1.8 are a third party's.
        offset: log w at i = 0.
        floor: Of the gradient's norm.

    Examples:
        >>> loss = match_directions(dp.samplers.ddpm(steps=2), q)
        >>> noise = dp.FunctionField(lambda x, t, obs: 0 * x, schedule=schedule, prediction="noise", action_size=2)
        >>> print(f"{loss(noise, example, key)[0]:.3f}")
        0.135
    """
    critic("q", q)
    in_range("slope", slope)
    in_range("offset", offset)
    positive("floor", floor)

    def loss(field: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        chain_key, step_key = jax.random.split(key)
        still = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, field)
        points, times = sampler.chain(still, example.obs, chain_key), sampler.grid(still)
        row = jax.random.randint(step_key, (), 0, sampler.steps)
        x, t = points[row], times[row]
        weight = jnp.exp(slope * (sampler.steps - row) + offset)
        target = q_direction(q, example.obs, x, weight, floor=floor)
        value = evaluate(field, x, t, example.obs)
        score = convert(value, x, t, schedule=field.schedule, source=field.prediction, target="score")
        result = jnp.sum((score - jax.lax.stop_gradient(target)) ** 2)
        return result, {"loss": result, "weight": weight}

    return loss
