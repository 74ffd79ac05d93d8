"""Entropies from samples alone against laws of known entropy: the specification's table of biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from dpolicy.losses import Mixture, fit_mixture, gaussian_fit_entropy, knn_entropy, mixture_entropy

KEY = jax.random.key(3)
STATES, SAMPLES = 24, 200  # as many samples as DACER has of a state
# Of three equal components in two dimensions: means, deviation; entropy, its bound, and what a fit gives of either. The
# specification's entropies are of draws, and up to .002 off: -.6695, .062, -1.769.
MIXTURES = {
    "apart": ([[-0.6, -0.6], [0.6, -0.6], [0.0, 0.6]], 0.1, -0.66868, -0.6687, -0.71, -0.712),
    "overlapping": ([[-0.2, 0.0], [0.2, 0.0], [0.0, 0.3]], 0.2, 0.06239, 0.718, 0.54, 0.025),
    "coinciding": ([[0.0, 0.0]] * 3, 0.1, -1.76729, -0.669, -1.20, -1.806),
}
MEANS = jnp.asarray([row[0] for row in MIXTURES.values()])
DEVIATIONS = jnp.asarray([row[1] for row in MIXTURES.values()])
TRUE, BOUND, FITTED, MONTE_CARLO = (np.asarray([row[i] for row in MIXTURES.values()]) for i in range(2, 6))


def estimates(points, key):
    """Of one state: both of the mixture's, the Gaussian's, and of the nearest and the fourth nearest neighbours."""
    return jnp.stack(
        [
            mixture_entropy(points, key),
            mixture_entropy(points, key, how="monte_carlo"),
            gaussian_fit_entropy(points),
            knn_entropy(points),
            knn_entropy(points, neighbours=4),
        ]
    )


def test_bound_and_entropy_of_known_mixtures(x64):
    """The bound in closed form; the entropy by a sum over a fine grid, to which the bound is what it is documented."""
    axis = jnp.linspace(-1.6, 1.6, 400)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)

    def one(means, std):
        mixture = Mixture(jnp.full(3, 1 / 3), means, std * jnp.stack([jnp.eye(2)] * 3))
        log = jax.nn.logsumexp(mixture.log_probs(grid), axis=1)
        return mixture.entropy_bound(), -jnp.sum(jnp.exp(log) * log) * (axis[1] - axis[0]) ** 2

    bound, entropy = jax.jit(jax.vmap(one))(MEANS, DEVIATIONS)
    np.testing.assert_allclose(bound, BOUND, atol=6e-4)
    np.testing.assert_allclose(entropy, TRUE, atol=1e-5)
    np.testing.assert_allclose(entropy[2], np.log(2 * np.pi * np.e * 0.1**2), rtol=1e-6)  # a Gaussian
    assert np.all(bound >= entropy) and np.all(bound - entropy <= np.log(3) + 1e-9)


def library(points):
    """The bound of the specification's library, as DACER's code calls it."""
    with threadpool_limits(1):  # whose threads would wait for each other on a busy machine
        fit = GaussianMixture(3, random_state=42).fit(points)
    logs = 2 * np.log(2 * np.pi * np.e) + np.linalg.slogdet(fit.covariances_)[1]
    return fit.weights_ @ (logs / 2 - np.log(fit.weights_))


def test_estimates_of_two_dimensional_mixtures():
    def of(means, std):
        def sample(key):
            choice_key, noise_key = jax.random.split(key)
            centres = means[jax.random.randint(choice_key, (SAMPLES,), 0, 3)]
            return centres + std * jax.random.normal(noise_key, (SAMPLES, 2))

        keys = jax.random.split(KEY, STATES)
        points = jax.vmap(sample)(keys)
        return points, jax.vmap(estimates)(points, keys)

    points, each = map(np.asarray, jax.jit(jax.vmap(of))(MEANS, DEVIATIONS))
    found = each.mean(axis=1)
    np.testing.assert_allclose(found[:, 0], FITTED, atol=0.1)
    np.testing.assert_allclose(found[:, 1], MONTE_CARLO, atol=0.06)
    np.testing.assert_allclose(found[:, 3], TRUE, atol=0.06)
    np.testing.assert_allclose(found[:, 4], TRUE, atol=0.12)
    # Where clusters are apart there is one fit, that of the library.
    np.testing.assert_allclose(each[0, :3, 0], [library(state) for state in points[0, :3]], atol=1e-4)
    # That of a Gaussian of the same covariance, std^2 + that of the centres.
    for i, row in enumerate(MIXTURES.values()):
        covariance = row[1] ** 2 * np.eye(2) + np.cov(np.asarray(row[0]).T, bias=True)
        entropy = np.log(2 * np.pi * np.e) + np.log(np.linalg.det(covariance)) / 2
        np.testing.assert_allclose(found[i, 2], entropy - 2 * 5 / (4 * SAMPLES), atol=0.04)


# Dimensions, what the bound of a fit gives, and how far off the nearest and the fourth nearest neighbours are. In one
# dimension the specification's library, which stops early, stays nearer to its first clusters: .69.
@pytest.mark.parametrize(
    ("size", "fitted", "first", "fourth"),
    [(1, 0.80, 0.0, 0.0), (6, 1.34, -0.06, 0.0), (17, 2.01, 0.9, 1.4)],
)
def test_estimates_of_a_gaussian_by_dimension(size, fitted, first, fourth):
    """Of N(0, .3^2 I): the mixture's falls short where it has too many parameters, neighbours overshoot."""
    found = np.asarray(jax.jit(lambda: averages_of_gaussian(size))())
    truth = size * (0.5 * np.log(2 * np.pi * np.e) + np.log(0.3))
    np.testing.assert_allclose(found[0], fitted, atol=0.11)
    # The determinant of a sample covariance has a known law (Wishart's).
    share = np.sum(digamma((SAMPLES - np.arange(1, size + 1)) / 2)) + size * np.log(2 / SAMPLES)
    np.testing.assert_allclose(found[2], truth + share / 2, atol=0.06 * np.sqrt(size))
    np.testing.assert_allclose(found[3:] - truth, [first, fourth], atol=0.15)


