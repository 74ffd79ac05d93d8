"""Weights that are a monotone function of Q other than the exponential, normalised by a shift of Q (GeMPO)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import critic, in_range, one_of, positive, vector
from dpolicy._select import weighed
from dpolicy._types import Critic, Key, Number
from dpolicy.losses.match import Match, Transform
from dpolicy.losses.weights import boltzmann, require_candidates, values, with_weight

SHAPES = ("exponential", "linear", "square")


def _above(value: Float[Array, " n"]) -> Float[Array, "n n"]:
    """How far each candidate (columns) lies below each (rows), zero where it does not.

    All pairs: at the tens of candidates that there are, sorting the candidates of every state takes longer.
    """
    return jnp.maximum(value[:, None] - value[None], 0)


def linear_weights(value: Float[Array, " n"], temperature: Number, floor: Number = 0.0) -> Float[Array, " n"]:
    """w_i = max((Q_i - nu) / temperature, floor / n), nu such that sum_i w_i = 1.

    With floor 0 the projection of Q / temperature onto the simplex: candidates below nu weigh nothing. A negative
    floor lets bad candidates weigh less than nothing, so that the fit is pushed away from them. The solution is exact.

    Source: GeMPO (arXiv 2603.10250).

    Raises:
        ValueError: For a temperature that is not above zero or a floor of 1 or more.

    Examples:
        >>> print(linear_weights(jnp.array([0.0, -1.0]), 2.0))
        [0.75 0.25]
    """
    positive("temperature", temperature)
    in_range("floor", floor, high=1.0, open_high=True)
    vector("value", value)
    size = value.shape[0]
    # A shift of Q shifts nu alone; counted from the largest, differences keep their digits.
    value = value - jnp.max(value)
    # A candidate lies above the floor if with nu at its own threshold the weights would sum to less than 1.
    active = jnp.sum(_above(value), axis=0) < temperature * (1 - floor)
    count, total = jnp.sum(active, dtype=value.dtype), jnp.sum(jnp.where(active, value, 0))
    # With it the sum over the active, and floor / n for each of the others, is 1.
    nu = (total - temperature * (1 - (size - count) * floor / size)) / count
    return jnp.maximum((value - nu) / temperature, floor / size)


def square_weights(value: Float[Array, " n"], temperature: Number) -> Float[Array, " n"]:
    """w_i = max((Q_i - nu) / temperature, 0)^2, nu such that sum_i w_i = 1; exact.

    Between linear and exponential in how fast it favours the best. Source: GeMPO (arXiv 2603.10250).

    Raises:
        ValueError: For a temperature that is not above zero.

    Examples:
        >>> print(square_weights(jnp.array([0.0, -1.0]), 5.0))
        [0.64 0.36]
    """
    positive("temperature", temperature)
    vector("value", value)
    value = (value - jnp.max(value)) / temperature
    active = jnp.sum(_above(value) ** 2, axis=0) < 1
    count = jnp.sum(active, dtype=value.dtype)
    one, two = (jnp.sum(jnp.where(active, value**power, 0)) for power in (1, 2))
    # sum (Q - nu)^2 = 1 over the active is quadratic in nu; the lower root is below all of them.
    nu = (one - jnp.sqrt(jnp.maximum(one**2 - count * (two - 1), 0))) / count
    return jnp.maximum(value - nu, 0) ** 2


def tilt(q: Critic, temperature: Number, *, shape: str = "exponential", floor: Number = 0.0) -> Transform:
    """Weigh candidates of one state, taken as equally likely, by g((Q - nu) / temperature), keeping the total weight.

    The target measure of a trust region in another divergence than the reverse KL, for g monotone (GeMPO, arXiv
    2603.10250). nu is solved for each state (or noised point).

    Args:
        q: The critic; (obs, action) -> scalar.
        temperature: In units of Q.
        shape: `exponential` (`boltzmann`), `linear` (see `linear_weights`) or `square` (see `square_weights`).
        floor: Smallest weight of `linear`, in units of an equal share; below zero for signed measures.

    Raises:
        ValueError: For a single candidate, an unknown shape, and a floor of 1 or more or for another shape than
            linear.

    Examples:
        >>> print(tilt(q, 2.0, shape="linear")(example, two, key).weight)
        [0.75 0.25]
    """
    critic("q", q)
    one_of("shape", shape, SHAPES)
    positive("temperature", temperature)
    in_range("floor", floor, high=1.0, open_high=True)
    if shape != "linear" and not (isinstance(floor, int | float) and floor == 0):
        raise ValueError(f"floor needs shape linear, got {floor!r} for {shape}.")
    if shape == "exponential":
        return boltzmann(q, temperature)

    def weights(value: Float[Array, " n"]) -> Float[Array, " n"]:
        if shape == "square":
            return square_weights(value, temperature)
        return linear_weights(value, temperature, floor)

    def transform(example: Any, match: Match, key: Key) -> Match:
        require_candidates("tilt", match)
        value = values(q, example, match).reshape(match.groups, -1)
        total = jnp.sum(match.weight.reshape(match.groups, -1), axis=1, keepdims=True)
        return with_weight(match, weighed(total, jax.vmap(weights)(value)).reshape(-1))

    return transform
