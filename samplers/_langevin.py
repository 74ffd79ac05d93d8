"""Langevin sampling: corrections between the steps of an ancestral chain, and the plain chain on a fixed score."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation
from dpolicy.fields import AbstractField, predict_score
from dpolicy.samplers._chain import AbstractChain, Control, check_truncate
from dpolicy.samplers._grid import Number, Numbers, Prior, bounded, check_bound
from dpolicy.samplers._predict import predict_pair
from dpolicy.samplers.ancestral import Ancestral, Coefficients, ddim, ddpm

PREDICTORS = ("ddim", "ddpm")

Rows = tuple[Coefficients, Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]


class PredictorCorrector(AbstractChain):
    """Langevin corrections before every step of an ancestral predictor; built by `langevin`.

    Examples:
        >>> sampler = langevin(steps=2, corrections=3)
        >>> print(sampler.steps, sampler.corrections)
        2 3
    """

    predictor: Ancestral
    step_size: Number
    corrections: int = eqx.field(static=True)
    control: Control | None = None

    @property
    def steps(self) -> int:
        """Number of predictor steps."""
        return self.predictor.steps

    @property
    def prior(self) -> Prior:
        """Where the chain starts: as the predictor does."""
        return self.predictor.prior

    @property
    def truncate(self) -> int | None:
        """Steps that carry gradient: as the predictor's."""
        return self.predictor.truncate

    def rows(self, field: AbstractField, key: Key) -> Rows:
        """Coefficients and noise of the predictor; sigma and noise of the corrections."""
        # The first half of the key is that of x_1, as in every sampler.
        predictor_key, correction_key = jax.random.split(jax.random.split(key)[1])
        coefficients, noise = self.predictor.rows(field, predictor_key)
        shape = (self.steps, self.corrections, field.action_size)
        return (
            coefficients,
            noise,
            field.schedule.sigma(coefficients.t),
            jax.random.normal(correction_key, shape),
        )

    def step(self, field: AbstractField, x: Action, row: Rows, obs: Observation) -> Action:
        """`corrections` Langevin steps at the current time, then one step of the predictor."""
        coefficients, noise, sigma, kicks = row

        def correct(x, kick):
            # delta score = -step_size sigma^2 eps / sigma: no division by a small sigma.
            _, eps = predict_pair(field, x, coefficients.t, obs, clip=self.predictor.clip)
            moved = x - self.step_size * sigma * eps + jnp.sqrt(2 * self.step_size) * sigma * kick
            return moved.astype(x.dtype), None

        x, _ = jax.lax.scan(correct, x, kicks)
        return self.predictor.step(field, x, (coefficients, noise), obs)

    def finish(self, x: Action) -> Action:
        """The action: as the predictor's."""
        return self.predictor.finish(x)


def langevin(
    *,
    steps: int = 20,
    corrections: int = 1,
    step_size: Number = 0.1,
    predictor: str = "ddim",
    clip: Number | None = 1.0,
    initial: str = "normal",
    initial_scale: Number = 1.0,
    times: Numbers | None = None,
    truncate: int | None = None,
) -> PredictorCorrector:
    """Predictor-corrector: at each time Langevin steps x <- x + delta score + sqrt(2 delta) z, then one step down.

    delta = step_size sigma_t^2, so that one number fits all times; at a Gaussian of standard deviation S the chain's
    variance is too large by the factor 1/(1 - delta/(2 S^2)), at most 1/(1 - step_size/2).

    Source: Song et al. 2021 (arXiv 2011.13456, algorithm 3 and appendix G), whose step size is a signal-to-noise
    ratio of norms; this is its expectation.

    Args:
        steps: Number of predictor steps, each one evaluation.
        corrections: Langevin steps before each, one evaluation each; 0 leaves the predictor alone.
        step_size: In units of sigma_t^2, in (0, 2): beyond it the chain diverges.
        predictor: "ddim" or "ddpm" (variance "beta").
        clip: As for `ddpm`.
        initial: As for `ddpm`.
        initial_scale: As for `ddpm`.
        times: As for `ddpm`.
        truncate: As for `ddpm`.

    Returns:
        A sampler `(field, obs, key, *, start=None) -> action` for one example, with `.chain`.

    Raises:
        ValueError: For arguments out of range.

    Examples:
        >>> print(langevin(steps=2, step_size=0.2)(point, obs, key))
        [ 0.5 -0.5]
    """
    _checks.integer("corrections", corrections, 0)
    _checks.in_range("step_size", step_size, 0.0, 2.0, open_low=True, open_high=True)
    _checks.one_of("predictor", predictor, PREDICTORS)
    make = ddim if predictor == "ddim" else ddpm
    ancestral = make(
        steps=steps,
        clip=clip,
        initial=initial,
        initial_scale=initial_scale,
        times=times,
        truncate=truncate,
    )
    return PredictorCorrector(ancestral, step_size, corrections)


