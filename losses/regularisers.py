"""Entropy and score terms of policies with a Gaussian part: losses to be added with a coefficient."""

from typing import Any

import jax
import jax.numpy as jnp

from dpolicy._types import Key, Metrics, Scalar


def entropy(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
    """The policy's entropy H, model.entropy(): maximise it with a negative coefficient."""
    value = model.entropy()
    return value, {"loss": value}


def score_regulariser(
    model: Any, example: Any, key: Key, *, variance_gradient: bool = False
) -> tuple[Scalar, Metrics]:
    """|mu(a0, s) + Sigma a0 / 2|^2, summed over the action (DP-CPPO, arXiv 2603.04790, eq. 15).

    It pulls the residual step a0 + mu + noise towards one Langevin step for N(0, I). `model` offers
    `offset(obs, base)` and `log_std`; a0 is example.extras["base"]. By default no gradient flows into Sigma,
    which would shrink it against the entropy bonus; `variance_gradient=True` lets it.
    """
    base = example.extras["base"]
    variance = jnp.exp(2 * model.log_std)
    variance = variance if variance_gradient else jax.lax.stop_gradient(variance)
    value = jnp.sum((model.offset(example.obs, base) + variance * base / 2) ** 2)
    return value, {"loss": value}
