"""Transforms of actions, weights and targets on problems with known answers."""

from math import comb

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.fields import CosineVP, FunctionField
from dpolicy.losses import (
    Match,
    Target,
    add_q_score,
    advantage,
    ascend,
    batched,
    best,
    boltzmann,
    candidates,
    chain,
    gradient_ascent,
    jitter,
    matching,
    mix,
    perturb,
    q_score,
    smoothed_score,
    start,
    uniform,
    weigh,
)

SCHEDULE = CosineVP()


def transition(action=(0.0,)):
    end = jnp.zeros((), bool)
    return Transition(jnp.zeros(1), jnp.asarray(action, float), jnp.zeros(()), jnp.zeros(1), end, end)


def run(key, *links, action=(0.0,)):
    example = transition(action)
    return chain(*links)(example, start(example), key)


def normal_policy(obs, key):
    return jax.random.normal(key, (1,))


def linear(obs, action):
    return jnp.sum(action)


def put(actions):
    """Replace the candidates by given ones, of equal weight."""
    actions = jnp.asarray(actions, float).reshape(len(actions), -1)

    def transform(example, match, key):
        n = len(actions)
        zeros = jnp.zeros(n)
        return Match(actions, actions, zeros, Target(actions, 0 * actions), zeros + 1 / n, None, n)

    return transform


def test_adam_ascent_by_hand(x64):
    """DIPO: Q = -(a - 1)^2 / 2 from 0; scaling Q changes nothing; a nearer peak is overshot."""

    def end(steps, scale=1.0, peak=1.0):
        value = lambda a: -scale * jnp.sum((a - peak) ** 2) / 2
        return float(gradient_ascent(value, jnp.zeros(1), steps=steps, rate=0.03)[0])

    found = [end(0), end(1), end(20), end(40), end(20, scale=100.0), end(20, peak=0.3)]
    np.testing.assert_allclose(found, [0, 0.03, 0.5691, 0.9454, 0.5691, 0.3813], atol=5e-5)
    slope = jnp.asarray([3.0, -3.0])
    ends = gradient_ascent(lambda a: slope @ a, 0.1 * slope, steps=5, rate=0.1, bound=0.5)
    np.testing.assert_array_equal(ends, [0.5, -0.5])


def test_ascent_into_two_basins(x64, getkey):
    q = lambda obs, a: -jnp.sum((a**2 - 0.25) ** 2)
    begin = jnp.linspace(-1, 1, 9)
    expected = [-0.528, -0.413, -0.500, -0.510, 0, 0.510, 0.500, 0.413, 0.528]
    key = getkey()
    move = eqx.filter_jit(lambda steps: run(key, put(begin), ascend(q, steps=steps)).action[:, 0])
    np.testing.assert_allclose(move(20), expected, atol=6e-4)
    np.testing.assert_allclose(move(200), [-0.5] * 4 + [0] + [0.5] * 4, atol=1e-3)


def test_ascent_in_single_precision_stays_there(x64):
    """Where the default is double; its count of steps is one of the numbers."""
    climbed = gradient_ascent(jnp.sum, jnp.zeros(2, jnp.float32), steps=2, rate=0.1)
    assert climbed.dtype == jnp.float32
    np.testing.assert_allclose(climbed, 0.2, rtol=1e-4)


def test_ascent_of_no_steps_is_cloning(getkey):
    key, field = (
        getkey(),
        FunctionField(lambda x, t, obs: 0.3 * x, schedule=SCHEDULE, prediction="noise", action_size=1),
    )
    loss = matching(chain(ascend(linear, steps=0), perturb(SCHEDULE)))
    plain = matching(chain(chain(), perturb(SCHEDULE)))
    example = transition([0.4])
    assert loss(field, example, key)[0] == plain(field, example, key)[0]


def test_best_of_n_and_its_advantage(getkey):
    """pi = N(0, 1), Q = a, N = 64: the best has mean 2.344 and variance .204; weighted by advantage 2.424."""
    links = candidates(normal_policy, 64), advantage(linear), best(linear)
    keys = jax.random.split(getkey(), 10000)
    match = jax.jit(jax.vmap(lambda key: run(key, *links)))(keys)
    top, weight = match.action[:, 0, 0], match.weight[:, 0]
    assert jnp.mean(top) == pytest.approx(2.344, abs=0.02)
    assert jnp.var(top) == pytest.approx(0.204, rel=0.08)
    assert jnp.sum(top * weight) / jnp.sum(weight) == pytest.approx(2.424, abs=0.02)
    np.testing.assert_allclose(
        jnp.mean(weight), 2.344, atol=0.03
    )  # max Q - mean Q, the mean being 0 on average


