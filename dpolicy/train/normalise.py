"""Running mean and variance of observations, merged batch by batch (Chan, Golub & LeVeque 1979)."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class Normaliser(eqx.Module):
    """Observation statistics: (x - mean) / max(std, 1e-2), with std the population deviation of all data seen."""

    mean: Float[Array, "*seeds o"]
    second: Float[Array, "*seeds o"]
    count: Float[Array, "*seeds"]

    @staticmethod
    def start(size: int) -> "Normaliser":
        """No data yet: the identity map."""
        return Normaliser(jnp.zeros(size), jnp.zeros(size), jnp.zeros(()))

    def __call__(self, obs: Float[Array, "*batch o"]) -> Float[Array, "*batch o"]:
        """Standardise observations; the identity before the first update."""
        variance = self.second / jnp.maximum(self.count, 1.0)
        std = jnp.where(self.count > 0, jnp.maximum(jnp.sqrt(variance), 1e-2), 1.0)
        shape = (1,) * (obs.ndim - 1) + self.mean.shape
        return (obs - self.mean.reshape(shape)) / std.reshape(shape)

    def update(self, obs: Float[Array, "*batch o"]) -> "Normaliser":
        """Merge a batch: exact for any split of the data into batches."""
        data = obs.reshape(-1, obs.shape[-1])
        count = jnp.asarray(data.shape[0], self.count.dtype)
        mean = data.mean(axis=0)
        second = jnp.sum((data - mean[None]) ** 2, axis=0)
        total = self.count + count
        shift = mean - self.mean
        return Normaliser(
            self.mean + shift * count / total,
            self.second + second + shift**2 * self.count * count / total,
            total,
        )
