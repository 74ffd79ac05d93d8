"""The MeanFlow loss: a field of average velocities, fitted by its own derivative along the path."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dpolicy._checks import fraction, instance, one_key
from dpolicy._select import weighed
from dpolicy._types import Key, Loss, Metrics, Number, Scalar
from dpolicy.fields import MeanField, express
from dpolicy.losses.match import Chain, Transform, chain, same_schedule, sound_match, start, weight_metrics


def mean_flow_matching(transform: Transform, *, equal_share: Number = 0.0) -> Loss:
    r"""Weighted MeanFlow regression of the average velocity u(x, r, t, s) over [r, t].

    $$ L = \sum_k w_k\, \mathrm{mean}_a\, ( u(x_k, r_k, t_k, s) - \mathrm{sg}[v_k - (t_k - r_k)\, \dot u_k] )^2 $$

    with v = dalpha a + dsigma eps of the chain's target and \dot u the derivative of u along (v, 0, 1) in (x, r, t), by
    forward mode. r ~ U(t_min, t), or r = t with probability `equal_share`, where the loss is flow matching. With t
    from `perturb(schedule, times="later")` the pair is two sorted uniform draws. The minimiser is the average
    velocity of the density (law of the candidates) x (weight). Source: Geng et al. 2025 (arXiv 2505.13447, eqs. 9-11).

    Args:
        transform: A chain, or a single transform, that adds forward noise.
        equal_share: Probability of r = t.

    Returns:
        A loss on a `MeanField` whose metrics are `loss`, `target` (the mean of |target|), and those of
        `weight_metrics`.

    Raises:
        ValueError: For a chain that adds no noise, or another schedule than the field's.

    Examples:
        >>> shape = {"hidden": (4,), "embedding": "cos_sin", "initialisation": "torch"}
        >>> field = dp.MeanField(1, 2, schedule=schedule, key=key, **shape)
        >>> print(mean_flow_matching(perturb(schedule, times="later"))(field, example, key)[0].shape)
        ()
    """
    fraction("equal_share", equal_share)
    links = transform if isinstance(transform, Chain) else chain(transform)

    def loss(field: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        instance("the model of mean_flow_matching", field, MeanField, "a MeanField")
        chain_key, time_key, equal_key = jax.random.split(one_key(key), 3)
        match = jax.lax.stop_gradient(links(example, start(example), chain_key))
        schedule = same_schedule(match, field)
        match, obs = sound_match(match, example.obs)
        points = match.x.shape[0]
        if match.action.shape[0] != points:
            raise ValueError("mean_flow_matching fits forward noise: no reverse_sample in its chain.")
        low = schedule.t_min
        r = low + (match.t - low) * jax.random.uniform(time_key, (points,), match.t.dtype)
        equal = jax.random.bernoulli(equal_key, equal_share, (points,))
        r = jnp.where(equal, match.t, r)
        velocity = jax.vmap(partial(express, schedule=schedule, prediction="velocity"))(
            match.target.data, match.target.noise, match.t
        )

        def error(x, r, t, v):
            def average(x, r, t):
                return field.average(x, r, t, obs)

            # Along the path x moves by v as t does by 1; r stays.
            tangents = v, jnp.zeros_like(r), jnp.ones_like(t)
            u, rate = jax.jvp(average, (x, r, t), tangents)
            target = jax.lax.stop_gradient(v - (t - r) * rate)
            return jnp.mean((u - target) ** 2), target

        squared, target = jax.vmap(error)(match.x, r, match.t, velocity)
        result = jnp.sum(weighed(match.weight, squared))
        return result, {"loss": result, "target": jnp.mean(jnp.abs(target)), **weight_metrics(match)}

    return loss
