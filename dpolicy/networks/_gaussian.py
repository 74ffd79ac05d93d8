"""Diagonal Gaussians as formulas: log-probability, entropy, divergence, and the squash by tanh."""

import math

import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Action, Scalar

_LOG_2PI = math.log(2 * math.pi)


def gaussian_log_prob(x: Action, mean: Action, log_std: Action) -> Scalar:
    """log N(x; mean, diag exp(2 log_std)), summed over the action dimensions.

    Raises:
        ValueError: For arguments that are not of one shape [a].
    """
    _checks.same_shapes(x=x, mean=mean, log_std=log_std)
    _checks.vector("x", x)
    return jnp.sum(-0.5 * ((x - mean) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * _LOG_2PI)


def gaussian_entropy(log_std: Action) -> Scalar:
    """sum_j (1/2 + 1/2 log 2 pi + log_std_j), in nats.

    Raises:
        ValueError: For anything but one shape [a].
    """
    _checks.vector("log_std", log_std)
    return jnp.sum(0.5 + 0.5 * _LOG_2PI + log_std)


def gaussian_kl(mean_old: Action, log_std_old: Action, mean_new: Action, log_std_new: Action) -> Scalar:
    """KL(N(mean_old, std_old^2) || N(mean_new, std_new^2)) of diagonal Gaussians, in nats.

    sum_j [log_std_new - log_std_old + (std_old^2 + (mean_old - mean_new)^2) / (2 std_new^2) - 1/2]

    Raises:
        ValueError: For arguments that are not of one shape [a].
    """
    _checks.same_shapes(
        mean_old=mean_old, log_std_old=log_std_old, mean_new=mean_new, log_std_new=log_std_new
    )
    _checks.vector("mean_old", mean_old)
    variance = jnp.exp(2 * (log_std_old - log_std_new))
    shift = ((mean_old - mean_new) * jnp.exp(-log_std_new)) ** 2
    return jnp.sum(log_std_new - log_std_old + 0.5 * (variance + shift - 1))


def tanh_log_det(u: Action) -> Scalar:
    """sum_j log(1 - tanh(u_j)^2) = sum_j 2 (log 2 - u_j - softplus(-2 u_j)), finite for every u.

    Raises:
        ValueError: For anything but one shape [a].
    """
    _checks.vector("u", u)
    return jnp.sum(2 * (math.log(2) - u - jax.nn.softplus(-2 * u)))
