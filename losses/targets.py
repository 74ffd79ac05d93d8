"""Transforms that change the target of the regression."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._batch import batch_mean
from dpolicy._blocks import in_blocks
from dpolicy._checks import boolean, critic, fraction, in_range, one_of, positive, returned
from dpolicy._select import sound, weighed
from dpolicy._types import Critic, Key, Number
from dpolicy.losses.match import Match, Target, Transform, compared
from dpolicy.losses.weights import require_candidates, softmax_weights, values, with_weight

_SMALL = 1e-6


def _scales(name: str, match: Match) -> tuple[Float[Array, "p 1"], Float[Array, "p 1"]]:
    """alpha and sigma at the noised points; `ValueError` before any noise was added."""
    if match.schedule is None:
        raise ValueError(f"{name} must come after perturb: it sets the target at a noised point.")
    return match.schedule.alpha(match.t)[:, None], match.schedule.sigma(match.t)[:, None]


def _require_single(name: str, match: Match) -> None:
    if match.x.shape[0] != match.action.shape[0]:
        raise ValueError(f"{name} must not follow reverse_sample; use smoothed_score there.")


def _of_noise(x: Float[Array, "p a"], noise: Float[Array, "p a"], alpha: Array, sigma: Array) -> Target:
    """The pair whose noise is `noise`; its data part grows as 1 / alpha towards t = 1."""
    return Target((x - sigma * noise) / alpha, noise)


def _with_gradients(
    q: Critic, example: Any, actions: Float[Array, "k a"]
) -> tuple[Float[Array, " k"], Float[Array, "k a"]]:
    return in_blocks(jax.value_and_grad(lambda a: returned("q", q(example.obs, a))), actions)


def q_score(q: Critic, temperature: Number, *, variant: str = "paper") -> Transform:
    """Q-score matching: the score at the noised point is the gradient of Q there (arXiv 2312.11752).

    The noise targets y, with G = grad_a Q(s, x_t):

    - `paper`: y = -sigma_t G / temperature, i.e. score = G / temperature.
    - `official`: y = -G / temperature, without the factor sigma_t; its M_q is 1 / temperature.
    - `flowrl`: y = -sigma_t G / (temperature (mean |G| + 1e-6)), the mean over coordinates and, under the
      axis "batch", over the batch: the temperature is relative to the scale of the gradient.

    Fit a field that predicts noise or score: the same target as a velocity or as data is singular as t -> 1.
    The target is the score of the unsmoothed density; smoothed, it is `smoothed_score`.

    Examples:
        >>> match = chain(perturb(schedule), q_score(q, 2.0))(example, start(example), key)
        >>> print(bool(jnp.allclose(match.target.noise, match.t[:, None] * match.x)))
        True
    """
    critic("q", q)
    positive("temperature", temperature)
    one_of("variant", variant, ("paper", "official", "flowrl"))

    def transform(example: Any, match: Match, key: Key) -> Match:
        alpha, sigma = _scales("q_score", match)
        _require_single("q_score", match)
        if match.estimate:
            raise ValueError("q_score must not follow a link that estimates the target: it would replace it.")
        _, gradient = _with_gradients(q, example, match.x)
        if variant == "flowrl":
            gradient = gradient / (batch_mean(jnp.mean(jnp.abs(gradient))) + _SMALL)
        noise = -gradient / temperature if variant == "official" else -sigma * gradient / temperature
        target = _of_noise(match.x, noise, alpha, sigma)
        return dataclasses.replace(match, target=target, estimate=True)

    return transform


def add_q_score(q: Critic, scale: Number, *, normaliser: Critic | None = None) -> Transform:
    """Add scale * grad_a Q(s, x_t) to the score of the target: noise <- noise - sigma_t scale grad Q.

    Source: DAC (arXiv 2405.20555), where scale = 1 / (2 eta) in the mean-over-coordinates reduction. With a
    `normaliser` the scale is divided by the batch mean of |normaliser(obs, action)| at the chain's actions.

    Examples:
        >>> match = perturb(schedule)(example, start(example), key)
        >>> moved = add_q_score(q, 0.5)(example, match, key).target.noise - match.target.noise
        >>> print(bool(jnp.allclose(moved, match.t[:, None] * match.x, atol=1e-6)))
        True
    """
    critic("q", q)
    in_range("scale", scale)
    if normaliser is not None:
        critic("normaliser", normaliser)

    def transform(example: Any, match: Match, key: Key) -> Match:
        alpha, sigma = _scales("add_q_score", match)
        _require_single("add_q_score", match)
        factor = scale
        if normaliser is not None:
            factor = scale / (
                batch_mean(jnp.mean(jnp.abs(values(normaliser, example, match, "normaliser")))) + _SMALL
            )
        noise = match.target.noise - sigma * factor * _with_gradients(q, example, match.x)[1]
        return eqx.tree_at(lambda m: m.target, match, _of_noise(match.x, noise, alpha, sigma))

    return transform


def smoothed_score(
    q: Critic,
    temperature: Number,
    *,
    normalise: bool = False,
    noise_share: Number = 0.0,
    max_norm: Number | None = None,
) -> Transform:
    """The score of the smoothed density by importance sampling (iDEM, arXiv 2402.06121; FlowRL, eq. 13).

    One noise target for each noised point, from reverse proposals a_i = (x - sigma e_i) / alpha of weights
    w = softmax_i(Q(s, a_i) / temperature), of two forms mixed as noise_share * first + (1 - noise_share) * second:

        noise form       sum_i w_i e_i
        gradient form    -(sigma / alpha) sum_i w_i grad_a Q(s, a_i) / temperature

    The noise form is right for every proposal with the base measure it stands for. The gradient form follows from it
    by parts and drops the flux through the faces of the box, so it is right only where exp(Q / temperature) vanishes
    there (on the bandit `faces` at .5 it puts .87 on a > .9, where .385 is right, the noise form .39); its error is
    smaller for small t and smooth Q, and grows as sigma / alpha: use `matching(..., time_weight="tamed")`. Where a
    proposal was clipped no gradient passes.

    Args:
        q: The critic; (obs, action) -> scalar.
        temperature: In units of Q.
        normalise: Measure the temperature in units of the batch mean of |grad Q|.
        noise_share: 0 is iDEM, 1 the target of MaxEntDP.
        max_norm: Bound on the norm of the score sum_i w_i grad_a Q / temperature (iDEM: 20 or 70).

    Examples:
        >>> links = chain(perturb(schedule), reverse_sample(schedule, 8), smoothed_score(q, 0.1))
        >>> print(links(example, start(example), key).target.noise.shape)
        (1, 2)
    """
    critic("q", q)
    positive("temperature", temperature)
    boolean("normalise", normalise)
    fraction("noise_share", noise_share)
    if max_norm is not None:
        positive("max_norm", max_norm)

    def transform(example: Any, match: Match, key: Key) -> Match:
        alpha, sigma = _scales("smoothed_score", match)
        require_candidates("smoothed_score", match)
        value, gradient = _with_gradients(q, example, match.action)
        # Where the proposal was clipped the action does not move with it.
        gradient = jnp.where(match.action == match.target.data, gradient, 0)
        gradient = sound(match.weight != 0, gradient)
        scale = temperature
        if normalise:
            scale = temperature * (batch_mean(jnp.mean(jnp.abs(gradient))) + _SMALL)
        weight = softmax_weights(value / scale, match)
        score = _group_mean(gradient, weight, match) / scale
        if max_norm is not None:
            # Nothing in a chain is differentiated, so the root may be taken at 0.
            norm = jnp.sqrt(jnp.sum(score**2, axis=1, keepdims=True))
            score = score * (max_norm / jnp.maximum(norm, max_norm))
        noise = -(sigma / alpha) * score
        mean = _group_mean(match.target.noise, weight, match)
        noise = noise_share * mean + (1 - noise_share) * noise
        return _collapse(with_weight(match, weight), _of_noise(match.x, noise, alpha, sigma))

    return transform


def posterior_mean() -> Transform:
    """Replace the targets of each noised point by their weighted mean (MaxEntDP, arXiv 2502.11612).

    The gradient of the loss stays the same, draw by draw; only a constant, the weighted spread of targets,
    drops out.

    Examples:
        >>> links = chain(perturb(schedule), reverse_sample(schedule, 8), boltzmann(q, 0.1), posterior_mean())
        >>> print(links(example, start(example), key).target.data.shape)
        (1, 2)
    """

    def transform(example: Any, match: Match, key: Key) -> Match:
        _scales("posterior_mean", match)
        require_candidates("posterior_mean", match)
        data, noise = match.target.data, match.target.noise
        target = Target(_group_mean(data, match.weight, match), _group_mean(noise, match.weight, match))
        return _collapse(match, target)

    return transform


def _group_mean(value: Float[Array, "k a"], weight: Float[Array, " k"], match: Match) -> Float[Array, "p a"]:
    points, (size, dim) = match.x.shape[0], value.shape
    if points == size:
        raise ValueError(
            "this link needs several candidates for each noised point: put reverse_sample before it."
        )
    weight = weight.reshape(points, -1, 1)
    total = jnp.sum(weight, axis=1)
    return jnp.sum(weighed(weight, value.reshape(points, -1, dim)), axis=1) / jnp.where(total > 0, total, 1)


def _collapse(match: Match, target: Target) -> Match:
    """One candidate for each noised point: its group's total weight, `target`, and the clean action it implies.

    How uneven the weights were is reported.
    """
    points = match.x.shape[0]
    weight = jnp.sum(match.weight.reshape(points, -1), axis=1)
    report = {**match.report, **compared(match)}
    return Match(
        target.data, match.x, match.t, target, weight, match.schedule, 1, match.normalised, report, True
    )
