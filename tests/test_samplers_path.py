"""The cost of a path against closed forms: a reversible chain, linear controls, DIME's step sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.networks import gaussian_log_prob
from dpolicy.samplers import accumulated, controlled_path, cosine_step_shape, path_log_ratio

KEY, OBS = jax.random.key(0), jnp.asarray([0.3])
PRIOR = 2.5
DEFAULT = 0.1 * np.asarray(cosine_step_shape(16))


def test_the_shape_of_dimes_steps(x64):
    shape = np.asarray(cosine_step_shape(16))
    assert np.round(shape, 5).tolist() == [
        *(0.99984, 0.98799, 0.95770, 0.91011, 0.84703, 0.77085, 0.68444, 0.59107),
        *(0.49427, 0.39771, 0.30504, 0.21977, 0.14511, 0.08389, 0.03843, 0.01045),
    ]
    np.testing.assert_allclose(np.sum(shape), 8.44370, atol=5e-6)
    np.testing.assert_allclose(np.prod(1 - 0.1 * shape / PRIOR**2), 0.8729, atol=5e-5)


def bent(x, t, obs):
    """A control of which state, time and observation all matter."""
    return jnp.sin(2 * x + t) + obs[0] * t


def by_kernels(scale, key, sizes):
    """C of the same draws from the densities of its kernels."""
    start, noise = jax.random.split(key)
    x = PRIOR * jax.random.normal(start, (2,))
    noise = jax.random.normal(noise, (len(sizes), 2))
    normal = lambda value, mean, var: gaussian_log_prob(value, mean, 0.5 * jnp.log(var))
    total = normal(x, jnp.zeros(2), jnp.full(2, PRIOR**2))
    for i, (eta, z) in enumerate(zip(sizes, noise, strict=True)):
        t = jnp.asarray(1 - i / len(sizes))
        mean = x + eta * (scale * bent(x, t, OBS) - x / PRIOR**2)
        new = mean + jnp.sqrt(2 * eta) * z
        total += normal(new, mean, 2 * eta) - normal(x, new - eta * new / PRIOR**2, 2 * eta)
        x = new
    return total, x


def test_the_stable_form_is_the_ratio_of_the_kernels(x64):
    """In value and in gradient, by the control's scale and by step sizes that differ between dimensions."""
    sizes = jnp.outer(jnp.asarray(DEFAULT[::5]), jnp.asarray([1.0, 0.4]))

    def ours(scale, sizes):
        control = lambda x, t, obs: scale * bent(x, t, obs)
        path = controlled_path(control, OBS, KEY, step_sizes=sizes, prior_std=PRIOR)
        return path.log_ratio, path

    (value, path), slopes = jax.value_and_grad(ours, (0, 1), has_aux=True)(0.7, sizes)
    (expected, end), by_hand = jax.value_and_grad(by_kernels, (0, 2), has_aux=True)(0.7, KEY, sizes)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(path.point, end, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), slopes, by_hand)
    start = PRIOR * jax.random.normal(jax.random.split(KEY)[0], (2,))
    expected = gaussian_log_prob(start, jnp.zeros(2), jnp.full(2, np.log(PRIOR)))
    np.testing.assert_allclose(path.initial, expected, rtol=1e-12)
    np.testing.assert_allclose(path.initial + path.running, value, rtol=1e-12)


def test_a_reversible_chain_costs_its_log_density():
    """A stationary start: V = s_p^2 / (1 - eta / (2 s_p^2)) and f = 0. In float32."""
    eta, v = 0.2, 6.3516260
    np.testing.assert_allclose(PRIOR**2 / (1 - eta / (2 * PRIOR**2)), v, rtol=1e-7)
    # The prior of the cost is that of the drift, so the stationary law enters by the difference of two densities.
    keys = jax.random.split(KEY, 4000)

    def one(key):
        start_key, noise_key = jax.random.split(key)
        start, pull = jnp.sqrt(v) * jax.random.normal(start_key, (3,)), 1 / PRIOR**2

        def step(x, z):
            new = x - eta * pull * x + jnp.sqrt(2 * eta) * z
            return new, path_log_ratio(z, -jnp.sqrt(eta / 2) * pull * (x + new))

        end, cost = accumulated(step, start, jax.random.normal(noise_key, (16, 3)))
        density = lambda x: gaussian_log_prob(x, jnp.zeros(3), jnp.full(3, 0.5 * np.log(v)))
        return density(start) + cost - density(end)

    np.testing.assert_allclose(jax.jit(jax.vmap(one))(keys), 0, atol=1e-5)


