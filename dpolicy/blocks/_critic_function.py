"""One value, or one law, from an ensemble of critics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpolicy._types import Action, Critic, Model, Number, Observation, Scalar
from dpolicy.losses import reduce_ensemble
from dpolicy.networks import CategoricalValue, GaussianValue, QuantileValue, mean_of


class _Reduced:
    """A critic of an ensemble; `outcome` is what targets are made of, which of laws is a law."""

    def __init__(self, critic: Model, how: str | int, pessimism: Number):
        self.critic, self.how, self.pessimism = critic, how, pessimism

    def __call__(self, obs: Observation, action: Action) -> Scalar:
        found = self.critic(obs, action)
        if self.how == "lcb" and isinstance(found, QuantileValue):
            return mean_of(self._law(found))
        values = mean_of(found)
        if self.how == "each":
            return jnp.mean(values)
        if isinstance(self.how, int):
            return values[self.how]
        return reduce_ensemble(values, self.how, pessimism=self.pessimism)

    def outcome(self, obs: Observation, action: Action) -> Any:
        found = self.critic(obs, action)
        if isinstance(found, (CategoricalValue, QuantileValue, GaussianValue)):
            return self._law(found)
        return found if self.how == "each" else self(obs, action)

    def _law(self, found: Any) -> Any:
        laws, values = found if isinstance(found, GaussianValue) else found.points, found.mean
        if values.ndim < 1:
            raise ValueError(
                "critic must be an ensemble, as ensemble(make, size, key=key) makes it, got one critic."
            )
        if self.how == "each":
            return laws
        if self.how == "min" or isinstance(self.how, int):
            index = jnp.argmin(values) if self.how == "min" else self.how
            return jax.tree.map(lambda leaf: leaf[index], laws)
        # Of one set of atoms the mixture, of quantiles and of Gaussians the law between.
        middle = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), laws)
        if self.how == "mean":
            return middle
        bound = lambda of: reduce_ensemble(of, "lcb", pessimism=self.pessimism)
        if isinstance(found, QuantileValue):
            return middle._replace(value=bound(found.quantiles))
        return middle.moved(bound(values) - jnp.mean(values))


def outcome_of(q: Critic) -> Callable[[Observation, Action], Any]:
    """What `q` has to bootstrap with: a law where its critics give these, as `critic_function` reduces them."""
    return getattr(q, "outcome", q)


def critic_function(critic: Model, how: str | int = "min", *, pessimism: Number = 1.0) -> Critic:
    """q(obs, action) -> scalar from an ensemble: its minimum, mean or lower confidence bound, or one of its members.

    Of laws of the return (`dpolicy.networks.ReturnLaw`) the means count; `next_value` bootstraps with a law: of the
    member whose mean is lowest, of all together by their mean weights and values (of Gaussians their mean deviations),
    or that moved down to the bound, quantile by quantile where the critics give these.

    Args:
        critic: Called `critic(obs, action) -> values [n]`, or the laws of n members.
        how: min, mean, lcb (the mean minus `pessimism` deviations), or the index of a member. "each" is the mean too,
            but bootstraps each member of an ensemble with its own.
        pessimism: Of lcb; see `dpolicy.losses.reduce_ensemble`.
    """
    return _Reduced(critic, how, pessimism)
