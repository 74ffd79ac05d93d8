"""Returns planned along the trajectories of a data set: the best of what was done and what could be done."""

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dpolicy._checks import array, fraction, masks, one_of, same_shapes
from dpolicy._types import Number

Planning: TypeAlias = Literal["successor", "state"]


def planned_returns(
    reward: Float[Array, " n"],
    done: Bool[Array, " n"],
    value: Float[Array, " n"],
    discount: Number,
    *,
    at: Planning = "successor",
) -> Float[Array, " n"]:
    r"""Backwards along each trajectory, the larger of its own return and the value of a state (SfBC, arXiv 2209.14548).

    $$ R_n = r_n + \gamma (1 - d_n) \max(R_{n+1}, V(s_{n+1})) \quad\text{(successor, the paper)}, \qquad
       R_n = \max(r_n + \gamma (1 - d_n) R_{n+1}, V(s_n)) \quad\text{(state, the code)}. $$

    Values of -inf give the discounted return of the trajectory, by both.

    Args:
        reward: r_n, of rows in the order of time, trajectory after trajectory.
        done: d_n, true in the last row of each, terminated or truncated; nothing is bootstrapped there. The end of the
            data ends the last one.
        value: V(s_n), of the state of each row.
        discount: gamma.
        at: Whose value competes: that of the row's successor, or of its own state, whatever was done there.

    Examples:
        >>> reward, done, low = jnp.ones(3), jnp.array([False, True, False]), jnp.full(3, -jnp.inf)
        >>> print(planned_returns(reward, done, low, 0.5), planned_returns(reward, done, jnp.full(3, 4.0), 0.5))
        [1.5 1.  1. ] [3. 1. 1.]
        >>> print(planned_returns(reward, done, jnp.full(3, 4.0), 0.5, at="state"))
        [4. 4. 4.]
    """
    array("reward", reward)
    array("value", value)
    masks(done=done)
    same_shapes(reward=reward, done=done, value=value)
    fraction("discount", discount)
    one_of("at", at, get_args(Planning))

    def back(
        after: tuple[Array, Array], row: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        (following, successor), (r, end, v) = after, row
        ahead = jnp.maximum(following, successor) if at == "successor" else following
        found = r + jnp.where(end, 0.0, discount * ahead)
        found = found if at == "successor" else jnp.maximum(found, v)
        return (found, v), found

    last = (jnp.zeros(()), jnp.zeros(()))
    return jax.lax.scan(back, last, (reward, done.at[-1].set(True), value), reverse=True)[1]
