"""Ancestral sampling on a time grid: DDPM and DDIM, as one linear-Gaussian kernel with different coefficients."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.fields import AbstractField, AbstractSchedule
from dpolicy.samplers._chain import AbstractChain, Control, check_truncate
from dpolicy.samplers._grid import Grid, Number, Numbers, Prior, bounded, check_bound
from dpolicy.samplers._predict import predict_pair

VARIANCES = ("beta", "posterior")


class Coefficients(NamedTuple):
    """x <- data * clean action + noise * predicted noise + state * x + std * z, evaluated at time `t`.

    Examples:
        >>> rows = ddim(steps=4).coefficients(point)
        >>> print(rows.t.shape, rows.std)
        (4,) [0. 0. 0. 0.]
    """

    t: Float[Array, "..."]
    data: Float[Array, "..."]
    noise: Float[Array, "..."]
    state: Float[Array, "..."]
    std: Float[Array, "..."]


def _kept(schedule: AbstractSchedule, times: Float[Array, " n"]) -> Float[Array, " n-1"]:
    """1 - snr_t / snr_s for each step from t to s; by expm1, as it is a small difference of numbers near one."""
    log_snr = schedule.log_snr(times)
    return -jnp.expm1(log_snr[:-1] - log_snr[1:])


class DDPMRule(eqx.Module):
    """The posterior q(x_s | x_t, x_0) with the predicted x_0, and one of two variances."""

    variance: str = eqx.field(static=True)

    def __call__(self, schedule: AbstractSchedule, times: Float[Array, " n"]) -> Coefficients:
        """Coefficients of the steps along `times`."""
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        kept = _kept(schedule, times)
        data = alpha[1:] * kept
        state = alpha[:-1] / alpha[1:] * (sigma[1:] / sigma[:-1]) ** 2
        std = sigma[1:] * jnp.sqrt(kept)
        # The textbook's beta belongs to the variance-preserving schedule of the same signal-to-noise ratio.
        if self.variance == "beta":
            scale = jnp.sqrt(alpha**2 + sigma**2)
            std = sigma[:-1] * jnp.sqrt(kept) * scale[1:] / scale[:-1]
        return Coefficients(times[:-1], data, jnp.zeros_like(data), state, std)


class DDIMRule(eqx.Module):
    """x_s = alpha_s x_0hat + sqrt(sigma_s^2 - std^2) noise + std z, std = eta times the posterior's."""

    eta: Number

    def __call__(self, schedule: AbstractSchedule, times: Float[Array, " n"]) -> Coefficients:
        """Coefficients of the steps along `times`."""
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        share = self.eta * jnp.sqrt(_kept(schedule, times))
        noise = sigma[1:] * jnp.sqrt(1 - share**2)
        return Coefficients(times[:-1], alpha[1:], noise, jnp.zeros_like(noise), sigma[1:] * share)


class Ancestral(AbstractChain):
    """A Markov chain of Gaussian steps; built by `ddpm` and `ddim`.

    Examples:
        >>> mean, std = ddpm(steps=4).kernel(point, jnp.zeros(2), obs, 3)
        >>> print(mean, std)
        [ 0.5 -0.5] 0.0
    """

    grid: Grid
    prior: Prior
    rule: DDPMRule | DDIMRule
    clip: Number | None
    clip_state: Number | None
    min_std: Number
    noise_bound: Number | None
    recompute: bool = eqx.field(static=True)
    final_noise: bool = eqx.field(static=True)
    truncate: int | None = eqx.field(static=True)
    control: Control | None = None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.grid.steps

    def coefficients(self, field: AbstractField) -> Coefficients:
        """The coefficients of all steps, the noisiest first."""
        rows = self.rule(field.schedule, self.grid(field))
        std = jnp.maximum(rows.std, self.min_std)
        return rows._replace(std=std if self.final_noise else std.at[-1].set(0.0))

    def mean(self, field: AbstractField, x: Action, row: Coefficients, obs: Observation) -> Action:
        """The mean of one step; one evaluation of the field."""
        data, noise = predict_pair(field, x, row.t, obs, clip=self.clip, recompute=self.recompute)
        return row.data * data + row.noise * noise + row.state * x

    def kernel(
        self, field: AbstractField, x: Action, obs: Observation, step: int | Int[Array, ""]
    ) -> tuple[Action, Scalar]:
        """(mean, std) of the Gaussian that step number `step` draws from; 0 is the noisiest, steps - 1 the last."""
        row = jax.tree.map(lambda leaf: leaf[step], self.coefficients(field))
        return self.mean(field, x, row, obs), row.std

    def step(self, field: AbstractField, x: Action, row: Any, obs: Observation) -> Action:
        coefficients, noise = row
        x = self.mean(field, x, coefficients, obs) + coefficients.std * noise
        return x if self.clip_state is None else jnp.clip(x, -self.clip_state, self.clip_state)

    def rows(self, field: AbstractField, key: Key) -> tuple[Coefficients, Float[Array, "{self.steps} a"]]:
        # The other half of the split draws x_1, in every sampler alike; and one draw for all steps is one kernel.
        noise = jax.random.normal(jax.random.split(key)[1], (self.steps, field.action_size))
        if self.noise_bound is not None:
            noise = jnp.clip(noise, -self.noise_bound, self.noise_bound)
        return self.coefficients(field), noise

    def finish(self, x: Action) -> Action:
        """The action, in the box of its prediction; as drawn where the last step is a draw, with a density."""
        return x if self.final_noise else bounded(x, self.clip)