def test_advantage_weights():
    actions = put([0.0, 1.0, 3.0, 4.0])
    weight = run(jax.random.key(0), actions, advantage(linear)).weight
    np.testing.assert_allclose(weight, np.array([0, 0, 1, 2]) / 4)
    above = run(jax.random.key(0), actions, advantage(linear, baseline=lambda obs: jnp.asarray(0.5))).weight
    np.testing.assert_allclose(above, np.array([0, 0.5, 2.5, 3.5]) / 4)
    level = run(jax.random.key(0), actions, advantage(lambda obs, a: 0 * a[0])).weight
    np.testing.assert_array_equal(level, 0)
    scaled = run(jax.random.key(0), actions, advantage(lambda obs, a: 7 * a[0])).weight
    np.testing.assert_allclose(scaled, 7 * weight, rtol=1e-6)
    # Candidates that weigh 1, 2, 4 and 1 (in eighths of twice the total): V = (0 + 2 + 12 + 4) / 8 = 2.25.
    unequal = weigh(lambda obs, a: jnp.where(a[0] == 1, 2.0, jnp.where(a[0] == 3, 4.0, 1.0)))
    uneven = run(jax.random.key(0), actions, unequal, advantage(linear)).weight
    np.testing.assert_allclose(uneven, np.array([0, 0, 4 * 0.75, 1.75]) / 4, rtol=1e-6)


def test_level_values_give_zero_loss(getkey):
    field = FunctionField(lambda x, t, obs: x, schedule=SCHEDULE, prediction="noise", action_size=1)
    level = lambda obs, a: 0 * a[0]
    links = candidates(normal_policy, 8), advantage(level), best(level), perturb(SCHEDULE)
    assert matching(chain(*links))(field, transition(), getkey())[0] == 0


def test_one_mirror_descent_step_is_the_exact_tilt(getkey):
    """From N(0, 1) with Q = c a, weights exp(Q / lambda) give mean c / lambda."""
    match = run(getkey(), candidates(normal_policy, 200_000), boltzmann(lambda o, a: 0.3 * a[0], 0.5))
    mean = jnp.sum(match.weight * match.action[:, 0])
    variance = jnp.sum(match.weight * match.action[:, 0] ** 2) - mean**2
    assert mean == pytest.approx(0.6, abs=0.015)
    assert variance == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(("size", "expected"), [(2, 0.976), (4, 2.023), (16, 2.872)])
def test_self_normalised_bias_of_two_actions(size, expected):
    """Two equally likely actions, Q in {0, 1}, beta = 3: the effective log-ratio falls short of 3."""
    share = 0.0
    for ones in range(size + 1):
        actions = [1.0] * ones + [0.0] * (size - ones)
        weight = run(jax.random.key(0), put(actions), boltzmann(linear, 1 / 3)).weight
        share += comb(size, ones) / 2**size * float(jnp.sum(weight[:ones]))
    assert np.log(share / (1 - share)) == pytest.approx(expected, abs=1e-3)


def test_effective_sample_size_follows_the_temperature_table(getkey):
    """Q ~ N(0, 1), 64 candidates: temperature 1 gives KL .474 and ESS 27.8, temperature .5 gives 1.519 and 8.75."""
    keys = jax.random.split(getkey(), 4000)
    for temperature, divergence, size in ((1.0, 0.474, 27.8), (0.5, 1.519, 8.75)):
        links = candidates(normal_policy, 64), boltzmann(linear, temperature)
        weight = jax.jit(jax.vmap(lambda key, links=links: run(key, *links).weight))(keys)
        kl = np.log(64) + jnp.mean(jnp.sum(weight * jnp.log(weight), axis=1))
        assert kl == pytest.approx(divergence, rel=0.03)
        assert jnp.mean(1 / jnp.sum(weight**2, axis=1)) == pytest.approx(size, rel=0.03)


