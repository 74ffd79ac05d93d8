"""Laws of a return: what distributional critics say of (s, a), and the points with weights that targets are made of."""

from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float


class Points(NamedTuple):
    """A law of finitely many values: `value[..., i]` with the probability `weight[..., i]`."""

    value: Float[Array, "... n"]
    weight: Float[Array, "... n"]

    @property
    def mean(self) -> Float[Array, "..."]:
        """sum_i weight_i value_i."""
        # Added up, not a matrix product: TF32 keeps ten bits, too few for values that differ little.
        return jnp.sum(self.value * self.weight, axis=-1)

    def moved(self, by: Any) -> "Points":
        """The law of what it is of, plus a number."""
        return self._replace(value=self.value + by)


class GaussianValue(NamedTuple):
    """The law N(mean, std^2) of a return; its mean is Q(s, a)."""

    mean: Float[Array, "..."]
    std: Float[Array, "..."]

    def moved(self, by: Any) -> "GaussianValue":
        """The law of what it is of, plus a number."""
        return self._replace(mean=self.mean + by)


class SampledValue(NamedTuple):
    """A law by its mean and by one draw of it: what Gaussian critics are fitted to."""

    mean: Float[Array, "..."]
    sample: Float[Array, "..."]


class CategoricalValue(NamedTuple):
    """A law over fixed atoms (C51, arXiv 1707.06887), by its log-probabilities."""

    log_probabilities: Float[Array, "... n"]
    atoms: Float[Array, "... n"]

    @property
    def points(self) -> Points:
        """The atoms and their probabilities."""
        return Points(self.atoms, jnp.exp(self.log_probabilities))

    @property
    def mean(self) -> Float[Array, "..."]:
        """sum_i p_i z_i, which is Q(s, a)."""
        return self.points.mean


class QuantileValue(NamedTuple):
    """A law by its quantiles at (i - 1/2) / n, i = 1 ... n (QR-DQN, arXiv 1710.10044)."""

    quantiles: Float[Array, "... n"]

    @property
    def points(self) -> Points:
        """The quantiles, each with weight 1 / n."""
        return Points(self.quantiles, jnp.full_like(self.quantiles, 1 / self.quantiles.shape[-1]))

    @property
    def mean(self) -> Float[Array, "..."]:
        """Their mean, which is Q(s, a)."""
        return jnp.mean(self.quantiles, axis=-1)


# What a critic may return in the place of a number.
ReturnLaw: TypeAlias = GaussianValue | CategoricalValue | QuantileValue


def mean_of(value: Any) -> Any:
    """The number that a critic's return, or a target, stands for: the mean of a law, and a number itself."""
    laws = (Points, GaussianValue, SampledValue, CategoricalValue, QuantileValue)
    return value.mean if isinstance(value, laws) else value
