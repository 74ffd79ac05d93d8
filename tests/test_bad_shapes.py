"""One example of the right size, or one sentence: networks, fields, policies and formulas never broadcast a mistake."""

import re

import jax
import jax.numpy as jnp
import pytest

from dpolicy import fields, losses, samplers
from dpolicy._types import Transition
from dpolicy.fields import (
    ConsistencyField,
    CosineVP,
    CosSin,
    EnergyNetwork,
    LangevinControl,
    LearnableFourier,
    LogSNR,
    MeanField,
    Raw,
    RectifiedFlow,
    Sinusoidal,
    make_embedding,
)
from dpolicy.networks import (
    MLP,
    CategoricalQ,
    Gaussian,
    QNetwork,
    ResidualGaussian,
    TanhDeterministic,
    TanhGaussian,
    ValueNetwork,
    ensemble,
    gaussian_entropy,
    gaussian_kl,
    gaussian_log_prob,
    tanh_log_det,
)

KEY = jax.random.key(0)
SCHEDULE = CosineVP()
SMALL = {"hidden": (4,), "key": KEY}
FIELD = {"schedule": SCHEDULE, "embedding": "raw", **SMALL}
OBS, ACTION, TIME = jnp.ones(3), jnp.ones(2), jnp.array(0.5)
BATCH = " a batch goes through jax.vmap."

pytestmark = pytest.mark.usefixtures("unchecked_types")


def q_network():
    return QNetwork(3, 2, **SMALL)


def many(make):
    """Networks of several seeds in one tree, as a run holds them."""
    return jax.vmap(lambda key: make(3, 2, hidden=(4,), key=key))(jax.random.split(KEY, 5))


def of(kind, **options):
    return losses.gaussian_log_likelihood(kind(3, 2, **SMALL), transition(**options), KEY)


def transition(obs=OBS, action=ACTION, **extras):
    end = jnp.zeros((), bool)
    return Transition(obs, action, jnp.zeros(()), obs, end, end, extras)


NETWORKS = [
    (
        lambda: q_network()(jnp.ones((5, 3)), jnp.ones((5, 2))),
        "obs must have the shape (3,), got (5, 3):" + BATCH,
    ),
    (lambda: q_network()(OBS, jnp.ones((5, 2))), "action must have the shape (2,), got (5, 2):" + BATCH),
    (lambda: q_network()(OBS, jnp.ones(3)), "action must have the shape (2,), got (3,)."),
    (lambda: q_network()(ACTION, OBS), "obs must have the shape (3,), got (2,)."),
    (
        lambda: q_network()([1.0, 2.0, 3.0], ACTION),
        "obs must be an array of shape (3,), got [1.0, 2.0, 3.0].",
    ),
    (lambda: q_network()({"camera": OBS}, ACTION), "obs must be an array of shape (3,), got {'camera': "),
    (
        lambda: jax.vmap(q_network())(jnp.ones((5, 2)), jnp.ones((5, 2))),
        "obs must have the shape (3,), got (2,).",
    ),
    (
        lambda: ensemble(lambda key: QNetwork(3, 2, hidden=(4,), key=key), 2, key=KEY)(OBS, OBS),
        "action must have",
    ),
    (
        lambda: many(QNetwork)(OBS, ACTION),
        "the network must be one, got parameters stacked to (5,): call it under",
    ),
    (lambda: many(Gaussian).mean(OBS), "the network must be one, got parameters stacked to (5,)"),
    (lambda: ValueNetwork(3, **SMALL)(jnp.ones((5, 3))), "obs must have the shape (3,), got (5, 3):" + BATCH),
    (lambda: ValueNetwork(3, **SMALL)(ACTION), "obs must have the shape (3,), got (2,)."),
    (lambda: CategoricalQ(3, 2, **SMALL)(jnp.ones((5, 3)), jnp.ones((5, 2))), "obs must have the shape (3,)"),
    (
        lambda: LangevinControl(3, 2, steps=2, **SMALL)(OBS, TIME, OBS),
        "x must have the shape (2,), got (3,).",
    ),
    (
        lambda: LangevinControl(3, 2, steps=2, **SMALL)(ACTION, TIME, ACTION),
        "obs must have the shape (3,), got (2,).",
    ),
    (lambda: EnergyNetwork(3, 2, **SMALL)(OBS, TIME, OBS), "x must have the shape (2,), got (3,)."),
    (lambda: EnergyNetwork(3, 2, **SMALL)(ACTION, TIME, ACTION), "obs must have the shape (3,), got (2,)."),
    (lambda: CategoricalQ(3, 2, **SMALL)(OBS, TIME), "action must have the shape (2,), got ()."),
    (
        lambda: MLP((3, 2), 1, **SMALL)(jnp.ones((5, 3)), jnp.ones((5, 2))),
        "parts[0] must have the shape (3,), got",
    ),
    (lambda: MLP((3, 2), 1, **SMALL)(OBS, OBS), "parts[1] must have the shape (2,), got (3,)."),
    (lambda: MLP((3, 2), 1, **SMALL)(OBS), "This network takes 2 inputs, got 1."),
    (
        lambda: MLP((3,), 1, residual=True, hidden=(4,) * 3, key=KEY)(ACTION),
        "parts[0] must have the shape (3,)",
    ),
    *(
        (lambda embedding=embedding, t=t: embedding(t), sentence)
        for embedding in (
            Raw(),
            CosSin(),
            Sinusoidal(),
            LearnableFourier(key=KEY),
            make_embedding("fourier_mlp", key=KEY),
        )
        for t, sentence in (
            (0.5, "t must be an array of shape (), got 0.5."),
            (jnp.ones(5), "t must have the shape (), got (5,):" + BATCH),
        )
    ),
    (lambda: LogSNR(SCHEDULE)(jnp.ones(5)), "t must have the shape (), got (5,):" + BATCH),
    (
        lambda: make_embedding(lambda key: jnp.ones(2), key=KEY),
        "what the embedding's factory returns must be an emb",
    ),
    (lambda: make_embedding(Raw(), key=KEY), "embedding must be one of fourier_mlp, "),
]

