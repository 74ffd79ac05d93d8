"""Reverse steps of a chain as actions of their own: the value of a noised action, and one step that climbs it."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpolicy._checks import function, in_range, integer, non_negative, one_key, one_of
from dpolicy._types import Action, Key, Loss, Metrics, Number, Observation, Scalar
from dpolicy.fields import AbstractField
from dpolicy.losses.value import bellman, reduce_ensemble
from dpolicy.networks import mean_of
from dpolicy.samplers import step_divergence

Step: TypeAlias = Int[Array, ""] | int
# `(field, obs, x, step, key) -> (value, divergence)` of the point x_n from which `step` starts.
StepValue: TypeAlias = Callable[..., tuple[Scalar, Scalar]]


def step_value(
    sampler: Any,
    other: AbstractField,
    q: Callable[[Observation, Action], Any],
    v: Callable[[Action, Scalar, Observation], Float[Array, " m"]],
    eta: Number,
    *,
    draws: int = 10,
    how: str = "lcb",
    pessimism: Number = 1.0,
) -> StepValue:
    r"""The value of x_n by one reverse step: what it leads to, less eta times its divergence from another chain.

    $$ V_n(x_n, s) = E_{x_{n-1} \sim \pi(\cdot | x_n, s)} [V_{n-1}(x_{n-1}, s)] - \eta\, l_n(x_n, s), \qquad V_0 = Q. $$

    The mean over x_{n-1} is taken within each critic, then the critics are reduced; the last step draws no noise. Its
    optimum over all kernels is eta log E_nu[exp(Q(x_0) / eta) | x_n], nu the other chain. It is differentiable in the
    field, through the mean of the step. Source: BDPO (arXiv 2502.04778).

    Args:
        sampler: `ddpm(variance="beta")`; see `step_divergence` for l_n.
        other: The field of the chain that it is to stay near.
        q: Critics of actions, `(obs, action) -> values`; of laws the means count.
        v: Critics of noised actions, `(x, t, obs) -> values`.
        eta: Weight of the divergence.
        draws: Of the noise of the step.
        how: Of the critics: min, mean, or lcb, the mean minus `pessimism` deviations.
        pessimism: Of lcb.

    Returns:
        `(field, obs, x, step, key) -> (value, l_n)`; step 0 is the noisiest.

    Examples:
        >>> chain, ones = dp.samplers.ddpm(steps=4), lambda x, t, obs: jnp.ones(2)
        >>> value = step_value(chain, field, lambda obs, a: jnp.stack([q(obs, a), 3.0]), ones, 0.5, how="min")
        >>> print(value(field, obs, jnp.zeros(2), 0, key), value(field, obs, jnp.zeros(2), 3, key)[0])
        (Array(1., dtype=float32), Array(0., dtype=float32)) 0.0
    """
    function("q", q, "(obs, action) -> values")
    function("v", v, "(x, t, obs) -> values")
    non_negative("eta", eta)
    integer("draws", draws)
    one_of("how", how, ("min", "mean", "lcb"))
    in_range("pessimism", pessimism)

    def value(
        field: AbstractField, obs: Observation, x: Action, step: Step, key: Key
    ) -> tuple[Scalar, Scalar]:
        mean, std = sampler.kernel(field, x, obs, step)
        points = mean[None] + std * jax.random.normal(one_key(key), (draws, *x.shape), x.dtype)
        after = sampler.grid(field)[step + 1]
        reduced = lambda values: reduce_ensemble(jnp.mean(values, axis=0), how, pessimism=pessimism)
        of_actions = reduced(jax.vmap(lambda a: mean_of(q(obs, sampler.finish(a))))(points))
        of_points = reduced(jax.vmap(lambda x: v(x, after, obs))(points))
        divergence = step_divergence(sampler, field, other, x, obs, step)
        ahead = jnp.where(jnp.asarray(step) == sampler.steps - 1, of_actions, of_points)
        return ahead - eta * divergence, divergence

    return value


def _noised(sampler: Any, field: AbstractField, action: Action, key: Key) -> tuple[Action, Scalar, Step]:
    """A noised action x_n, its time and the step that starts there, n uniform on those of the sampler."""
    step_key, noise_key = jax.random.split(key)
    step = jax.random.randint(step_key, (), 0, sampler.steps)
    t, schedule = sampler.grid(field)[step].astype(action.dtype), field.schedule
    noise = jax.random.normal(noise_key, action.shape, action.dtype)
    return schedule.alpha(t) * action + schedule.sigma(t) * noise, t, step


def step_regression(sampler: Any, field: AbstractField, value: StepValue, *, reduction: str = "mean") -> Loss:
    """(V(x_n, t_n, s) - y)^2, y = `value` of one step of `field` from x_n, the data's action with the noise of level n.

    The model is called `v(x, t, obs)` and may return a vector of values. Source: BDPO (arXiv 2502.04778), whose code
    noises the data's actions where the paper has chains of the policy.

    Args:
        sampler: Its steps, of which one is drawn.
        field: What takes the step; not differentiated.
        value: See `step_value`.
        reduction: Over the members of an ensemble, mean or sum.

    Examples:
        >>> two = lambda field, obs, x, step, key: (jnp.array(2.0), jnp.array(0.0))
        >>> loss = step_regression(dp.samplers.ddpm(steps=4), field, two)
        >>> print(loss(lambda x, t, obs: jnp.zeros(3), example, key)[0])
        4.0
    """
    function("value", value, "(field, obs, x, step, key) -> (value, divergence)")

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        point_key, step_key = jax.random.split(one_key(key))
        x, t, step = _noised(sampler, field, example.action, point_key)
        goal, divergence = value(field, example.obs, x, step, step_key)
        fit = bellman(lambda example, key: goal, reduction=reduction)
        result, metrics = fit(lambda obs, action: model(x, t, obs), example, step_key)
        return result, {**metrics, "divergence": divergence}

    return loss


def step_ascent(sampler: Any, value: StepValue) -> Loss:
    """-`value` of one step of the model from x_n, the data's action with the noise of level n: its gradient is exact.

    No gradient passes more than that step. Source: BDPO (arXiv 2502.04778).

    Args:
        sampler: Its steps, of which one is drawn.
        value: See `step_value`.

    Examples:
        >>> two = lambda field, obs, x, step, key: (jnp.array(2.0), jnp.array(0.0))
        >>> print(step_ascent(dp.samplers.ddpm(steps=4), two)(field, example, key)[0])
        -2.0
    """
    function("value", value, "(field, obs, x, step, key) -> (value, divergence)")

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        point_key, step_key = jax.random.split(one_key(key))
        x, _, step = _noised(sampler, model, example.action, point_key)
        found, divergence = value(model, example.obs, x, step, step_key)
        return -found, {"loss": -found, "value": found, "divergence": divergence}

    return loss
