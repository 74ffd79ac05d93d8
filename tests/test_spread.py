"""Numbers that are equal up to rounding are not spread: divided by their deviation they would be noise of size one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._spread import root, spread
from dpolicy._types import Transition
from dpolicy.algorithms import ppo
from dpolicy.algorithms.qvpo import _spread as of_moments
from dpolicy.envs import MultiGoal
from dpolicy.learning import Parts, Seen, Statistics, statistics
from dpolicy.losses import explained_variance, standardise
from dpolicy.train import Normaliser, RewardScale

EPS = np.finfo(np.float32).eps
NO = jnp.zeros((), bool)
BATCH = Transition(jnp.zeros(1), jnp.zeros(1), jnp.zeros(()), jnp.zeros(1), NO, NO)
VALUES = [0.1, 3.3, 1e6, -7e-5, 0.0]


@pytest.mark.parametrize("size", [7, 24, 1000])
@pytest.mark.parametrize("value", VALUES)
def test_equal_advantages_standardise_to_zero(value, size):
    equal = jnp.full(size, value)
    for found in (standardise(equal), jax.jit(standardise)(equal), jax.vmap(standardise)(equal[None])):
        assert not np.any(found)


@pytest.mark.parametrize("value", [0.1, 3.3, 1e6])
def test_so_do_those_that_differ_by_rounding(value):
    noise = np.random.default_rng(0).integers(-2, 3, 100) * EPS
    assert not np.any(standardise(jnp.asarray(value * (1 + noise), jnp.float32)))
    # Differences of numbers a thousand times their size are rounded as those are.
    apart = jnp.asarray(value * np.random.default_rng(1).normal(size=100) * 1e-3 * 1e3 * EPS, jnp.float32)
    assert not np.any(standardise(apart, magnitude=value))
    assert abs(float(jnp.std(standardise(1e6 * apart, magnitude=value))) - 1) < 0.2


def test_what_differs_by_more_is_standardised():
    x = 1e3 + jnp.asarray([-1.0, 0.0, 0.0, 3.0]) * 2e-3
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(standardise(x), (exact - exact.mean()) / exact.std(), rtol=2e-5)


def test_what_is_no_number_is_not_equal():
    assert np.all(np.isnan(standardise(jnp.asarray([0.1, 0.1, jnp.nan]))))
    assert np.isnan(spread(jnp.asarray([jnp.nan, 0.1]))[2])


def test_the_gradient_is_finite_where_all_are_equal():
    assert not np.any(jax.grad(lambda x: spread(x)[2])(jnp.full(3, 0.1)))
    np.testing.assert_allclose(jax.vmap(jax.grad(root))(jnp.asarray([0.0, 4.0])), [0, 0.25])
    assert np.isnan(root(jnp.asarray(jnp.nan)))


def test_no_variance_of_a_constant_is_explained():
    noise = jax.random.normal(jax.random.key(0), (1000,))
    assert explained_variance(noise, jnp.full(1000, 0.1)) == 0


@pytest.mark.parametrize(("reward", "scaled"), [(0.1, 0.1), (-3.3, -3.3), (40.0, 10.0)])
def test_equal_rewards_are_not_divided_by_their_rounding(reward, scaled):
    scale = RewardScale.start(3)
    for _ in range(3):
        scale, found = scale.update(jnp.full((7, 3), reward), jnp.ones((7, 3), bool), 0.9)
        np.testing.assert_array_equal(found, np.full((7, 3), scaled, np.float32))


def test_equal_observations_are_the_mean():
    statistics = Normaliser.start(2)
    obs = jnp.broadcast_to(jnp.asarray([1e6 + 0.5, -0.1]), (1000, 2))
    for part in (obs, obs[:7]):
        statistics = statistics.update(part)
        np.testing.assert_array_equal(statistics(part), np.zeros_like(part))


@pytest.mark.parametrize("value", [0.1, 3.3])
def test_equal_values_of_q_are_the_mean(value):
    rounded = jnp.asarray(value * value * (1 + 3 * EPS), jnp.float32)
    moments = {"actor/q": jnp.asarray(value), "actor/q_square": rounded}
    seen = Seen(Parts(), Parts(), BATCH, jnp.zeros((), int), moments)
    stage = statistics(lambda s: jnp.full(1000, value), 1.0)
    part, _, metrics = stage.step(Statistics(jnp.zeros(()), jnp.ones(())), seen, jax.random.key(0))
    assert metrics["mean"] == jnp.float32(value) and metrics["std"] == 0
    assert part(jnp.asarray(value)) == 0
    np.testing.assert_array_equal(of_moments(seen), np.full(2, value, np.float32))


@pytest.mark.parametrize(
    "settings",
    [
        {"normalise_advantages": "rollout"},
        {"normalise_advantages": "minibatch"},
        {"normalise_advantages": "minibatch", "recompute_segment": 2},
    ],
)
def test_nothing_is_learned_from_a_reward_that_is_always_the_same(settings):
    """Its advantages are 0 and so is the loss; with a critic that is right up to rounding, too."""
    algorithm = ppo(
        hidden=(4,), value_hidden=(4,), epochs=1, minibatches=2, entropy_coefficient=0.0, **settings
    )
    spec = MultiGoal().spec
    state = algorithm.init(jax.random.key(0), spec)
    obs = jnp.zeros((4, 6, spec.obs_size))
    act = jax.vmap(jax.vmap(lambda obs, key: algorithm.act(state, obs, key, "explore")))
    action, extras = act(obs, jax.random.split(jax.random.key(1), (4, 6)))
    yes = jnp.ones((4, 6), bool)
    update = jax.jit(algorithm.update)
    for fitted in (False, True):
        rounding = 1 + EPS * (jnp.arange(24.0).reshape(4, 6) % 3 - 1)
        reward = extras["value"] * rounding if fitted else jnp.full((4, 6), 3.3)
        batch = Transition(obs, action, reward, obs, yes, ~yes, extras)
        new, metrics = update(state, batch, jax.random.key(2))
        assert metrics["policy/ppo/loss"] == 0
        before, after = state.policy, new.policy
        assert eqx.tree_equal(before, after)