POLICIES = [
    *(
        (
            lambda make=make, method=method: getattr(make(3, 2, **SMALL), method)(jnp.ones((5, 3))),
            "obs must have the shape (3,), got (5, 3):" + BATCH,
        )
        for make, method in (
            (Gaussian, "mean"),
            (Gaussian, "parameters"),
            (Gaussian, "mode"),
            (TanhDeterministic, "__call__"),
            (TanhGaussian, "parameters"),
            (TanhGaussian, "mode"),
        )
    ),
    (lambda: Gaussian(3, 2, **SMALL).sample(ACTION, KEY), "obs must have the shape (3,), got (2,)."),
    (lambda: Gaussian(3, 2, **SMALL).log_prob(OBS, TIME), "action must have the shape (2,), got ()."),
    (lambda: of(Gaussian, action=jnp.ones(1)), "action must have the shape (2,), got (1,)."),
    (
        lambda: TanhGaussian(3, 2, **SMALL).sample(jnp.ones((5, 3)), KEY),
        "obs must have the shape (3,), got (5, 3):",
    ),
    (
        lambda: TanhGaussian(3, 2, **SMALL).log_prob_from_unsquashed(OBS, jnp.ones((5, 2))),
        "u must have the shape (2,), got (5, 2):" + BATCH,
    ),
    (
        lambda: ResidualGaussian(3, 2, **SMALL).mean(OBS, jnp.ones(1)),
        "base must have the shape (2,), got (1,).",
    ),
    (
        lambda: ResidualGaussian(3, 2, **SMALL).mean(jnp.ones((5, 3)), jnp.ones((5, 2))),
        "obs must have the shape",
    ),
    (
        lambda: ResidualGaussian(3, 2, **SMALL).log_prob(OBS, ACTION, jnp.ones((5, 2))),
        "action must have the shape (2,), got (5, 2):" + BATCH,
    ),
    (
        lambda: gaussian_log_prob(ACTION, OBS, ACTION),
        "x, mean, log_std must have the same shape, got (2,), (3,), (2,).",
    ),
    (
        lambda: gaussian_log_prob(ACTION, ACTION, TIME),
        "x, mean, log_std must have the same shape, got (2,), (2,), ().",
    ),
    (lambda: gaussian_log_prob(*[jnp.ones((5, 2))] * 3), "x must have the shape (2,), got (5, 2):" + BATCH),
    (
        lambda: gaussian_kl(ACTION, ACTION, OBS, ACTION),
        "mean_old, log_std_old, mean_new, log_std_new must have the same shape, got (2,), (2,), (3,), (2,).",
    ),
    (lambda: gaussian_kl(*[jnp.ones((5, 2))] * 4), "mean_old must have the shape (2,), got (5, 2):" + BATCH),
    (lambda: gaussian_entropy(jnp.ones((5, 2))), "log_std must have the shape (2,), got (5, 2):" + BATCH),
    (lambda: gaussian_entropy(0.5), "log_std must be an array of shape (1,), got 0.5."),
    (lambda: tanh_log_det(jnp.ones((5, 2))), "u must have the shape (2,), got (5, 2):" + BATCH),
]

