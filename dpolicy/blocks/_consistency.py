"""Policies that sample a consistency function, and what the methods that climb a critic through one share."""

from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import Count, Sizes, one_of, within
from dpolicy._types import Key
from dpolicy.blocks._field_policy import FieldPolicy
from dpolicy.fields import EMBEDDINGS, AbstractEmbedding, ConsistencyField, Karras
from dpolicy.networks import Activation, Initialisation
from dpolicy.networks._mlp import check_residual
from dpolicy.recipe import tunable
from dpolicy.samplers import consistency


def grid_levels(steps: int, levels: int) -> tuple[float, ...]:
    """Times of the calls after the first at every `levels / steps`-th of a grid of so many levels (CPQL's code).

    Raises:
        ValueError: For more steps than levels that have noise.
    """
    if steps >= levels:
        raise ValueError(f"sampler_steps must be below levels, {levels}, got {steps}.")
    return tuple(1 - (levels * i // steps) / (levels - 1) for i in range(1, steps))


def linear_levels(steps: int, schedule: Karras, lowest: float = 2.0) -> Float[Array, " {steps}-1"]:
    """Times of the calls after the first at noise that falls linearly to `lowest` (Consistency-AC's code).

    Raises:
        ValueError: For more than one step under a schedule whose noise has not `lowest` between its ends.
    """
    if steps > 1:
        _checks.in_range("sigma_min", schedule.sigma_min, 0.0, lowest, open_low=True, open_high=True)
        _checks.in_range("sigma_max", schedule.sigma_max, lowest, open_low=True)
    high, gaps = schedule.sigma_max, max(steps - 1, 1)
    sigmas = [high + (lowest - high) * i / gaps for i in range(1, steps)]
    return schedule.time(jnp.asarray(sigmas, float))


@tunable(
    "inward",
    "data_std",
    "sigma_min",
    "sigma_max",
    "sampler_steps",
    "hidden",
    "obs_hidden",
    "activation",
    "embedding",
    "initialisation",
    "residual",
)
def consistency_policy(
    *,
    preconditioned: bool = True,
    denoiser: bool = False,
    clip_inside: bool = True,
    later: Callable[[Karras, int], Any],
    inward: bool = False,
    data_std: Annotated[float, within(0, open_low=True)] = 0.5,
    sigma_min: Annotated[float, within(0, open_low=True)] = 0.002,
    sigma_max: Annotated[float, within(0, open_low=True)] = 80.0,
    sampler_steps: Count = 1,
    hidden: Sizes = (256, 256, 256),
    obs_hidden: Sizes = (),
    activation: Activation = "mish",
    embedding: Annotated[str, one_of(EMBEDDINGS)] | Callable[[Key], AbstractEmbedding] = "sinusoidal_mlp",
    initialisation: Initialisation = "orthogonal",
    residual: bool = False,
) -> FieldPolicy:
    """A consistency function and its sampler, whose actions are in [-1, 1].

    Args:
        preconditioned: Whether its network sees c_in x and 250 log h, or x and h; see `ConsistencyField`.
        denoiser: Whether it is EDM's denoiser, of which one call is the mean of what may have led to x.
        clip_inside: Whether every value of the function is clipped to the box, or the action alone.
        later: `(schedule, steps) -> times` of the calls after the first.
        inward: Whether an action that was clipped has the gradient that leads back into the box; none as published.
        data_std: Deviation of actions that the function is scaled for.
        sigma_min: The least noise, at which the function is the identity.
        sigma_max: The noise that it starts from.
        sampler_steps: Calls of the function for an action.
        hidden: Widths of the function's network.
        obs_hidden: Widths of a network of its own for the observation, before that; none unless given.
        activation: Activation of the function's network.
        embedding: Of the noise: sinusoidal_mlp, or another of `EMBEDDINGS`.
        initialisation: Of the function's weights; see `dpolicy.networks`.
        residual: Whether pairs of hidden layers have a shortcut; their widths must be equal, and odd in number.

    Raises:
        ValueError: For an unknown name or a number out of its range.
    """
    check_residual(residual, hidden=hidden)
    schedule = Karras(sigma_min, sigma_max)

    def make(key: Key, spec: Any) -> ConsistencyField:
        return ConsistencyField(
            spec.obs_size,
            spec.action_size,
            schedule=schedule,
            data_std=data_std,
            preconditioned=preconditioned,
            denoiser=denoiser,
            clip=1.0 if clip_inside else None,
            inward=inward,
            hidden=hidden,
            obs_hidden=obs_hidden,
            activation=activation,
            embedding=embedding,
            initialisation=initialisation,
            residual=residual,
            key=key,
        )

    sampler = consistency(
        later=later(schedule, sampler_steps), clip=None if clip_inside else 1.0, inward=inward
    )
    return FieldPolicy(schedule, make, sampler)
