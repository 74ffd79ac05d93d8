"""Consistency functions: what they are at the ends, what each loss fits, what a sampler of few calls draws."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.blocks import grid_levels, linear_levels
from dpolicy.fields import (
    ConsistencyField,
    CosineVP,
    FunctionField,
    Karras,
    clip_inward,
    consistency_scalings,
)
from dpolicy.losses import (
    batched,
    bptt_of_either,
    consistency_levels,
    consistency_matching,
    denoiser_weight,
    grid_times,
    matching,
    perturb,
)
from dpolicy.samplers import consistency

KEY, OBS, NO = jax.random.key(0), jnp.asarray([0.5, -0.3]), jnp.asarray(False)
KARRAS = Karras()
SMALL = {"hidden": (8,), "initialisation": "torch"}


def transition(action):
    return Transition(OBS, jnp.asarray(action), jnp.asarray(0.0), OBS, NO, NO)


def exact(variance, of=None):
    """The consistency function of N(0, variance); where `of` is given, that of its posterior mean."""

    def fn(x, t, obs):
        h = KARRAS.sigma(t)
        if of == "mean":
            return x * variance / (variance + h**2)
        return x * jnp.sqrt((variance + KARRAS.sigma_min**2) / (variance + h**2))

    return FunctionField(fn, schedule=KARRAS, prediction="data", action_size=1)


@pytest.mark.parametrize("preconditioned", [True, False])
def test_the_identity_at_the_least_noise(preconditioned):
    """To the last digit, in single precision, whatever the network."""
    field = ConsistencyField(2, 3, preconditioned=preconditioned, key=KEY, **SMALL)
    x = jnp.asarray([3.7, -0.41, 12.3])
    np.testing.assert_array_equal(field(x, jnp.asarray(0.0), OBS), x)
    assert np.all(np.abs(field(x, jnp.asarray(0.5), OBS) - x) > 0.1)
    clipped = ConsistencyField(2, 3, preconditioned=preconditioned, clip=1.0, key=KEY, **SMALL)
    np.testing.assert_allclose(clipped(x, jnp.asarray(0.0), OBS), [1.0, -0.41, 1.0], rtol=1e-6)


def test_what_the_network_sees(x64):
    field = ConsistencyField(2, 1, embedding="raw", data_std=0.7, key=KEY, **SMALL)
    plain = ConsistencyField(2, 1, embedding="raw", data_std=0.7, preconditioned=False, key=KEY, **SMALL)
    x, t, h = jnp.asarray([3.7]), KARRAS.time(2.0), 2.0
    skip, out, inside = consistency_scalings(h, data_std=0.7)
    for made, seen, time in ((field, inside * x, 250 * np.log(h)), (plain, x, h)):
        expected = skip * x + out * made.mlp(seen, jnp.asarray([time]), OBS)
        np.testing.assert_allclose(made(x, t, OBS), expected, rtol=1e-9)


def test_scalings_of_the_specification(x64):
    """(h: c_skip, c_out), c_in = 1 / sqrt(h^2 + s^2)."""
    table = {0.002: (1.0, 0.0), 0.5: (0.50200, 0.35214), 2.0: (0.05893, 0.48459), 80.0: (3.9063e-5, 0.49998)}
    for h, row in table.items():
        skip, out, inside = consistency_scalings(h)
        np.testing.assert_allclose((skip, out), row, rtol=2e-5, atol=6e-6 * (h < 80))
        np.testing.assert_allclose(inside, 1 / np.hypot(h, 0.5), rtol=1e-12)


def test_levels_and_weights_of_the_specification(x64):
    grid = KARRAS.sigma(KARRAS.grid(39))[::-1]
    np.testing.assert_allclose(grid[:6], [80, 69.4509, 60.1174, 51.8803, 44.6302, 38.2665], atol=5e-5)
    np.testing.assert_allclose(grid[-6:], [0.0275, 0.0175, 0.0108, 0.0064, 0.0037, 0.002], atol=5e-5)
    np.testing.assert_allclose(KARRAS.sigma(KARRAS.time(grid)), grid, rtol=1e-9)
    weights = denoiser_weight()(KARRAS, KARRAS.time(jnp.asarray([0.002, 1.0, 80.0])))
    np.testing.assert_allclose(weights, [250004, 5, 4.00016], rtol=2e-6)
    np.testing.assert_allclose(250 * np.log([0.002, 80]), [-1553.7, 1095.5], atol=0.05)


def test_times_of_the_methods(x64):
    """The two levels of CPQL that have an effect; those of Consistency-AC."""
    assert len(grid_levels(1, 40)) == len(linear_levels(1, KARRAS)) == 0
    np.testing.assert_allclose(KARRAS.sigma(jnp.asarray(grid_levels(2, 40))), [2.2404], atol=5e-5)
    for steps, rest in ((2, [2.0]), (5, [60.5, 41, 21.5, 2])):
        np.testing.assert_allclose(KARRAS.sigma(jnp.asarray(linear_levels(steps, KARRAS))), rest, rtol=1e-6)
    with pytest.raises(ValueError, match="sampler_steps must be below levels, 40, got 40"):
        grid_levels(40, 40)
    for bounds, sentence in (
        ((0.002, 1.0), "sigma_max must be a finite number in (2, inf), got 1.0."),
        ((3.0, 80.0), "sigma_min must be a finite number in (0, 2), got 3.0."),
    ):
        assert len(linear_levels(1, Karras(*bounds))) == 0
        with pytest.raises(ValueError, match=re.escape(sentence)):
            linear_levels(2, Karras(*bounds))


def test_a_count_of_levels_that_grows():
    assert [int(consistency_levels(p)) for p in (0.0, 1.0)] == [2, 150]
    counts = jax.vmap(consistency_levels)(jnp.linspace(0, 1, 50))
    assert np.all(np.diff(counts) >= 0) and np.all(counts == np.round(counts))


def pairs(levels):
    """The pairs of times at which the two models are asked, and the points, by the loss itself."""
    seen = []

    def spy(factor):
        def fn(x, t, obs):
            seen.append((factor, x, t))
            return factor * x

        return FunctionField(fn, schedule=KARRAS, prediction="data", action_size=1)

    def draw(key):
        seen.clear()
        value, _ = consistency_matching(spy(2.0), levels=levels)(spy(1.0), transition([0.3]), key)
        (_, late_x, late), (_, early_x, early) = seen
        return late, early, late_x, early_x, value

    return jax.jit(jax.vmap(draw))(jax.random.split(KEY, 600))


def test_neighbours_share_their_noise(x64):
    late, early, late_x, early_x, value = pairs(4)
    np.testing.assert_allclose(late - early, 1 / 3, rtol=1e-9)
    found, count = np.unique(np.round(early * 3), return_counts=True)
    assert found.tolist() == [0, 1, 2] and np.all(count > 150)
    noise = [(x[:, 0] - 0.3) / KARRAS.sigma(t) for x, t in ((late_x, late), (early_x, early))]
    np.testing.assert_allclose(*noise, rtol=1e-6)
    np.testing.assert_allclose(np.std(noise[0]), 1, atol=0.1)
    np.testing.assert_allclose(value, (late_x[:, 0] - 2 * early_x[:, 0]) ** 2, rtol=1e-9)


def test_weights_of_consistency_are_of_the_later_level(x64):
    """Of one pair, the two ends of the grid: h' = 80 and h = .002."""
    field, example = exact(0.25, of="mean"), transition([0.3])
    plain = consistency_matching(field, levels=2)(field, example, KEY)[0]
    weighed = consistency_matching(field, levels=2, time_weight=denoiser_weight())(field, example, KEY)[0]
    scaled = consistency_matching(field, levels=2, scaled=True)(field, example, KEY)[0]
    np.testing.assert_allclose(weighed / plain, 4 + 80**-2, rtol=1e-9)
    np.testing.assert_allclose(scaled / plain, 1 / 79.998, rtol=1e-9)


