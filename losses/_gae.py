"""Generalised advantage estimation, in four dialects."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dpolicy._checks import array, fraction, masks, non_negative, one_of, positive, same_shapes
from dpolicy._select import weighed
from dpolicy._spread import spread
from dpolicy._types import Number

GAE_DIALECTS = ("exact", "rsl", "brax", "leaky")


def gae(
    rewards: Float[Array, "t *batch"],
    values: Float[Array, "t *batch"],
    next_values: Float[Array, "t *batch"],
    terminated: Bool[Array, "t *batch"],
    truncated: Bool[Array, "t *batch"],
    *,
    discount: Number,
    trace: Number,
    dialect: str = "exact",
) -> tuple[Float[Array, "t *batch"], Float[Array, "t *batch"]]:
    r"""Advantages and value targets over the leading time axis (arXiv 1506.02438).

    With done = terminated or truncated and `next_values` the value of the true successor of each step,

    $$ \delta_t = r_t + \gamma (1 - \mathrm{term}_t) V(s_{t+1}) - V(s_t), \quad
       A_t = \delta_t + \gamma \lambda (1 - \mathrm{done}_t) A_{t+1}, \quad R_t = A_t + V(s_t). $$

    Args:
        rewards: r_t.
        values: V(s_t).
        next_values: V(s_{t+1}); at a truncated step that of the terminal observation, not of the observation after
            the reset (`leaky` reads the last one alone, which is then to be of the observation after the reset).
        terminated: Where the episode ended and earns nothing more.
        truncated: Where a time limit ended it.
        discount: gamma, in [0, 1].
        trace: lambda, in [0, 1].
        dialect: `exact` as above. `rsl`: a truncated step earns gamma V(s_t) in place of its lost successor and
            ends the episode. `brax`: truncated steps are masked out of everything, value targets are vs_t = V +
            accumulated deltas, and the advantage r + gamma (1 - term) vs_{t+1} - V does not multiply its first hop
            by lambda. `leaky`: truncation is ignored, so the value and the advantages of the next episode leak in;
            only to reproduce published numbers.

    Returns:
        (advantages, returns), both of the shape of `rewards`.

    Examples:
        >>> zeros, never = jnp.zeros(3), jnp.zeros(3, bool)
        >>> advantages, _ = gae(jnp.ones(3), zeros, zeros, never, never, discount=0.5, trace=1.0)
        >>> print(advantages)
        [1.75 1.5  1.  ]
    """
    fraction("discount", discount)
    fraction("trace", trace)
    one_of("dialect", dialect, GAE_DIALECTS)
    same_shapes(
        rewards=rewards,
        values=values,
        next_values=next_values,
        terminated=terminated,
        truncated=truncated,
    )
    masks(terminated=terminated, truncated=truncated)
    done = terminated | truncated
    counts = jnp.ones_like(done)
    bootstrap, carry_on = ~terminated, ~done
    if dialect == "rsl":
        # V(s_t) stands for the lost successor's value, which must not be counted once more.
        rewards = jnp.where(truncated, rewards + discount * values, rewards)
        bootstrap = ~done
    elif dialect == "brax":
        counts = ~truncated
    elif dialect == "leaky":
        carry_on = ~terminated
        # The value of what was acted on next, after a reset where there was one: that is the leak.
        next_values = jnp.concatenate([values[1:], next_values[-1:]])
    # Selected, not multiplied: the successor of a step that ended an episode may be anything.
    delta = rewards + weighed(discount, jnp.where(bootstrap, next_values, 0)) - values
    delta = jnp.where(counts, delta, 0)

    def step(later: Array, now: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        delta, carry_on = now
        total = delta + weighed(discount * trace, jnp.where(carry_on, later, 0))
        return total, (total, later)

    _, (total, later) = jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, carry_on), reverse=True)
    returns = total + values
    if dialect == "brax":
        # vs_{t+1}: the successor's value and what was accumulated from there.
        following = jnp.where(bootstrap, next_values + later, 0)
        total = jnp.where(counts, rewards + weighed(discount, following) - values, 0)
    return total, returns


def standardise(
    x: Float[Array, "*shape"], *, eps: float = 1e-8, magnitude: Number = 0.0
) -> Float[Array, "*shape"]:
    """(x - mean) / (std + eps) over all axes, population standard deviation: the usual treatment of advantages.

    Numbers that are equal up to rounding give 0: where the deviation is at most 8 machine epsilons of the largest of
    them, or of `magnitude`, the size of what they are differences of (of returns and values, for advantages).

    Examples:
        >>> print(standardise(jnp.array([1.0, 2.0, 3.0])))
        [-1.225  0.     1.225]
    """
    array("x", x)
    positive("eps", eps)
    non_negative("magnitude", magnitude)
    _, apart, deviation = spread(x, magnitude)
    return apart / (deviation + eps)
