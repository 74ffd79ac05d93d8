"""The probability-flow likelihood against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture

from dpolicy.fields import CosineVP, LinearVP, RectifiedFlow, Trigonometric, VarianceExploding
from dpolicy.samplers import log_likelihood, ode

OBS = jnp.zeros(1)
ACTIONS = np.array([[-0.5, 0.1], [0.0, 0.0], [0.9, -0.4]])


def mixture():
    """Two separated, unequal components with mean zero (what the prior of a VP schedule assumes)."""
    return GaussianMixture(np.array([0.6, 0.4]), np.array([[-0.4, 0.2], [0.6, -0.3]]), np.array([0.3, 0.25]))


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [
        (RectifiedFlow(), "velocity"),
        (Trigonometric(), "data"),
        (CosineVP(), "noise"),
        (LinearVP(t_min=1e-4), "score"),
        (VarianceExploding(0.01, 50.0), "noise"),
    ],
    ids=["flow", "trigonometric", "cosine", "linear", "exploding"],
)
def test_exact_likelihood_of_a_mixture(schedule, prediction, x64):
    truth, field = mixture(), mixture().field(schedule, prediction)
    single = lambda a: log_likelihood(field, a, OBS, rtol=1e-6, atol=1e-6)
    found = jax.jit(jax.vmap(single))(ACTIONS)
    np.testing.assert_allclose(found, jax.vmap(truth.log_prob)(jnp.asarray(ACTIONS)), atol=1e-3)


@pytest.mark.parametrize(
    ("schedule", "bound"), [(RectifiedFlow(), 1e-3), (CosineVP(), 0.04)], ids=["flow", "cosine"]
)
def test_the_default_is_right_for_narrow_components(schedule, bound):
    # Twenty steps of Heun are off by up to 5.2 and 1.0 nats here; the cosine's noise at t_min is .09 of the narrowest.
    means = np.array([[-0.6, 0.3], [0.1, -0.5], [0.7, 0.6]])
    truth = GaussianMixture(np.array([0.4, 0.35, 0.25]), means, np.array([0.07, 0.12, 0.2]))
    actions = truth.sample(jax.random.key(0), 200)
    field = truth.field(schedule, "noise" if isinstance(schedule, CosineVP) else "velocity")
    found = jax.jit(jax.vmap(lambda a: log_likelihood(field, a, OBS)))(actions)
    np.testing.assert_allclose(found, jax.vmap(truth.log_prob)(actions), atol=bound)


def test_heun_converges_at_second_order(x64):
    truth, field = mixture(), mixture().field(RectifiedFlow(), "velocity")
    action = jnp.asarray(ACTIONS[2])
    counts = (20, 40, 80)
    found = [log_likelihood(field, action, OBS, solver="heun", steps=n) for n in counts]
    error = [float(value - truth.log_prob(action)) for value in found]
    np.testing.assert_allclose(np.log2(np.array(error[:-1]) / error[1:]), 2, atol=0.3)
    assert abs(error[-1]) < 1e-3


def test_hutchinson_is_unbiased(x64):
    # In two dimensions a random-sign probe gives tr J + 2 s J_12 with s = +-1: two values around the exact one.
    field, action = mixture().field(RectifiedFlow(), "velocity"), jnp.asarray(ACTIONS[2])
    single = lambda key: log_likelihood(field, action, OBS, key, method="hutchinson", solver="heun")
    found = np.asarray(jax.jit(jax.vmap(single))(jax.random.split(jax.random.key(0), 400)))
    exact = float(log_likelihood(field, action, OBS, solver="heun"))
    np.testing.assert_allclose((found.min() + found.max()) / 2, exact, atol=1e-10)
    assert found.max() - found.min() > 1e-2
    np.testing.assert_allclose(np.minimum(abs(found - found.min()), abs(found - found.max())), 0, atol=1e-10)
    np.testing.assert_allclose(np.mean(found > exact), 0.5, atol=4 * 0.5 / np.sqrt(400))


def test_probes_are_averaged(x64):
    field, action = mixture().field(RectifiedFlow(), "velocity"), jnp.asarray(ACTIONS[2])
    single = lambda key: log_likelihood(field, action, OBS, key, method="hutchinson", probes=256)
    one = log_likelihood(field, action, OBS, jax.random.key(1), method="hutchinson")
    exact = log_likelihood(field, action, OBS)
    # One probe misses by the full deviation, 256 by a sixteenth of it on average.
    assert abs(single(jax.random.key(0)) - exact) < 4 / 16 * abs(one - exact)


def test_likelihood_inverts_the_sampler(x64):
    # A Gaussian's flow map is affine: log p(action) = log N(x_1) - log |d action / d x_1|.
    field = GaussianMixture(np.ones(1), np.array([[0.4]]), np.array([0.5])).field(RectifiedFlow(), "velocity")
    sampler = ode(solver="tsit5", rtol=1e-9, atol=1e-9)
    start = jnp.array([0.7])
    action = sampler(field, OBS, jax.random.key(0), start=start)
    found = log_likelihood(field, action, OBS, rtol=1e-9, atol=1e-9)
    expected = jax.scipy.stats.norm.logpdf(0.7) - jnp.log(0.5)
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("solver", ["heun", "tsit5"])
def test_gradient_in_the_action_is_the_score(solver, x64):
    truth, field = mixture(), mixture().field(RectifiedFlow(), "velocity")
    gradient = jax.jit(jax.grad(lambda a: log_likelihood(field, a, OBS, steps=80, solver=solver)))
    np.testing.assert_allclose(gradient(ACTIONS[2]), truth.score(ACTIONS[2], 0.0, RectifiedFlow()), rtol=3e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "guess"}, "method must be one of exact, hutchinson"),
        ({"method": "hutchinson"}, "key must be given"),
        ({"solver": "eulr"}, "Did you mean euler"),
        ({"probes": 0}, "probes must be an integer of at least 1"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"rtol": 0.0}, "rtol must be"),
    ],
)
def test_bad_arguments(arguments, message):
    field = mixture().field(RectifiedFlow(), "velocity")
    with pytest.raises(ValueError, match=message):
        log_likelihood(field, jnp.zeros(2), OBS, **arguments)
