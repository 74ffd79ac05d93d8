"""The value of a next observation from several actions of the policy, critic by critic."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import checked
from dpolicy._types import Action, Critic, Key, Model, Number, Observation, Scalar, Transition
from dpolicy.blocks._bootstrap import NextValue, Policy
from dpolicy.losses import reduce_ensemble
from dpolicy.networks import mean_of


@checked
def value_of_several(
    policy: Policy,
    actor: Model,
    q: Critic,
    critic: Callable[[Observation, Action], Float[Array, " n"]],
    *,
    actions: int = 10,
    over: Literal["mean", "max"] = "mean",
    how: Literal["min", "mean", "lcb"] = "min",
    pessimism: Number = 1.0,
    temperature: Number | None = None,
) -> NextValue:
    """reduce_k over_j Q_k(s', a_j), a_j of the policy: over the actions within each critic, then over the critics.

    `next_value` has it the other way round, whose maximum is lower: max_j min_k <= min_k max_j. With a temperature that
    times the mean of log pi(a_j | s'), or of what the policy has in its place, is taken off. Source: Diffusion-QL
    (arXiv 2208.06193), EDP (2305.20081), DAC (2405.20555) and BDPO (2502.04778), code.

    Args:
        policy: Draws the actions.
        actor: Its parameters.
        q: What it selects by, if it does.
        critic: The ensemble; of laws the means count.
        actions: Actions drawn, at least 1.
        over: Their mean or max.
        how: Of the critics: min, mean, or lcb, the mean minus `pessimism` deviations.
        pessimism: Of lcb.
        temperature: Weight of the entropy; None for none.
    """
    _checks.integer("actions", actions)

    def value(example: Transition, key: Key) -> Scalar:
        def one(key: Key) -> tuple[Float[Array, " n"], Scalar]:
            action, log_prob = policy(actor, q, example.next_obs, key)
            return mean_of(critic(example.next_obs, action)), log_prob

        values, log_probs = jax.vmap(one)(jax.random.split(key, actions))
        of_each = jnp.max(values, axis=0) if over == "max" else jnp.mean(values, axis=0)
        result = reduce_ensemble(of_each, how, pessimism=pessimism)
        return result if temperature is None else result - temperature * jnp.mean(log_probs)

    return value
