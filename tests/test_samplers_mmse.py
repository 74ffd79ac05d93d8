"""Densities from denoising errors: the specification's table, and what a soft backup makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture
from scipy import stats

from dpolicy.fields import CosineVP, RectifiedFlow, VarianceExploding
from dpolicy.samplers import log_density_of_errors, mmse_log_likelihood

SCHEDULE = CosineVP()
TABLE = [  # V, a, true log p, and the estimate with 20, 100, 1000 intervals
    (0.05, 0.0, 0.5789, 0.3158, 0.5206, 0.5722),
    (0.05, 0.5, -1.9211, -1.6221, -1.8513, -1.9128),
    (0.25, 0.0, -0.2258, -0.2987, -0.2411, -0.2275),
    (0.25, 0.5, -0.7258, -0.7553, -0.7319, -0.7265),
    (1.0, 0.0, -0.9189, -0.9190, -0.9190, -0.9190),
    (1.0, 0.5, -1.0439, -1.0440, -1.0440, -1.0440),
]


def exact_errors(schedule, times, variance, action):
    """E |a - E[a | x]|^2 over the noise of x = alpha a + sigma eps, for N(0, variance)."""
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    total = alpha**2 * variance + sigma**2
    return (action**2 * sigma**4 + alpha**2 * variance**2 * sigma**2) / total**2


def estimate(variance, action, steps, schedule=SCHEDULE):
    times = schedule.grid(steps)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    errors = exact_errors(schedule, times[1:], variance, action)
    return log_density_of_errors(errors, alpha**2 / (alpha**2 + sigma**2), 1)


@pytest.mark.parametrize(("variance", "action", "truth", "coarse", "medium", "fine"), TABLE)
def test_estimates_on_a_grid(x64, variance, action, truth, coarse, medium, fine):
    assert stats.norm.logpdf(action, scale=np.sqrt(variance)) == pytest.approx(truth, abs=1e-4)
    found = [estimate(variance, action, steps) for steps in (20, 100, 1000)]
    np.testing.assert_allclose(found, [coarse, medium, fine], atol=2e-4)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), VarianceExploding(0.001, 100.0)])
def test_every_schedule_has_the_same_limit(x64, schedule):
    assert estimate(0.25, 0.5, 4000, schedule) == pytest.approx(-0.7258, abs=5e-3)


@pytest.mark.parametrize("prediction", ["noise", "velocity", "data"])
def test_the_estimator_draws_what_the_formula_expects(x64, getkey, prediction):
    variance, action = 0.25, 0.5
    field = GaussianMixture([1.0], [[0.0]], [np.sqrt(variance)]).field(SCHEDULE, prediction)
    found = jax.jit(
        lambda key: mmse_log_likelihood(
            field, jnp.array([action]), jnp.zeros(1), key, steps=20, draws=100_000, clip=None
        )
    )(getkey())
    assert found == pytest.approx(-0.7553, abs=0.02)


def test_noise_errors_are_data_errors(x64, getkey):
    """The paper's form, sum omega_i (abar_i d - |eps_hat - eps|^2), from the errors of the noise."""
    variance, action, times = 0.25, 0.5, SCHEDULE.grid(20)
    abar = SCHEDULE.alpha(times) ** 2
    data = exact_errors(SCHEDULE, times[1:], variance, action)
    noise = data * abar[1:] / (1 - abar[1:])
    omega = (abar[:-1] - abar[1:]) / (2 * abar[1:] * (1 - abar[1:]))
    paper = -0.5 * np.log(2 * np.pi * np.e) + jnp.sum(omega * (abar[1:] - noise))
    np.testing.assert_allclose(paper, log_density_of_errors(data, abar, 1), rtol=1e-9)


def test_the_soft_value_of_a_gaussian_energy(x64):
    """E[Q - lambda log pi] = lambda log int exp(Q / lambda) for pi proportional to exp(Q / lambda), to 2 %."""
    variance, temperature = 0.25, 0.4
    points, weights = np.polynomial.hermite_e.hermegauss(20)
    actions, weights = np.sqrt(variance) * points, weights / np.sum(weights)
    q = -temperature * actions**2 / (2 * variance)
    densities = np.array([estimate(variance, a, 1000) for a in actions])
    soft = np.sum(weights * (q - temperature * densities))
    assert soft == pytest.approx(temperature * 0.5 * np.log(2 * np.pi * variance), rel=0.02)


def test_the_soft_value_of_two_modes(x64):
    """The same identity where exp(Q / lambda) is a mixture: errors and expectations by quadrature, whose value is 0."""
    mixture, temperature = GaussianMixture([0.5, 0.5], [[-0.5], [0.5]], [0.1, 0.2]), 0.4
    points, share = np.polynomial.hermite_e.hermegauss(32)
    points, share = jnp.asarray(points), jnp.asarray(share / np.sum(share))
    times = SCHEDULE.grid(1000)

    def density(action):
        def error(t):
            x = SCHEDULE.alpha(t) * action + SCHEDULE.sigma(t) * points[:, None]
            data = jax.vmap(lambda x: mixture.posterior(x, t, SCHEDULE)[0][0])(x)
            return jnp.sum(share * (action - data) ** 2)

        return log_density_of_errors(jax.vmap(error)(times[1:]), SCHEDULE.alpha(times) ** 2, 1)

    def soft(mean, std):
        actions = mean + std * points
        q = temperature * jax.vmap(lambda a: mixture.log_prob(a[None]))(actions)
        return jnp.sum(share * (q - temperature * jax.lax.map(density, actions)))

    value = jax.jit(lambda: (soft(-0.5, 0.1) + soft(0.5, 0.2)) / 2)()
    assert value == pytest.approx(0, abs=0.02 * temperature)


def test_clear_errors(getkey):
    field = GaussianMixture([1.0], [[0.0]], [1.0]).field(SCHEDULE, "noise")
    with pytest.raises(ValueError, match="draws must be an integer of at least 1, got 0"):
        mmse_log_likelihood(field, jnp.zeros(1), jnp.zeros(1), getkey(), draws=0)
    with pytest.raises(ValueError, match="action must have the field's action shape"):
        mmse_log_likelihood(field, jnp.zeros(2), jnp.zeros(1), getkey())
