"""Energies of noised actions, whose gradient guides a sampler: fitted by contrast among candidates of one state."""

from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import one_of, returned, same_shapes
from dpolicy._select import weighed
from dpolicy._types import Key, Loss, Metrics, Scalar
from dpolicy.fields import AbstractSchedule
from dpolicy.fields._schedule import check_schedule
from dpolicy.losses._candidates import require_clean
from dpolicy.losses.match import Chain, Transform, chain, start, weight_metrics
from dpolicy.losses.times import TimeLaw, time_law

EnergyForm: TypeAlias = Literal["contrastive", "mse", "emse"]


def contrastive(energy: Float[Array, " k"], weight: Float[Array, " k"]) -> Scalar:
    """-sum_i w_i log softmax_i(f): cross-entropy of the candidates' weights; f + c costs the same for every c.

    A single candidate has no gradient. Source: CEP (arXiv 2304.12824).

    Args:
        energy: f at each noised candidate.
        weight: w of each clean one, at least 0; they need not sum to 1.

    Examples:
        >>> weight = jnp.array([0.75, 0.25])
        >>> print([round(float(contrastive(jnp.log(weight) + c, weight)), 4) for c in (0, 7)])
        [0.5623, 0.5623]
    """
    same_shapes(energy=energy, weight=weight)
    return -jnp.sum(weighed(weight, jax.nn.log_softmax(energy)))


def _squared(energy: Float[Array, " k"], weight: Float[Array, " k"], exponential: bool) -> Scalar:
    size = weight.shape[0]
    if exponential:
        return jnp.mean((jnp.exp(energy) - size * weight) ** 2)
    counts = weight > 0
    gap = jnp.where(counts, energy - jnp.log(jnp.where(counts, size * weight, 1)), 0)
    return jnp.mean(gap**2)


def energy_matching(
    proposals: Transform,
    schedule: AbstractSchedule,
    *,
    times: str | TimeLaw = "uniform",
    form: EnergyForm = "contrastive",
) -> Loss:
    r"""Fit f(x_t, t, s) to the log-mean of the weights of what x_t came from: contrastive energy prediction.

    $$ L = -\sum_i w_i \log \mathrm{softmax}_i f(x^i, t, s), \qquad x^i = \alpha_t a^i + \sigma_t \epsilon^i, $$

    one t for the state, a noise for each candidate. With weights exp(Q / temperature), `boltzmann(..., normalise=
    False)`, the minimiser is f* = log E[exp(Q(s, x_0) / temperature) | x_t] + c(s, t) for any two candidates or more:
    `guided(field, f)` is then the field of nu exp(Q / temperature). Normalised weights, which do not overflow, come
    there as the candidates become many only. What is near it and is not it, to compare: "mse", (f - log w)^2, whose
    minimiser E[Q / temperature | x_t] guides to another law wherever the posterior has a width that x_t changes; and
    "emse", (exp f - w)^2, whose minimiser is f*, by errors of the scale of the largest weight. In both w is relative
    to an equal share.

    Source: CEP (arXiv 2304.12824, section 3.2) and its code.

    Args:
        proposals: Clean candidates of the state and their weights, such as chain(candidates(policy, 16),
            boltzmann(q, 1/3)).
        schedule: That of the field to be guided.
        times: The law of t; see `perturb`.
        form: contrastive, mse or emse.

    Raises:
        ValueError: For an unknown form or law, and for proposals that add noise themselves.

    Examples:
        >>> proposals = chain(candidates(lambda obs, key: jax.random.normal(key, (2,)), 8), boltzmann(q, 1.0))
        >>> energy = lambda x, t, obs: -jnp.sum(x**2)
        >>> value, metrics = energy_matching(proposals, schedule)(energy, example, key)
        >>> print(value.shape, sorted(metrics))
        () ['energy', 'ess', 'loss', 'weight_kl']
    """
    check_schedule(schedule)
    one_of("form", form, get_args(EnergyForm))
    law = time_law(times)
    links = proposals if isinstance(proposals, Chain) else chain(proposals)

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        propose_key, time_key, noise_key = jax.random.split(key, 3)
        match = jax.lax.stop_gradient(links(example, start(example), propose_key))
        require_clean("energy_matching", match)
        t = returned("times", law(schedule, time_key)).astype(match.action.dtype)
        noise = jax.random.normal(noise_key, match.action.shape, match.action.dtype)
        x = schedule.alpha(t) * match.action + schedule.sigma(t) * noise
        energy = jax.vmap(lambda x: returned("the model", model(x, t, example.obs)))(x)
        if form == "contrastive":
            result = contrastive(energy, match.weight)
        else:
            result = _squared(energy, match.weight, form == "emse")
        return result, {"loss": result, "energy": jnp.mean(energy), **weight_metrics(match)}

    return loss
