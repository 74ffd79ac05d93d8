"""Fit a one-step policy to the endpoint of a sampler."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpolicy._checks import function, one_key, same_shapes
from dpolicy._types import Action, Key, Loss, Metrics, Observation, Scalar


def distil(
    student: Callable[[Any, Observation, Action], Action],
    teacher: Callable[[Observation, Action], Action],
) -> Loss:
    """mean_a (student(model, obs, z) - teacher(obs, z))^2 with the same z ~ N(0, I) in both.

    Source: FQL (arXiv 2502.02538).

    Args:
        student: (model, obs, start) -> action, one network call.
        teacher: (obs, start) -> action, e.g. `lambda obs, z: sampler(field, obs, key, start=z)`; not
            differentiated.

    Examples:
        >>> loss = distil(lambda scale, obs, z: scale * z, teacher=lambda obs, z: 2 * z)
        >>> print(loss(jnp.array(2.0), example, key)[0])
        0.0
    """
    function("student", student, "(model, obs, start) -> action")
    function("teacher", teacher, "(obs, start) -> action")

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        start = jax.random.normal(one_key(key), example.action.shape, example.action.dtype)
        goal = jax.lax.stop_gradient(teacher(example.obs, start))
        action = student(model, example.obs, start)
        same_shapes(student=action, teacher=goal)
        value = jnp.mean((action - goal) ** 2)
        return value, {"loss": value}

    return loss
