"""What a sampler asks of a field at one point: its velocity, or the pair (clean action, noise), clipped or not."""

import jax.numpy as jnp

from dpolicy import fields
from dpolicy._types import Action, Observation, Scalar
from dpolicy.fields._predictions import evaluate
from dpolicy.samplers._grid import Number


def predict_pair(
    field: fields.AbstractField,
    x: Action,
    t: Scalar,
    obs: Observation,
    *,
    clip: Number | None = None,
    recompute: bool = True,
) -> tuple[Action, Action]:
    """The predicted (clean action, noise) at (x, t), whatever the field predicts; one evaluation.

    The clean action is clipped to [-clip, clip]. With `recompute` the noise follows, (x - alpha data) / sigma, so
    that the pair still adds up to `x`; without, it stays as predicted (FlowRL's DDIM).
    """
    schedule = field.schedule
    value = evaluate(field, x, t, obs)
    data, noise = fields.as_pair(value, x, t, schedule=schedule, prediction=field.prediction)
    if clip is None:
        return data, noise
    data = jnp.clip(data, -clip, clip)
    if recompute:
        sigma = schedule.sigma(t)
        positive = sigma > 0
        # The inner `where` keeps the branch not taken finite: its gradient would be nan otherwise.
        implied = (x - schedule.alpha(t) * data) / jnp.where(positive, sigma, 1.0)
        noise = jnp.where(positive, implied, noise)
    return data, noise


def predict_velocity(
    field: fields.AbstractField, x: Action, t: Scalar, obs: Observation, *, clip: Number | None = None
) -> Action:
    """dx/dt of the probability-flow ODE, dalpha data + dsigma noise, the clean action clipped to [-clip, clip]."""
    if clip is None:
        return fields.predict_velocity(field, x, t, obs)
    data, noise = predict_pair(field, x, t, obs, clip=clip)
    return fields.express(data, noise, t, schedule=field.schedule, prediction="velocity")
