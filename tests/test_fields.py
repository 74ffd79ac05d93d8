import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture

from dpolicy.fields import (
    PREDICTIONS,
    CosineVP,
    CosSin,
    DiscreteVP,
    Field,
    FunctionField,
    LinearVP,
    RectifiedFlow,
    Trigonometric,
    VarianceExploding,
    as_pair,
    convert,
    cosine_betas,
    express,
    predict,
    predict_data,
    predict_noise,
    predict_score,
    predict_velocity,
)

SCHEDULES = [
    RectifiedFlow(),
    CosineVP(),
    LinearVP(),
    VarianceExploding(),
    Trigonometric(),
    DiscreteVP(cosine_betas(5)),
]
OBS = jnp.zeros(0)


def name(schedule):
    return type(schedule).__name__


def mixture():
    return GaussianMixture([0.3, 0.7], [[-0.5, 0.2], [0.4, -0.1]], [0.15, 0.3])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("source", PREDICTIONS)
@pytest.mark.parametrize("target", PREDICTIONS)
def test_conversions_round_trip(schedule, source, target, x64):
    value, x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    t = jnp.array([[0.03], [0.4], [0.97]])
    there = convert(value, x, t, schedule=schedule, source=source, target=target)
    back = convert(there, x, t, schedule=schedule, source=target, target=source)
    np.testing.assert_allclose(back, value, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_pair_and_expression_are_inverse(schedule, prediction, x64):
    data, noise = jax.random.normal(jax.random.key(1), (2, 3))
    t = jnp.array(0.3)
    x = schedule.alpha(t) * data + schedule.sigma(t) * noise
    value = express(data, noise, t, schedule=schedule, prediction=prediction)
    pair = as_pair(value, x, t, schedule=schedule, prediction=prediction)
    np.testing.assert_allclose(pair, (data, noise), rtol=1e-10, atol=1e-12)


def test_one_pair_by_hand(x64):
    a, eps, t, velocity = jnp.array([0.5]), jnp.array([-1.0]), jnp.array(0.4), jnp.array([0.3])
    schedule = RectifiedFlow()
    x = schedule.alpha(t) * a + schedule.sigma(t) * eps
    np.testing.assert_allclose(x, [-0.1], rtol=1e-14)
    target = express(a, eps, t, schedule=schedule, prediction="velocity")
    np.testing.assert_allclose(velocity - target, [1.8], rtol=1e-14)
    data, noise = as_pair(velocity, x, t, schedule=schedule, prediction="velocity")
    np.testing.assert_allclose(data, [-0.22], rtol=1e-14)
    np.testing.assert_allclose(noise, [0.08], rtol=1e-14)
    np.testing.assert_allclose((data - a) ** 2, [0.5184], rtol=1e-14)
    np.testing.assert_allclose((noise - eps) ** 2, [1.1664], rtol=1e-14)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_every_prediction_of_an_exact_field(schedule, x64):
    oracle = mixture()
    x, t = jnp.array([0.3, -0.4]), jnp.array(0.35)
    exact = {kind: oracle.field(schedule, kind)(x, t, OBS) for kind in PREDICTIONS}
    np.testing.assert_allclose(exact["score"], jax.grad(oracle.log_prob)(x, t, schedule), rtol=1e-11)
    for source in PREDICTIONS:
        field = oracle.field(schedule, source)
        np.testing.assert_allclose(predict_noise(field, x, t, OBS), exact["noise"], rtol=1e-9)
        np.testing.assert_allclose(predict_score(field, x, t, OBS), exact["score"], rtol=1e-9)
        np.testing.assert_allclose(predict_velocity(field, x, t, OBS), exact["velocity"], rtol=1e-9)
        np.testing.assert_allclose(predict_data(field, x, t, OBS), exact["data"], rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_velocity_solves_the_continuity_equation(schedule, x64):
    """d log p/dt + v . grad log p + div v = 0: sign and scale of the velocity, with no convention assumed."""
    oracle = mixture()
    field = oracle.field(schedule, "noise")
    x, t = jnp.array([0.2, 0.1]), jnp.array(0.35)
    velocity = predict_velocity(field, x, t, OBS)
    divergence = jnp.trace(jax.jacfwd(lambda y: predict_velocity(field, y, t, OBS))(x))
    change = jax.grad(lambda s: oracle.log_prob(x, s, schedule))(t)
    assert abs(change + velocity @ oracle.score(x, t, schedule) + divergence) < 1e-9


def test_gaussian_closed_forms(x64):
    mean, variance, x, t = 0.3, 0.2, jnp.array([0.7]), jnp.array(0.4)
    oracle = GaussianMixture([1.0], [[mean]], variance**0.5)
    flow, cosine = RectifiedFlow(), CosineVP()
    velocity = (x - (1 - t) * mean) * (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2) - mean
    np.testing.assert_allclose(oracle.field(flow, "velocity")(x, t, OBS), velocity, rtol=1e-12)
    alpha, sigma = cosine.alpha(t), cosine.sigma(t)
    noise = sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)
    np.testing.assert_allclose(oracle.field(cosine)(x, t, OBS), noise, rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("source", PREDICTIONS)
def test_conversions_are_finite_on_the_span(schedule, source):
    field = mixture().field(schedule, source)
    x = jnp.array([0.9, -0.3])
    for t in field.span:
        for target in ("noise", "velocity", "data"):  # a score: nothing converts to it where sigma = 0
            assert bool(jnp.all(jnp.isfinite(predict(field, target, x, jnp.array(t), OBS)))) or (
                # The noise itself is undetermined where there is none.
                schedule.sigma(t) == 0
            )


def test_span_narrows_only_where_a_conversion_is_singular():
    assert RectifiedFlow().span("velocity") == (0.0, 1.0)
    assert RectifiedFlow().span("noise") == (0.0, 0.999)
    assert RectifiedFlow().span("data") == (0.001, 1.0)
    assert RectifiedFlow().span("score") == (0.001, 0.999)
    assert RectifiedFlow(t_min=0.01, t_max=0.98).span("score") == (0.01, 0.98)
    assert RectifiedFlow(t_min=0, t_max=1).span("velocity") == (0.0, 1.0)
    assert CosineVP().span("noise") == (0.001, 0.9946)


def test_same_kind_is_untouched_where_conversion_is_singular():
    value = jnp.array([0.3, -0.2])
    same = convert(value, value, jnp.array(1.0), schedule=RectifiedFlow(), source="noise", target="noise")
    np.testing.assert_array_equal(same, value)


def test_batches_of_times_broadcast():
    schedule = RectifiedFlow()
    value, x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    t = jnp.linspace(0.1, 0.9, 5)
    batch = convert(value, x, t[:, None], schedule=schedule, source="noise", target="velocity")
    one = convert(value[2], x[2], t[2], schedule=schedule, source="noise", target="velocity")
    np.testing.assert_allclose(batch[2], one, rtol=1e-6)


def test_oracle_samples_and_density(x64):
    oracle = mixture()
    samples = oracle.sample(jax.random.key(0), 20_000)
    error = jnp.sqrt(jnp.diagonal(oracle.covariance()) / 20_000)
    assert bool(jnp.all(jnp.abs(samples.mean(0) - oracle.mean()) < 4 * error))
    np.testing.assert_allclose(jnp.cov(samples.T), oracle.covariance(), atol=0.01)
    grid = jnp.linspace(-3, 3, 121)
    points = jnp.stack(jnp.meshgrid(grid, grid), -1).reshape(-1, 2)
    mass = jnp.sum(jnp.exp(jax.vmap(oracle.log_prob)(points))) * (grid[1] - grid[0]) ** 2
    np.testing.assert_allclose(mass, 1, rtol=1e-6)


def test_network_field(getkey):
    field = jax.jit(lambda key: Field(5, 2, schedule=CosineVP(), key=key))(getkey())
    x, t, obs = jnp.ones((7, 2)), jnp.linspace(0.1, 0.9, 7), jnp.ones((7, 5))
    # A device that multiplies in TF32 takes other roundings of its ten bits for a batch than for one.
    with jax.default_matmul_precision("highest"):
        batch = jax.jit(jax.vmap(field))(x, t, obs)
        one = field(x[3], t[3], obs[3])
    assert batch.shape == (7, 2)
    np.testing.assert_allclose(batch[3], one, rtol=2e-5, atol=1e-6)
    assert all(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(field))
    # FlowRL: time 32 + (64 + 1) 64 + (64 + 1) 64, trunk (71 + 1) 256 + 2 (256 + 1) 256 + (256 + 1) 2.
    count = sum(leaf.size for leaf in jax.tree.leaves(field))
    assert count == 32 + 2 * 65 * 64 + 72 * 256 + 2 * 257 * 256 + 257 * 2


def test_network_field_options(getkey):
    key = getkey()
    fixed = {"schedule": RectifiedFlow(), "prediction": "velocity", "hidden": (8,), "initialisation": "torch"}

    def make(embedding="raw", **options):
        return Field(5, 2, embedding=embedding, key=key, **fixed, **options)

    x, t, obs = jnp.ones(2), jnp.array(0.3), jnp.ones(5)
    one, quarter = make(embedding="cos_sin"), make(embedding=lambda key: CosSin(8), output_scale=0.25)
    np.testing.assert_allclose(quarter(x, t, obs), 0.25 * one(x, t, obs), rtol=1e-6)
    np.testing.assert_array_equal(make(final_scale=0)(x, t, obs), jnp.zeros(2))
    encoded = make(obs_hidden=(128, 16))
    assert encoded.mlp.layers[0].weights[2].shape == (8, 16)
    assert encoded(x, t, obs).shape == (2,)
    assert one.prediction == "velocity"
    assert one.span == (0.0, 1.0)


def test_network_field_in_double_precision(x64, getkey):
    field = Field(3, 2, schedule=CosineVP(), hidden=(8,), layer_norm=True, embedding="raw", key=getkey())
    assert {leaf.dtype for leaf in jax.tree.leaves(field)} == {jnp.dtype("float64")}
    assert field(jnp.ones(2), jnp.array(0.3), jnp.ones(3)).dtype == jnp.float64


def test_fields_pass_through_jit_and_vmap(getkey):
    def make(key):
        return Field(3, 2, schedule=CosineVP(), hidden=(8,), embedding="raw", key=key)

    fields = jax.jit(jax.vmap(make))(jax.random.split(getkey(), 3))
    apply = jax.jit(jax.vmap(lambda f: f(jnp.ones(2), jnp.array(0.3), jnp.ones(3))))
    assert len({float(value) for value in apply(fields)[:, 0]}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "nois"}, "prediction"),
        ({"embedding": "fourrier"}, "embedding must be one of .* Did you mean fourier"),
        ({"activation": "mishh"}, "activation must be one of .* Did you mean mish"),
        ({"hidden": (0,)}, "hidden must be an integer of at least 1, got 0"),
        ({"output_scale": float("nan")}, "output_scale must be a finite number"),
    ],
)
def test_bad_field_arguments(options, message, getkey):
    with pytest.raises(Exception, match=message):
        Field(3, 2, schedule=CosineVP(), key=getkey(), **options)


def test_unknown_kind():
    value = jnp.ones(2)
    with pytest.raises(Exception, match="epsilon"):
        convert(value, value, jnp.array(0.5), schedule=CosineVP(), source="noise", target="epsilon")


def test_function_field():
    field = FunctionField(lambda x, t, obs: -x * t, schedule=CosineVP(), prediction="score", action_size=2)
    np.testing.assert_allclose(field(jnp.ones(2), jnp.array(0.5), OBS), [-0.5, -0.5])
    assert field.span == CosineVP().span("score")