PAIR = {"schedule": SCHEDULE, "prediction": "noise"}
TWO = {"schedule": SCHEDULE, "source": "noise", "target": "score"}
FIELDS = [
    (
        lambda: fields.Field(3, 2, **FIELD)(jnp.ones((5, 2)), TIME, OBS),
        "x must have the shape (2,), got (5, 2):" + BATCH,
    ),
    (
        lambda: fields.Field(3, 2, **FIELD)(ACTION, jnp.ones(5), OBS),
        "t must have the shape (), got (5,):" + BATCH,
    ),
    (lambda: fields.Field(3, 2, **FIELD)(ACTION, 0.5, OBS), "t must be an array of shape (), got 0.5."),
    (lambda: fields.Field(3, 2, **FIELD)(ACTION, TIME, ACTION), "obs must have the shape (3,), got (2,)."),
    (
        lambda: fields.Field(3, 2, obs_hidden=(4,), **FIELD)(ACTION, TIME, jnp.ones((5, 3))),
        "obs must have the shape (3,), got (5, 3):" + BATCH,
    ),
    (
        lambda: ConsistencyField(3, 2, key=KEY, hidden=(4,))(OBS, TIME, OBS),
        "x must have the shape (2,), got (3,).",
    ),
    (lambda: MeanField(3, 2, **FIELD)(OBS, TIME, OBS), "x must have the shape (2,), got (3,)."),
    (
        lambda: MeanField(3, 2, **FIELD).average(ACTION, 0.1, TIME, OBS),
        "r must be an array of shape (), got 0.1.",
    ),
    (
        lambda: MeanField(3, 2, **FIELD).average(ACTION, TIME, jnp.ones(1), OBS),
        "t must have the shape (), got (1,)",
    ),
    (lambda: MeanField(3, 2, **FIELD)(ACTION, TIME, ACTION), "obs must have the shape (3,), got (2,)."),
    (
        lambda: fields.convert(ACTION, OBS, TIME, **TWO),
        "value, x must have the same shape, got (2,), (3,).",
    ),
    (lambda: fields.convert(TIME, ACTION, TIME, **TWO), "value, x must have the same shape, got (), (2,)."),
    (
        lambda: fields.convert(OBS, ACTION, TIME, **{**TWO, "target": "noise"}),
        "value, x must have the same shape",
    ),
    (
        lambda: fields.convert(*[jnp.ones((2, 2))] * 2, jnp.ones(2), **TWO),
        "t must be a scalar or broadcast to the shape (2, 2) of x, got (2,).",
    ),
    (
        lambda: fields.convert(ACTION, ACTION, jnp.ones((5, 1)), **TWO),
        "t must be a scalar or broadcast to the shape (2,)",
    ),
    (
        lambda: fields.convert(ACTION[:1], ACTION[:1], jnp.ones(5), **TWO),
        "t must be a scalar or broadcast to the shape (1,)",
    ),
    (
        lambda: fields.convert(ACTION, ACTION, TIME, **{**TWO, "target": "epsilon"}),
        "target must be one of noise, ",
    ),
    (lambda: fields.as_pair(TIME, ACTION, TIME, **PAIR), "value, x must have the same shape, got (), (2,)."),
    (
        lambda: fields.as_pair(ACTION, ACTION, ACTION[None], **PAIR),
        "t must be a scalar or broadcast to the shape (2,)",
    ),
    (
        lambda: fields.express(ACTION, TIME, TIME, **PAIR),
        "data, noise must have the same shape, got (2,), ().",
    ),
    (
        lambda: fields.express(OBS, OBS, ACTION, **PAIR),
        "t must be a scalar or broadcast to the shape (3,) of data",
    ),
    (
        lambda: fields.shift_score(ACTION, TIME, TIME, **PAIR),
        "value, shift must have the same shape, got (2,), ().",
    ),
]


