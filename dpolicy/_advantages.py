"""Advantages and returns of a rollout, and what a minibatch makes of them."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._types import Number, Observation, Scalar, Transition
from dpolicy.losses import gae, standardise

NORMALISATIONS = ("rollout", "minibatch", "none")


class Advantages(NamedTuple):
    """How `proximal` computes advantages; the fields are its arguments."""

    discount: Number
    trace: Number
    dialect: str
    normalise: str
    low_quantile: Number | None
    high_quantile: Number | None
    clip: Number | None

    def read(self, batch: Transition) -> Transition:
        """The rollout without what this dialect does not read."""
        if self.dialect == "leaky":
            return batch
        return eqx.tree_at(
            lambda b: b.extras, batch, {k: v for k, v in batch.extras.items() if k != "following"}
        )

    def labelled(
        self, value: Callable[[Observation], Scalar], values: Float[Array, "t n"], batch: Transition
    ) -> Transition:
        """The rollout as one axis of examples, [time * environment], with advantages and returns.

        `leaky` reads what was acted on next, extras["following"], also at the end of the rollout.
        """
        extras = dict(batch.extras)
        following = extras.pop("following", batch.next_obs)
        successors = following if self.dialect == "leaky" else batch.next_obs
        next_values = jax.vmap(jax.vmap(value))(successors)
        inputs = (batch.reward, values, next_values, batch.terminated, batch.truncated)

        def along_time(*columns: Array) -> tuple[Array, Array]:
            return gae(*columns, discount=self.discount, trace=self.trace, dialect=self.dialect)

        advantages, returns = jax.vmap(along_time, in_axes=1, out_axes=1)(*inputs)
        batch = eqx.tree_at(lambda b: b.extras, batch, {**extras, "advantage": advantages, "return": returns})
        batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
        return _standardised(batch) if self.normalise == "rollout" else batch

    def relabelled(self, value: Callable[[Observation], Scalar], minibatch: Transition) -> Transition:
        """The same of some segments, [segment, time], with the values of now."""
        batch = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), minibatch)
        return self.labelled(value, jax.vmap(jax.vmap(value))(batch.obs), batch)

    def shaped(self, minibatch: Transition) -> Transition:
        """A minibatch whose advantages are standardised, if by minibatch, and bounded."""
        minibatch = _standardised(minibatch) if self.normalise == "minibatch" else minibatch
        advantage = minibatch.extras["advantage"]
        low, high = (
            None if quantile is None else jnp.quantile(advantage, quantile)
            for quantile in (self.low_quantile, self.high_quantile)
        )
        advantage = jnp.clip(advantage, low, high)
        advantage = advantage if self.clip is None else jnp.clip(advantage, -self.clip, self.clip)
        return eqx.tree_at(lambda b: b.extras["advantage"], minibatch, advantage)


def _standardised(batch: Transition) -> Transition:
    """Advantages are differences of returns and values, by which their rounding is measured."""
    advantage, returns = batch.extras["advantage"], batch.extras["return"]
    magnitude = jnp.maximum(jnp.max(jnp.abs(returns)), jnp.max(jnp.abs(returns - advantage)))
    return eqx.tree_at(lambda b: b.extras["advantage"], batch, standardise(advantage, magnitude=magnitude))
