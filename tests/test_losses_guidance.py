"""The energy fitted in sample: its minimiser on mixtures and Gaussians, no free constant, and its scaled form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture
from transitions import experience

from dpolicy._types import Transition
from dpolicy.fields import LinearVP
from dpolicy.losses import batched, boltzmann, chain, in_sample_guidance, perturb, weigh

KEY = jax.random.key(0)
SCHEDULE = LinearVP()
TWO = GaussianMixture([0.3, 0.7], [[0.6, -0.2], [-0.5, 0.1]], 0.15)
WEIGHTS = jnp.array([3.0, 0.2])
ONE = GaussianMixture([1.0], [[0.3, -0.1]], 0.4)
BETA, SLOPE, KAPPA, CENTRE = 1.5, jnp.array([1.0, -0.6]), 3.0, jnp.array([-0.2, 0.4])

POINTS = jnp.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.6]])


def of_actions(action):
    size = len(action)
    zero, no = jnp.zeros(size), jnp.zeros(size, bool)
    return Transition(jnp.zeros((size, 1)), action, zero, jnp.zeros((size, 1)), no, no)


def bumps(x, t):
    """Functions of the noised action and the time, along which a loss is differentiated."""
    near = jnp.exp(-2 * jnp.sum((x[None] - POINTS) ** 2, axis=1))
    return jnp.concatenate([near, near * t, jnp.array([1.0]), jnp.array([1.0]) * t, x])


def slopes(energy, weigher, nu, size=60_000):
    """The gradient of the loss along the bumps, which at the minimiser is 0."""
    loss = batched(in_sample_guidance(chain(weigher, perturb(SCHEDULE))))
    batch = of_actions(nu.sample(jax.random.key(1), size))
    moved = lambda c: lambda x, t, obs: energy(x, t) + c @ bumps(x, t)
    return jax.jit(jax.grad(lambda c: loss(moved(c), batch, KEY)[0]))(jnp.zeros(10))


def mode_of(action):
    return jnp.argmin(jnp.sum((action[None] - TWO.means) ** 2, axis=1))


def shares(x, t):
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    return jax.nn.softmax(TWO._log_components(x, alpha, alpha**2 * TWO.stds**2 + sigma**2))


def test_of_two_modes_it_is_the_log_of_the_mean_weight_where_the_action_may_have_come_from():
    weigher = weigh(lambda obs, action: WEIGHTS[mode_of(action)])
    right = slopes(lambda x, t: jnp.log(shares(x, t) @ WEIGHTS), weigher, TWO)
    np.testing.assert_allclose(right, 0.0, atol=0.012)
    mean_of_logs = slopes(lambda x, t: shares(x, t) @ jnp.log(WEIGHTS), weigher, TWO)
    assert np.abs(mean_of_logs).max() > 0.1


def gaussian(x, t):
    """E[x_0 | x_t], and the variance of each coordinate there."""
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    v = ONE.stds[0] ** 2
    return ONE.posterior(x, t, SCHEDULE)[0], v * sigma**2 / (alpha**2 * v + sigma**2)


def linear(x, t):
    mean, variance = gaussian(x, t)
    return BETA * SLOPE @ mean + BETA**2 * jnp.sum(SLOPE**2) * variance / 2


def quadratic(x, t):
    mean, variance = gaussian(x, t)
    spread = 1 + BETA * KAPPA * variance
    return -BETA * KAPPA / 2 * jnp.sum((mean - CENTRE) ** 2) / spread - jnp.log(spread)


@pytest.mark.parametrize(
    ("q", "energy"),
    [
        (lambda obs, a: SLOPE @ a, linear),
        (lambda obs, a: -KAPPA / 2 * jnp.sum((a - CENTRE) ** 2), quadratic),
    ],
    ids=["linear", "quadratic"],
)
def test_weights_exp_q_give_the_exact_energy_of_a_gaussian_with_its_constant(q, energy):
    weigher = boltzmann(q, 1 / BETA, normalise=False)
    np.testing.assert_allclose(slopes(energy, weigher, ONE), 0.0, atol=0.02)
    assert np.abs(slopes(lambda x, t: energy(x, t) + 0.3, weigher, ONE)[6]) > 0.2


def at(energies, weights, scaled, draws=1):
    """The loss of a batch of one state each, as a function of its energies, and its gradient."""
    given = jnp.asarray(weights)
    weigher = weigh(lambda obs, action: given[obs[0].astype(int)])
    loss = batched(in_sample_guidance(chain(weigher, perturb(SCHEDULE, draws=draws)), scaled=scaled))
    batch = experience(KEY, len(weights), obs_size=1)
    batch = dataclasses.replace(batch, obs=jnp.arange(len(weights), dtype=float)[:, None])
    value = lambda g: loss(lambda x, t, obs: g[obs[0].astype(int)], batch, KEY)
    (found, metrics), slope = jax.value_and_grad(value, has_aux=True)(jnp.asarray(energies))
    return float(found), metrics, np.asarray(slope)


def test_a_constant_added_to_the_energy_changes_the_loss():
    """E[w e^-g + g]: at c more E[w e^-g] e^-c + E g + c, least where the weights' mean over e^g is 1."""
    weights, energies = np.array([0.5, 2.0, 3.0]), np.array([-0.4, 0.3, 1.0])
    for c in (-0.7, 0.0, 0.4):
        value, metrics, slope = at(energies + c, weights, scaled=False, draws=2)
        np.testing.assert_allclose(value, np.mean(weights * np.exp(-energies - c) + energies + c), rtol=1e-5)
        np.testing.assert_allclose(slope, (1 - weights * np.exp(-energies - c)) / 3, rtol=1e-4)
        np.testing.assert_allclose([metrics["weight"], metrics["energy"]], [5.5 / 3, 0.3 + c], rtol=1e-5)


