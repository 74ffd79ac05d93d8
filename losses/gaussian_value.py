"""The law of a return as a Gaussian: its loss, with the remedies of DSAC-T, as an error of critics."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import array, instance, one_of, positive
from dpolicy._types import Metrics, Number
from dpolicy.losses.distributional import CriticError
from dpolicy.networks import GaussianValue, SampledValue

GAUSSIAN_FORMS = ("scaled", "huber", "huber_doubled")
_BOUND = 3.0  # standard deviations, of the samples and of what the variance is fitted to
_DELTA = 50.0  # where Huber's loss turns linear


def _huber(error: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    size = jnp.minimum(jnp.abs(error), _DELTA)
    return size * (jnp.abs(error) - size / 2)


def gaussian_value_loss(
    mean: Float[Array, "*batch"],
    std: Float[Array, "*batch"],
    target: Float[Array, "*#batch"],
    sample: Float[Array, "*#batch"],
    deviation: Float[Array, "*#batch"],
    *,
    form: str = "scaled",
    floor: Number = 0.1,
) -> Float[Array, "*batch"]:
    r"""The loss of N(mean, std^2) as the law of a return, whose gradients are those of its likelihood, made safe.

    The mean is fitted to `target` y, which carries no sampling noise; the deviation to a `sample` of the return, no
    further than 3 b from the mean, y_b = mean + clip(sample - mean, -3 b, 3 b), with b = `deviation` a running mean of
    std. Factors in b make the size of a step free of the scale of rewards. With s, m held fixed within brackets and e
    = `floor`:

    - `scaled`: -(b^2 + e) ( mean [(y - m) / (s^2 + e)] + std [((m - y_b)^2 - s^2) / (s^3 + e)] ); it is stationary at
      std^2 = E (y_b - m)^2.
    - `huber`: r ( H(mean - y) + std [(s^2 - H(m - y_b)) / (s + e)] ), r = clip(b^2 / (s^2 + e), .1, 10) and H Huber's
      loss d^2 / 2, linear beyond 50: stationary at half that variance, so that y_b is held sqrt(2) closer.
    - `huber_doubled`: the same with 2 H in the second term, which is stationary where `scaled` is.

    Source: DSAC-T (arXiv 2310.05858); `huber` its authors' code since July 2025.

    Args:
        mean: Of the law.
        std: Its standard deviation, above zero.
        target: What the mean is fitted to.
        sample: What the deviation is fitted to.
        deviation: b; see `form`.
        form: scaled, huber or huber_doubled.
        floor: e, which keeps gradients finite where std -> 0.

    Raises:
        ValueError: For an unknown form, or a floor that is not above zero.

    Examples:
        >>> two, five, one = jnp.array(2.0), jnp.array(5.0), jnp.array(1.0)
        >>> slopes = jax.grad(lambda m, s: gaussian_value_loss(m, s, two, five, one, floor=1.0), (0, 1))
        >>> print(*slopes(one, one))
        -1.0 -8.0
    """
    one_of("form", form, GAUSSIAN_FORMS)
    positive("floor", floor)
    array("mean", mean)
    array("std", std)
    m, s = jax.lax.stop_gradient((mean, std))
    error = jnp.clip(sample - m, -_BOUND * deviation, _BOUND * deviation)
    if form == "scaled":
        first = mean * ((target - m) / (s**2 + floor))
        return -(deviation**2 + floor) * (first + std * ((error**2 - s**2) / (s**3 + floor)))
    ratio = jnp.clip(deviation**2 / (s**2 + floor), 0.1, 10.0)
    factor = 2.0 if form == "huber_doubled" else 1.0
    return ratio * (_huber(mean - target) + std * ((s**2 - factor * _huber(error)) / (s + floor)))


def gaussian_error(
    deviation: Float[Array, "*n"], *, form: str = "scaled", floor: Number = 0.1
) -> CriticError:
    """`gaussian_value_loss` of critics that return a `GaussianValue`; the goal is a `SampledValue`.

    The metrics are the mean "std", and the mean squared "error" of the means.

    Args:
        deviation: b of each critic.
        form: See `gaussian_value_loss`.
        floor: See `gaussian_value_loss`.

    Examples:
        >>> law, goal = GaussianValue(jnp.ones(1), jnp.ones(1)), SampledValue(jnp.array(2.0), jnp.array(5.0))
        >>> print(gaussian_error(jnp.ones(1), floor=1.0)(law, goal)[1]["error"])
        1.0
    """
    one_of("form", form, GAUSSIAN_FORMS)
    positive("floor", floor)

    def error(prediction: Any, goal: Any) -> tuple[Float[Array, "*n"], Metrics]:
        instance("what the critic returns", prediction, GaussianValue, "a GaussianValue, as of GaussianQ")
        instance("target", goal, SampledValue, "a SampledValue, as of a law that is drawn from")
        mean, std = prediction
        bound = jax.lax.stop_gradient(deviation)
        errors = gaussian_value_loss(mean, std, goal.mean, goal.sample, bound, form=form, floor=floor)
        return errors, {"std": jnp.mean(std), "error": jnp.mean((mean - goal.mean) ** 2)}

    return error
