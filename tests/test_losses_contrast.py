"""Energies fitted by contrast, and weighted matching over candidates: minimisers in closed form, biases by enumeration.

The numbers are those of the specification's toys: the binary channel, two actions, Gaussians.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpolicy as dp
from dpolicy.losses import (
    boltzmann,
    candidates,
    chain,
    contrastive,
    energy_matching,
    matching,
    mix,
    perturb,
    softmax_value,
    start,
    stored_actions,
    weigh,
)

KEY, OBS, NO = jax.random.key(0), jnp.zeros(1), jnp.asarray(False)
LINEAR, FLOW = dp.LinearVP(), dp.RectifiedFlow()
BETA = 3.0


def stored(action, **extras):
    return dp.Transition(OBS, jnp.asarray(action, float), jnp.zeros(()), OBS, NO, NO, extras)


def with_support(actions):
    """A row whose own action is the first, the others its support: {data + support}, all alike."""
    size = len(actions)
    shares = (1 / size, chain()), ((size - 1) / size, stored_actions("support"))
    return stored(actions[0], support=jnp.asarray(actions[1:], float)), mix(*shares)


@pytest.mark.parametrize("form", ["contrastive", "mse", "emse"])
def test_only_the_contrast_is_blind_to_a_constant(form):
    example, both = with_support([[0.2], [-0.4], [0.7]])
    q = lambda obs, action: action[0]
    loss = energy_matching(chain(both, boltzmann(q, 0.5)), LINEAR, form=form)
    value = lambda loss, shift: loss(lambda x, t, obs: x[0] * t + shift, example, KEY)[0]
    higher = energy_matching(chain(both, boltzmann(lambda o, a: q(o, a) + 9, 0.5)), LINEAR, form=form)
    slope, here, there = jax.jit(
        lambda shift: (jax.grad(value, 1)(loss, shift), value(loss, shift), value(higher, shift))
    )(0.3)
    assert abs(slope) < 1e-6 if form == "contrastive" else abs(slope) > 0.1
    np.testing.assert_allclose(here, there, rtol=1e-4)  # nothing changes with a constant in Q(s, .)


def test_the_terms_by_hand():
    """One t for all candidates; the squared forms are relative to equal shares."""
    example, both = with_support([[0.2], [-0.4]])
    weights = lambda obs, action: jnp.where(action[0] > 0, 0.5, 3.0)
    seen = []

    def model(x, t, obs):
        seen.append(t)
        return x[0] - 1

    fixed = {"times": lambda schedule, key: 0.5 * jnp.ones(())}
    of = lambda form: energy_matching(chain(both, weigh(weights)), LINEAR, form=form, **fixed)
    forms = ("contrastive", "mse", "emse")
    terms = jax.jit(lambda: {form: of(form)(model, example, KEY)[0] for form in forms})()
    assert all(jnp.shape(t) == () for t in seen)
    noise = jax.random.normal(jax.random.split(KEY, 3)[2], (2, 1))
    f = LINEAR.alpha(0.5) * jnp.array([0.2, -0.4]) + LINEAR.sigma(0.5) * noise[:, 0] - 1
    w = jnp.array([0.5, 3.0])
    np.testing.assert_allclose(terms["contrastive"], -jnp.sum(w / 2 * jax.nn.log_softmax(f)), rtol=1e-5)
    np.testing.assert_allclose(terms["mse"], jnp.mean((f - jnp.log(w)) ** 2), rtol=1e-5)
    np.testing.assert_allclose(terms["emse"], jnp.mean((jnp.exp(f) - w) ** 2), rtol=1e-5)
    with pytest.raises(ValueError, match="energy_matching must come before noise"):
        energy_matching(perturb(LINEAR), LINEAR)(model, example, KEY)


def test_a_single_candidate_has_no_gradient():
    loss = energy_matching(boltzmann(lambda obs, a: a[0], 0.5, normalise=False), LINEAR)
    value = lambda scale: loss(lambda x, t, obs: scale * x[0], stored([0.3]), KEY)[0]
    assert jax.jit(jax.grad(value))(0.7) == 0


@pytest.mark.parametrize(
    ("size", "normalised", "expected"),
    [
        (2, True, [1.8325, 0.7585]),
        (4, True, [1.9677, 0.8481]),
        (16, True, [1.8912, 0.7953]),
        (2, False, [1.8325, 0.7585]),
        (4, False, [1.8325, 0.7585]),
    ],
)
def test_normalised_labels_are_biased_and_others_are_not(size, normalised, expected):
    """f(1) - f(0) of the binary channel at its optimum: x_0 uniform in {0, 1}, x_t the other with probability e.

    Over all the ways in which the candidates can fall; for e = .1 and .3.
    """
    kinds = np.array(list(itertools.product((0, 1), (0, 1))))  # x_0, x_t
    counts = np.array([c for c in itertools.product(range(size + 1), repeat=4) if sum(c) == size])
    ways = math.lgamma(size + 1) - np.vectorize(math.lgamma)(counts + 1.0).sum(axis=1)
    rows = jnp.asarray(np.array([np.repeat(kinds, row, axis=0) for row in counts]), float)
    rule = boltzmann(lambda obs, action: action[0], 1 / BETA, normalise=normalised)

    @jax.jit
    def slopes(gaps, probability):
        def cost(gap, row):
            match = start(stored([0.0])).over(row[:, :1], jnp.full(size, 1 / size), size)
            return contrastive(gap * row[:, 1], rule(stored([0.0]), match, KEY).weight)

        each = jax.vmap(jax.vmap(jax.grad(cost), in_axes=(None, 0)), in_axes=(0, None))
        return each(gaps, rows) @ probability

    for flip, gap in zip((0.1, 0.3), expected, strict=True):
        shares = np.where(kinds[:, 0] == kinds[:, 1], 1 - flip, flip) / 2
        probability = jnp.asarray(np.exp(ways + counts @ np.log(shares)), float)
        below, above = slopes(jnp.array([gap - 3e-4, gap + 3e-4]), probability)
        assert below < 0 < above


def test_bias_of_weighted_matching_over_few_candidates():
    """Two equally likely actions, Q in {0, 1}, beta 3: the regression sees a log-ratio of masses below 3."""
    links = boltzmann(lambda obs, action: action[0], 1 / BETA)
    for size, expected in ((2, 0.976), (4, 2.023), (16, 2.872), (64, 2.971)):
        ones = np.arange(size + 1)
        actions = jnp.asarray(ones[:, None] > np.arange(size)[None], float)[..., None]

        @jax.jit
        def high(actions, size=size):
            both = mix((1 / size, chain()), ((size - 1) / size, stored_actions("support")))

            def share(actions):
                example = stored(actions[0], support=actions[1:])
                return chain(both, links)(example, start(example), KEY).weight @ actions[:, 0]

            return jax.vmap(share)(actions)

        ways = (
            math.lgamma(size + 1)
            - np.vectorize(math.lgamma)(ones + 1.0)
            - np.vectorize(math.lgamma)(size - ones + 1.0)
        )
        probability, shares = np.exp(ways - size * math.log(2)), np.asarray(high(actions), float)
        ratio = math.log((probability @ shares) / (probability @ (1 - shares)))
        assert ratio == pytest.approx(expected, abs=6e-4)


# nu = N(m, v), Q = -(kappa / 2) (x - c)^2, at one t: closed forms of the specification, section 9.2.
M, V, C, KAPPA, T = 0.3, 0.25, 0.8, 2.0, 0.3


def posterior(x, schedule, m=M):
    """Mean and variance of x_0 given x_T = x, and the mean of eps."""
    alpha, sigma = schedule.alpha(T), schedule.sigma(T)
    size = alpha**2 * V + sigma**2
    return m + alpha * V / size * (x - alpha * m), V * sigma**2 / size, sigma * (x - alpha * m) / size


def mean_slope(loss, example, at, states=10_000):
    """The mean gradient at each of `at`, in units of its standard error."""

    @jax.jit
    def slopes(at, keys):
        one = jax.grad(lambda at, key: loss(at, example, key)[0])
        return jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))(at, keys)

    found = np.asarray(slopes(jnp.asarray(at, float), jax.random.split(KEY, states)), float)
    return found.mean(axis=1) / (found.std(axis=1) / math.sqrt(states))


def test_the_minimiser_for_gaussians():
    """With weights exp(beta Q) two candidates are enough for f*; the mean of Q is another energy, which "mse" finds."""
    q = lambda obs, action: -KAPPA / 2 * (action[0] - C) ** 2
    draw = lambda obs, key: M + math.sqrt(V) * jax.random.normal(key, (1,))
    _, width, _ = posterior(0.0, LINEAR)
    sharper = 1 + BETA * KAPPA * width
    energy = lambda scale, x: -scale * BETA * KAPPA / 2 * (posterior(x[0], LINEAR)[0] - C) ** 2 / sharper
    fixed = {"times": lambda schedule, key: jnp.asarray(T)}
    weights = chain(candidates(draw, 2), boltzmann(q, 1 / BETA, normalise=False))

    def of(form, shift=0.0):
        loss = energy_matching(weights, LINEAR, form=form, **fixed)
        return lambda scale, e, key: loss(lambda x, t, obs: energy(scale, x) + shift, e, key)

    exact, mean = mean_slope(of("contrastive"), stored([0.0]), [1.0, sharper])
    assert abs(exact) < 4 < 15 < mean
    constant = -BETA * KAPPA / 2 * width
    exact, mean = mean_slope(of("mse", constant), stored([0.0]), [1.0, sharper])
    assert exact < -15 < -4 < mean < 4
    constant = -jnp.log(sharper) / 2
    exact, mean = mean_slope(of("emse", constant), stored([0.0]), [1.0, sharper])
    assert abs(exact) < 4 < 15 < mean


def test_two_renewals_tilt_twice():
    """Weighted matching over actions of the current policy: N(m + l beta v g, v) after l of them, for Q = g x."""
    g, beta = 0.8, 1.5

    def loss(mean, example, key):
        def fn(x, t, obs):
            data, _, noise = posterior(x, FLOW, mean)
            return noise - data  # the velocity of N(mean, v)

        field = dp.FunctionField(fn, schedule=FLOW, prediction="velocity", action_size=1)
        weights = boltzmann(lambda obs, action: g * action[0], 1 / beta, normalise=False)
        noised = perturb(FLOW, times=lambda schedule, key: jnp.asarray(T))
        return matching(chain(stored_actions("support"), weights, noised))(field, example, key)[0]

    @jax.jit
    def renewed(mean, key):
        """The optimum over the means of fields, for actions of the policy of this mean: the loss is quadratic."""
        draw_key, key = jax.random.split(key)
        support = mean + math.sqrt(V) * jax.random.normal(draw_key, (64, 1_000, 1))
        rows = jax.vmap(lambda actions: stored([0.0], support=actions))(support)
        cost = lambda at: jnp.mean(jax.vmap(loss, in_axes=(None, 0, 0))(at, rows, jax.random.split(key, 64)))
        return mean - jax.grad(cost)(mean) / jax.grad(jax.grad(cost))(mean)

    mean = jnp.asarray(M)
    for count in (1, 2):
        mean = renewed(mean, jax.random.key(count))
        np.testing.assert_allclose(mean, M + count * beta * V * g, atol=0.03)


def test_equal_weights_are_the_fit_to_the_candidates():
    field = dp.FunctionField(lambda x, t, obs: 0.3 * x, schedule=FLOW, prediction="velocity", action_size=1)
    example, both = with_support([[0.2], [-0.4], [0.7]])
    flat = chain(both, boltzmann(lambda obs, action: jnp.asarray(7.0), 1 / BETA), perturb(FLOW))
    plain = chain(both, chain(), perturb(FLOW))
    one, other = jax.jit(lambda: [matching(links)(field, example, KEY)[0] for links in (flat, plain)])()
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_softmax_of_values():
    values = jnp.array([1.0, -2.0, 4.0])
    assert softmax_value(values, 1e6) == pytest.approx(1, abs=1e-4)
    assert softmax_value(values, 1e-3) == 4
    assert softmax_value(jnp.full(3, 2.5), 0.1) == 2.5
    expected = np.exp([2.0, -4.0, 8.0]) @ [1, -2, 4] / np.exp([2.0, -4.0, 8.0]).sum()
    assert softmax_value(values, 0.5) == pytest.approx(expected, rel=1e-5)


def test_stored_actions_that_are_not_there():
    with pytest.raises(ValueError, match="a name among the extras, support; got 'next'"):
        stored_actions("next")(stored([0.0], support=jnp.zeros((2, 1))), start(stored([0.0])), KEY)
    with pytest.raises(ValueError, match=r"must be actions of shape \(n, 1\), got shape \(2,\)"):
        stored_actions("support")(stored([0.0], support=jnp.zeros(2)), start(stored([0.0])), KEY)