def test_the_exact_function_agrees_along_a_trajectory(x64):
    """x(h) = x(h_0) sqrt((v + h^2) / (v + h_0^2)) has one end; the posterior mean has not."""
    h, v, end = KARRAS.sigma(KARRAS.grid(39)), 0.25, 0.4
    points = end * jnp.sqrt((v + h**2) / (v + h[0] ** 2))
    ends = jax.vmap(lambda x, t: exact(v)(x[None], t, OBS)[0])(points, KARRAS.grid(39))
    np.testing.assert_allclose(ends, end, rtol=1e-9)
    means = jax.vmap(lambda x, t: exact(v, "mean")(x[None], t, OBS)[0])(points, KARRAS.grid(39))
    assert np.max(np.abs(means - end)) > 0.39


def fitted(actions, t):
    """The slope of a linear f(x) at one level that reconstruction prefers."""
    keys = jax.random.split(KEY, actions.shape[0])

    loss = matching(perturb(KARRAS, times=lambda schedule, key: t), time_weight=denoiser_weight())

    def at(slope):
        field = FunctionField(lambda x, t, obs: slope * x, schedule=KARRAS, prediction="data", action_size=1)
        return jnp.mean(jax.vmap(lambda action, key: loss(field, transition(action), key)[0])(actions, keys))

    gradient = jax.grad(at)  # linear in the slope
    return -gradient(0.0) / (gradient(1.0) - gradient(0.0))