def ddpm(
    *,
    steps: int = 20,
    variance: str = "beta",
    clip: Number | None = 1.0,
    initial: str = "normal",
    initial_scale: Number = 1.0,
    times: Numbers | None = None,
    truncate: int | None = None,
    clip_state: Number | None = None,
    min_std: Number = 0.0,
    noise_bound: Number | None = None,
    final_noise: bool = False,
) -> Ancestral:
    """DDPM: x_s ~ N(alpha_s kept x_0hat + (alpha_t/alpha_s)(sigma_s/sigma_t)^2 x, var), kept = 1 - snr_t/snr_s.

    For a variance-preserving schedule with abar = alpha^2, beta = 1 - abar_t/abar_s this is the textbook step,
    x <- [sqrt(abar_s) beta x_0hat + sqrt(1 - beta) (1 - abar_s) x] / (1 - abar_t) + 1[not last] std z.

    Source: Ho et al. 2020 (arXiv 2006.11239, eqs. 6-7, algorithm 2).

    Args:
        steps: Number of steps, along the schedule's grid (for a `DiscreteVP` its own k = K..1, ending at abar = 1).
        variance: "beta", std^2 = beta (FlowRL, MaxEntDP, QSM; exact for data of unit variance), or "posterior",
            std^2 = beta (1 - abar_s)/(1 - abar_t) (DIPO, QVPO; exact for a known x_0). A schedule that is not
            variance preserving uses the beta of the one with the same signal-to-noise ratio, scaled by
            sqrt(alpha_s^2 + sigma_s^2).
        clip: Clip x_0hat to [-clip, clip] at every step, and the action (not with `final_noise`); None for none.
        initial: As for `ode`.
        initial_scale: As for `ode` (relax starts with 0.5).
        times: As for `ode`.
        truncate: As for `ode`.
        clip_state: Clip x itself after every step (IDQL, QSM).
        min_std: Floor of std (DPPO explores with 0.1, evaluates with 1e-3).
        noise_bound: Clip z to [-noise_bound, noise_bound] (DPPO: 3); None for none.
        final_noise: Whether the last step draws noise too (DPPO: True).

    Returns:
        A sampler `(field, obs, key, *, start=None) -> action` for one example, with `.chain` and, for the density
        of a step, `.kernel(field, x, obs, step) -> (mean, std)`.

    Raises:
        ValueError: For arguments out of range.

    Examples:
        >>> print(ddpm(steps=4)(point, obs, key))
        [ 0.5 -0.5]
        >>> print(ddpm(steps=4, min_std=0.1, final_noise=True).chain(point, obs, key).shape)
        (5, 2)
    """
    _checks.one_of("variance", variance, VARIANCES)
    check_bound("clip", clip)
    check_bound("clip_state", clip_state)
    check_bound("noise_bound", noise_bound)
    _checks.non_negative("min_std", min_std)
    _checks.boolean("final_noise", final_noise)
    grid, prior = Grid(steps, times), Prior(initial, initial_scale)
    check_truncate(truncate, steps)
    return Ancestral(
        grid=grid,
        prior=prior,
        rule=DDPMRule(variance),
        clip=clip,
        clip_state=clip_state,
        min_std=min_std,
        noise_bound=noise_bound,
        recompute=True,
        final_noise=final_noise,
        truncate=truncate,
    )


def ddim(
    *,
    steps: int = 20,
    eta: Number = 0.0,
    clip: Number | None = 1.0,
    recompute: bool = False,
    initial: str = "normal",
    initial_scale: Number = 1.0,
    times: Numbers | None = None,
    truncate: int | None = None,
    clip_state: Number | None = None,
    min_std: Number = 0.0,
    noise_bound: Number | None = None,
    final_noise: bool = False,
) -> Ancestral:
    """DDIM: x_s = alpha_s x_0hat + sqrt(sigma_s^2 - std^2) noise + std z, std^2 = eta^2 sigma_s^2 (1 - snr_t/snr_s).

    Source: Song, Meng & Ermon 2021 (arXiv 2010.02502, eqs. 12, 16).

    Args:
        eta: 0 is deterministic, 1 has the variance of DDPM's "posterior".
        recompute: After clipping x_0hat, let the noise follow from it, (x - alpha x_0hat)/sigma (DPPO); without, it
            stays as predicted (FlowRL).
        steps: As for `ddpm`.
        clip: As for `ddpm`.
        initial: As for `ddpm`.
        initial_scale: As for `ddpm`.
        times: As for `ddpm`.
        truncate: As for `ddpm`.
        clip_state: As for `ddpm`.
        min_std: As for `ddpm`.
        noise_bound: As for `ddpm`.
        final_noise: As for `ddpm`.

    Returns:
        A sampler `(field, obs, key, *, start=None) -> action` for one example, with `.chain` and `.kernel`.

    Raises:
        ValueError: For arguments out of range.

    Examples:
        >>> print(ddim(steps=4)(point, obs, key))
        [ 0.5 -0.5]
    """
    _checks.fraction("eta", eta)
    _checks.boolean("recompute", recompute)
    same = ddpm(
        steps=steps,
        clip=clip,
        initial=initial,
        initial_scale=initial_scale,
        times=times,
        truncate=truncate,
        clip_state=clip_state,
        min_std=min_std,
        noise_bound=noise_bound,
        final_noise=final_noise,
    )
    return dataclasses.replace(same, rule=DDIMRule(eta), recompute=recompute)
