"""Transforms that weigh the candidates."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._batch import batch_max
from dpolicy._blocks import in_blocks
from dpolicy._checks import boolean, critic, function, positive, returned
from dpolicy._select import weighed
from dpolicy._types import Critic, Key, Number, Scalar
from dpolicy.losses.match import WEIGHT_METRICS, Match, Transform


def with_weight(match: Match, weight: Float[Array, " k"], *, normalised: bool = True) -> Match:
    """`match` with other weights, which have the sum of those before unless they are not `normalised`."""
    return dataclasses.replace(match, weight=weight, normalised=match.normalised and normalised)


def require_candidates(name: str, match: Match) -> None:
    """Raise `ValueError` for a single candidate, whose normalised weight is 1 whatever Q says."""
    if match.candidates < 2:
        raise ValueError(
            f"{name} needs at least two candidates, since a single one always weighs 1: put "
            "candidates(policy, n) or reverse_sample(schedule, n) before it."
        )


def values(q: Critic, example: Any, match: Match, name: str = "q") -> Float[Array, " k"]:
    """Q at every candidate.

    The example's observation is not batched, so its share of a layer is computed once.

    Raises:
        ValueError: Under `name` unless q returns scalars.
    """
    return in_blocks(lambda action: returned(name, q(example.obs, action)), match.action)


def softmax_weights(value: Float[Array, " k"], match: Match) -> Float[Array, " k"]:
    """Weights proportional to (incoming weight) x exp(value) in each group, keeping the group's total."""
    counts = match.weight > 0
    # A candidate that weighs nothing may have any value, nan as well.
    logits = jnp.where(counts, value + jnp.log(jnp.where(counts, match.weight, 1)), -jnp.inf)
    logits = logits.reshape(match.groups, -1)
    total = jnp.sum(match.weight.reshape(match.groups, -1), axis=1, keepdims=True)
    return jnp.where(total > 0, total * jax.nn.softmax(logits, axis=1), 0).reshape(-1)


def boltzmann(
    q: Critic,
    temperature: Number,
    *,
    normalise: bool = True,
    clip: Number | None = None,
    rescale: bool = False,
) -> Transform:
    """Weigh by exp(Q / temperature).

    Normalised (the default): w_i = softmax_i(Q_i / temperature) among the candidates of the state, or of each
    noised point after `reverse_sample`; times the weights they had. Otherwise w = exp(Q / temperature), and
    `q` should be centred by the caller (Q - V, or running statistics); any factor that depends on the state
    alone leaves the optimum where it is.

    Args:
        q: The critic; (obs, action) -> scalar.
        temperature: In units of Q.
        normalise: Whether the weights of a state keep their sum.
        clip: Without normalisation, bound on |Q| before it is divided by the temperature.
        rescale: Without normalisation, divide by the largest weight of the batch, so that none overflows.

    Raises:
        ValueError: For a single candidate when normalising.

    Examples:
        >>> print(boltzmann(q, 1.0)(example, two, key).weight)
        [0.731 0.269]
    """
    critic("q", q)
    boolean("normalise", normalise)
    boolean("rescale", rescale)
    if rescale and normalise:
        raise ValueError("rescale needs normalise=False: softmax weights are bounded already.")
    positive("temperature", temperature)
    if clip is not None:
        positive("clip", clip)
        if normalise:
            raise ValueError("clip needs normalise=False: softmax weights are bounded already.")

    def transform(example: Any, match: Match, key: Key) -> Match:
        value = values(q, example, match)
        if normalise:
            require_candidates("boltzmann", match)
            return with_weight(match, softmax_weights(value / temperature, match))
        value = value if clip is None else jnp.clip(value, -clip, clip)
        logits = value / temperature
        if rescale:
            largest = jnp.max(jnp.where(match.weight == 0, -jnp.inf, logits))
            # One factor for the whole batch: the states keep their weights relative to each other.
            logits = logits - batch_max(jax.lax.stop_gradient(largest))
        return with_weight(match, weighed(match.weight, jnp.exp(logits)), normalised=False)

    return transform


def advantage(q: Critic, *, baseline: Callable[[Any], Scalar] | None = None) -> Transform:
    """Weigh by max(Q - V, 0), V the mean of Q over the candidates or `baseline(obs)`.

    Source: QVPO (arXiv 2405.16173), there followed by `best(q)`.

    Raises:
        ValueError: For a single candidate without a baseline: its advantage is 0.

    Examples:
        >>> print(advantage(q)(example, two, key).weight)
        [0.25 0.  ]
    """
    critic("q", q)
    if baseline is not None:
        function("baseline", baseline, "obs -> scalar")

    def transform(example: Any, match: Match, key: Key) -> Match:
        value = values(q, example, match).reshape(match.groups, -1)
        weight = match.weight.reshape(match.groups, -1)
        if baseline is None:
            require_candidates("advantage", match)
            total = jnp.sum(weight, axis=1, keepdims=True)
            mass = jnp.sum(weighed(weight, value), axis=1, keepdims=True)
            # A group that weighs nothing has no mean, and no use for one.
            centre = mass / jnp.where(total > 0, total, 1)
        else:
            centre = returned("baseline", baseline(example.obs))
        above = jnp.maximum(value - centre, 0)
        return with_weight(match, weighed(weight, above).reshape(-1), normalised=False)

    return transform


def weigh(weight: Callable[[Any, Any], Scalar]) -> Transform:
    """Multiply the weights by `weight(obs, action)` >= 0, e.g. an importance ratio or an expectile weight.

    Examples:
        >>> print(weigh(lambda obs, action: 1 + action[0])(example, two, key).weight)
        [0.5 1. ]
    """
    function("weight", weight, "(obs, action) -> scalar")

    def transform(example: Any, match: Match, key: Key) -> Match:
        factor = values(weight, example, match, "weight")
        return with_weight(match, weighed(match.weight, factor), normalised=False)

    return transform


def report(**values_of: Callable[[Any, Any], Scalar]) -> Transform:
    """Leave the record as it is, and the mean of each value(obs, action) over the candidates as a metric of its name.

    E.g. the moments of Q that running statistics follow: report(q=q, q_square=lambda obs, action: q(obs, action)**2).

    Examples:
        >>> print(report(mean_q=q)(example, two, key).report["mean_q"])
        -0.5
    """
    if not values_of:
        raise ValueError("report must be given at least one function, by name, got none.")
    for name, value in values_of.items():
        function(name, value, "(obs, action) -> scalar")
        if name in WEIGHT_METRICS or name in ("loss", "target"):
            raise ValueError(
                f"report must not be given the name {name}, which is a metric of the loss itself."
            )

    def transform(example: Any, match: Match, key: Key) -> Match:
        for name in values_of:
            if name in match.report:
                raise ValueError(
                    f"report must be given each name once, {name} was reported before in the chain."
                )
        means = {name: jnp.mean(values(value, example, match, name)) for name, value in values_of.items()}
        return dataclasses.replace(match, report={**match.report, **means})

    return transform
