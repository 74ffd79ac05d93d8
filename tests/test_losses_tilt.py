"""Weights, proposals and score estimates of the matching family, against closed forms and bisection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture
from scipy import stats
from scipy.optimize import brentq

from dpolicy._types import Transition
from dpolicy.fields import CosineVP, FunctionField, RectifiedFlow, VarianceExploding
from dpolicy.losses import (
    Match,
    Target,
    advantage,
    best,
    boltzmann,
    candidates,
    chain,
    jitter,
    linear_weights,
    matching,
    posterior_mean,
    reverse_sample,
    smoothed_score,
    square_weights,
    start,
    tilt,
    weight_kl,
)

SCHEDULE = CosineVP()


def transition(size=1):
    end = jnp.zeros((), bool)
    return Transition(jnp.zeros(1), jnp.zeros(size), jnp.zeros(()), jnp.zeros(1), end, end)


def run(key, *links, size=1):
    example = transition(size)
    return chain(*links)(example, start(example), key)


def point(x, t, schedule=SCHEDULE):
    def transform(example, match, key):
        here, time = jnp.asarray(x, float)[None], jnp.asarray(t, float)[None]
        return Match(match.action, here, time, Target(here, here), match.weight, schedule, 1)

    return transform


def linear(obs, action):
    return jnp.sum(action)


def normal(scale=1.0):
    return lambda obs, key: scale * jax.random.normal(key, (1,))


def by_bisection(weight, low, high):
    nu = brentq(lambda nu: np.sum(weight(nu)) - 1, low, high, xtol=1e-14)
    return weight(nu)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("floor", [0.0, -2.0, 0.5])
def test_linear_weights_by_bisection(x64, getkey, temperature, floor):
    q = np.asarray(100 + jax.random.normal(getkey(), (16,)))
    truth = by_bisection(lambda nu: np.maximum((q - nu) / temperature, floor / 16), 50, 150)
    ours = linear_weights(jnp.asarray(q), temperature, floor)
    np.testing.assert_allclose(ours, truth, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(ours), 1, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_square_weights_by_bisection(x64, getkey, temperature):
    q = np.asarray(100 + jax.random.normal(getkey(), (16,)))
    truth = by_bisection(lambda nu: np.maximum((q - nu) / temperature, 0) ** 2, 50, 104)
    np.testing.assert_allclose(square_weights(jnp.asarray(q), temperature), truth, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("shape", ["exponential", "linear", "square"])
def test_tilts_share_their_limits(getkey, shape):
    def weights(q, temperature, key):
        return run(key, candidates(normal(), 8), tilt(q, temperature, shape=shape)).weight

    key = getkey()
    reference = weights(linear, 0.7, key)
    np.testing.assert_allclose(weights(lambda o, a: linear(o, a) + 3, 0.7, key), reference, atol=1e-5)
    np.testing.assert_allclose(weights(lambda o, a: 5 * linear(o, a), 3.5, key), reference, atol=1e-5)
    np.testing.assert_allclose(weights(lambda o, a: 0 * a[0], 0.7, key), 1 / 8, rtol=1e-6)
    assert jnp.max(weights(linear, 1e-4, key)) == pytest.approx(1)  # the best alone
    order = jnp.argsort(run(key, candidates(normal(), 8)).action[:, 0])
    assert jnp.all(jnp.diff(reference[order]) >= 0)
    # After reverse_sample every noised point is a group of its own.
    match = run(key, point([0.3], 0.5), reverse_sample(SCHEDULE, 8), tilt(linear, 0.7, shape=shape))
    np.testing.assert_allclose(jnp.sum(match.weight), 1, rtol=1e-5)


def test_negative_weights_have_a_finite_divergence(getkey):
    match = run(getkey(), candidates(normal(), 8), tilt(linear, 0.1, shape="linear", floor=-1.0))
    assert jnp.min(match.weight) == pytest.approx(-1 / 8)
    np.testing.assert_allclose(jnp.sum(match.weight), 1, rtol=1e-5)
    assert 0 < weight_kl(match) <= np.log(8)


def test_mirror_descent_with_added_noise(getkey):
    """From N(0, 1) with noise delta and Q = c a: N(c (1 + delta^2) / lambda, 1 + delta^2)."""
    c, temperature, delta = 0.3, 0.5, 0.4
    links = candidates(normal(), 200_000), jitter(delta), boltzmann(lambda o, a: c * a[0], temperature)
    match = run(getkey(), *links)
    mean = jnp.sum(match.weight * match.action[:, 0])
    variance = jnp.sum(match.weight * (match.action[:, 0] - mean) ** 2)
    assert mean == pytest.approx(c * (1 + delta**2) / temperature, abs=0.02)
    assert variance == pytest.approx(1 + delta**2, abs=0.04)


@pytest.mark.parametrize(("delta", "steps", "expected"), [(0.2, 200, 0.08198), (0.0, 8, 1 / 33)])
def test_repeated_mirror_descent_on_a_gaussian_energy(getkey, delta, steps, expected):
    """Without noise precision grows by 1 / V a step from 1; with noise v solves v^2 + delta^2 v = delta^2 V."""
    energy_variance = 0.25
    q = lambda obs, a: -(a[0] ** 2) / (2 * energy_variance)

    def step(variance, key):
        links = candidates(normal(jnp.sqrt(variance)), 4000), jitter(delta), boltzmann(q, 1.0)
        match = run(key, *links)
        new = jnp.sum(match.weight * match.action[:, 0] ** 2)
        return new, new

    _, trace = jax.jit(lambda keys: jax.lax.scan(step, jnp.ones(()), keys))(jax.random.split(getkey(), steps))
    if delta:
        assert jnp.mean(trace[50:]) == pytest.approx(expected, rel=0.02)
    else:
        assert trace[-1] == pytest.approx(expected, rel=0.15)


def test_qvpo_is_no_tilt(getkey):
    """From N(0, 1) and Q = a any Boltzmann tilt keeps the variance 1; QVPO's weighted law has .2."""
    keys = jax.random.split(getkey(), 4000)
    links = candidates(normal(), 16), advantage(linear), best(linear)
    match = jax.jit(jax.vmap(lambda key: run(key, *links)))(keys)
    weight, action = match.weight[:, 0], match.action[:, 0, 0]
    mean = jnp.sum(weight * action) / jnp.sum(weight)
    assert jnp.sum(weight * (action - mean) ** 2) / jnp.sum(weight) < 0.35
    tilted = run(getkey(), candidates(normal(), 50_000), boltzmann(linear, 1.0))
    centre = jnp.sum(tilted.weight * tilted.action[:, 0])
    assert jnp.sum(tilted.weight * (tilted.action[:, 0] - centre) ** 2) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("size", "mean", "variance"), [(4, 1.029, 0.492), (16, 1.766, 0.295)])