def averages_of_gaussian(size):
    def one(key):
        sample_key, key = jax.random.split(key)
        return estimates(0.3 * jax.random.normal(sample_key, (SAMPLES, size)), key)

    return jnp.mean(jax.vmap(one)(jax.random.split(KEY, STATES)), axis=0)


def test_samples_without_a_density_give_what_the_floor_stands_for():
    """All alike, -5.489 d; and one coordinate of three mostly on a face of the box."""
    noise = 0.3 * jax.random.normal(KEY, (4 * STATES, SAMPLES, 3))
    points = jnp.clip(noise + jnp.asarray([[[1.2, 0.0, 0.0]]]), -1, 1)
    points = jnp.concatenate([points, jnp.full((1, SAMPLES, 3), 0.7)])
    found = jax.jit(jax.vmap(mixture_entropy))(points, jax.random.split(KEY, 4 * STATES + 1))
    np.testing.assert_allclose(jnp.mean(found[:-1]), -3.29, atol=0.1)
    np.testing.assert_allclose(found[-1], -5.489 * 3, atol=2e-3)


def test_a_fit_finds_the_mixture(x64):
    """Unequal weights, full covariances; EM leaves the likelihood where its last step found it."""
    weights, means = np.asarray([0.6, 0.1, 0.3]), np.asarray([[-1.0, 0.0], [1.0, 1.0], [0.5, -1.0]])
    factors = np.asarray([[[0.2, 0.0], [0.15, 0.1]], [[0.1, 0.0], [0.0, 0.1]], [[0.1, 0.0], [-0.05, 0.2]]])
    choice = jax.random.choice(KEY, 3, (4000,), p=jnp.asarray(weights))
    noise = jax.random.normal(jax.random.key(1), (4000, 2))
    points = jnp.asarray(means)[choice] + jnp.einsum("nij,nj->ni", jnp.asarray(factors)[choice], noise)
    mixture = jax.jit(lambda: fit_mixture(points, KEY))()
    order = np.argsort(-np.asarray(mixture.weight))
    for row, like in zip(order, (0, 2, 1), strict=True):
        np.testing.assert_allclose(mixture.weight[row], weights[like], atol=0.02)
        np.testing.assert_allclose(mixture.mean[row], means[like], atol=0.02)
        covariance = np.asarray(mixture.factor[row]) @ np.asarray(mixture.factor[row]).T
        np.testing.assert_allclose(covariance, factors[like] @ factors[like].T, atol=4e-3)
    best = jnp.mean(jax.nn.logsumexp(mixture.log_probs(points), axis=1))
    true = Mixture(jnp.asarray(weights), jnp.asarray(means), jnp.asarray(factors))
    assert best > jnp.mean(jax.nn.logsumexp(true.log_probs(points), axis=1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: mixture_entropy(p, KEY, how="exact"),
            "how must be one of bound, monte_carlo; got 'exact'",
        ),
        (
            lambda p: fit_mixture(p, KEY, components=5),
            "points must be at least 5 for as many components, got 4",
        ),
        (lambda p: gaussian_fit_entropy(p[0]), r"points must have the shape \(n, d\), got \(2,\)"),
        (lambda p: gaussian_fit_entropy(p[:1]), "points must be at least 2 for a covariance, got 1"),
        (lambda p: knn_entropy(p, neighbours=4), "needs at least 5 points, got 4"),
    ],
)
def test_what_no_entropy_can_be_estimated_of(call, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((4, 2)))
