"""The exact density of an invertible sampler as a log-likelihood, and GenPO's penalty on the gap of its halves."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dpolicy._checks import instance, one_of
from dpolicy._types import Key, Loss, Metrics, Scalar
from dpolicy.losses.ratios import LogLikelihood
from dpolicy.samplers import Coupled

GAPS = ("norm", "squared")


def exact_log_likelihood(sampler: Coupled) -> LogLikelihood:
    """log density of the stored pair example.extras["pair"] under the sampler and the field (GenPO).

    The log-ratio of two fields is (|z_old|^2 - |z_new|^2) / 2 with z the inverse of the pair: the determinant is a
    constant and cancels.

    Examples:
        >>> sampler = dp.samplers.coupled(steps=2)
        >>> pair = sampler.forward(field, sampler.start(field, key), obs)
        >>> print(exact_log_likelihood(sampler)(field, stored(pair=pair), key).shape)
        ()
    """
    instance("sampler", sampler, Coupled, "made by coupled")

    def log_likelihood(field: Any, example: Any, key: Key) -> Array:
        return sampler.log_prob(field, example.extras["pair"], example.obs)

    return log_likelihood


def compression(sampler: Coupled, *, gap: str = "norm") -> Loss:
    """|x - y| of a fresh pair from the current field, differentiated through the sampler (arXiv 2505.18763).

    It keeps the halves of the doubled action together, of which only the mean is executed.

    Args:
        sampler: Made by `coupled`.
        gap: `norm`, sqrt(|x - y|^2 + 1e-8) (the reference code), or `squared` (the paper's text).

    Examples:
        >>> value, metrics = compression(dp.samplers.coupled(steps=2), gap="squared")(field, example, key)
        >>> print(bool(jnp.isclose(value, metrics["gap"] ** 2)))
        True
    """
    instance("sampler", sampler, Coupled, "made by coupled")
    one_of("gap", gap, GAPS)

    def loss(field: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        pair = sampler.forward(field, sampler.start(field, key), example.obs)
        square = jnp.sum((pair[0] - pair[1]) ** 2)
        # The norm has no gradient at zero.
        value = square if gap == "squared" else jnp.sqrt(square + 1e-8)
        return value, {"loss": value, "gap": jax.lax.stop_gradient(jnp.sqrt(square))}

    return loss