def test_the_best_of_n(getkey, size, mean, variance):
    keys = jax.random.split(getkey(), 20_000)
    links = candidates(normal(), size), best(linear)
    action = jax.jit(jax.vmap(lambda key: run(key, *links).action[0, 0]))(keys)
    assert jnp.mean(action) == pytest.approx(mean, abs=0.02)
    assert jnp.var(action) == pytest.approx(variance, rel=0.05)


def test_clipped_proposals_pass_no_gradient(getkey):
    """Far outside the box all particles clip to a face, and the target of that coordinate is zero."""
    links = (
        point([9.0, 0.2], 0.3),
        reverse_sample(SCHEDULE, 32, proposal="clipped"),
        smoothed_score(linear, 1.0),
    )
    noise = run(getkey(), *links, size=2).target.noise[0]
    assert noise[0] == 0
    assert noise[1] < 0


def test_the_score_estimates_mix_and_are_bounded(getkey):
    key, t, x = getkey(), 0.6, [0.4]
    q = lambda obs, a: -4 * a[0] ** 2
    proposals = point(x, t), reverse_sample(SCHEDULE, 64)

    def noise(*link):
        return run(key, *proposals, *link).target.noise[0]

    first = noise(boltzmann(q, 0.5), posterior_mean())
    second = noise(smoothed_score(q, 0.5))
    np.testing.assert_allclose(noise(smoothed_score(q, 0.5, noise_share=1.0)), first, rtol=1e-5)
    np.testing.assert_allclose(
        noise(smoothed_score(q, 0.5, noise_share=0.3)), 0.3 * first + 0.7 * second, rtol=1e-5
    )
    bounded = noise(smoothed_score(lambda obs, a: 50 * a[0], 0.5, max_norm=7.0))
    kappa = SCHEDULE.sigma(t) / SCHEDULE.alpha(t)
    np.testing.assert_allclose(bounded, [-7 * kappa], rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.4, 0.2])
