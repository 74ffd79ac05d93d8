"""Convergence orders and exact laws on Gaussians, where every step is an affine map that can be read off."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture

from dpolicy.fields import (
    CosineVP,
    DiscreteVP,
    FunctionField,
    LinearVP,
    RectifiedFlow,
    Trigonometric,
    VarianceExploding,
    cosine_betas,
)
from dpolicy.samplers import ddim, ddpm, dpm_solver, langevin, ode, sde

OBS, KEY = jnp.zeros(1), jax.random.key(0)


def gaussian(mean, variance, schedule, prediction="velocity"):
    """The exact field of N(mean, variance) in one dimension."""
    return GaussianMixture(np.ones(1), np.array([[mean]]), np.array([np.sqrt(variance)])).field(
        schedule, prediction
    )


def slope_of(sampler, field):
    """d action / d x_1 of a deterministic sampler on an affine field."""
    run = lambda start: sampler(field, OBS, KEY, start=start)
    return fast(jax.vmap(run), jnp.array([[0.0], [1.0]]))[:, 0]


def fast(fn, *args):
    """Compile without optimisation: these programs run once."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(fn).lower(*args).compile(compiler_options=options)(*args)


def order(errors, counts):
    """The exponents of successive refinements."""
    return np.log(np.asarray(errors)[:-1] / np.asarray(errors)[1:]) / np.log(counts[1:] / counts[:-1])


@pytest.mark.parametrize(("solver", "expected"), [("euler", 1), ("heun", 2)])
def test_order_of_the_ode_solvers(solver, expected, x64):
    field = gaussian(0.4, 0.3, RectifiedFlow())
    counts = np.array([16, 32, 64, 128])
    errors = []
    for count in counts:
        origin, unit = slope_of(ode(steps=int(count), solver=solver), field)
        errors.append(abs(unit - origin - np.sqrt(0.3)))
    np.testing.assert_allclose(order(errors, counts), expected, atol=0.15)


def test_tsit5_meets_its_tolerance(x64):
    field = gaussian(0.4, 0.3, RectifiedFlow())
    origin, unit = slope_of(ode(solver="tsit5", rtol=1e-9, atol=1e-9), field)
    np.testing.assert_allclose([origin, unit], [0.4, 0.4 + np.sqrt(0.3)], atol=1e-8)


def test_tsit5_returns_nan_rather_than_an_unfinished_solution(getkey):
    field = gaussian(0.4, 0.3, CosineVP())
    assert not np.isnan(ode(solver="tsit5")(field, OBS, KEY)).any()
    assert np.isnan(ode(solver="tsit5", max_steps=2)(field, OBS, KEY)).all()


@pytest.mark.parametrize(("variance", "expected"), [(0.04, 0.0308), (0.25, 0.215), (1.0, 0.880)])
def test_euler_shrinks_variance_as_specified(variance, expected, x64):
    origin, unit = slope_of(ode(steps=20), gaussian(0.4, variance, RectifiedFlow()))
    np.testing.assert_allclose(origin, 0.4, atol=1e-12)
    np.testing.assert_allclose((unit - origin) ** 2, expected, atol=1e-3)


@pytest.mark.parametrize("diffusion", ["variance", "reverse"])
def test_weak_order_of_euler_maruyama(diffusion, x64):
    # Mean and variance obey exact recursions: x <- a x + b + spread dw.
    schedule = Trigonometric(t_min=0.05, t_max=0.9)
    field = gaussian(0.4, 0.3, schedule)
    counts, errors = np.array([512, 1024, 2048]), []

    def moments(t):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        return alpha * 0.4, alpha**2 * 0.3 + sigma**2

    def coefficients(sampler):
        """(a, b, variance of the noise) of every step."""
        rows = sampler.rows(field, KEY)
        still = rows._replace(noise=jnp.zeros_like(rows.noise))
        step = jax.vmap(lambda row, x: sampler.step(field, x, row, OBS), in_axes=(0, None))
        offset, unit = step(still, jnp.zeros(1))[:, 0], step(still, jnp.ones(1))[:, 0]
        return jnp.stack([unit - offset, offset, rows.spread**2 * (rows.t - rows.end)], axis=1)

    for count in counts:
        mean, variance = moments(0.9)
        for a, b, noise in np.asarray(
            fast(partial(coefficients, sde(steps=int(count), diffusion=diffusion)))
        ):
            mean, variance = a * mean + b, a**2 * variance + noise
        errors.append([abs(mean - moments(0.05)[0]), abs(variance - moments(0.05)[1])])
    np.testing.assert_allclose(order(np.array(errors), counts[:, None]), 1, atol=0.2)