def closed_form(etas, v):
    """(gains, final variance, E[C]) per dimension of the control that reverses the noising of N(0, v)."""
    keep = 1 - etas / PRIOR**2
    noised = [v]  # along i = 0 ... N
    for eta, a in zip(etas[::-1], keep[::-1], strict=True):
        noised.append(a**2 * noised[-1] + 2 * eta)
    noised = noised[::-1]
    gains = [a * after / before for a, before, after in zip(keep, noised, noised[1:], strict=False)]
    u, cost = PRIOR**2, -0.5 * np.log(2 * np.pi * PRIOR**2) - 0.5
    for eta, a, g in zip(etas, keep, gains, strict=True):
        new = g**2 * u + 2 * eta
        cost += (u - 2 * a * g * u + a**2 * new - 2 * eta) / (4 * eta)
        u = new
    return np.asarray(gains), u, cost


ROWS = {  # final variance, entropy, bound, gap of a standard normal
    "dime": (DEFAULT, 1.6380, 1.6657, 1.3501, 0.3156),
    "dime, 32": (0.1 * np.asarray(cosine_step_shape(32)), 1.2168, 1.5170, 1.3678, 0.1493),
    "of .5": (np.full(16, 0.5), 1.5665, 1.6434, 1.5290, 0.1143),
    "of .2": (np.full(64, 0.2), 1.1929, 1.5071, 1.4548, 0.0523),
    "of .02": (np.full(640, 0.02), 1.0171, 1.4274, 1.4219, 0.0055),
    "of .002": (np.full(6400, 0.002), 1.0017, 1.4198, 1.4192, 0.0006),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_table_of_linear_controls(name):
    etas, variance, entropy, bound, gap = ROWS[name]
    _, u, cost = closed_form(np.asarray(etas, float), 1.0)
    found = np.round([u, 0.5 * np.log(2 * np.pi * np.e * u), -cost], 4)
    np.testing.assert_allclose(found, [variance, entropy, bound], atol=1.1e-4)
    np.testing.assert_allclose(found[1] - found[2], gap, atol=2e-4)
    assert found[1] > found[2]


def test_the_bound_of_linear_controls_by_samples():
    """The first row of the table: final variance, and minus the mean cost."""
    gains, variance, cost = closed_form(DEFAULT.astype(float), 1.0)
    sizes = jnp.asarray(DEFAULT, jnp.float32)[:, None]
    factors = jnp.asarray((gains - 1 + DEFAULT / PRIOR**2) / DEFAULT, jnp.float32)

    def control(x, t, obs):
        return factors[jnp.round(16 * (1 - t)).astype(int)] * x

    run = lambda key: controlled_path(control, OBS, key, step_sizes=sizes, prior_std=PRIOR)
    paths = jax.jit(jax.vmap(run))(jax.random.split(KEY, 100_000))
    error = np.std(paths.log_ratio) / np.sqrt(1e5)
    np.testing.assert_allclose(np.mean(paths.log_ratio), cost, atol=4 * error)
    assert error < 4e-3
    np.testing.assert_allclose(np.var(paths.point), variance, rtol=0.015)


def test_where_the_target_is_the_prior_nothing_is_lost():
    _, u, cost = closed_form(DEFAULT.astype(float), PRIOR**2)
    np.testing.assert_allclose(0.5 * np.log(2 * np.pi * np.e * u) + cost, 0, atol=1e-5)
    zero = lambda x, t, obs: jnp.zeros_like(x)
    run = lambda key: controlled_path(zero, OBS, key, step_sizes=jnp.asarray(DEFAULT)[:, None])
    paths = jax.jit(jax.vmap(run))(jax.random.split(KEY, 20_000))
    # f = 0 before the squash: 2.3359 a dimension.
    np.testing.assert_allclose(-np.mean(paths.log_ratio), 2.3359, atol=0.02)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="step_sizes must be"):
        controlled_path(bent, OBS, KEY, step_sizes=jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"prior_std must be .*, got 0"):
        controlled_path(bent, OBS, KEY, step_sizes=jnp.ones((2, 1)), prior_std=0)
    with pytest.raises(ValueError, match="control must return"):
        controlled_path(lambda x, t, obs: x[0], OBS, KEY, step_sizes=jnp.ones((2, 2)))