@pytest.mark.parametrize(("call", "sentence"), [*NETWORKS, *POLICIES, *FIELDS])
def test_no_shape_is_broadcast(call, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        call()


def function_field(fn, prediction="noise", schedule=SCHEDULE):
    return fields.FunctionField(fn, schedule=schedule, prediction=prediction, action_size=2)


class Own(fields.AbstractField):
    """A field of a user's own, which checks nothing itself."""

    value: jax.Array
    schedule: RectifiedFlow = RectifiedFlow()
    prediction: str = "velocity"
    action_size: int = 2

    def __call__(self, x, t, obs):
        return self.value


def sampled(sampler):
    return lambda field: sampler(field, OBS, KEY)


USES = [
    sampled(samplers.ode(steps=2)),
    sampled(samplers.ode(steps=2, solver="heun", clip=1.0)),
    sampled(samplers.ode(solver="tsit5")),
    sampled(samplers.sde(steps=2)),
    sampled(samplers.ddpm(steps=2)),
    sampled(samplers.ddim(steps=2)),
    sampled(samplers.langevin(steps=2)),
    sampled(samplers.unadjusted_langevin(steps=2, time=0.5)),
    sampled(samplers.coupled(steps=2)),
    sampled(samplers.best_of(2, samplers.ode(steps=2), lambda obs, action: jnp.sum(action))),
    lambda field: samplers.solve(samplers.ode(steps=2), field, OBS[None], KEY),
    lambda field: samplers.log_likelihood(field, ACTION, OBS, solver="euler"),
    lambda field: samplers.mmse_log_likelihood(field, ACTION, OBS, KEY, draws=1),
    lambda field: losses.matching(losses.perturb(field.schedule))(field, transition(), KEY),
    lambda field: losses.one_step(field.schedule, lambda obs, action: jnp.sum(action))(
        field, transition(), KEY
    ),
    lambda field: losses.predicted_entropy(losses.perturb(field.schedule, draws=2))(field, transition(), KEY),
    lambda field: losses.prediction_change(losses.perturb(field.schedule))(
        field, transition(key=KEY, predictions=jnp.ones((1, 2))), KEY
    ),
    lambda field: fields.guided(field, lambda x, t, obs: jnp.sum(x))(ACTION, TIME, OBS),
    lambda field: fields.classifier_free(field, OBS, 1.0)(ACTION, TIME, OBS),
]


def refuses(use, value, sentence):
    with pytest.raises(ValueError, match=f"^the field {re.escape(sentence)}"):
        jax.eval_shape(lambda: use(Own(value)))
    with pytest.raises(ValueError, match=f"^fn {re.escape(sentence)}"):
        jax.eval_shape(lambda: use(function_field(lambda x, t, obs: value, "velocity", RectifiedFlow())))


@pytest.mark.parametrize("use", USES)
def test_no_field_is_broadcast(use):
    refuses(use, jnp.ones(1), "must return an array of shape (2,), got shape (1,).")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (jnp.ones(()), "must return an array of shape (2,), got shape ()."),
        (jnp.ones((1, 2)), "must return an array of shape (2,), got shape (1, 2)."),
        (jnp.ones(2, int), "must return floats, got int32."),
        (jnp.ones(2, complex), "must return floats, got complex64."),
    ],
)
def test_what_a_field_returns(value, sentence):
    refuses(USES[0], value, sentence)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: function_field(lambda x, t, obs: x)(OBS, TIME, OBS),
            "x must have the shape (2,), got (3,).",
        ),
        (
            lambda: function_field(lambda x, t, obs: None)(ACTION, TIME, OBS),
            "fn must return an array of shape (2,), got",
        ),
        (
            lambda: fields.guided(function_field(lambda x, t, obs: x), lambda x, t, obs: x)(
                ACTION, TIME, OBS
            ),
            "energy must return a scalar, got shape (2,).",
        ),
        (
            lambda: fields.guided(
                function_field(lambda x, t, obs: x), lambda x, t, obs: jnp.sum(x), lambda t: jnp.ones(2)
            )(ACTION, TIME, OBS),
            "scale must return a scalar, got shape (2,).",
        ),
        (
            lambda: fields.classifier_free(function_field(lambda x, t, obs: x), OBS, lambda t: jnp.ones(2))(
                ACTION, TIME, OBS
            ),
            "weight must return a scalar, got shape (2,).",
        ),
    ],
)
def test_functions_of_fields(call, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        call()
