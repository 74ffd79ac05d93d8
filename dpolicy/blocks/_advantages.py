"""Advantages and returns of a rollout, and what a minibatch makes of them."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import Fraction, Positive, one_of
from dpolicy._types import Key, Number, Observation, Scalar, Transition
from dpolicy.learning import Seen, Stage, labelled_batch
from dpolicy.losses import GAE_DIALECTS, gae, standardise
from dpolicy.recipe import tunable


class Advantages(NamedTuple):
    """How advantages are computed: the settings of `advantage_estimation`, as stages."""

    discount: Number
    trace: Number
    dialect: str
    normalise: str
    low_quantile: Number | None
    high_quantile: Number | None
    clip: Number | None

    def labelled(self, *, again: bool = False) -> Stage:
        """The stage that labels a rollout `[time, environment]` with "advantage" and "return", under the part "value".

        The values of its states are those that were stored with them, in the extras "value". `leaky` reads what was
        acted on next, extras["following"], also at the end of the rollout; what no later stage reads is removed.

        Args:
            again: Whether a stage after this one is `relabelled`.
        """
        read_again = again and self.dialect == "leaky"

        def label(s: Seen, key: Key) -> dict[str, Any]:
            entries = self.of(s.now.value, s.batch.extras["value"], s.batch)
            return entries if read_again else {**entries, "following": None}

        return labelled_batch(label)

    def relabelled(self) -> Stage:
        """The same with the values of now, for stretches of a rollout inside `passes`."""

        def label(s: Seen, key: Key) -> dict[str, Any]:
            return {
                **self.of(s.now.value, jax.vmap(jax.vmap(s.now.value))(s.batch.obs), s.batch),
                "following": None,
            }

        return labelled_batch(label)

    def of(
        self, value: Callable[[Observation], Scalar], values: Float[Array, "t n"], batch: Transition
    ) -> dict[str, Float[Array, "t n"]]:
        """Advantages and returns of a rollout by GAE."""
        leaky = self.dialect == "leaky"
        successors = batch.extras.get("following", batch.next_obs) if leaky else batch.next_obs
        next_values = jax.vmap(jax.vmap(value))(successors)
        inputs = (batch.reward, values, next_values, batch.terminated, batch.truncated)

        def along_time(*columns: Array) -> tuple[Array, Array]:
            return gae(*columns, discount=self.discount, trace=self.trace, dialect=self.dialect)

        advantages, returns = jax.vmap(along_time, in_axes=1, out_axes=1)(*inputs)
        if self.normalise == "rollout":
            advantages = _standardised(advantages, returns)
        return {"advantage": advantages, "return": returns}

    def shaped(self) -> Stage | None:
        """The stage that standardises and bounds the advantages of a minibatch; None where neither is wanted."""
        if (
            self.normalise != "minibatch"
            and (self.low_quantile, self.high_quantile, self.clip) == (None,) * 3
        ):
            return None

        def label(s: Seen, key: Key) -> dict[str, Any]:
            advantage = s.batch.extras["advantage"]
            if self.normalise == "minibatch":
                advantage = _standardised(advantage, s.batch.extras["return"])
            low, high = (
                None if quantile is None else jnp.quantile(advantage, quantile)
                for quantile in (self.low_quantile, self.high_quantile)
            )
            advantage = jnp.clip(advantage, low, high)
            return {
                "advantage": advantage if self.clip is None else jnp.clip(advantage, -self.clip, self.clip)
            }

        return labelled_batch(label)


@tunable(
    "discount",
    "trace",
    "gae_dialect",
    "normalise_advantages",
    "advantage_low_quantile",
    "advantage_high_quantile",
    "advantage_clip",
)
def advantage_estimation(
    *,
    discount: Fraction = 0.99,
    trace: Fraction = 0.95,
    gae_dialect: Annotated[str, one_of(GAE_DIALECTS)] = "exact",
    normalise_advantages: Literal["rollout", "minibatch", "none"] = "rollout",
    advantage_low_quantile: Fraction | None = None,
    advantage_high_quantile: Fraction | None = None,
    advantage_clip: Positive | None = None,
) -> Advantages:
    """Generalised advantage estimation, standardised and bounded.

    Args:
        discount: Discount gamma.
        trace: Trace lambda of generalised advantage estimation.
        gae_dialect: exact, rsl, brax or leaky: how advantages treat time limits; under brax truncated steps do not
            enter the value loss either.
        normalise_advantages: Standardise advantages over the rollout, over each minibatch, or none.
        advantage_low_quantile: Advantages of a minibatch below this quantile of theirs are raised to it (DPPO); None
            for none.
        advantage_high_quantile: Those above this one are lowered to it; None for none.
        advantage_clip: Bound of the advantages after that; None for none.

    Raises:
        ValueError: For a value out of its range.
    """
    low, high = advantage_low_quantile, advantage_high_quantile
    _checks.ordered("advantage_low_quantile", low, "advantage_high_quantile", high)
    return Advantages(discount, trace, gae_dialect, normalise_advantages, low, high, advantage_clip)


def _standardised(advantage: Float[Array, "*axes"], returns: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Advantages are differences of returns and values, by which their rounding is measured."""
    magnitude = jnp.maximum(jnp.max(jnp.abs(returns)), jnp.max(jnp.abs(returns - advantage)))
    return standardise(advantage.reshape(-1), magnitude=magnitude).reshape(advantage.shape)