def test_reconstruction_fits_the_posterior_mean(x64):
    """Of a Gaussian x v / (v + h^2), of one action that action, of two points tanh(x / h^2): not the function."""
    normal, v, h = 0.5 * jax.random.normal(jax.random.key(1), (20_000, 1)), 0.25, jnp.asarray([0.3, 1.0])
    slopes = jax.jit(jax.vmap(lambda t: fitted(normal, t)))(KARRAS.time(h))
    np.testing.assert_allclose(slopes, v / (v + h**2), rtol=0.03)
    weight = lambda x, a, h: jnp.exp(-((x - a) ** 2) / (2 * h**2))
    x, h = jnp.linspace(-3, 3, 7), 0.8
    two = (weight(x, 1, h) - weight(x, -1, h)) / (weight(x, 1, h) + weight(x, -1, h))
    np.testing.assert_allclose(two, jnp.tanh(x / h**2), rtol=1e-9)


def test_two_points_and_one_are_reconstructed_by_their_mean():
    """A table of values at one level, fitted by the gradient of the loss; cells of x where both signs occur."""
    h = 0.8
    time, edges = KARRAS.time(h), jnp.linspace(-2.2, 2.2, 12)
    middles = (edges[1:] + edges[:-1]) / 2
    loss = matching(perturb(KARRAS, times=lambda schedule, key: time))

    def value(table, action, key):
        fn = lambda x, t, obs: table[jnp.clip(jnp.searchsorted(edges, x) - 1, 0, 10)]
        field = FunctionField(fn, schedule=KARRAS, prediction="data", action_size=1)
        return loss(field, transition(action), key)[0]

    keys = jax.random.split(KEY, 40_000)

    @jax.jit
    def best(actions):
        total = lambda table: jnp.sum(jax.vmap(value, (None, 0, 0))(table, actions, keys))
        zero = jnp.zeros(11)
        # A sum of squares, of which each cell has its own.
        counts = jax.grad(total)(zero + 1) - jax.grad(total)(zero)
        return -jax.grad(total)(zero) / counts

    signs = jnp.where(jnp.arange(40_000) % 2 == 0, 1.0, -1.0)[:, None]
    inner = slice(1, -1)
    np.testing.assert_allclose(best(signs)[inner], jnp.tanh(middles / h**2)[inner], atol=0.07)
    np.testing.assert_allclose(best(0 * signs + 0.3)[inner], 0.3, atol=1e-4)


def draws(field, sampler, count=20_000):
    draw = jax.jit(jax.vmap(lambda key: sampler(field, OBS, key)))
    return np.asarray(draw(jax.random.split(KEY, count)))[:, 0]


def test_one_step_of_the_exact_function_has_the_law_and_of_the_mean_has_not():
    """Deviations .5 and .0031; of the mean of two points tanh(z / 80), .0125 around 0, where no action is."""
    np.testing.assert_allclose(np.std(draws(exact(0.25), consistency())), 0.5, rtol=0.02)
    later = consistency(later=(0.6, 0.3, 0.1))
    np.testing.assert_allclose(np.std(draws(exact(0.25), later)), 0.5, rtol=0.02)
    np.testing.assert_allclose(np.std(draws(exact(0.25, "mean"), consistency())), 0.003125, rtol=0.02)
    two = lambda x, t, obs: jnp.tanh(x / KARRAS.sigma(t) ** 2)
    middle = draws(FunctionField(two, schedule=KARRAS, prediction="data", action_size=1), consistency())
    np.testing.assert_allclose(np.std(middle), 0.0125, rtol=0.02)