@pytest.mark.parametrize(
    ("energies", "largest"), [([-0.4, 0.3, 1.0], 0.4), ([2.0, 3.5, 1.5], -1.0), ([-7.0, -6.0, 4.0], 7.0)]
)
def test_the_scaled_form_has_the_plain_ones_direction(energies, largest):
    """One factor for the batch, e^-m of the largest exponent m = max(-g), which is at least -1."""
    weights = [0.5, 2.0, 3.0]
    (plain, _, direction), (scaled, _, slope) = (at(energies, weights, form) for form in (False, True))
    np.testing.assert_allclose(slope, np.exp(-largest) * direction, rtol=1e-4)
    np.testing.assert_allclose(scaled, np.exp(-largest) * plain, rtol=1e-4)


def test_the_scaled_form_is_finite_where_the_plain_one_overflows():
    energies, weights = [-120.0, -90.0, 0.0], [0.5, 2.0, 3.0]
    plain, _, direction = at(energies, weights, scaled=False)
    assert np.isinf(plain) and np.isinf(direction[:2]).all()
    scaled, _, slope = at(energies, weights, scaled=True)
    # Exponents beyond 80 count as 80, the largest, and so as 1.
    np.testing.assert_allclose([scaled, *slope[:2]], [2.5 / 3, -0.5 / 3, -2.0 / 3], rtol=1e-5)
    assert 0 >= slope[2] > -1e-30


def test_what_is_refused(unchecked_types):
    one = jax.tree.map(lambda leaf: leaf[0], of_actions(jnp.ones((1, 2))))
    with pytest.raises(ValueError, match="in_sample_guidance needs a chain that adds noise"):
        in_sample_guidance(chain())(lambda x, t, obs: x[0], one, KEY)
    with pytest.raises(ValueError, match="the energy must return"):
        in_sample_guidance(perturb(SCHEDULE))(lambda x, t, obs: x, one, KEY)
    with pytest.raises(ValueError, match="scaled must be"):
        in_sample_guidance(perturb(SCHEDULE), scaled=1)
