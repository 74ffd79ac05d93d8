"""How far a chain of Gaussian steps is from another one: the divergence of a step, and of a whole path."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.fields import AbstractField
from dpolicy.samplers._grid import check_field
from dpolicy.samplers._path import accumulated
from dpolicy.samplers._predict import predict_pair
from dpolicy.samplers.ancestral import Ancestral, Coefficients


def _check_chain(sampler: Any) -> None:
    if not (isinstance(sampler, Ancestral) and getattr(sampler.rule, "variance", None) == "beta"):
        raise ValueError(
            "sampler must be ddpm(variance='beta'), whose every step has a width, the last one too, got "
            f"{sampler.rule if isinstance(sampler, Ancestral) else sampler!r}."
        )


def _wide(sampler: Ancestral, field: AbstractField) -> Coefficients:
    """The coefficients of all steps, with the width of the last one, too, whether it draws its noise or not."""
    return dataclasses.replace(sampler, final_noise=True).coefficients(field)


def _divergence(
    field: AbstractField, other: AbstractField, x: Action, row: Coefficients, obs: Observation
) -> Scalar:
    ours, _ = predict_pair(field, x, row.t, obs)
    theirs, _ = predict_pair(other, x, row.t, obs)
    return 0.5 * jnp.sum((row.data / row.std * (ours - theirs)) ** 2)


def step_divergence(
    sampler: Any,
    field: AbstractField,
    other: AbstractField,
    x: Action,
    obs: Observation,
    step: int | Int[Array, ""],
) -> Scalar:
    r"""KL(N(m, s_n^2) || N(m', s_n^2)) = |m - m'|^2 / (2 s_n^2) of one reverse step from x_n with two fields.

    Of a variance-preserving chain with s_n^2 = beta_n, in noise predictions,

    $$ l_n = \frac{\beta_n |\epsilon - \epsilon'|^2}{2 (1 - \beta_n) (1 - \bar\alpha_n)}. $$

    The clip of the predicted action is left out, so that there is a gradient where it is active, and the last step
    counts with the width that it would draw with. Source: BDPO (arXiv 2502.04778), and its code for both.

    Args:
        sampler: `ddpm(variance="beta")`, whose steps have widths that are not zero.
        field: The field of the first chain.
        other: That of the second.
        x: x_n.
        obs: The observation.
        step: 0 is the noisiest, steps - 1 the last.

    Raises:
        ValueError: For another sampler.

    Examples:
        >>> print(step_divergence(ddpm(steps=4), point, point, jnp.ones(2), obs, 3))
        0.0
    """
    _check_chain(sampler)
    check_field(other)
    if not isinstance(step, jax.Array):
        _checks.integer("step", step, 0, sampler.steps - 1)
    row = jax.tree.map(lambda leaf: leaf[step], _wide(sampler, field))
    return _divergence(field, other, x, row, obs)


def path_divergence(
    sampler: Any,
    field: AbstractField,
    other: AbstractField,
    obs: Observation,
    key: Key,
    *,
    start: Action | None = None,
) -> tuple[Action, Scalar]:
    """A sample of the chain of `field`, and the sum of `step_divergence` from that of `other` along it.

    The mean of the sum is the divergence of the two laws of paths, which is at least that of the actions. It is
    differentiable through the chain.

    Args:
        sampler: `ddpm(variance="beta")`.
        field: The field that is sampled: the action is `sampler(field, obs, key)`.
        other: What it is compared with.
        obs: The observation.
        key: Draws x_1 and the noise of all steps.
        start: x_1 itself.

    Raises:
        ValueError: For another sampler.

    Examples:
        >>> action, divergence = path_divergence(ddpm(steps=4), point, point, obs, key)
        >>> print(action, divergence)
        [ 0.5 -0.5] 0.0
    """
    _check_chain(sampler)
    check_field(other)
    _checks.one_key(key)

    def step(x: Action, rows: Any) -> tuple[Action, Scalar]:
        drawn, std = rows
        # With the row of the step, so that the field is evaluated once for both.
        return sampler.step(field, x, drawn, obs), _divergence(
            field, other, x, drawn[0]._replace(std=std), obs
        )

    x, rows = sampler.start(field, key, start), (sampler.rows(field, key), _wide(sampler, field).std)
    end, total = accumulated(step, x, rows)
    return sampler.finish(end), total
