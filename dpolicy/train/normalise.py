"""Running statistics of observations and returns, merged batch by batch (Chan, Golub & LeVeque 1979)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpolicy._spread import varies
from dpolicy._types import Number
from dpolicy.optimisers import keep_if

_MOST = 2**31 - 1


def _sum(total: Array, rest: Array, amount: Array) -> tuple[Array, Array]:
    """total + rest + amount, and what rounding has left of it (Knuth 1969, two-sum)."""
    amount = amount + rest
    new = total + amount
    added = new - total
    return new, (total - (new - added)) + (amount - added)


class Normaliser(eqx.Module):
    """Observation statistics: (x - mean) / max(std, 1e-2), with std the population deviation of all data seen.

    Rows are counted by an integer, and what rounding takes from the two sums is kept beside them: a row more or less in
    a thousand million counts as it should. After 2^31 - 1 rows the statistics stay as they are.
    """

    mean: Float[Array, "*seeds o"]
    second: Float[Array, "*seeds o"]
    count: Int[Array, "*seeds"]
    mean_rest: Float[Array, "*seeds o"]
    second_rest: Float[Array, "*seeds o"]

    @staticmethod
    def start(size: int) -> "Normaliser":
        """No data yet: the identity map."""
        zeros = jnp.zeros(size)
        return Normaliser(zeros, zeros, jnp.zeros((), jnp.int32), zeros, zeros)

    def __call__(self, obs: Float[Array, "*batch o"]) -> Float[Array, "*batch o"]:
        """Standardise observations; the identity before the first update."""
        variance = self.second / jnp.maximum(self.count, 1)
        std = jnp.where(self.count > 0, jnp.maximum(jnp.sqrt(variance), 1e-2), 1.0)
        shape = (1,) * (obs.ndim - 1) + self.mean.shape
        return (obs - self.mean.reshape(shape)) / std.reshape(shape)

    def update(self, obs: Float[Array, "*batch o"]) -> "Normaliser":
        """Merge a batch: exact for any split of the data into batches."""
        data = obs.reshape(-1, obs.shape[-1])
        count = data.shape[0]
        room = self.count <= _MOST - count
        total = jnp.where(room, self.count + count, self.count)
        # A sum of equal numbers is not n times the number; distances from one of them are exact.
        apart = data - data[:1]
        shift = data[0] + apart.mean(axis=0) - self.mean
        share = count / total.astype(data.dtype)
        second = jnp.sum((apart - apart.mean(axis=0)[None]) ** 2, axis=0)
        mean, mean_rest = _sum(self.mean, self.mean_rest, shift * share)
        second, second_rest = _sum(self.second, self.second_rest, second + shift**2 * self.count * share)
        return keep_if(room, self, Normaliser(mean, second, total, mean_rest, second_rest))


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


class ReturnScale(eqx.Module):
    r"""What divides rewards off policy, so that returns keep within the atoms of a critic (FlashSAC, arXiv 2604.04539).

    Per environment g_t = r_t + discount g_{t-1} within an episode, and over all g seen

    $$ \bar r = r \Big/ \max\Big( \sqrt{\mathrm{var}(g) + 10^{-8}},\; \max |g| / \mathrm{bound} \Big). $$

    Its code forgets g at the last step of an episode in the place of after it; here no episode reaches into the next.
    """

    returns: Float[Array, "*seeds env"]
    most: Float[Array, "*seeds"]
    statistics: Normaliser

    @staticmethod
    def start(num_envs: int) -> "ReturnScale":
        """No rewards yet."""
        return ReturnScale(jnp.zeros(num_envs), jnp.zeros(()), Normaliser.start(1))

    def update(
        self, rewards: Float[Array, " env"], done: Bool[Array, " env"], discount: Number
    ) -> "ReturnScale":
        """Take in a step of every environment, `done` where it was the last of an episode."""
        totals = rewards + discount * self.returns
        most = jnp.maximum(self.most, jnp.max(jnp.abs(totals)))
        return ReturnScale(jnp.where(done, 0.0, totals), most, self.statistics.update(totals[:, None]))

    def scale(self, bound: Number) -> Float[Array, ""]:
        """What rewards are divided by now."""
        variance = self.statistics.second[0] / jnp.maximum(self.statistics.count, 1)
        return jnp.maximum(jnp.sqrt(variance + 1e-8), self.most / bound)
