"""Reverse proposals, weights and the target identities, against closed forms and quadrature."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture
from scipy import stats

from dpolicy._types import Transition
from dpolicy.fields import CosineVP, RectifiedFlow, VarianceExploding
from dpolicy.losses import (
    Match,
    Target,
    boltzmann,
    chain,
    posterior_mean,
    reverse_sample,
    smoothed_score,
    start,
    truncated_normal,
)
from dpolicy.losses.truncated import _open_uniform, truncated_quantile

SCHEDULE = CosineVP()


def transition(size=1):
    end = jnp.zeros((), bool)
    return Transition(jnp.zeros(1), jnp.zeros(size), jnp.zeros(()), jnp.zeros(1), end, end)


def point(x, t, schedule=SCHEDULE):
    """A record whose noised point is chosen."""

    def transform(example, match, key):
        here, time = jnp.asarray(x, float)[None], jnp.asarray(t, float)[None]
        return Match(match.action, here, time, Target(here, here), match.weight, schedule, 1)

    return transform


@eqx.filter_jit
def propose(links, key, size=1):
    example = transition(size)
    return chain(*links)(example, start(example), key)


def mean_and_error(match):
    """Weighted mean of the noise targets and its standard error, one coordinate."""
    weight, noise = np.asarray(match.weight, float), np.asarray(match.target.noise[:, 0], float)
    mean = np.sum(weight * noise) / np.sum(weight)
    return mean, np.sqrt(np.sum((weight * (noise - mean)) ** 2)) / np.sum(weight)


LINEAR = [  # t, x, slope of Q; exact, gradient form, clipped proposal
    (0.25, 0.3, 1.0, -0.1940, -0.4250, -0.3810),
    (0.50, 0.3, 1.0, 0.0498, -1.0124, -0.5102),
    (0.75, 0.3, 1.0, 0.1838, -2.4354, -0.5234),
    (0.90, 0.3, 1.0, 0.2526, -6.3646, -0.5089),
    (0.50, 0.9, 2.0, 0.6169, -2.0248, -0.3894),
]


@pytest.mark.parametrize(("t", "x", "slope", "exact", "gradient", "clipped"), LINEAR)
def test_linear_energy_on_the_box(getkey, t, x, slope, exact, gradient, clipped):
    """Truncating gives the exact field; clipping and dropping the boundary flux give their own, wrong, columns."""
    q = lambda obs, a: slope * a[0]
    n = 200_000

    def run(proposal, *more):
        return propose((point([x], t), reverse_sample(SCHEDULE, n, proposal=proposal), *more), getkey())

    for proposal, answer in (("truncated", exact), ("uniform", exact), ("clipped", clipped)):
        mean, error = mean_and_error(run(proposal, boltzmann(q, 1.0)))
        assert error < 5e-3
        assert mean == pytest.approx(answer, abs=5e-5 + 4 * error), proposal
    # deterministic for a linear Q, so that few proposals are enough
    match = propose((point([x], t), reverse_sample(SCHEDULE, 8), smoothed_score(q, 1.0)), getkey())
    assert match.target.noise[0, 0] == pytest.approx(gradient, abs=2e-4)


@pytest.mark.parametrize("t", [0.5, 0.9])
def test_double_well_by_quadrature(x64, getkey, t):
    """Truncated and importance-weighted uniform proposals agree with the integral, and with each other."""
    q = lambda obs, a: jnp.sum(-8 * (a**2 - 0.36) ** 2 + 0.3 * a)
    x = 0.25
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    a = np.linspace(-1, 1, 20001)
    density = np.exp((-8 * (a**2 - 0.36) ** 2 + 0.3 * a) / 0.25 - ((x - alpha * a) / sigma) ** 2 / 2)
    exact = np.sum(density * (x - alpha * a) / sigma) / np.sum(density)
    for proposal in ("truncated", "uniform"):
        links = point([x], t), reverse_sample(SCHEDULE, 100_000, proposal=proposal), boltzmann(q, 0.25)
        mean, error = mean_and_error(propose(links, getkey()))
        assert error < 0.01
        assert abs(mean - exact) < 3.5 * error


def test_gaussian_energy(getkey):
    """Q = -(a - mu)^2 / (2 v): noise form and gradient form are both the field of N(mu, lambda v)."""
    mean, v, temperature, t, x = 0.5, 0.5, 0.4, 0.5, 0.8
    q = lambda obs, a: -jnp.sum((a - mean) ** 2) / (2 * v)
    exact = GaussianMixture([1.0], [[mean]], [np.sqrt(temperature * v)]).posterior(
        jnp.array([x]), t, SCHEDULE
    )[1]
    kappa = SCHEDULE.sigma(t) / SCHEDULE.alpha(t)
    proposals = point([x], t), reverse_sample(SCHEDULE, 100_000, proposal="gaussian")
    noise, error = mean_and_error(propose((*proposals, boltzmann(q, temperature)), getkey()))
    assert noise == pytest.approx(float(exact[0]), abs=4 * error)
    gradient = propose((*proposals, smoothed_score(q, temperature)), getkey()).target.noise[0, 0]
    # the same draws, amplified: its error is that of the mean action times kappa / (lambda v)
    assert gradient == pytest.approx(float(exact[0]), abs=4 * error * float(kappa) ** 2 / (temperature * v))


def test_noise_form_error_falls_as_one_over_root_n(getkey):
    mixture = GaussianMixture([0.5, 0.5], [[-0.5], [0.5]], [0.1, 0.2])
    t, count = 0.5, 400
    clean_key, noise_key = jax.random.split(getkey())
    noise = jax.random.normal(noise_key, (count, 1))
    x = SCHEDULE.alpha(t) * mixture.sample(clean_key, count) + SCHEDULE.sigma(t) * noise
    exact = jax.vmap(lambda x: mixture.posterior(x, t, SCHEDULE)[1])(x)

    def error(n):
        def one(x, key):
            links = point(x, t), reverse_sample(SCHEDULE, n, proposal="gaussian")
            links = *links, boltzmann(lambda obs, a: mixture.log_prob(a), 1.0), posterior_mean()
            return propose(links, key).target.noise[0]

        found = jax.jit(jax.vmap(one))(x, jax.random.split(getkey(), count))
        return jnp.sqrt(jnp.mean((found - exact) ** 2))

    errors = [error(n) for n in (64, 256, 1024)]
    assert errors[0] == pytest.approx(0.146, rel=0.15)
    slope = np.polyfit(np.log([64, 256, 1024]), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_variance_exploding_and_preserving_are_one(getkey):
    """S_VP(x, t) = S_VE(x / alpha; kappa) / alpha with common noise."""
    q = lambda obs, a: -jnp.sum((a - 0.3) ** 4)
    key, t, x = getkey(), 0.5, jnp.array([0.4, -0.2])
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    exploding = VarianceExploding(sigma_min=0.01, sigma_max=10.0)
    times = jnp.linspace(0.01, 1, 100001)
    ve_t = jnp.interp(sigma / alpha, exploding.sigma(times), times)

    def score(schedule, x, t):
        links = (
            point(x, t, schedule),
            reverse_sample(schedule, 64, proposal="gaussian"),
            smoothed_score(q, 0.3),
        )
        return -propose(links, key, 2).target.noise[0] / schedule.sigma(t)

    np.testing.assert_allclose(
        score(SCHEDULE, x, jnp.asarray(t)), score(exploding, x / alpha, ve_t) / alpha, rtol=1e-3
    )


def test_weights_ignore_constants_and_scale_with_temperature(getkey):
    key = getkey()
    proposals = point([0.3], 0.5), reverse_sample(SCHEDULE, 32)

    def weight(offset, scale, temperature):
        q = lambda obs, a: offset + scale * a[0] ** 2
        return propose((*proposals, boltzmann(q, temperature)), key).weight

    reference = weight(0.0, 1.0, 0.2)
    np.testing.assert_allclose(jnp.sum(reference), 1, rtol=1e-6)
    np.testing.assert_allclose(weight(5.0, 1.0, 0.2), reference, rtol=1e-4)
    np.testing.assert_allclose(weight(0.0, 10.0, 2.0), reference, rtol=1e-4)
    assert bool(jnp.all(jnp.isfinite(weight(0.0, 1e6, 1e-3))))


def test_normalised_gradient_form_ignores_the_scale_of_q(getkey):
    key = getkey()
    proposals = point([0.3, -0.1], 0.5), reverse_sample(SCHEDULE, 32)

    def target(scale):
        q = lambda obs, a: -scale * jnp.sum((a - 0.5) ** 2)
        return propose((*proposals, smoothed_score(q, 0.5, normalise=True)), key, 2).target.noise

    np.testing.assert_allclose(target(10.0), target(1.0), rtol=1e-4)


def test_records_stay_consistent(getkey):
    """x = alpha data + sigma noise for every proposal, and actions in the box where promised."""
    x = jnp.array([1.7, -0.4])
    for proposal in ("truncated", "uniform", "gaussian", "clipped"):
        links = point(x, 0.6), reverse_sample(SCHEDULE, 100, proposal=proposal, bound=0.8)
        match = propose(links, getkey(), 2)
        rebuilt = SCHEDULE.alpha(0.6) * match.target.data + SCHEDULE.sigma(0.6) * match.target.noise
        np.testing.assert_allclose(rebuilt, np.broadcast_to(x, (100, 2)), atol=2e-6)
        np.testing.assert_allclose(jnp.sum(match.weight), 1, rtol=1e-5)
        inside = bool(jnp.all(jnp.abs(match.action) <= 0.8))
        assert inside != (proposal == "gaussian")


@pytest.mark.parametrize("schedule", [SCHEDULE, RectifiedFlow()])
def test_truncated_proposals_at_the_ends_of_time(getkey, schedule):
    """Near t = 1 the actions are uniform on the box; near t = 0 they are x; nothing is infinite, even far outside."""
    far = jnp.array([-40.0, -7.0, 0.5, 6.0, 12.0, 1000.0])
    t = jnp.array([schedule.t_min, 0.3, schedule.t_max])
    x, t = (value.reshape(-1) for value in jnp.meshgrid(far, t))

    def run(x, t, key):
        return propose((point(x[None], t, schedule), reverse_sample(schedule, 2000)), key)

    match = jax.jit(jax.vmap(run))(x, t, jax.random.split(getkey(), x.size))
    for value in (match.action, match.target.noise, match.weight):
        assert bool(jnp.all(jnp.isfinite(value)))
    assert bool(jnp.all(jnp.abs(match.action) <= 1))
    np.testing.assert_allclose(match.action[2], 0.5, atol=0.03)
    late = np.asarray(match.action[14, :, 0])
    assert stats.kstest(late, stats.uniform(-1, 2).cdf).pvalue > 1e-3


INTERVALS = [
    (-3.0, 6.0),
    (-6.0, 13.0),
    (0.0, 1.0),
    (5.0, 0.5),
    (6.5, 1.0),
    (8.1, 5.0),
    (12.0, 0.01),
    (100.0, 1.0),
]


@pytest.mark.parametrize(("lower", "width"), [*INTERVALS, (2.0, 1e-4), (-0.0005, 0.001)])
def test_truncated_quantiles_in_single_precision(lower, width):
    u = (np.arange(500) + 0.5) / 500
    size = jnp.full((500,), width), jnp.full((500,), lower)
    z, offset = truncated_quantile(jnp.asarray(u, jnp.float32), size[1], size[0])
    np.testing.assert_allclose(z, lower + offset, rtol=1e-5, atol=1e-5)
    offset = np.asarray(offset, np.float64)
    base, end = stats.norm.logsf(lower), stats.norm.logsf(lower + width)
    probability = np.expm1(stats.norm.logsf(lower + offset) - base) / np.expm1(end - base)
    np.testing.assert_allclose(probability, u, atol=3e-4)


def test_truncated_normal_in_both_tails(getkey):
    lower = jnp.array([5.5, -7.0, -30.0, 20.0, -1.0, -jnp.inf, 3.0])
    upper = jnp.array([6.0, -6.0, -29.0, jnp.inf, 2.0, jnp.inf, 3.0])
    draws = jax.vmap(lambda key: truncated_normal(key, lower, upper))(jax.random.split(getkey(), 20000))
    assert bool(jnp.all(jnp.isfinite(draws)))
    assert bool(jnp.all((draws >= lower[None]) & (draws <= upper[None])))
    mean = [
        stats.truncnorm(low, high).mean()
        for low, high in ((5.5, 6), (-7, -6), (-30, -29), (20, np.inf), (-1, 2))
    ]
    spread = np.asarray(jnp.std(draws, axis=0))[:5] / np.sqrt(20000)
    np.testing.assert_array_less(np.abs(np.asarray(jnp.mean(draws, axis=0))[:5] - mean), 4.5 * spread + 1e-6)
    assert stats.kstest(np.asarray(draws[:, 5]), stats.norm.cdf).pvalue > 1e-3


def test_no_quantile_is_asked_for_zero(getkey):
    """In half precision one uniform draw of a thousand would be zero, whose normal quantile is infinite."""
    draws = _open_uniform(getkey(), (20_000,), jnp.dtype(jnp.float16))
    assert 0 < draws.min() < 0.01 and 0.99 < draws.max() < 1


def test_clear_errors(getkey):
    proposal = reverse_sample(SCHEDULE, 4)
    with pytest.raises(ValueError, match="n must be an integer of at least 2, got 1"):
        reverse_sample(SCHEDULE, 1)
    with pytest.raises(ValueError, match="proposal must be one of truncated, gaussian, clipped, uniform"):
        reverse_sample(SCHEDULE, 4, proposal="truncate")
    with pytest.raises(ValueError, match="bound must be a finite number in"):
        reverse_sample(SCHEDULE, 4, bound=0.0)
    with pytest.raises(ValueError, match="reverse_sample must come after perturb"):
        propose((proposal,), getkey())
    with pytest.raises(ValueError, match="only once"):
        propose((point([0.1], 0.5), proposal, proposal), getkey())
    with pytest.raises(ValueError, match="must be the one of perturb"):
        propose((point([0.1], 0.5), reverse_sample(RectifiedFlow(), 4)), getkey())
    with pytest.raises(ValueError, match="posterior_mean needs at least two candidates"):
        propose((point([0.1], 0.5), posterior_mean()), getkey())