def test_halving_the_temperature_halves_the_variance(x64, getkey, temperature):
    """Under Gaussian proposals the targets of G are the field of N(mu, lambda v), for every lambda."""
    mean, v, t, x = 0.5, 0.5, 0.4, 0.8
    q = lambda obs, a: -jnp.sum((a - mean) ** 2) / (2 * v)
    exact = GaussianMixture([1.0], [[mean]], [np.sqrt(temperature * v)]).posterior(
        jnp.array([x]), t, SCHEDULE
    )[1]
    kappa = SCHEDULE.sigma(t) / SCHEDULE.alpha(t)
    proposals = point([x], t), reverse_sample(SCHEDULE, 800_000, proposal="gaussian")
    gradient = run(getkey(), *proposals, smoothed_score(q, temperature)).target.noise[0]
    np.testing.assert_allclose(gradient, exact, atol=1e-2 * float(kappa))


def test_at_a_high_temperature_the_target_is_the_base_measure(getkey):
    t, x = 0.5, 0.3
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
    law = stats.truncnorm((-1 - x / alpha) * alpha / sigma, (1 - x / alpha) * alpha / sigma)
    exact = (x - alpha * (x / alpha + sigma / alpha * law.mean())) / sigma
    links = point([x], t), reverse_sample(SCHEDULE, 200_000), boltzmann(linear, 1e6), posterior_mean()
    assert run(getkey(), *links).target.noise[0, 0] == pytest.approx(exact, abs=5e-3)


def test_errors_of_the_gradient_form(getkey):
    """The specification's table on the mixture energy at t = .1, 64 and 256 Gaussian proposals."""
    t, errors = 0.1, (0.20, 0.09)
    mixture = GaussianMixture([0.5, 0.5], [[-0.5], [0.5]], [0.1, 0.2])
    count = 1000
    clean_key, noise_key = jax.random.split(getkey())
    noise = jax.random.normal(noise_key, (count, 1))
    x = SCHEDULE.alpha(t) * mixture.sample(clean_key, count) + SCHEDULE.sigma(t) * noise
    exact = jax.vmap(lambda x: mixture.posterior(x, t, SCHEDULE)[1])(x)
    for n, expected in zip((64, 256), errors, strict=True):

        def one(x, key, n=n):
            links = point(x, t), reverse_sample(SCHEDULE, n, proposal="gaussian")
            return run(key, *links, smoothed_score(lambda o, a: mixture.log_prob(a), 1.0)).target.noise[0]

        found = jax.jit(jax.vmap(one))(x, jax.random.split(getkey(), count))
        assert jnp.sqrt(jnp.mean((found - exact) ** 2)) == pytest.approx(expected, rel=0.35)


def test_variance_exploding_and_preserving_agree_to_rounding(x64, getkey):
    """S_VP(x, t) = S_VE(x / alpha; kappa) / alpha with common noise, at a noise level both reach exactly."""
    q, key, t, x = (lambda obs, a: -jnp.sum((a - 0.3) ** 4)), getkey(), 0.5, jnp.array([0.4, -0.2])
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    exploding = VarianceExploding(sigma_min=0.01, sigma_max=10.0)
    there = jnp.log1p((sigma / alpha / 0.01) ** 2) / (2 * np.log(1000.0))

    def score(schedule, x, t):
        proposals = point(x, t, schedule), reverse_sample(schedule, 64, proposal="gaussian")
        noise = run(key, *proposals, smoothed_score(q, 0.3), size=2).target.noise[0]
        return -noise / schedule.sigma(t)

    np.testing.assert_allclose(
        score(SCHEDULE, x, jnp.asarray(t)), score(exploding, x / alpha, there) / alpha, rtol=1e-6
    )


