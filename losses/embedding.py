"""The loss of embeddings that predict the next one."""

from typing import Any

import jax
import jax.numpy as jnp

from dpolicy._types import Key, Loss, Metrics, Scalar


def next_embedding() -> Loss:
    """mean ((g(f(s), a) - stop_gradient(f(s')))^2): the encoders of SALE (TD7, arXiv 2306.02451, eq. 2).

    The mean is over the entries of the embedding. The model has `state(obs) -> z` and `pair(z, action) -> z'`, as
    `dpolicy.networks.StateActionEncoder`.

    Examples:
        >>> from dpolicy.networks import StateActionEncoder
        >>> encoder = StateActionEncoder(1, 2, embedding_size=1, hidden=(), key=key)
        >>> error = encoder.pair(encoder.state(obs), action) - encoder.state(obs)
        >>> print(bool(jnp.allclose(next_embedding()(encoder, example, key)[0], error**2)))
        True
    """

    def loss(encoder: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        goal = jax.lax.stop_gradient(encoder.state(example.next_obs))
        found = encoder.pair(encoder.state(example.obs), example.action)
        result = jnp.mean((found - goal) ** 2)
        return result, {"loss": result}

    return loss
