"""What critics are fitted to: the value, or the law, of where a transition leads."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Critic, Key, Loss, Model, Number, Observation, Scalar, Transition
from dpolicy.blocks._critic_function import outcome_of
from dpolicy.losses import CriticError, bellman, td_target, td_target_law
from dpolicy.networks import GaussianValue, Points, SampledValue, mean_of

# Draws an action and its log-density, `(actor, q, obs, key) -> (action, log_prob)`, with `q` the critic that policies
# select by which select. Policies without a density return zero, which switches entropy terms off.
Policy: TypeAlias = Callable[[Model, Critic, Observation, Key], tuple[Action, Float[Array, ""]]]
# The value of where a transition leads, a number or a law: `(example, key) -> value at example.next_obs`.
NextValue: TypeAlias = Callable[[Transition, Key], Scalar | Points]
_BOUND = 3.0


def less(value: Any, cost: Any) -> Any:
    """A value, or the law of one, less a number."""
    return value.moved(-cost) if isinstance(value, (Points, GaussianValue)) else value - cost


def next_value(
    policy: Policy,
    actor: Model,
    q: Critic,
    target: Critic,
    temperature: Number | None = None,
    *,
    actions: int = 1,
    over: str = "mean",
    scale: Number = 1.0,
) -> NextValue:
    """The value of the next observation under a policy: target(s', a') - temperature log pi(a'|s'), over its actions.

    Of critics that give laws it is a law: of several actions their mixture (of Gaussians the Gaussian of its mean and
    deviation), or that of the highest mean.

    Args:
        policy: Draws the actions.
        actor: Its parameters.
        q: What it selects by, if it does.
        target: Values an action.
        temperature: Weight of the entropy; None for none.
        actions: Actions drawn.
        over: Of several: their mean, max, or soft value, scale log mean exp(value / scale).
        scale: Of soft.
    """
    _checks.integer("actions", actions)
    _checks.one_of("over", over, ("mean", "max", "soft"))

    outcome = outcome_of(target)

    def one(example: Transition, key: Key) -> Any:
        action, log_prob = _checks.paired(
            "the policy", policy(actor, q, example.next_obs, key), "(action, log_prob)"
        )
        value = outcome(example.next_obs, action)
        if temperature is None:
            return value
        return less(value, temperature * log_prob)

    def several(example: Transition, key: Key) -> Any:
        values = jax.vmap(one, in_axes=(None, 0))(example, jax.random.split(key, actions))
        if isinstance(values, (Points, GaussianValue)):
            if over == "soft":
                raise ValueError("over must be mean or max for critics that give laws, got 'soft'.")
            if over == "max":
                best = jnp.argmax(values.mean)
                return jax.tree.map(lambda leaf: leaf[best], values)
            if isinstance(values, GaussianValue):
                mean = jnp.mean(values.mean)
                return GaussianValue(mean, jnp.sqrt(jnp.mean(values.std**2 + (values.mean - mean) ** 2)))
            return Points(values.value.reshape(-1), values.weight.reshape(-1) / actions)
        if over == "soft":
            return scale * (jax.nn.logsumexp(values / scale) - math.log(actions))
        return jnp.max(values) if over == "max" else jnp.mean(values)

    return one if actions == 1 else several


def temporal_difference(
    value: NextValue,
    discount: Number,
    *,
    reduction: str = "mean",
    error: CriticError | None = None,
    sampled: bool = False,
) -> Loss:
    """`bellman` with y = r + gamma (1 - terminated) value(s'): of a single step, or of as many as the example spans.

    An example of several steps brings the discount of its window (`Transition.discount`), gamma^h.

    Args:
        value: Of where an example leads.
        discount: gamma.
        reduction: Over the members of an ensemble, mean or sum.
        error: Of their predictions, squared unless given.
        sampled: Whether the error takes the mean of y and one draw of it, a `SampledValue`: of a Gaussian law mean
            + std z, z ~ N(0, 1) clipped to 3 (DSAC-T, arXiv 2310.05858); a number is a law without deviation.
    """

    def target(example: Transition, key: Key) -> Any:
        gamma = discount if example.discount is None else example.discount
        if sampled:
            key, sample_key = jax.random.split(key)
        following = value(example, key)
        if isinstance(following, Points):
            return td_target_law(example.reward, example.terminated, following, gamma)
        one = lambda of: td_target(example.reward, example.terminated, of, gamma)
        back = lambda of: jnp.vectorize(one)(of) if jnp.ndim(of) else one(of)
        if not sampled:
            return back(following)
        mean = mean_of(following)
        noise = jnp.clip(jax.random.normal(sample_key, mean.shape, mean.dtype), -_BOUND, _BOUND)
        draw = mean + following[1] * noise if isinstance(following, GaussianValue) else mean
        return SampledValue(back(mean), back(draw))

    return bellman(target, reduction=reduction, error=error)