def final_variance(sampler, variance, schedule):
    """The exact variance of the samples of an ancestral chain on N(0, variance), from its kernels."""
    field = gaussian(0.0, variance, schedule, "noise")
    kernel = lambda x, step: sampler.kernel(field, x, OBS, step)
    mean, std = fast(jax.vmap(kernel, in_axes=(None, 0)), jnp.ones(1), jnp.arange(sampler.steps))
    spread = 1.0
    for slope, noise in zip(np.asarray(mean)[:, 0], np.asarray(std), strict=True):
        spread = slope**2 * spread + noise**2
    return spread


# The specifications' numbers: vp is LinearVP(.1, 10) from t = 0, where alpha = 1.
VP = LinearVP(0.1, 10.0, t_min=0.0)


@pytest.mark.parametrize(
    ("schedule", "variance", "steps", "truth", "expected"),
    [
        (VP, "posterior", 5, 1.0, 0.456),
        (VP, "posterior", 20, 1.0, 0.776),
        (VP, "posterior", 50, 1.0, 0.894),
        (VP, "beta", 5, 1.0, 0.804),
        (VP, "beta", 20, 1.0, 0.983),
        (VP, "beta", 50, 1.0, 0.996),
        (VP, "posterior", 20, 0.01, 0.00299),
        (VP, "beta", 20, 0.01, 0.00788),
        (CosineVP(), "beta", 20, 0.04, 0.0455),
        (CosineVP(), "posterior", 20, 0.04, 0.0235),
    ],
)
def test_ddpm_variance_as_specified(schedule, variance, steps, truth, expected, x64):
    sampler = ddpm(steps=steps, variance=variance, clip=None)
    found = float(final_variance(sampler, truth, schedule))
    np.testing.assert_allclose(found, expected, atol=0.6 * 10 ** -(len(str(expected).split(".")[1])))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (5, [0, 0.2834, 0.5033, 0.7258, 0.9514]),
        (10, [0, 0.1442, 0.2432, 0.3273, 0.4065, 0.4878, 0.5781, 0.6873, 0.8310, 0.9874]),
    ],
)
def test_posterior_std_of_dppo(steps, expected, x64):
    # DPPO's discrete cosine chain; its last step goes to abar = 1 without noise.
    field = gaussian(0.0, 1.0, DiscreteVP(cosine_betas(steps)), "noise")
    std = ddpm(steps=steps, variance="posterior").coefficients(field).std
    np.testing.assert_allclose(std[::-1], expected, atol=6e-5)


def test_floor_of_std_noise_bound_and_final_noise(x64):
    field = gaussian(0.0, 1.0, DiscreteVP(cosine_betas(5)), "noise")
    explore = ddpm(steps=5, variance="posterior", min_std=0.3, noise_bound=0.01, final_noise=True)
    np.testing.assert_allclose(
        explore.coefficients(field).std[::-1], [0.3, 0.3, 0.5033, 0.7258, 0.9514], atol=6e-5
    )
    assert ddpm(steps=5, min_std=0.3).coefficients(field).std[-1] == 0
    points, draws = explore.chain(field, OBS, KEY), []
    for step in range(5):
        mean, std = explore.kernel(field, points[step], OBS, step)
        draws.append((points[step + 1] - mean)[0] / std)
    # With noise bounded at .01 every draw of this key sits on the bound, on its own side.
    drawn = jax.random.normal(jax.random.split(KEY)[1], (5, 1))[:, 0]
    assert set(np.sign(drawn)) == {-1, 1}
    np.testing.assert_allclose(draws, 0.01 * np.sign(drawn), rtol=1e-6)
    assert not np.allclose(points[5], explore.kernel(field, points[4], OBS, 4)[0], atol=1e-6)


