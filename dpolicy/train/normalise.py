"""Running statistics of observations and returns, merged batch by batch (Chan, Golub & LeVeque 1979)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dpolicy._spread import varies
from dpolicy._types import Number


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
        # A sum of equal numbers is not n times the number; distances from one of them are exact.
        apart = data - data[:1]
        mean = data[0] + apart.mean(axis=0)
        second = jnp.sum((apart - apart.mean(axis=0)[None]) ** 2, axis=0)
        total = self.count + count
        shift, share = mean - self.mean, count / total
        return Normaliser(
            self.mean + shift * share,
            self.second + second + shift**2 * self.count * share,
            total,
        )


class RewardScale(eqx.Module):
    """Rewards over the running deviation of their discounted return, bounded by 10, not centred (DPPO).

    The return looks back: g_t = r_t + discount g_{t-1} within an episode, per environment. Its deviation is that of all
    g seen, the rewards being scaled included; where it is only rounding, rewards stay as they are, within the bound.
    """

    returns: Float[Array, "*seeds env"]
    statistics: Normaliser

    @staticmethod
    def start(num_envs: int) -> "RewardScale":
        """No rewards yet."""
        return RewardScale(jnp.zeros(num_envs), Normaliser.start(1))

    def update(
        self, rewards: Float[Array, "time env"], done: Bool[Array, "time env"], discount: Number
    ) -> tuple["RewardScale", Float[Array, "time env"]]:
        """Take in a rollout, `done` at the last step of an episode; returns the scaled rewards beside the new state."""

        def one(carry: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            reward, last = inputs
            total = reward + discount * carry
            return jnp.where(last, 0.0, total), total

        carry, totals = jax.lax.scan(one, self.returns, (rewards, done))
        statistics = self.statistics.update(totals[..., None])
        std = jnp.sqrt(statistics.second[0] / statistics.count)
        scale = jnp.where(varies(std, statistics.mean[0]), std + 1e-8, 1.0)
        return RewardScale(carry, statistics), jnp.clip(rewards / scale, -10.0, 10.0)
