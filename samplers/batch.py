"""Sampling a whole batch by one diffrax solve: fast in reverse mode, where a `vmap` of diffrax solves is not."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Key
from dpolicy.fields import AbstractField
from dpolicy.samplers._grid import bounded, check_field
from dpolicy.samplers._ode import ODE
from dpolicy.samplers._sde import SDE, Increment


def solve(
    sampler: Callable[..., Any],
    field: AbstractField,
    obs: Float[Array, "b o"],
    key: Key,
    *,
    start: Float[Array, "b a"] | None = None,
) -> Float[Array, "b a"]:
    """One action per observation: what `vmap(sampler)(obs, split(key, b))` gives, by ONE diffrax solve of the batch.

    With "tsit5" the batch shares its step sizes, so that the two agree to the tolerances only.

    Args:
        sampler: Of `ode` or `sde`.
        field: Differentiable; the gradient keeps one state per step and one parameter cotangent for the batch.
        obs: The batch.
        key: One for all of it.
        start: The x_1 of every example.

    Raises:
        ValueError: For any other sampler, and for shapes that do not fit.

    Examples:
        >>> print(solve(ode(steps=4), point, jnp.zeros((3, 1)), key).shape)
        (3, 2)
    """
    if not isinstance(sampler, ODE | SDE):
        name = type(sampler).__name__
        raise ValueError(f"sampler must come from ode or sde to be one differential equation, got {name}.")
    if sampler.control is not None:
        raise ValueError("a sampler whose gradient is controlled has no single solve of a batch: vmap it.")
    from dpolicy.samplers._diffrax import solve_ode, solve_sde

    check_field(field)
    if np.ndim(obs) != 2:
        raise ValueError(f"obs must be a batch of shape (b, o), got {np.shape(obs)}.")
    if start is not None:
        _checks.shaped("start", start, (obs.shape[0], field.action_size))
    keys = jax.random.split(_checks.one_key(key), obs.shape[0])
    x = jax.vmap(lambda key, start: sampler.start(field, key, start))(keys, start)
    if isinstance(sampler, SDE):
        # Of the rows only the noise differs between examples; it goes on as [steps, b, a].
        axes = Increment(*[None] * 6, 1)  # pyright: ignore[reportArgumentType]
        rows = jax.vmap(lambda key: sampler.rows(field, key), out_axes=axes)(keys)
        return bounded(solve_sde(sampler, field, obs, x, rows), sampler.clip)
    if sampler.solver == "tsit5":
        return bounded(sampler.adaptive(field, x, obs, all_points=False), sampler.clip)
    return bounded(solve_ode(sampler, field, obs, x), sampler.clip)