def test_ddpm_step_is_the_textbook_formula(x64):
    # One step of section 2.5 with its own symbols, the clean action clipped.
    betas = cosine_betas(10)
    abar = np.cumprod(1 - np.array(betas))
    schedule = DiscreteVP(betas)
    field = FunctionField(
        lambda x, t, obs: 0.3 + 0.5 * x, schedule=schedule, prediction="noise", action_size=1
    )
    x, i = 1.7, 6
    noise = 0.3 + 0.5 * x
    data = np.clip((x - np.sqrt(1 - abar[i]) * noise) / np.sqrt(abar[i]), -1, 1)
    mean = (np.sqrt(abar[i - 1]) * betas[i] * data + np.sqrt(1 - betas[i]) * (1 - abar[i - 1]) * x) / (
        1 - abar[i]
    )
    for variance, square in [("beta", betas[i]), ("posterior", betas[i] * (1 - abar[i - 1]) / (1 - abar[i]))]:
        found = ddpm(steps=10, variance=variance).kernel(field, jnp.array([x]), OBS, 9 - i)
        np.testing.assert_allclose([found[0][0], found[1]], [mean, np.sqrt(square)], rtol=1e-10)
    # DDIM keeps the predicted noise with the clipped action (FlowRL), or recomputes it (DPPO).
    kept = ddim(steps=10).kernel(field, jnp.array([x]), OBS, 9 - i)[0][0]
    np.testing.assert_allclose(
        kept, np.sqrt(abar[i - 1]) * data + np.sqrt(1 - abar[i - 1]) * noise, rtol=1e-10
    )
    implied = (x - np.sqrt(abar[i]) * data) / np.sqrt(1 - abar[i])
    again = ddim(steps=10, recompute=True).kernel(field, jnp.array([x]), OBS, 9 - i)[0][0]
    np.testing.assert_allclose(
        again, np.sqrt(abar[i - 1]) * data + np.sqrt(1 - abar[i - 1]) * implied, rtol=1e-10
    )


def test_ddim_at_eta_one_is_ddpm_with_the_posterior_variance(x64):
    field = gaussian(0.4, 0.3, CosineVP(), "noise")
    for step in (0, 5, 9):
        one = ddim(steps=10, eta=1.0, clip=None).kernel(field, jnp.array([0.7]), OBS, step)
        other = ddpm(steps=10, variance="posterior", clip=None).kernel(field, jnp.array([0.7]), OBS, step)
        np.testing.assert_allclose(one[1], other[1], rtol=1e-12)
        np.testing.assert_allclose(one[0], other[0], rtol=1e-10)


def test_dpm_solver_of_order_one_is_ddim_and_of_two_is_of_second_order(x64):
    mixture = GaussianMixture(np.array([0.7, 0.3]), np.array([[-0.5], [0.6]]), np.array([0.15, 0.2]))
    field, start = mixture.field(CosineVP(), "noise"), jnp.array([0.7])
    times = np.linspace(0.99, 0.001, 8)
    one, other = dpm_solver(steps=7, order=1, times=times), ddim(steps=7, clip=None, times=times)
    np.testing.assert_allclose(one.chain(field, OBS, KEY), other.chain(field, OBS, KEY), rtol=1e-9)
    exact = ode(steps=1, solver="tsit5", rtol=1e-10, atol=1e-10, max_steps=4_000)(
        field, OBS, KEY, start=start
    )
    solved = lambda order, steps: dpm_solver(steps=steps, order=order)(field, OBS, KEY, start=start)
    error = lambda order, steps: abs(float((solved(order, steps) - exact)[0]))
    assert 1.8 < error(1, 80) / error(1, 160) < 2.3
    assert 3.2 < error(2, 80) / error(2, 160) < 5
    assert error(2, 40) < error(1, 40) / 5
    discrete = mixture.field(DiscreteVP(cosine_betas(8)), "noise")
    assert -1 < float(dpm_solver(steps=8)(discrete, OBS, KEY)[0]) < 1.2


@pytest.mark.parametrize(
    "schedule", [LinearVP(), RectifiedFlow(), VarianceExploding()], ids=lambda s: type(s).__name__
)
def test_dpm_solver_keeps_the_width_of_a_narrow_gaussian(schedule, x64):
    """The map of an exact field of N(.3, .05^2) is linear: a deviation of the start becomes one of .05."""

    def fn(x, t, obs):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return sigma * (x - 0.3 * alpha) / (alpha**2 * 0.05**2 + sigma**2)

    field = FunctionField(fn, schedule=schedule, prediction="noise", action_size=1)
    ends = [
        float(dpm_solver()(field, OBS, KEY, start=jnp.array([x * schedule.prior_std]))[0]) for x in (-1, 1)
    ]
    assert (ends[1] - ends[0]) / 2 == pytest.approx(0.05, rel=0.06)
    assert np.mean(ends) == pytest.approx(0.3, abs=0.01)


