"""The denoising chain as a sequence of Gaussian decisions: its log-likelihoods and DPPO's schedules over them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import fraction, in_range, instance, integer, one_of, ordered, positive, shaped
from dpolicy._types import Key, Number
from dpolicy.losses.ratios import LogLikelihood
from dpolicy.samplers.ancestral import Ancestral

REDUCTIONS = ("mean", "sum")


def chain_log_likelihood(
    sampler: Ancestral,
    *,
    trained: int | None = None,
    bounds: tuple[Number | None, Number | None] | None = (-5.0, 2.0),
    reduction: str = "mean",
) -> LogLikelihood:
    """log N(x_{k-1}; mean_k, std_k^2) of every trained step of the stored chain, the noisiest first.

    Reads example.extras["chain"], the last `trained` + 1 points of the sampler's chain. mean_k is the sampler's own,
    clipping included, so that sampling and likelihood agree.

    Source: Ren et al. 2024 (arXiv 2409.00588, eqs. 4.2-4.4).

    Args:
        sampler: A `ddpm` or `ddim` whose every step is a Gaussian draw: `min_std` above zero, `final_noise`, no
            `clip_state`. The density is that of noise without `noise_bound`, as in the reference.
        trained: How many of the last steps; None for all.
        bounds: Clamp of the log-density of each coordinate, where it has no gradient; None for none, on one side or
            both.
        reduction: Over the coordinates, `mean` (the reference code: ratios stay near 1, so clips are small) or
            `sum` (the joint density).

    Returns:
        A log-likelihood of shape [trained].

    Raises:
        ValueError: For arguments out of range, or a sampler without noise in some step or that clips x.

    Examples:
        >>> sampler = dp.samplers.ddpm(steps=3, min_std=0.1, final_noise=True)
        >>> points = sampler.chain(field, obs, key)
        >>> print(chain_log_likelihood(sampler)(field, stored(chain=points), key).shape)
        (3,)
    """
    instance("sampler", sampler, Ancestral, "made by ddpm or ddim")
    trained = sampler.steps if trained is None else trained
    integer("trained", trained, 1, sampler.steps)
    one_of("reduction", reduction, REDUCTIONS)
    if bounds is not None:
        for i in range(2):
            if bounds[i] is not None:
                in_range(f"bounds[{i}]", bounds[i])
        ordered("bounds[0]", bounds[0], "bounds[1]", bounds[1])
    positive("the sampler's min_std", sampler.min_std)
    if not sampler.final_noise:
        raise ValueError("the sampler must draw in its last step too (final_noise=True), got False.")
    if sampler.clip_state is not None:
        raise ValueError(
            "the sampler must not clip x (clip_state=None), as a clipped step is no Gaussian one, got "
            f"{sampler.clip_state!r}."
        )
    reduce = jnp.mean if reduction == "mean" else jnp.sum

    def log_likelihood(field: Any, example: Any, key: Key) -> Array:
        points: Float[Array, "n a"] = example.extras["chain"]
        shaped("extras['chain']", points, (trained + 1, field.action_size))
        # The noisiest step is the first row, so those that are trained are the last.
        rows = jax.tree.map(lambda leaf: leaf[-trained:], sampler.coefficients(field))

        def one(x: Array, new: Array, row: Any) -> Array:
            mean = sampler.mean(field, x, row, example.obs)
            logs = jax.scipy.stats.norm.logpdf(new, mean, row.std)
            return reduce(logs if bounds is None else jnp.clip(logs, *bounds))

        return jax.vmap(one)(points[:-1], points[1:], rows)

    return log_likelihood


def clip_schedule(steps: int, low: Number, high: Number, rate: Number = 3.0) -> Float[Array, " {steps}"]:
    """Clip range of each step: low + (high - low) (e^(rate j/(steps-1)) - 1)/(e^rate - 1), j = 0 the noisiest.

    From `low` at the noisiest step to `high` at the last; for one step, `high`.

    Raises:
        ValueError: For arguments out of range, and a `low` above `high`.

    Examples:
        >>> print(clip_schedule(3, 0.01, 0.1))
        [0.01  0.026 0.1  ]
    """
    integer("steps", steps)
    positive("low", low)
    positive("high", high)
    ordered("low", low, "high", high)
    positive("rate", rate)
    place = jnp.linspace(0.0, 1.0, steps) if steps > 1 else jnp.ones(1)
    # e^x - 1 by expm1, which keeps its digits as the rate goes to 0 and the schedule to a straight line.
    return low + (high - low) * jnp.expm1(rate * place) / jnp.expm1(jnp.asarray(rate, float))


def denoising_discounts(steps: int, discount: Number) -> Float[Array, " {steps}"]:
    """discount^(steps - 1 - j): what the advantage is multiplied by at step j; 1 at the last, j = steps - 1.

    Examples:
        >>> print(denoising_discounts(3, 0.5))
        [0.25 0.5  1.  ]
    """
    integer("steps", steps)
    fraction("discount", discount)
    return jnp.asarray(discount, float) ** jnp.arange(steps - 1, -1, -1)
