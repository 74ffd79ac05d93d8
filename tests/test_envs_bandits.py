"""Exact densities of the bandits: normalisation by another rule, closed forms, and samples."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy import stats

from dpolicy.envs import (
    FAMILIES,
    Bandit,
    Vector,
    double_well,
    faces,
    linear,
    make,
    mixture,
    quadratic,
    unequal_modes,
)

TASKS = list(FAMILIES["bandit"].tasks)


def midpoints(size):
    n = 20_000 if size == 1 else 600
    axis = (np.arange(n) + 0.5) * 2 / n - 1
    points = np.stack([x.ravel() for x in np.meshgrid(*[axis] * size)], axis=-1)
    return jnp.asarray(points), (2 / n) ** size


@pytest.mark.parametrize("task", TASKS)
def test_densities_integrate_to_one(x64, task):
    env = make(f"bandit/{task}")
    points, volume = midpoints(env.spec.action_size)
    log_density = jax.jit(
        lambda points, temperature: jax.vmap(env.log_density, (0, None))(points, temperature)
    )
    for temperature in (1.0, 0.1):
        mass = float(jnp.exp(log_density(points, temperature)).sum() * volume)
        np.testing.assert_allclose(mass, 1.0, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_samples_follow_the_density(getkey, task):
    env = make(f"bandit/{task}")
    n, temperature = 20_000, 0.3
    samples = jax.jit(lambda key: env.sample(key, n, temperature))(getkey())
    assert float(jnp.abs(samples).max()) <= 1.0
    features = lambda a: jnp.concatenate([a, a**2, jnp.tanh(5 * a), jnp.prod(a, keepdims=True)])
    seen = jax.vmap(features)(samples)
    mean = jax.jit(lambda: env.expectation(features, temperature))()
    error = np.abs(seen.mean(0) - mean) / (seen.std(0) / np.sqrt(n) + 1e-6)
    assert error.max() < 4.0


@pytest.mark.parametrize("task", TASKS)
def test_modes_are_maxima(x64, getkey, task):
    env = make(f"bandit/{task}")
    assert float(jnp.abs(env.modes).max()) <= 1.0
    inward = jnp.clip(env.modes, -1 + 1e-3, 1 - 1e-3)
    energies = jax.jit(jax.vmap(env.energy))
    values = energies(inward)
    noise = 0.02 * jax.random.normal(getkey(), (20, *env.modes.shape))
    around = energies(jnp.clip(inward[None] + noise, -1 + 1e-3, 1 - 1e-3).reshape(-1, env.spec.action_size))
    assert bool((around.reshape(20, -1) <= values[None] + 1e-4).all())


@pytest.mark.parametrize(
    ("task", "count"), [("eight_gaussians", 8), ("checkerboard", 8), ("double_well", 2), ("faces", 3)]
)
def test_number_of_modes(task, count):
    assert len(make(f"bandit/{task}").modes) == count


def test_double_well_has_the_published_moments(x64):
    env = double_well()
    mean = env.expectation(lambda a: a, 0.25)
    assert round(float(mean[0]), 4) == 0.3485
    assert round(float(env.expectation(lambda a: a**2, 0.25)[0] - mean[0] ** 2), 4) == 0.2208
    assert round(float(env.expectation(lambda a: (a > 0) * 1.0, 0.25)[0]), 4) == 0.7935


def test_double_well_in_the_plane_has_four_modes_of_known_mass(x64):
    env = double_well(action_size=2)
    quadrant = lambda signs: env.expectation(lambda a: jnp.all(a * jnp.asarray(signs) > 0) * 1.0, 0.25)
    masses = [round(float(quadrant(signs)), 3) for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    assert masses == [0.630, 0.164, 0.164, 0.043]
    assert env.modes.shape == (4, 2)


@pytest.mark.parametrize(("slope", "temperature"), [(1.0, 1.0), (2.0, 0.1), (-1.0, 0.5)])
def test_linear_mean_in_closed_form(x64, slope, temperature):
    mean = linear(slope=slope).expectation(lambda a: a, temperature)
    rate = slope / temperature
    np.testing.assert_allclose(mean, [1 / np.tanh(rate) - 1 / rate], rtol=1e-9)


def test_quadratic_is_a_truncated_normal(x64):
    env, scale = quadratic(mean=0.3, scale=0.5, action_size=1), 0.5 * np.sqrt(0.7)
    truth = stats.truncnorm((-1 - 0.3) / scale, (1 - 0.3) / scale, 0.3, scale)
    for action in (-0.9, 0.1, 1.0):
        log_density = env.log_density(jnp.array([action]), 0.7)
        np.testing.assert_allclose(log_density, truth.logpdf(action), rtol=1e-9)


def test_mixture_at_temperature_one_is_the_mixture(x64):
    env = mixture()
    inside = 1 - (stats.norm.sf(1, 0.5, 0.2) + stats.norm.cdf(-1, -0.5, 0.1)) / 2
    density = (stats.norm.pdf(0.1, -0.5, 0.1) + stats.norm.pdf(0.1, 0.5, 0.2)) / 2
    np.testing.assert_allclose(env.log_density(jnp.array([0.1]), 1.0), np.log(density / inside), rtol=1e-9)


def test_faces_have_the_published_shares(x64):
    """By a rule of their own: the shares of the maxima are masses of intervals that end half-way between them."""
    env = faces()
    gradient = jax.grad(env.energy)
    slopes = [float(gradient(mode)[0]) for mode in env.modes]
    assert slopes[0] < 0 < slopes[2]  # both outer maxima are where the box ends, not where Q is flat
    assert abs(slopes[1]) < 1e-12
    grid = np.linspace(-1, 1, 200_001)
    density = np.exp((1.2 * grid + 1.5 * grid**2 - 0.25 * np.cos(6 * grid)) / 0.5)
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    below = lambda a: np.interp(a, grid, cumulative) / cumulative[-1]
    between = float(env.modes[1, 0])
    edges = below([-1, (between - 1) / 2, (between + 1) / 2, 1])
    shares = np.asarray(env.mode_shares(0.5))
    np.testing.assert_allclose(shares, np.diff(edges), atol=2e-4)
    np.testing.assert_array_equal(np.round(shares, 3), [0.008, 0.033, 0.959])
    assert (round(below(-0.5), 4), round(1 - below(0.9), 4)) == (0.0198, 0.3849)
    for edge in (-0.5, 0.9):
        mass = env.expectation(lambda a, edge=edge: (a[0] < edge) * 1.0, 0.5)
        np.testing.assert_allclose(mass, below(edge), atol=1e-3)  # a step inside a cell of the quadrature
    assert round(float(env.expectation(lambda a: a, 0.5)[0]), 4) == 0.7624


def test_faces_of_the_plane_are_a_product(x64):
    single = np.asarray(faces().mode_shares(0.5))
    env = faces(action_size=2)
    first = np.searchsorted(faces().modes[:, 0], env.modes[:, 0])
    second = np.searchsorted(faces().modes[:, 0], env.modes[:, 1])
    np.testing.assert_allclose(env.mode_shares(0.5), single[first] * single[second], atol=2e-3)


def test_unequal_modes_have_their_shares(x64):
    np.testing.assert_allclose(unequal_modes().mode_shares(1.0), [0.1, 0.7, 0.2], atol=2e-4)
    np.testing.assert_allclose(
        unequal_modes(shares=(3.0, 1.0, 4.0)).mode_shares(1.0), np.array([3, 1, 4]) / 8, atol=2e-4
    )
    # Colder, exponents of the shares: Q is -> log share_i at each maximum.
    cold = np.array([0.1, 0.7, 0.2]) ** 2
    np.testing.assert_allclose(unequal_modes().mode_shares(0.5), cold / cold.sum(), atol=2e-4)


def test_the_nearest_mode():
    env = double_well(action_size=2)
    found = [int(env.nearest_mode(mode + 0.2)) for mode in env.modes]
    assert found == [0, 1, 2, 3]
    with pytest.raises(
        ValueError, match=r"action must have the shape \(2,\) of bandit/double_well, got \(1,\)"
    ):
        env.nearest_mode(jnp.zeros(1))


def test_outside_the_box_nothing_is_likely_and_rewards_are_those_of_the_face(getkey):
    env = linear()
    assert float(env.log_density(jnp.array([1.1]), 1.0)) == -np.inf
    _, _, reward, terminated = env.step(*env.reset(getkey())[:1], jnp.array([3.0]), getkey())
    assert float(reward) == 1.0
    assert bool(terminated)


@pytest.mark.parametrize("task", TASKS)
def test_energies_have_finite_gradients(task):
    env = make(f"bandit/{task}")
    size = env.spec.action_size
    points = jnp.concatenate(
        [jnp.zeros((1, size)), env.modes, jnp.array([[1.0], [-1.0]]) * jnp.ones(size)[None]]
    )
    assert bool(jnp.isfinite(jax.jit(jax.vmap(jax.grad(env.energy)))(points)).all())


def test_temperature_can_be_mapped_over():
    env = linear()
    values = jax.vmap(env.log_partition)(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(values, [np.log(np.sinh(2.0)), np.log(2 * np.sinh(1.0))], rtol=1e-5)


def test_every_step_is_an_episode(getkey):
    vector = Vector(quadratic(mean=0.0, scale=1.0), 3)
    _, step = vector.step(vector.init(getkey()), jnp.full((3, 2), 0.5), getkey())
    np.testing.assert_array_equal(step.terminated, True)
    np.testing.assert_array_equal(step.truncated, False)
    np.testing.assert_allclose(step.episode_return, -0.25)


def test_what_its_functions_return_is_not_broadcast(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what a user without the checker sees
    with pytest.raises(ValueError, match=r"function must return a scalar, got shape \(1,\)"):
        Bandit(lambda a: a, action_size=1, modes=[[0.0]]).log_partition(1.0)
    with pytest.raises(ValueError, match=r"action must have the shape \(1,\) of bandit/linear, got \(2,\)"):
        linear().log_density(jnp.zeros(2), 1.0)
    with pytest.raises(ValueError, match="function must be a function action -> array, got None"):
        linear().expectation(None, 1.0)

    with pytest.raises(ValueError, match=r"modes must be rows of numbers, \[m, 1\], got \[\['a'\]\]"):
        Bandit(jnp.sum, action_size=1, modes=[["a"]])


def test_bad_arguments():
    with pytest.raises(ValueError, match="action_size must be an integer from 1 to 2, got 3"):
        Bandit(jnp.sum, action_size=3, modes=[[0.0] * 3])
    with pytest.raises(ValueError, match=r"modes must have the shape \[m, 2\], got \[2\]"):
        Bandit(jnp.sum, action_size=2, modes=np.zeros(2))
    with pytest.raises(ValueError, match="temperature must be a finite number"):
        linear().log_partition(0.0)
    with pytest.raises(ValueError, match="same length"):
        mixture(means=(0.0,))
    with pytest.raises(ValueError, match="shares must have one number for each of 3 maxima, got 2"):
        unequal_modes(shares=(0.5, 0.5))
    with pytest.raises(ValueError, match="shares must be"):
        unequal_modes(shares=(0.5, 0.0, 0.5))
