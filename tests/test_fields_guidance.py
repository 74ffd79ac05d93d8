import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture

from dpolicy.fields import (
    PREDICTIONS,
    CosineVP,
    RectifiedFlow,
    VarianceExploding,
    classifier_free,
    convert,
    guided,
    predict_data,
    shift_score,
)
from dpolicy.samplers import ode

SCHEDULES = [RectifiedFlow(), CosineVP(), VarianceExploding()]
OBS = jnp.zeros(0)


def name(schedule):
    return type(schedule).__name__


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_shift_is_the_round_trip_through_the_score(schedule, prediction, x64):
    value, x, shift = jax.random.normal(jax.random.key(0), (3, 2))
    t = jnp.array(0.4)
    score = convert(value, x, t, schedule=schedule, source=prediction, target="score") + shift
    expected = convert(score, x, t, schedule=schedule, source="score", target=prediction)
    moved = shift_score(value, shift, t, schedule=schedule, prediction=prediction)
    np.testing.assert_allclose(moved, expected, rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_intermediate_energy_gives_the_tilted_policy(schedule, prediction, x64):
    """nu = N(m, s^2), Q = c . a: nu exp(Q) is N(m + s^2 c, s^2), and E_t is known in closed form."""
    mean, std, slope = jnp.array([0.2, -0.3]), 0.4, jnp.array([1.5, -0.5])
    reference = GaussianMixture([1.0], mean[None], std)
    tilted = GaussianMixture([1.0], (mean + std**2 * slope)[None], std)

    def energy(x, t, obs):
        # log E[exp(c . x_0) | x_t = x] up to a constant in x: the posterior of x_0 is Gaussian, its variance fixed.
        return slope @ reference.posterior(x, t, schedule)[0]

    x, t = jnp.array([0.5, 0.1]), jnp.array(0.3)
    field = guided(reference.field(schedule, prediction), energy)
    assert field.prediction == prediction
    np.testing.assert_allclose(field(x, t, OBS), tilted.field(schedule, prediction)(x, t, OBS), rtol=1e-9)


def test_scale_may_be_traced_or_a_function_of_time(x64):
    field = GaussianMixture([1.0], [[0.0]], 1.0).field(RectifiedFlow(), "score")
    x, t = jnp.array([0.5]), jnp.array(0.3)

    def energy(x, t, obs):
        return jnp.sum(x)

    base = field(x, t, OBS)
    values = jax.vmap(lambda s: guided(field, energy, s)(x, t, OBS))(jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(values, jnp.stack([base, base + 2]), rtol=1e-12)
    np.testing.assert_allclose(guided(field, energy, lambda t: 10 * t)(x, t, OBS), base + 3, rtol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_classifier_free(prediction, x64):
    """Scores of Gaussians of one width: the mixture is the score of the extrapolated mean."""
    schedule, weight = CosineVP(), 2.5
    conditional = GaussianMixture([1.0], [[0.3]], 0.5)
    plain = GaussianMixture([1.0], [[-0.1]], 0.5)
    expected = GaussianMixture([1.0], [[-0.1 + weight * 0.4]], 0.5)
    x, t = jnp.array([0.2]), jnp.array(0.4)
    field = classifier_free(conditional.field(schedule, prediction), plain.field(schedule, "noise"), weight)
    assert field.prediction == prediction
    np.testing.assert_allclose(field(x, t, OBS), expected.field(schedule, prediction)(x, t, OBS), rtol=1e-9)


def test_classifier_free_by_a_null_observation(x64):
    field = GaussianMixture([1.0], [[0.3]], 0.5).field(CosineVP(), "noise")
    observed = type(field)(lambda x, t, obs: x + obs, schedule=CosineVP(), prediction="noise", action_size=1)
    x, t, obs = jnp.array([0.2]), jnp.array(0.4), jnp.array([1.0])
    mixed = classifier_free(observed, jnp.zeros(1), 3.0)
    np.testing.assert_allclose(mixed(x, t, obs), x + 3.0, rtol=1e-12)
    np.testing.assert_allclose(classifier_free(observed, jnp.zeros(1), 1.0)(x, t, obs), x + 1.0, rtol=1e-12)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("prediction", ["velocity", "data", "noise"])
def test_guided_samples_of_a_schedule_that_ends_in_pure_noise(prediction, solver, x64):
    """Data N(0.3, 0.5^2) tilted by exp(2 a): N(0.3 + 2 * 0.25, 0.5^2), from a map that starts where alpha = 0."""
    field = GaussianMixture([1.0], [[0.3]], 0.5).field(RectifiedFlow(), prediction)
    tilted = guided(field, lambda x, t, obs: 2 * predict_data(field, x, t, obs)[0])
    assert tilted.span[1] < 1
    sampler = ode(steps=200, solver=solver)
    # The map is linear: its value at 0 is the mean, its slope the deviation.
    start = lambda x: sampler(tilted, OBS, jax.random.key(0), start=jnp.array([x]))[0]
    mean, above = jax.vmap(start)(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose([mean, above - mean], [0.8, 0.5], atol=0.01)


def test_mixing_predictions_keeps_to_the_times_good_for_both(x64):
    mixture = GaussianMixture([1.0], [[0.3]], 0.5)
    fields = [mixture.field(RectifiedFlow(), kind) for kind in ("velocity", "noise")]
    mixed = classifier_free(*fields, 2.0)
    assert mixed.span == fields[1].span
    sample = ode(steps=100)(mixed, OBS, jax.random.key(0), start=jnp.zeros(1))
    np.testing.assert_allclose(sample, 0.3, atol=0.01)


def test_bad_arguments():
    one = GaussianMixture([1.0], [[0.3]], 0.5)
    two = GaussianMixture([1.0], [[0.3, 0.1]], 0.5)
    with pytest.raises(ValueError, match="same schedule"):
        classifier_free(one.field(CosineVP()), one.field(RectifiedFlow()), 1.0)
    with pytest.raises(ValueError, match="same action_size, got 1 and 2"):
        classifier_free(one.field(CosineVP()), two.field(CosineVP()), 1.0)
    with pytest.raises(ValueError, match="weight must be a finite number"):
        classifier_free(one.field(CosineVP()), jnp.zeros(0), float("inf"))
    with pytest.raises(ValueError, match="scale must be a finite number"):
        guided(one.field(CosineVP()), lambda x, t, obs: x[0], float("nan"))
