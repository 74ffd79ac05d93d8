"""Losses of energies that guide: what a noised action says about the weight of the action it came from."""

from typing import Any

import jax
import jax.numpy as jnp

from dpolicy._batch import batch_max
from dpolicy._checks import boolean, returned
from dpolicy._types import Key, Loss, Metrics, Scalar
from dpolicy.losses.match import Chain, Transform, chain, start, weight_metrics

# The largest exponent of the scaled form: exp(80) is finite in single precision.
_MOST = 80.0


def in_sample_guidance(transform: Transform, *, scaled: bool = False) -> Loss:
    r"""Fit an energy to log E[w(s, x_0) | x_t] on the data's own actions (IGL, Diffusion-DICE, arXiv 2407.20109).

    $$ L = E[ w e^{-g(x_t, t, s)} + g(x_t, t, s) ], \qquad g^* = \log E[ w(s, x_0) | x_t, s ]. $$

    With w = exp(Q / lambda) that is the energy of nu exp(Q / lambda), with nothing left open: unlike a contrastive loss
    this one changes where a constant is added to g. The model is called `energy(x, t, obs)`. One action a state is
    enough; draws of noise (`perturb(schedule, draws=16)`) are averaged, and of several candidates the weights count, w
    being their sum at a point times the number of points.

    Args:
        transform: A chain that weighs without normalising and adds noise, such as
            `chain(weigh(ratio), perturb(schedule))` or one with `boltzmann(q, temperature, normalise=False)`.
        scaled: Whether the loss of a batch is divided by the largest e^{-g} in it, of which no more than e^80 nor less
            than 1/e counts: no gradient overflows, and all have the direction they had, but batches with a low energy
            in them count less (the code).

    Returns:
        A loss whose metrics are `loss`, `energy` (the mean of g), `weight` (the mean of w, 1 for a ratio of policies)
        and those of `weight_metrics`.

    Raises:
        ValueError: For a chain that adds no noise.

    Examples:
        >>> energy = lambda x, t, obs: jnp.zeros(())
        >>> print(in_sample_guidance(perturb(schedule))(energy, example, key)[0])
        1.0
        >>> tripled = chain(weigh(lambda obs, action: jnp.array(3.0)), perturb(schedule, draws=2))
        >>> print(in_sample_guidance(tripled)(energy, example, key)[0])
        3.0
    """
    boolean("scaled", scaled)
    links = transform if isinstance(transform, Chain) else chain(transform)

    def loss(energy: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        match = jax.lax.stop_gradient(links(example, start(example), key))
        if match.schedule is None:
            raise ValueError(
                "in_sample_guidance needs a chain that adds noise, such as chain(..., perturb(schedule)); got one "
                "without."
            )
        points = match.x.shape[0]
        weight = points * jnp.sum(match.weight.reshape(points, -1), axis=1)
        found = jax.vmap(lambda x, t: returned("the energy", energy(x, t, example.obs)))(match.x, match.t)
        if scaled:
            # -g, whose value alone is bounded.
            exponent = jax.lax.stop_gradient(jnp.minimum(found + _MOST, 0)) - found
            largest = batch_max(jax.lax.stop_gradient(jnp.max(exponent)))
            largest = jnp.maximum(largest, -1)
            result = jnp.mean(weight * jnp.exp(exponent - largest) + jnp.exp(-largest) * found)
        else:
            result = jnp.mean(weight * jnp.exp(-found) + found)
        metrics = {"loss": result, "energy": jnp.mean(found), "weight": jnp.mean(weight)}
        return result, {**metrics, **weight_metrics(match)}

    return loss
