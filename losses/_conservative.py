"""Critics held down where the data have no actions, but not below what the data earned."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import function, integer, one_key, positive, returned
from dpolicy._types import Key, Loss, Metrics, Number, Scalar
from dpolicy.networks import mean_of


def conservative(
    actions: Callable[[Any, Key], Float[Array, "m a"]],
    *,
    floor: Callable[[Any], Scalar] | None = None,
    random: int = 10,
    copies: int = 1,
    temperature: Number = 1.0,
) -> Loss:
    r"""The critic's values of a policy's and of random actions, by their soft maximum, above that of the data's.

    $$ L = \mathrm{mean}_k\, T \log \tfrac{1}{n} \sum_j e^{\max(Q_k(s, a_j), G(s)) / T} - Q_k(s, a), $$

    over the policy's actions, `random` ones uniform in the box, and the data's own, of which the floor G is for the
    policy's alone. It pushes the values of other actions down, and the data's up, so that no policy is drawn to where
    the critic only errs (CQL, arXiv 2006.04779); with the return that the data earned from s for G it lets go of a
    policy's action once that is valued below (Cal-QL, 2303.05479). Of laws the means count.

    Args:
        actions: (example, key) -> actions [m, a] of the policy, of one example.
        floor: example -> G; None for none, which is CQL's term.
        random: Random actions.
        copies: Each of the policy's actions counts as so many (PA-RL's code takes one action ten times).
        temperature: T, in units of Q.

    Examples:
        >>> critic = lambda obs, action: jnp.stack([q(obs, action), q(obs, action)])
        >>> term = conservative(lambda e, key: jnp.zeros((1, 2)), random=0, copies=3)
        >>> print(f"{term(critic, example, key)[0]:.3f}")
        0.154
    """
    function("actions", actions, "(example, key) -> actions")
    if floor is not None:
        function("floor", floor, "example -> scalar")
    integer("random", random, 0)
    integer("copies", copies)
    positive("temperature", temperature)

    def loss(critic: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        policy_key, random_key = jax.random.split(one_key(key))
        shape, kind = example.action.shape, example.action.dtype
        of = lambda action: jnp.atleast_1d(mean_of(critic(example.obs, action)))
        drawn = jax.lax.stop_gradient(actions(example, policy_key))
        theirs = jax.vmap(of)(returned("actions", drawn, (drawn.shape[0], *shape)))
        held = theirs
        if floor is not None:
            held = jnp.maximum(theirs, jax.lax.stop_gradient(returned("floor", floor(example))))
        others = jax.random.uniform(random_key, (random, *shape), kind, -1.0, 1.0)
        data = of(example.action)
        values = jnp.concatenate([held, jax.vmap(of)(others), data[None]])
        counts = jnp.concatenate([jnp.full(drawn.shape[0], copies), jnp.ones(random + 1)])[:, None]
        soft = temperature * jax.nn.logsumexp(values / temperature, axis=0, b=counts / jnp.sum(counts))
        result = jnp.mean(soft - data)
        return result, {"loss": result, "floored": jnp.mean(held > theirs)}

    return loss