def test_ddim_is_euler_for_the_rectified_flow(x64):
    field = gaussian(0.4, 0.3, RectifiedFlow())
    one, other = ddim(steps=7, clip=None)(field, OBS, KEY), ode(steps=7)(field, OBS, KEY)
    np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("sampler", [ddpm, ddim], ids=["ddpm", "ddim"])
def test_schedules_of_equal_snr_give_equal_samples(sampler, x64):
    # t / (1 - t) = tan(pi u / 2): the rectified flow and the angle schedule are one process in other units.
    flow, angle = RectifiedFlow(), Trigonometric()
    times = np.linspace(1, 0, 9)
    angles = 2 / np.pi * np.arctan2(times, 1 - times)
    one = sampler(steps=8, clip=None, times=times)(gaussian(0.4, 0.3, flow), OBS, KEY)
    other = sampler(steps=8, clip=None, times=angles)(gaussian(0.4, 0.3, angle), OBS, KEY)
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_sde_of_a_variance_exploding_schedule_is_the_ve_sampler(x64):
    # x <- x + g^2 S h + g sqrt(h) z, g^2 = d sigma^2 / dt (DEM, DQS).
    schedule = VarianceExploding()
    field = gaussian(0.4, 0.3, schedule, "score")
    for diffusion in ("variance", "reverse"):
        sampler = sde(steps=10, diffusion=diffusion)
        rows = jax.tree.map(lambda leaf: leaf[3], sampler.rows(field, KEY))
        x, t, step = jnp.array([2.0]), rows.t, rows.t - rows.end
        squared = jax.grad(lambda t: schedule.sigma(t) ** 2)(t)
        drawn = jax.random.normal(jax.random.split(KEY)[1], (10, 1))[3]
        expected = x + squared * field(x, t, OBS) * step + jnp.sqrt(squared * step) * drawn
        np.testing.assert_allclose(sampler.step(field, x, rows, OBS), expected, rtol=1e-10)


def test_constant_diffusion_is_equation_nine(x64):
    # dx = [v - eta S] dt + sqrt(2 eta) dw, backwards.
    schedule, eta = RectifiedFlow(), 0.3
    field = gaussian(0.4, 0.3, schedule)
    sampler = sde(steps=10, eta=eta, diffusion="constant")
    rows = jax.tree.map(lambda leaf: leaf[4], sampler.rows(field, KEY))
    x, score = jnp.array([0.2]), gaussian(0.4, 0.3, schedule, "score")
    drawn = jax.random.normal(jax.random.split(KEY)[1], (10, 1))[4]
    drift = field(x, rows.t, OBS) - eta * score(x, rows.t, OBS)
    expected = x - 0.1 * drift + jnp.sqrt(2 * eta * 0.1) * drawn
    np.testing.assert_allclose(sampler.step(field, x, rows, OBS), expected, rtol=1e-10)
    assert sampler.rows(field, KEY).spread[-1] == 0


def test_langevin_correction_has_the_documented_variance(x64):
    # The step after its corrections keeps x at time t: read the slope and the noise of one correction.
    schedule, size = RectifiedFlow(), 0.2
    field = gaussian(0.0, 0.3, schedule, "noise")
    sampler = langevin(steps=2, corrections=1, step_size=size, clip=None)
    coefficients, noise, sigma, kicks = sampler.rows(field, KEY)
    row = jax.tree.map(lambda leaf: leaf[1], (coefficients, noise, sigma, kicks))
    t, x = row[0].t, jnp.array([0.8])
    spread = 0.25 * 0.3 + 0.25
    moved = x - size * 0.25 * x / spread + np.sqrt(2 * size) * 0.5 * row[3][0]
    expected = sampler.predictor.step(field, moved, row[:2], OBS)
    np.testing.assert_allclose(sampler.step(field, x, row, OBS), expected, rtol=1e-10)
    np.testing.assert_allclose(t, 0.5)
    plain = langevin(steps=4, corrections=0)
    np.testing.assert_array_equal(plain(field, OBS, KEY), ddim(steps=4)(field, OBS, KEY))
