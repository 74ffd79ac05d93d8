"""The two-dimensional suite: masses, means and fields against numbers worked out beforehand."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from dpolicy.data import CEP_SCALE, CEP_TOYS, cep_energy, cep_log_density, cep_samples, cep_set, cep_weights
from dpolicy.data.cep import _CENTRES

# Of eight modes with E = k / 7, by beta: softmax(beta k / 7), and the mean energy.
MASSES = {
    1.0: ([0.0719, 0.0829, 0.0957, 0.1104, 0.1273, 0.1469, 0.1694, 0.1955], 0.6048),
    3.0: ([0.0179, 0.0275, 0.0423, 0.0649, 0.0996, 0.1529, 0.2347, 0.3602], 0.7713),
    10.0: ([0.0000, 0.0001, 0.0006, 0.0025, 0.0105, 0.0437, 0.1822, 0.7604], 0.9550),
}


@pytest.mark.parametrize("beta", MASSES)
def test_masses_of_the_eight_gaussians(beta):
    weights, mean = MASSES[beta]
    found = cep_weights("8gaussians", beta)
    np.testing.assert_allclose(found, weights, atol=5.1e-5)
    np.testing.assert_allclose(found @ np.arange(8) / 7, mean, atol=5e-5)


def test_masses_of_the_others():
    e = np.exp(3.0)
    np.testing.assert_allclose(cep_weights("moons", 3.0), [1 - 0.9526, 0.9526], atol=5e-5)
    np.testing.assert_allclose(cep_weights("checkerboard", 3.0), 0.5 / (1 + e) * np.array([e, 1, e, 1]))
    rings = np.exp(3.0 * np.array([0.667, 0.333, 1.0, 0.0]))
    np.testing.assert_allclose(cep_weights("rings", 3.0), rings / rings.sum())
    np.testing.assert_allclose(cep_weights("2spirals", 3.0), [0.5, 0.5])


@pytest.mark.parametrize("name", CEP_TOYS)
def test_samples_have_the_masses_and_are_tilted(name):
    """Weights exp(beta E) on the data, against draws of the target itself."""
    size, beta = 40_000, 2.0
    data, target = cep_samples(name, size), cep_samples(name, size, beta, seed=1)
    shares = np.bincount(target.label, minlength=len(cep_weights(name, beta))) / size
    np.testing.assert_allclose(shares, cep_weights(name, beta), atol=0.012)
    weights = np.exp(beta * data.energy.astype(np.float64))
    weights /= weights.sum()
    for function in (
        lambda s: s.energy,
        lambda s: s.x[:, 0],
        lambda s: s.x[:, 1],
        lambda s: (s.x**2).sum(axis=1),
    ):
        values = function(target)
        np.testing.assert_allclose(
            weights @ function(data), values.mean(), atol=0.03 * max(values.std(), 0.2)
        )
    assert np.abs(data.x).max() <= CEP_SCALE and data.energy.min() >= 0
    if name != "swissroll":  # whose energy follows its noise
        assert data.energy.max() <= 1


def test_places_of_the_suite():
    """Radii, columns and centres as the paper has them."""
    gaussians = cep_samples("8gaussians", 20_000)
    for k in (0, 3):
        mine = gaussians.x[gaussians.label == k]
        np.testing.assert_allclose(mine.mean(axis=0), _CENTRES[k], atol=0.03)
        np.testing.assert_allclose(mine.std(axis=0), 0.3536, atol=0.02)
    np.testing.assert_allclose(_CENTRES[:2], [[0, 2.829], [-2.0003, 2.0003]], atol=5e-4)
    x, energy, label = cep_samples("checkerboard", 20_000)
    np.testing.assert_array_equal(energy, ((x[:, 0] > 0) & (x[:, 0] <= 2)) | (x[:, 0] <= -2))
    # A board: of two fields that share a side one is empty.
    fields = {(int(a), int(b)) for a, b in np.floor(x / 2)}
    assert len(fields) == 8 and all((a + 1, b) not in fields and (a, b + 1) not in fields for a, b in fields)
    x, energy, label = cep_samples("rings", 20_000)
    radius = np.hypot(*x.T)
    np.testing.assert_allclose([radius[label == k].mean() for k in range(4)], [3, 2.25, 1.5, 0.75], atol=0.01)
    assert [float(energy[label == k][0]) for k in range(4)] == pytest.approx([0.667, 0.333, 1, 0])
    x, energy, _ = cep_samples("swissroll", 5_000)
    np.testing.assert_allclose(energy, (x**2).sum(axis=1) / 9, rtol=1e-5)


def test_a_set_of_the_suite():
    data, again = cep_set("moons", 100, seed=4), cep_set("moons", 100, seed=4)
    np.testing.assert_array_equal(data.action, again.action)
    np.testing.assert_allclose(data.action * CEP_SCALE, cep_samples("moons", 100, seed=4).x, rtol=1e-6)
    rows = data.transitions()
    assert rows.terminated.all() and rows.obs.shape == (100, 1) and data.name == "cep/moons"


def test_intermediate_energy():
    """grad f* = -sum_k (q_k - r_k)(x - alpha c_k) / v, and f* -> beta E in a mode without noise."""
    alpha, sigma, beta = 0.8, 0.6, 3.0
    x = jnp.array([0.7, -0.4])
    v = alpha**2 * 0.5**2 / 1.414**2 + sigma**2
    r = jax.nn.softmax(-jnp.sum((x[None] - alpha * _CENTRES) ** 2, axis=1) / (2 * v))
    q = r * jnp.exp(beta * jnp.arange(8) / 7)
    by_hand = -((q / q.sum() - r) @ (x[None] - alpha * _CENTRES)) / v
    np.testing.assert_allclose(jax.grad(cep_energy)(x, alpha, sigma, beta), by_hand, rtol=1e-4, atol=1e-5)
    score = -(r @ (x[None] - alpha * _CENTRES)) / v
    np.testing.assert_allclose(jax.grad(cep_log_density)(x, alpha, sigma), score, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cep_energy(jnp.asarray(_CENTRES[5]), 1.0, 0.0, beta), beta * 5 / 7, rtol=1e-5)
    # A density: its mass over the plane is 1.
    axis = jnp.linspace(-6, 6, 121)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass = jnp.exp(jax.vmap(lambda x: cep_log_density(x, alpha, sigma))(grid)).sum() * 0.1**2
    np.testing.assert_allclose(mass, 1, rtol=1e-3)


def test_the_guided_flow_reaches_the_target():
    """Heun's rule with exact fields, VP-linear, 100 steps: the masses of the modes, and of no other temperature."""
    size, steps = 4_096, 100

    def marginal(t):
        alpha = jnp.exp(-0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1)
        return alpha, jnp.sqrt(1 - alpha**2)

    def slope(x, t, beta):
        alpha, sigma = marginal(t)
        guided = lambda x: cep_log_density(x, alpha, sigma) + cep_energy(x, alpha, sigma, beta)
        return -0.5 * (0.1 + t * 19.9) * (x + jax.grad(guided)(x))

    @jax.jit
    def run(x, beta):
        def one(x, i):
            t, after = 1 - i * (1 - 1e-3) / steps, 1 - (i + 1) * (1 - 1e-3) / steps
            k = slope(x, t, beta)
            return x + (after - t) / 2 * (k + slope(x + (after - t) * k, after, beta)), None

        return jax.vmap(lambda x: jax.lax.scan(one, x, jnp.arange(steps))[0])(x)

    x = run(jax.random.normal(jax.random.key(0), (size, 2)), 3.0)
    label = np.argmin(((np.asarray(x)[:, None] - _CENTRES) ** 2).sum(axis=-1), axis=1)
    shares = np.bincount(label, minlength=8) / size
    distance = lambda beta: np.abs(shares - cep_weights("8gaussians", beta)).sum() / 2
    assert distance(3.0) < 0.025  # of 4,096 draws themselves: .014 on average
    assert distance(6.0) > 0.1
    np.testing.assert_allclose((np.asarray(x) - _CENTRES[label]).std(axis=0), 0.3536, rtol=0.04)


def test_what_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for call, message in (
        (lambda: cep_weights("moon", 1.0), "name must be one of"),
        (lambda: cep_samples("moons", 0), "size must be an integer of at least 1"),
        (lambda: cep_samples("moons", 3, 100.0), "beta must be a finite number in"),
        (lambda: cep_samples("moons", 3, seed=-1), "seed must be an integer from 0"),
        (lambda: cep_energy(jnp.zeros((3, 2)), 1.0, 0.0, 1.0), "x must have the shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