def test_unnormalised_weights():
    actions = put([-1.0, 2.0])
    weight = run(jax.random.key(0), actions, boltzmann(linear, 0.5, normalise=False)).weight
    np.testing.assert_allclose(weight, np.exp([-2.0, 4.0]) / 2, rtol=1e-6)
    beyond = put([-3.0, -0.5, 2.0])  # on both sides of the bound
    clipped = run(jax.random.key(0), beyond, boltzmann(linear, 0.5, normalise=False, clip=1.0)).weight
    np.testing.assert_allclose(clipped, np.exp([-2.0, -1.0, 2.0]) / 3, rtol=1e-6)
    halved = run(jax.random.key(0), actions, weigh(lambda obs, a: 0.5 * jnp.abs(a[0]))).weight
    np.testing.assert_allclose(halved, [0.25, 0.5], rtol=1e-6)
    both = run(jax.random.key(0), actions, weigh(lambda obs, a: jnp.abs(a[0])), boltzmann(linear, 1.0)).weight
    expected = np.array([1, 2]) * np.exp([-1.0, 2.0])
    np.testing.assert_allclose(both, 1.5 * expected / np.sum(expected), rtol=1e-5)


def test_uniform_mass_of_the_mixture(getkey):
    """QVPO: weight 1 on the best action and 10 omega on uniform ones is uniform mass 10 omega / (1 + 10 omega)."""
    omega = 0.02
    match = run(getkey(), mix((1.0, chain()), (10 * omega, uniform(10))), action=(5.0,))
    assert match.action.shape == (11, 1)
    assert match.action[0] == 5.0
    assert jnp.sum(match.weight[1:]) / jnp.sum(match.weight) == pytest.approx(0.167, abs=5e-4)
    np.testing.assert_allclose(match.weight[1:], omega, rtol=1e-6)


def test_uniform_candidates_cover_the_box(getkey):
    match = run(getkey(), uniform(20000, bound=2.0), action=(0.0, 0.0))
    np.testing.assert_allclose(jnp.mean(match.action, axis=0), 0, atol=0.04)
    np.testing.assert_allclose(jnp.var(match.action, axis=0), 4 / 3, rtol=0.03)
    assert jnp.max(jnp.abs(match.action)) <= 2


def test_mix_of_equal_shares_keeps_the_total(getkey):
    match = run(getkey(), mix(candidates(normal_policy, 3), uniform(5)))
    np.testing.assert_allclose(match.weight, [1 / 6] * 3 + [1 / 10] * 5, rtol=1e-6)
    assert match.candidates == 8


def test_jitter(getkey):
    match = run(getkey(), put(jnp.zeros(20000)), jitter(0.2))
    assert jnp.std(match.action) == pytest.approx(0.2, rel=0.03)
    boxed = run(getkey(), put(jnp.linspace(-1, 1, 100)), jitter(0.2, bound=1.0))
    assert (jnp.min(boxed.action), jnp.max(boxed.action)) == (-1.0, 1.0)


def test_q_score_targets(getkey):
    """The three published targets, from one and the same noised point."""
    q = lambda obs, a: -jnp.sum((a - 0.3) ** 2)
    key, action = getkey(), (0.2, -0.5)

    def noise(variant, q=q, temperature=0.1):
        return run(key, perturb(SCHEDULE), q_score(q, temperature, variant=variant), action=action)

    match = noise("paper")
    gradient, sigma = -2 * (match.x - 0.3), SCHEDULE.sigma(match.t)[:, None]
    np.testing.assert_allclose(match.target.noise, -sigma * gradient / 0.1, rtol=1e-5)
    np.testing.assert_allclose(noise("official").target.noise, -gradient / 0.1, rtol=1e-5)
    relative = noise("flowrl").target.noise
    np.testing.assert_allclose(relative, -sigma * gradient / jnp.mean(jnp.abs(gradient)) / 0.1, rtol=1e-4)
    assert jnp.mean(jnp.abs(relative) / sigma) == pytest.approx(10, rel=1e-4)
    np.testing.assert_allclose(noise("flowrl", q=lambda *a: 10 * q(*a)).target.noise, relative, rtol=1e-4)
    rebuilt = SCHEDULE.alpha(match.t)[:, None] * match.target.data + sigma * match.target.noise
    np.testing.assert_allclose(rebuilt, match.x, rtol=1e-4, atol=1e-4)