def test_calls_of_a_sampler_by_hand(x64):
    """f at h_max, then noise of deviation sqrt(h^2 - h_0^2) and f again; the gradient passes through all of them."""
    seen = []

    def fn(x, t, obs):
        jax.debug.callback(lambda x, t: seen.append((float(x[0]), float(t))), x, t)
        return 0.1 * x

    field = FunctionField(fn, schedule=KARRAS, prediction="data", action_size=1)
    start = jnp.asarray([3.0])
    for later in ((), (0.5, 0.2)):
        seen.clear()
        sampler = consistency(later=later, clip=1.0)
        action = sampler(field, OBS, KEY, start=start)
        jax.effects_barrier()
        assert [t for _, t in seen] == [1.0, *later] and len(seen) == sampler.steps
        z = jax.random.normal(jax.random.split(KEY)[1], (len(later), 1))
        x = 0.1 * start
        for t, noise in zip(later, z, strict=True):
            x = 0.1 * (x + jnp.sqrt(KARRAS.sigma(t) ** 2 - 0.002**2) * noise)
        np.testing.assert_allclose(action, np.clip(x, -1, 1), rtol=1e-9)
    gradient = jax.grad(lambda x: jnp.sum(consistency(later=(0.5, 0.2))(field, OBS, KEY, start=x)))(start)
    np.testing.assert_allclose(gradient, [1e-3], rtol=1e-9)


@pytest.mark.parametrize("inside", [True, False])
def test_a_clipped_action_finds_back_where_that_is_asked(inside):
    """Of f = 1.5 in the first coordinate and -1.5 in the second: the gradient of Q points back, then out."""
    value = jnp.asarray([1.5, -1.5])

    def slope(inward, q):
        sampler = consistency(clip=None if inside else 1.0, inward=inward)

        def loss(shift):
            clip = (lambda x: clip_inward(x, 1.0)) if inward else lambda x: jnp.clip(x, -1, 1)
            fn = lambda x, t, obs: clip(value + shift) if inside else value + shift
            field = FunctionField(fn, schedule=KARRAS, prediction="data", action_size=2)
            return -jnp.sum(q * sampler(field, OBS, KEY))

        return jax.grad(loss)(jnp.zeros(2))

    q = jnp.asarray([-2.0, 3.0])
    np.testing.assert_array_equal(slope(True, q), -q)
    np.testing.assert_array_equal(slope(True, -q), [0, 0])
    np.testing.assert_array_equal(slope(False, q), [0, 0])
    np.testing.assert_array_equal(clip_inward(value, 1.0), [1, -1])
    field = ConsistencyField(2, 2, clip=1e-3, inward=True, key=KEY, **SMALL)
    found = jax.grad(lambda x: jnp.sum(jnp.abs(field(x, jnp.asarray(0.5), OBS))))(jnp.asarray([3.0, -4.0]))
    assert np.all(found != 0)


def test_fields_without_consistency_are_refused():
    noise = FunctionField(lambda x, t, obs: x, schedule=KARRAS, prediction="noise", action_size=1)
    turned = FunctionField(lambda x, t, obs: x, schedule=CosineVP(), prediction="data", action_size=1)
    for field in (noise, turned):
        with pytest.raises(ValueError, match="field must predict data under a schedule whose alpha is 1"):
            consistency()(field, OBS, KEY)
    with pytest.raises(ValueError, match="the model of consistency_matching must predict data"):
        consistency_matching(noise)(noise, transition([0.0]), KEY)
    with pytest.raises(ValueError, match="later must decrease"):
        consistency(later=(0.2, 0.5))


def test_either_critic_is_climbed_in_units_of_the_other(x64):
    """One for a batch, each in about half of them: Q_1 / mean |Q_2| or Q_2 / mean |Q_1|."""
    pair = lambda obs, action: jnp.stack([action[0], 3 * action[0] ** 2])
    sample = lambda gain, obs, key: gain * obs[:1]
    batch = jax.vmap(lambda x: Transition(x[None], x[None], x, x[None], NO, NO))(jnp.asarray([0.5, 1.0, 2.0]))
    loss = batched(bptt_of_either(sample, pair))
    found = jax.jit(jax.vmap(lambda key: jax.value_and_grad(lambda gain: loss(gain, batch, key)[0])(2.0)))
    value, slope = found(jax.random.split(KEY, 200))
    first, second = 2 * 3.5 / 3, 3 * 4 * 5.25 / 3
    kinds, count = np.unique(np.round(np.asarray(value), 9), return_counts=True)
    np.testing.assert_allclose(kinds, sorted([-first / second, -second / first]), rtol=1e-8)
    assert np.all(count > 70)
    np.testing.assert_allclose(slope, np.where(value < -1, 2, 1) * value / 2, rtol=1e-9)


def test_levels_of_the_reconstruction_leave_the_least_out():
    times = jax.vmap(lambda key: grid_times(39)(KARRAS, key))(jax.random.split(KEY, 2_000))
    np.testing.assert_allclose(np.unique(np.round(times * 39)), np.arange(1, 40))
