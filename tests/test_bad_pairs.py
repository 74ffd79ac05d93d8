"""Arguments that do not go together, and what a user's functions return: one sentence, nothing is broadcast."""

import re

import jax
import jax.numpy as jnp
import pytest

from dpolicy import fields, losses, networks, samplers
from dpolicy._types import Transition
from dpolicy.algorithms import sac
from dpolicy.networks import gaussian_policy
from dpolicy.optimisers import adam, descend, learner

pytestmark = pytest.mark.usefixtures("unchecked_types")

KEY = jax.random.key(0)
ONES, DRAWS = jnp.ones(3), jnp.array([0.3, -0.2, 0.5])
NAN, INF = float("nan"), float("inf")
DDPM = samplers.ddpm(steps=3, min_std=0.1, final_noise=True)


def constant(model, example, key):
    return jnp.zeros(()), {}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: losses.clip_schedule(3, 0.2, 0.1), "low must not exceed high, got 0.2 and 0.1."),
        (
            lambda: fields.linear_betas(3, start=0.02, end=0.01),
            "start must not exceed end, got 0.02 and 0.01.",
        ),
        (lambda: losses.truncated_normal(KEY, ONES, DRAWS), "lower must not exceed upper, got "),
        (
            lambda: losses.truncated_normal(KEY, jnp.array([NAN]), ONES[:1]),
            "lower must not exceed upper, got ",
        ),
        (
            lambda: losses.truncated_normal(KEY, -ONES, ONES[0]),
            "lower, upper must have the same shape, got (3,), ().",
        ),
        (
            lambda: losses.ppo_clip(DRAWS, ONES, ONES[:2]),
            "eps must be a number or of the shape (3,), got (2,).",
        ),
        (
            lambda: losses.spo(DRAWS[0], ONES[0], ONES[:2]),
            "eps must be a number or of the shape (), got (2,).",
        ),
        (
            lambda: losses.aspo(DRAWS, ONES, jnp.array([0.1, 0.0, 0.1])),
            "eps must be a finite number in (0, inf), got",
        ),
        (
            lambda: losses.ppo_clip(DRAWS, ONES, 10**12),
            "eps must be written as a float beyond 2147483647, such",
        ),
        (lambda: sac(temperature=10**12), "temperature must be written as a float beyond 2147483647, such"),
        (
            lambda: losses.log_ratio_from_losses(ONES, ONES[:2]),
            "new, old must have the same shape, got (3,), (2,).",
        ),
        (
            lambda: losses.log_ratio_from_losses(ONES, ONES[:1], "per_sample"),
            "new, old must have the same shape, got (3,), (1,).",
        ),
        (
            lambda: losses.ratio_from_losses(jnp.eye(3), jnp.eye(3)),
            "new must have the shape (3,), got (3, 3): a batch",
        ),
        (lambda: losses.ratio_from_losses(ONES[0], ONES[0]), "new must have the shape (1,), got ()."),
        (lambda: losses.knn_entropy(ONES), "points must have the shape (n, d), got (3,)."),
        (
            lambda: losses.add(a=(NAN, constant)),
            "the coefficient of a must be a finite number in (-inf, inf), got nan.",
        ),
        (
            lambda: losses.add(a=("1", constant)),
            "the coefficient of a must be a finite number in (-inf, inf), got '1'.",
        ),
        (
            lambda: losses.mix((-1.0, losses.chain())),
            "a share of mix must be a finite number in [0, inf), got -1.0.",
        ),
        (
            lambda: losses.mix((True, losses.chain())),
            "a share of mix must be a finite number in [0, inf), got True.",
        ),
        (
            lambda: losses.chain_log_likelihood(DDPM, bounds=(NAN, 1.0)),
            "bounds[0] must be a finite number in (-inf, inf), got nan.",
        ),
        (
            lambda: losses.chain_log_likelihood(DDPM, bounds=(2.0, 1.0)),
            "bounds[0] must not exceed bounds[1], got 2.0 and 1.0.",
        ),
        (
            lambda: losses.chain_log_likelihood(samplers.ode()),
            "sampler must be made by ddpm or ddim, got ODE(",
        ),
        (lambda: losses.td_target([1.0], [False], [1.0], 0.9), "reward must be an array, got [1.0]."),
        (lambda: losses.td_target(ONES, ONES, ONES, 0.9), "terminated must be True or False, got float32."),
        (
            lambda: losses.gae(ONES, ONES, ONES, ONES > 0, ONES, discount=0.9, trace=0.9),
            "truncated must be True or False, got float32.",
        ),
        (lambda: losses.reduce_ensemble([1.0, 2.0]), "values must be an array, got [1.0, 2.0]."),
        (
            lambda: losses.reduce_ensemble(ONES[0]),
            "values must have the members on its first axis, got a scalar.",
        ),
        (lambda: losses.expectile([1.0], 0.5), "u must be an array, got [1.0]."),
        (lambda: losses.standardise([1.0, 2.0]), "x must be an array, got [1.0, 2.0]."),
        (lambda: losses.kl_k1("1"), "log_ratio must be an array, got '1'."),
        (lambda: losses.kl_k3(None), "log_ratio must be an array, got None."),
        (lambda: losses.bounded_advantage([1.0]), "advantage must be an array, got [1.0]."),
        (lambda: losses.straight_through_clamp([1.0], 0.0), "x must be an array, got [1.0]."),
        (lambda: losses.ppo_clip([0.1], ONES[:1], 0.2), "log_ratio must be an array, got [0.1]."),
        (lambda: losses.truncated_normal(KEY, [-1.0], [1.0]), "lower must be an array, got [-1.0]."),
        (
            lambda: losses.linear_weights(jnp.eye(3), 0.1),
            "value must have the shape (3,), got (3, 3): a batch",
        ),
        (lambda: losses.square_weights(ONES[0], 0.1), "value must have the shape (1,), got ()."),
        (
            lambda: losses.categorical_target(jnp.eye(3), ONES[0], ONES[0] > 0, 0.9, low=-1.0, high=1.0),
            "probabilities must have the shape (3,), got (3, 3): a batch goes through jax.vmap.",
        ),
        (
            lambda: losses.categorical_target(ONES / 3, ONES, ONES[0] > 0, 0.9, low=-1.0, high=1.0),
            "reward must be a scalar, got shape (3,).",
        ),
        (
            lambda: losses.categorical_target(ONES / 3, ONES[0], 0.0, 0.9, low=-1.0, high=1.0),
            "terminated must be True or False, got float32.",
        ),
        (
            lambda: losses.categorical_loss(jnp.eye(3), jnp.eye(3)),
            "log_probabilities must have the shape (3,), got (3, 3)",
        ),
        (
            lambda: losses.categorical_cross_entropy(jnp.eye(3), jnp.eye(3)),
            "log_probabilities must have the shape (3,), got (3, 3)",
        ),
        (
            lambda: losses.predicted_entropy(None),
            "transform must be a function (example, match, key) -> match, got None.",
        ),
        (lambda: losses.exact_log_likelihood(DDPM), "sampler must be made by coupled, got Ancestral("),
        (lambda: losses.compression(None), "sampler must be made by coupled, got None."),
        (lambda: samplers.select(ONES, ONES), "actions must have the shape (n, a), got (3,)."),
        (lambda: samplers.select([[1.0]], ONES[:1]), "actions must be an array, got [[1.0]]."),
        (
            lambda: networks.MLP(3, 2, hidden=(2,), key=KEY),
            "in_sizes must be a tuple of integers, one for each input, got 3.",
        ),
        (lambda: networks.ensemble(None, 2, key=KEY), "make must be a function key -> module, got None."),
        (
            lambda: fields.predict_noise(None, ONES, ONES[0], ONES),
            "field must be a field, such as Field(...) or",
        ),
        (
            lambda: fields.predict_noise(constant, ONES, ONES[0], ONES),
            "field must be a field, such as Field(...) or",
        ),
        (
            lambda: fields.as_pair(ONES, ONES, ONES[0], schedule="cosine", prediction="noise"),
            "schedule must be a schedule, such as CosineVP(), got 'cosine'.",
        ),
        (
            lambda: fields.express(ONES, ONES, ONES[0], schedule=None, prediction="noise"),
            "schedule must be a schedule, such as CosineVP(), got None.",
        ),
        (lambda: learner(ONES, None), "optimiser must be a transformation of optax's, got None."),
        (
            lambda: descend(ONES, constant, adam(1e-3)),
            "learner must be a Learner, as learner(model, optimiser) gives it, ",
        ),
        (
            lambda: gaussian_policy(None),
            "kind must be a function (obs_size, action_size, ...) -> policy, got None.",
        ),
        (lambda: samplers.log_density_of_errors(ONES, ONES, 2), "signal must have the shape (4,), got (3,)."),
    ],
)
def test_what_does_not_go_together(call, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        call()


def test_what_is_inside_passes():
    for eps in (0.2, 1, ONES):
        assert losses.ppo_clip(DRAWS, ONES, eps).shape == (3,)
    assert losses.clip_schedule(2, 0.2, 0.2).shape == (2,)
    assert fields.linear_betas(2, start=0.01, end=0.01) == (0.01, 0.01)
    assert bool(jnp.all(jnp.isfinite(losses.truncated_normal(KEY, jnp.full(3, -INF), jnp.full(3, INF)))))
    jax.jit(lambda eps, tau: losses.ppo_clip(DRAWS, ONES, eps) + losses.expectile(DRAWS, tau))(-1.0, 2.0)
    jax.jit(lambda low, high: losses.truncated_normal(KEY, low, high))(ONES, DRAWS)


FIELD = fields.FunctionField(
    lambda x, t, obs: x, schedule=fields.CosineVP(), prediction="noise", action_size=2
)
TWO = jnp.ones(2)
NO = jnp.zeros((), bool)
NOISE = losses.perturb(FIELD.schedule)


def value(obs, action):
    return jnp.sum(action)


def vector(obs, *action):
    return TWO


def of(loss, model=None, **extras):
    """A loss of one transition."""
    return loss(model, Transition(ONES, TWO, jnp.zeros(()), ONES, NO, NO, extras), KEY)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: of(losses.bptt(lambda model, obs, key: TWO, vector)),
            "q must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.bptt(lambda model, obs, key: TWO, value, normaliser=vector)),
            "normaliser must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.one_step(FIELD.schedule, vector), FIELD),
            "q must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.soft_value(lambda model, obs, key: TWO, value, 0.1)),
            "sample must return (action, log_prob), got a ",
        ),
        (
            lambda: of(losses.soft_value(lambda model, obs, key: (TWO, TWO), value, 0.1)),
            "sample, as log_prob, must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.soft_value(lambda model, obs, key: (TWO, ONES[0]), vector, 0.1)),
            "q must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.bellman(lambda example, key: TWO), value),
            "target must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.expectile_regression(vector, 0.7), lambda obs: ONES[0]),
            "q must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.expectile_regression(value, 0.7), vector),
            "the model must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.value_regression(), vector, **{"return": ONES[0]}),
            "the model must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.value_regression(), lambda obs: ONES[0], **{"return": TWO}),
            "the value, extras['return'] must have the same shape, got (), (2,).",
        ),
        (
            lambda: of(losses.dual(lambda model: TWO, lambda example: ONES[0])),
            "multiplier_of must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.dual(lambda model: ONES[0], lambda example: TWO)),
            "slack must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.distil(lambda model, obs, z: z[:1], lambda obs, z: z)),
            "student, teacher must have the same shape, got (1,), (2,).",
        ),
        (
            lambda: of(losses.weighted(lambda example: TWO, constant)),
            "weight must return a scalar, got shape (2,).",
        ),
        (
            lambda: of(losses.weighted(lambda example: 1.0, lambda *_: ONES[0])),
            "loss must return (scalar, metrics), with a dict of metrics, got a ",
        ),
        (lambda: of(losses.add(a=(1.0, lambda *_: (TWO, {})))), "a must return a scalar, got shape (2,)."),
        (
            lambda: of(losses.add(a=(1.0, lambda *_: (ONES[0], None)))),
            "a must return (scalar, metrics), with a dict of metrics, got None as the metrics.",
        ),
        (
            lambda: of(losses.averaged(lambda *_: (ONES[0], {}, 0), 2)),
            "loss must return (scalar, metrics), with a dict of metrics, got a tuple of 3.",
        ),
        (
            lambda: losses.batched(lambda *_: (TWO, {}))(None, ONES, KEY),
            "loss must return a scalar, got shape (2,).",
        ),
        (
            lambda: losses.batched(constant)(None, (ONES, TWO), KEY),
            "batch must hold arrays that share their leading axis, got shapes (3,), (2,).",
        ),
        (
            lambda: losses.batched(constant)(None, (), KEY),
            "batch must hold arrays that share their leading axis, got",
        ),
        (
            lambda: losses.batched(constant)(None, ONES[0], KEY),
            "batch must hold arrays that share their leading axis",
        ),
        (
            lambda: of(losses.matching(NOISE), value),
            "the model of a matching loss must be a field (of a part of a",
        ),
        (
            lambda: of(losses.log_ratio(lambda *_: ONES), log_prob=TWO),
            "the log-likelihood, extras['log_prob'] must have the same shape, got (3,), (2,).",
        ),
        (
            lambda: of(losses.chain_log_likelihood(DDPM), FIELD, chain=jnp.ones((3, 2))),
            "extras['chain'] must have the shape (4, 2), got (3, 2).",
        ),
        (
            lambda: of(losses.prediction_change(NOISE), FIELD, key=KEY, predictions=jnp.ones((3, 2))),
            "the predictions, extras['predictions'] must have the same shape, got (1, 2), (3, 2).",
        ),
        (
            lambda: losses.gradient_ascent(lambda a: a, TWO, steps=1, rate=0.1),
            "value must return a scalar, got shape (2,).",
        ),
        (
            lambda: losses.gradient_ascent(jnp.sum, TWO, steps=1, rate=0.1, limit=jnp.sum),
            "limit must return an array of shape (2,), got shape ().",
        ),
    ],
)
def test_what_functions_return(call, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        call()