def test_q_score_normaliser_is_the_mean_over_the_batch(getkey):
    """Under `batched` the scale is shared: the mean of |target| / sigma over the batch is 1 / temperature."""
    q = lambda obs, a: jnp.sum(obs) * jnp.sum(a)
    field = FunctionField(lambda x, t, obs: 0 * x, schedule=SCHEDULE, prediction="score", action_size=2)
    scale = jnp.array([[1.0], [3.0]])
    end = jnp.zeros(2, bool)
    batch = Transition(scale, jnp.zeros((2, 2)), jnp.zeros(2), scale, end, end)
    loss = batched(matching(chain(perturb(SCHEDULE), q_score(q, 0.5, variant="flowrl"))))
    # scores G / (0.5 mean|G|) with G = 1 and 3, mean 2: squares 1 and 9
    assert loss(field, batch, getkey())[0] == pytest.approx(5.0, rel=1e-4)
    alone = matching(chain(perturb(SCHEDULE), q_score(q, 0.5, variant="flowrl")))
    first = jax.tree.map(lambda leaf: leaf[0], batch)
    assert alone(field, first, getkey())[0] == pytest.approx(4.0, rel=1e-4)


def test_added_q_score_shifts_the_score(getkey):
    key, q = getkey(), lambda obs, a: 3 * a[0]
    plain = run(key, perturb(SCHEDULE))
    shifted = run(key, perturb(SCHEDULE), add_q_score(q, 0.2))
    sigma = SCHEDULE.sigma(plain.t)[:, None]
    np.testing.assert_allclose(shifted.target.noise, plain.target.noise - 0.6 * sigma, rtol=1e-5, atol=1e-6)
    scaled = run(key, perturb(SCHEDULE), add_q_score(q, 0.2, normaliser=lambda obs, a: -4.0 + 0 * a[0]))
    np.testing.assert_allclose(scaled.target.noise, plain.target.noise - 0.15 * sigma, rtol=1e-5, atol=1e-6)


def test_clear_errors(getkey):
    key = getkey()
    with pytest.raises(ValueError, match="q_score must come after perturb"):
        run(key, q_score(linear, 0.1))
    with pytest.raises(ValueError, match="variant must be one of paper, official, flowrl; got 'flow'"):
        q_score(linear, 0.1, variant="flow")
    with pytest.raises(ValueError, match="temperature must be a finite number in"):
        boltzmann(linear, 0.0)
    with pytest.raises(ValueError, match="temperature must be a finite number in"):
        q_score(linear, -1.0)
    with pytest.raises(ValueError, match="at least two candidates"):
        run(key, perturb(SCHEDULE), smoothed_score(linear, 1.0))
    with pytest.raises(ValueError, match="advantage needs at least two candidates"):
        run(key, advantage(linear))
    with pytest.raises(ValueError, match="best needs at least two candidates"):
        run(key, best(linear))
    with pytest.raises(ValueError, match="clip needs normalise=False"):
        boltzmann(linear, 1.0, clip=3.0)
    with pytest.raises(ValueError, match="at least one branch"):
        mix()
    for link in (best(linear), uniform(3), jitter(0.1), ascend(linear), mix(chain(), chain())):
        with pytest.raises(ValueError, match="must come before noise is added"):
            run(key, perturb(SCHEDULE), link)


def test_a_chain_of_something_else_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what a user without the checker sees
    with pytest.raises(ValueError, match="chain takes transforms"):
        chain(3)  # pyright: ignore[reportArgumentType]


def test_hyperparameters_may_be_mapped(getkey):
    key = getkey()
    field = FunctionField(lambda x, t, obs: 0.1 * x, schedule=SCHEDULE, prediction="noise", action_size=1)

    def value(temperature, scale):
        links = candidates(normal_policy, 4), jitter(scale), boltzmann(linear, temperature), perturb(SCHEDULE)
        return matching(chain(*links, add_q_score(linear, scale)))(field, transition(), key)[0]

    together = jax.vmap(value)(jnp.array([0.1, 1.0]), jnp.array([0.5, 0.1]))
    np.testing.assert_allclose(together, [value(0.1, 0.5), value(1.0, 0.1)], rtol=1e-5)
