"""Laws of the return over fixed atoms: their means, and how several critics learn one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._types import Metrics, Number, Scalar, Transition
from dpolicy.losses import categorical_cross_entropy, categorical_target, support


class Atoms(NamedTuple):
    """Fixed atoms, over which critics have log-probabilities, and what these descend.

    Attributes:
        low: The lowest.
        high: The highest.
        count: How many.
        entropy_weight: Of the bonus for the entropy of each law.
    """

    low: Number
    high: Number
    count: int
    entropy_weight: Number

    def mean(self, log_probabilities: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
        """sum_i p_i z_i."""
        # Products of fewer digits are too coarse for a mean over atoms that differ little in value.
        atoms = support(self.low, self.high, self.count)
        return jnp.matmul(jnp.exp(log_probabilities), atoms, precision="highest")

    def target(
        self, log_probabilities: Float[Array, "j n"], example: Transition, cost: Scalar, discount: Number
    ) -> Float[Array, " n"]:
        """The mean over critics of the projected laws of r + gamma (1 - terminated) (z - cost)."""
        late = jnp.where(example.terminated, 0, cost)
        project = lambda law: categorical_target(
            law, example.reward - discount * late, example.terminated, discount, low=self.low, high=self.high
        )
        return jnp.mean(jax.vmap(project)(jnp.exp(log_probabilities)), axis=0)

    def loss(
        self, log_probabilities: Float[Array, "j n"], target: Float[Array, " n"], reduction: str
    ) -> tuple[Scalar, Metrics]:
        """The cross-entropies of the critics, less the bonus: their sum or mean."""
        law = jax.lax.stop_gradient(target)
        each = jax.vmap(
            lambda log_p: categorical_cross_entropy(log_p, law, entropy_weight=self.entropy_weight)
        )
        result = (jnp.sum if reduction == "sum" else jnp.mean)(each(log_probabilities))
        values = self.mean(log_probabilities)
        return result, {"loss": result, "value": jnp.mean(values), "target": target @ support(*self[:3])}