class Unadjusted(AbstractChain):
    """Langevin steps on a fixed score; built by `unadjusted_langevin`.

    Examples:
        >>> print(unadjusted_langevin(steps=4).step_sizes)
        [1.   0.75 0.5  0.25]
    """

    prior: Prior
    step_sizes: Float[Array, " steps"]
    bound: Number | None
    time: Number
    truncate: int | None = eqx.field(static=True)
    control: Control | None = None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.step_sizes.shape[0]

    def rows(self, field: AbstractField, key: Key) -> tuple[Float[Array, " k"], Float[Array, "k a"]]:
        """Step sizes and noise."""
        shape = (self.steps, field.action_size)
        return self.step_sizes, jax.random.normal(jax.random.split(key)[1], shape)

    def step(
        self, field: AbstractField, x: Action, row: tuple[Float[Array, ""], Action], obs: Observation
    ) -> Action:
        """One Langevin step."""
        size, noise = row
        score = predict_score(field, x, jnp.asarray(self.time, float), obs)
        return bounded(x + 0.5 * size * score + jnp.sqrt(size) * noise, self.bound)

    def finish(self, x: Action) -> Action:
        """The action: the last point, which is within its bound."""
        return x


def unadjusted_langevin(
    *,
    steps: int = 20,
    step_sizes: Numbers | None = None,
    bound: Number | None = 1.0,
    time: Number = 0.0,
    initial: str = "normal",
    initial_scale: Number = 1.0,
    truncate: int | None = None,
) -> Unadjusted:
    """x <- clip(x + delta_k/2 score(x) + sqrt(delta_k) z), the score always that at one time.

    Source: QSM as in the code of Ma et al. 2025 (arXiv 2502.00361); Welling & Teh 2011.

    Args:
        steps: Number of steps.
        step_sizes: The deltas; 1 - k/steps for k = 0..steps-1 by default.
        bound: Clip x to [-bound, bound] after every step, None for none.
        time: Where the field is evaluated. At 0 only a field that predicts a score (QSM's is proportional to the
            gradient of Q) is well defined.
        initial: As for `ode`.
        initial_scale: As for `ode`.
        truncate: As for `ode`.

    Returns:
        A sampler `(field, obs, key, *, start=None) -> action` for one example, with `.chain`.

    Raises:
        ValueError: For arguments out of range.

    Examples:
        >>> score = dp.FunctionField(lambda x, t, obs: -x, prediction="score", **shape)
        >>> print(unadjusted_langevin(steps=4)(score, obs, key).shape)
        (2,)
    """
    _checks.integer("steps", steps)
    _checks.fraction("time", time)
    check_bound("bound", bound)
    sizes = 1 - jnp.arange(steps) / steps if step_sizes is None else step_sizes
    _checks.positive("step_sizes", sizes, ndim=(1,))
    sizes = jnp.asarray(sizes, float)
    if sizes.shape != (steps,):
        raise ValueError(f"step_sizes must hold steps = {steps} numbers, got shape {sizes.shape}.")
    prior = Prior(initial, initial_scale)
    check_truncate(truncate, steps)
    return Unadjusted(prior, sizes, bound, time, truncate)
