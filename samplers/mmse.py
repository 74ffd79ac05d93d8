"""Log-density of an action from how well the field denoises it: the I-MMSE identity on a grid of noise levels."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.fields import AbstractField
from dpolicy.samplers._grid import Number, check_action, check_bound
from dpolicy.samplers._predict import predict_pair


def log_density_of_errors(errors: Float[Array, " n"], signal: Float[Array, " n+1"], dim: int) -> Scalar:
    """log p from the squared errors |a - E[a | x_i]|^2 of the denoised action, expected over the noise.

    -(d/2) log(2 pi e) + sum_i (s_{i-1} - s_i) / (2 (1 - s_i)) (d - errors_i / (1 - s_i)), with `signal`
    s_i = alpha_i^2 / (alpha_i^2 + sigma_i^2) decreasing, s_0 the cleanest. The same as sum_i omega_i (s_i d -
    |eps - eps_hat|^2) with omega_i = (s_{i-1} - s_i) / (2 s_i (1 - s_i)), without dividing by s_i -> 0. The grid is
    first order: log-densities of narrow laws come out too small near their peak.

    Source: MaxEntDP (arXiv 2502.11612).

    Raises:
        ValueError: Unless `signal` holds one number more than `errors`.

    Examples:
        >>> value = log_density_of_errors(jnp.array([0.5]), jnp.array([0.9, 0.5]), 1)
        >>> print(f"{value:.3f}")
        -1.419
    """
    _checks.integer("dim", dim)
    _checks.vector("errors", errors)
    _checks.shaped("signal", signal, (errors.shape[0] + 1,))
    left, noise = signal[:-1] - signal[1:], 1 - signal[1:]
    terms = left / (2 * noise) * (dim - errors / noise)
    return jnp.sum(terms) - dim / 2 * math.log(2 * math.pi * math.e)


def mmse_log_likelihood(
    field: AbstractField,
    action: Action,
    obs: Observation,
    key: Key,
    *,
    steps: int = 20,
    draws: int = 50,
    clip: Number | None = 1.0,
) -> Scalar:
    """log p(action | obs) of the density whose exact field `field` is, in nats; see `log_density_of_errors`.

    At each of `steps` times the action is noised `draws` times and denoised again: steps * draws evaluations of the
    field, no derivative. An action that the field restores badly is improbable.

    Source: MaxEntDP (arXiv 2502.11612), with 20 steps and 50 draws; Guo, Shamai & Verdu 2005 (I-MMSE).

    Args:
        field: The exact one of the density, or what was learnt of it.
        action: One action.
        obs: One observation.
        key: For the noises.
        steps: Intervals of the grid from t_min to t_max.
        draws: Noises per time.
        clip: Clip the denoised action to [-clip, clip], None for not.

    Returns:
        A scalar; biased by the grid, unbiased over the noise.

    Raises:
        ValueError: For arguments out of range.

    Examples:
        >>> print(mmse_log_likelihood(normal, jnp.zeros(2), obs, key, steps=4, draws=2).shape)
        ()
    """
    _checks.integer("steps", steps)
    _checks.integer("draws", draws)
    check_bound("clip", clip)
    check_action("action", action, field)
    schedule = field.schedule
    times = jnp.minimum(schedule.grid(steps), field.span[1]).astype(action.dtype)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)

    def error(inputs: tuple[Scalar, Scalar, Scalar, Key]) -> Scalar:
        t, alpha, sigma, key = inputs

        def one(noise: Action) -> Scalar:
            data, _ = predict_pair(field, alpha * action + sigma * noise, t, obs, clip=clip)
            return jnp.sum((action - data) ** 2)

        return jnp.mean(jax.vmap(one)(jax.random.normal(key, (draws, *action.shape), action.dtype)))

    # One time after another: all of them at once would hold `steps` times the activations.
    errors = jax.lax.map(
        error, (times[1:], alpha[1:], sigma[1:], jax.random.split(_checks.one_key(key), steps))
    )
    return log_density_of_errors(errors, alpha**2 / (alpha**2 + sigma**2), action.shape[0])