@pytest.mark.parametrize("t", [0.5, 0.9])
def test_a_tractable_proposal_agrees_with_the_integral(x64, getkey, t):
    """The double well from uniform proposals and from Gaussian ones near its higher mode, by importance weights."""
    q = lambda obs, a: jnp.sum(-8 * (a**2 - 0.36) ** 2 + 0.3 * a)
    x, n = 0.25, 100_000
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    a = np.linspace(-1, 1, 20001)
    density = np.exp((-8 * (a**2 - 0.36) ** 2 + 0.3 * a) / 0.25 - ((x - alpha * a) / sigma) ** 2 / 2)
    exact = np.sum(density * (x - alpha * a) / sigma) / np.sum(density)

    def uniform(obs, key):
        return jax.random.uniform(key, (1,), minval=-1.0), jnp.asarray(-np.log(2.0))

    def wide(obs, key):
        action = 0.2 + 0.7 * jax.random.normal(key, (1,))
        return action, jnp.sum(jax.scipy.stats.norm.logpdf(action, 0.2, 0.7))

    boxed = lambda obs, a: jnp.where(jnp.abs(a[0]) <= 1, q(obs, a), -1e3)
    for proposal, value in ((uniform, q), (wide, boxed)):
        links = point([x], t), reverse_sample(SCHEDULE, n, proposal=proposal), boltzmann(value, 0.25)
        match = jax.jit(lambda key, links=links: run(key, *links))(getkey())
        weight, noise = np.asarray(match.weight), np.asarray(match.target.noise[:, 0])
        mean = np.sum(weight * noise)
        error = np.sqrt(np.sum((weight * (noise - mean)) ** 2))
        assert error < 0.01
        assert abs(mean - exact) < 3.5 * error


def test_rescaled_weights_are_the_same_up_to_a_factor(getkey):
    key = getkey()
    huge = lambda obs, a: 1e4 + 300 * a[0]

    def weights(q, **options):
        return run(key, candidates(normal(), 8), boltzmann(q, 1.0, normalise=False, **options)).weight

    ours = weights(huge, rescale=True)
    assert jnp.isfinite(ours).all() and jnp.max(ours) == pytest.approx(1 / 8)
    small = weights(linear)
    np.testing.assert_allclose(weights(linear, rescale=True), small / jnp.max(small) / 8, rtol=1e-5)


@pytest.mark.parametrize("kind", ["noise", "score", "velocity", "data"])
def test_tamed_targets_stay_bounded(kind, getkey):
    """c(t) y(t)^2 of a target made of gradients is bounded up to t = 1 in whatever the field predicts."""
    schedule = RectifiedFlow(t_min=1e-3)
    q = lambda obs, a: 3 * a[0]

    def at(t):
        links = chain(point([0.5], t, schedule), reverse_sample(schedule, 8), smoothed_score(q, 1.0))
        zero = FunctionField(lambda x, t, obs: 0 * x, schedule=schedule, prediction=kind, action_size=1)
        return matching(links, time_weight="tamed")(zero, transition(), getkey())[0]

    assert all(at(t) < 60 for t in (0.9, 0.99, 0.999, 0.9999))


def test_clear_errors(getkey):
    with pytest.raises(ValueError, match="shape must be one of exponential, linear, square; got 'cubic'"):
        tilt(linear, 1.0, shape="cubic")
    with pytest.raises(ValueError, match="floor must be a finite number"):
        tilt(linear, 1.0, shape="linear", floor=1.0)
    with pytest.raises(ValueError, match="tilt needs at least two candidates"):
        run(getkey(), tilt(linear, 1.0, shape="square"))
    with pytest.raises(ValueError, match="rescale needs normalise=False"):
        boltzmann(linear, 1.0, rescale=True)
    with pytest.raises(ValueError, match="noise_share must be a finite number"):
        smoothed_score(linear, 1.0, noise_share=1.5)
