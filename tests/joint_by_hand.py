"""Networks with batch normalisation on a whole batch at once, without the library's batch axis."""

import jax
import jax.numpy as jnp


def forward(mlp, *parts):
    """The network on a batch [n, size], each feature normalised by mean and variance of the whole batch."""

    def normal(norm, x):
        rows = lambda row: jnp.broadcast_to(row, x.shape)
        x = (x - rows(jnp.mean(x, 0))) / rows(jnp.sqrt(jnp.var(x, 0) + 1e-3))
        return rows(norm.scale) * x + rows(norm.shift)

    x = jnp.concatenate([normal(norm, part) for norm, part in zip(mlp.inputs, parts, strict=True)], 1)
    first = mlp.layers[0]
    x = x @ jnp.concatenate(first.weights, 1).T + first.bias[None]
    for norm, layer in zip(mlp.norms, mlp.layers[1:], strict=True):
        x = normal(norm, jax.nn.relu(x)) @ layer.weights[0].T + layer.bias[None]
    return x


def joint(critic, batch, action):
    """The outputs of twin critics by one pass over [(s, a), (s', action)]: two arrays [2, n, out]."""
    obs, acts = (jnp.concatenate(pair) for pair in ((batch.obs, batch.next_obs), (batch.action, action)))
    found = jnp.stack([forward(critic[i].mlp, obs, acts) for i in range(2)])
    size = batch.reward.shape[0]
    return found[:, :size], found[:, size:]
