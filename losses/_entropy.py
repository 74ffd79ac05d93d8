"""Entropy and score terms: losses to be added with a coefficient, and estimates from samples."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma
from jaxtyping import Array, Float

from dpolicy._checks import array, function, integer, positive, returned
from dpolicy._types import Key, Loss, Metrics, Number, Scalar
from dpolicy.fields import predict_data
from dpolicy.losses.match import Transform, start


def entropy(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
    """The policy's entropy H, model.entropy(): maximise it with a negative coefficient.

    Examples:
        >>> policy = dp.Gaussian(1, 2, hidden=(4,), initial_std=1.0, key=key)
        >>> print(f"{entropy(policy, example, key)[0]:.3f}")
        2.838
    """
    value = model.entropy()
    return value, {"loss": value}


def estimated_entropy(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
    """An estimate of H in the example's state, model.entropy(obs, key), where it has no closed form.

    Examples:
        >>> policy = dp.TanhGaussian(1, 2, hidden=(4,), key=key)
        >>> print(estimated_entropy(policy, example, key)[0].shape)
        ()
    """
    value = model.entropy(example.obs, key)
    return value, {"loss": value}


def score_regulariser(
    model: Any, example: Any, key: Key, *, variance_gradient: bool = False
) -> tuple[Scalar, Metrics]:
    """|mu(a0, s) + Sigma a0 / 2|^2, summed over the action (DP-CPPO, arXiv 2603.04790, eq. 15).

    It pulls the residual step a0 + mu + noise towards one Langevin step for N(0, I). `model` offers
    `offset(obs, base)` and `log_std`; a0 is example.extras["base"]. By default no gradient flows into Sigma,
    which would shrink it against the entropy bonus; `variance_gradient=True` lets it.

    Examples:
        >>> policy = dp.ResidualGaussian(1, 2, hidden=(4,), initial_std=1.0, final_scale=0.0, key=key)
        >>> print(score_regulariser(policy, stored(base=jnp.array([1.0, 1.0])), key)[0])
        0.5
    """
    base = example.extras["base"]
    variance = jnp.exp(2 * model.log_std)
    variance = variance if variance_gradient else jax.lax.stop_gradient(variance)
    value = jnp.sum((model.offset(example.obs, base) + variance * base / 2) ** 2)
    return value, {"loss": value}


def knn_entropy(points: Float[Array, "n d"], *, floor: Number = 1e-6, neighbours: int = 1) -> Scalar:
    """Kozachenko-Leonenko estimate of the differential entropy from nearest neighbours, in nats.

    psi(n) - psi(k) + log V_d + (d / n) sum_i log max(r_i, floor), r_i the distance of point i to its k-th nearest
    other point and V_d the volume of the unit ball. Differentiable in the points (FPO++, arXiv 2602.02481, k = 1).

    Args:
        points: Samples.
        floor: Of the distances.
        neighbours: k: a larger one varies less, and smooths more.

    Raises:
        ValueError: For fewer points than neighbours and one, and for a floor that is not above zero.

    Examples:
        >>> print(f"{knn_entropy(jnp.array([[0.0], [1.0]])):.3f}")
        1.693
    """
    array("points", points)
    if np.ndim(points) != 2:
        raise ValueError(f"points must have the shape (n, d), got {np.shape(points)}.")
    positive("floor", floor)
    size, dim = points.shape
    integer("neighbours", neighbours)
    if size <= neighbours:
        fewest = "two" if neighbours == 1 else str(neighbours + 1)
        raise ValueError(f"knn_entropy needs at least {fewest} points, got {size}.")
    squares = jnp.sum((points[:, None] - points[None]) ** 2, axis=-1)
    others = jnp.where(jnp.eye(size, dtype=bool), jnp.inf, squares)
    nearest = jnp.min(others, axis=1) if neighbours == 1 else jnp.sort(others, axis=1)[:, neighbours - 1]
    # Half the log of the square: the root would have an infinite slope where two points coincide.
    logs = jnp.log(jnp.maximum(nearest, floor**2)) / 2
    volume = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    return (
        digamma(jnp.asarray(size, points.dtype))
        - digamma(jnp.asarray(neighbours, points.dtype))
        + volume
        + dim * jnp.mean(logs)
    )


def predicted_entropy(transform: Transform) -> Loss:
    """`knn_entropy` of the clean actions the field predicts at several noised points of one action (FPO++).

    Args:
        transform: Makes the points, two or more, such as `perturb(schedule, draws=16)`.

    Examples:
        >>> value, metrics = predicted_entropy(perturb(schedule, draws=4))(field, example, key)
        >>> print(value.shape)
        ()
    """
    function("transform", transform, "(example, match, key) -> match")

    def loss(field: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        match = jax.lax.stop_gradient(transform(example, start(example), key))
        predicted = jax.vmap(predict_data, in_axes=(None, 0, 0, None))(field, match.x, match.t, example.obs)
        value = knn_entropy(predicted)
        return value, {"loss": value}

    return loss


def dual(multiplier_of: Callable[[Any], Scalar], slack: Callable[[Any], Scalar]) -> Loss:
    """The loss of a multiplier that holds a constraint: multiplier_of(model) * slack(example).

    The slack is not differentiated. Descent raises the multiplier while the slack is negative. SAC's temperature:
    multiplier exp(model), slack `-log_prob - target_entropy`. A temperature that keeps KL(weights || equal) at
    delta: slack `delta - weight_kl`.

    Examples:
        >>> loss = dual(jnp.exp, slack=lambda example: example.reward - 3.0)
        >>> print(loss(jnp.array(0.0), example, key)[0])
        -2.0
    """
    function("multiplier_of", multiplier_of, "model -> scalar")
    function("slack", slack, "example -> scalar")

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        multiplier = returned("multiplier_of", multiplier_of(model))
        value = multiplier * jax.lax.stop_gradient(returned("slack", slack(example)))
        return value, {"loss": value, "multiplier": multiplier}

    return loss
