"""Keys that are none, recipes that were not called, runs and fields that are nothing: one sentence, wherever taken."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpolicy
from dpolicy import audit, envs, fields, losses, networks, samplers
from dpolicy._types import Transition
from dpolicy.algorithms import bc, ddiffpg, ppo, sac
from dpolicy.fields import CosineVP, MeanField
from dpolicy.learning import over_minibatches
from dpolicy.modes import mode_discovery, novelty_reward
from dpolicy.networks import MLP, ensemble
from dpolicy.train import load_run, off_policy, offline, on_policy, policy_of
from dpolicy.train.replay import Replay

pytestmark = pytest.mark.usefixtures("unchecked_types")

KEY = jax.random.key(0)
SCHEDULE = CosineVP()
ENV = envs.make("probe/action")
OBS, ACTION = jnp.ones(ENV.spec.obs_size), jnp.ones(1)
FIELD = fields.FunctionField(lambda x, t, obs: x, schedule=SCHEDULE, prediction="noise", action_size=1)
MEAN = MeanField(1, 1, schedule=SCHEDULE, hidden=(2,), embedding="raw", key=KEY)
SMALL = {"hidden": (2,), "embedding": "raw", "schedule": SCHEDULE}
NO = jnp.zeros((), bool)
NOISE = losses.perturb(SCHEDULE)
MATCHING = losses.matching(NOISE)
VECTOR = envs.Vector(ENV, 2, resets="pool")
TINY = {"num_envs": 2, "evaluation_interval": 2}


def example(**extras):
    return Transition(OBS, ACTION, jnp.zeros(()), OBS, NO, NO, extras)


def batch():
    return jax.tree.map(lambda leaf: leaf[None], example())


def started(recipe):
    return jax.eval_shape(lambda: recipe.init(KEY, ENV.spec))


def acting(recipe, mode="explore"):
    return lambda key: recipe.act(recipe.init(KEY, ENV.spec), OBS, key, mode)


def dataset():
    return jax.tree.map(lambda leaf: jnp.zeros((4, *leaf.shape)), example())


TAKE_KEYS = [
    lambda key: MLP((1,), 1, hidden=(2,), key=key),
    lambda key: networks.QNetwork(1, 1, hidden=(2,), key=key),
    lambda key: fields.Field(1, 1, **SMALL, key=key),
    lambda key: MeanField(1, 1, **SMALL, key=key),
    lambda key: ensemble(lambda key: jnp.zeros(()), 2, key=key),
    lambda key: fields.EnergyNetwork(1, 1, hidden=(2,), key=key),
    lambda key: fields.RandomFourier(4, key=key),
    lambda key: fields.LearnableFourier(4, key=key),
    lambda key: fields.LangevinControl(1, 1, steps=2, hidden=(2,), key=key),
    lambda key: fields.make_embedding("raw", key=key),
    lambda key: networks.Gaussian(1, 1, hidden=(2,), key=KEY).sample(OBS, key),
    lambda key: networks.TanhGaussian(1, 1, hidden=(2,), key=KEY).sample(OBS, key),
    lambda key: networks.TanhGaussian(1, 1, hidden=(2,), key=KEY).entropy(OBS, key),
    lambda key: networks.ResidualGaussian(1, 1, hidden=(2,), key=KEY).sample(OBS, ACTION, key),
    *(
        lambda key, sampler=sampler: sampler(FIELD, OBS, key)
        for sampler in (
            samplers.ode(steps=1),
            samplers.sde(steps=1),
            samplers.ddpm(steps=1),
            samplers.ddim(steps=1),
            samplers.langevin(steps=1),
            samplers.unadjusted_langevin(steps=1),
            samplers.coupled(steps=1),
            samplers.best_of(2, samplers.ode(steps=1), lambda obs, action: jnp.sum(action)),
        )
    ),
    lambda key: samplers.mean_flow()(MEAN, OBS, key),
    lambda key: samplers.ddpm(steps=2).chain(FIELD, OBS, key),
    lambda key: samplers.solve(samplers.ode(steps=1), FIELD, OBS[None], key),
    lambda key: samplers.select(jnp.ones((2, 1)), jnp.ones(2), key, temperature=1.0),
    lambda key: samplers.log_likelihood(
        FIELD, ACTION, OBS, key, method="hutchinson", solver="euler", steps=1
    ),
    lambda key: samplers.mmse_log_likelihood(FIELD, ACTION, OBS, key, steps=1, draws=1),
    lambda key: MATCHING(FIELD, example(), key),
    lambda key: losses.mean_flow_matching(NOISE)(MEAN, example(), key),
    lambda key: losses.batched(MATCHING)(FIELD, batch(), key),
    lambda key: losses.averaged(MATCHING, 2)(FIELD, example(), key),
    lambda key: losses.add(a=(1.0, MATCHING))(FIELD, example(), key),
    lambda key: losses.distil(lambda model, obs, z: z, lambda obs, z: z)(FIELD, example(), key),
    lambda key: losses.truncated_normal(key, -ACTION, ACTION),
    lambda key: sac().init(key, ENV.spec),
    acting(sac()),
    lambda key: sac().update(started(sac()), batch(), key),
    lambda key: ppo().init(key, ENV.spec),
    acting(ppo()),
    lambda key: bc().init(key, ENV.spec),
    acting(bc(), "evaluate"),
    lambda key: ddiffpg().init(key, ENV.spec),
    acting(ddiffpg(), "mode_1"),
    lambda key: mode_discovery().start(key),
    lambda key: novelty_reward().start(key, ENV.spec),
    lambda key: off_policy(sac(), ENV, **TINY).init(key),
    lambda key: on_policy(ppo(), ENV, num_envs=2).init(key),
    lambda key: offline(bc(), ENV, dataset=dataset()).init(key),
    lambda key: Replay.start({"x": jnp.zeros(3)}, 4).sample(key, 2),
    lambda key: over_minibatches(lambda carry, inputs: (carry, {}), 0, OBS[None], key, epochs=1, count=1),
    VECTOR.init,
    lambda key: VECTOR.step(VECTOR.init(KEY), jnp.zeros((2, 1)), key),
    lambda key: VECTOR.refresh(VECTOR.init(KEY), key),
    lambda key: envs.evaluate_episodes(ENV, lambda obs, key: ACTION, key, 1, 1),
    *(
        lambda key, name=name: envs.make(name).reset(key)
        for name in ("multigoal", "probe/action", "bandit/quadratic", "gymnax/Pendulum-v1")
    ),
    lambda key: envs.make("bandit/quadratic").sample(key, 2, 1.0),
    lambda key: audit.network({"bc": bc()}, ENV.spec, key),
    lambda key: audit.objectives({"bc": bc()}, FIELD, lambda obs, action: jnp.sum(action), ENV.spec, key),
    lambda key: audit.gradients({"a": MATCHING}, FIELD, batch(), key, draws=1),
]
NO_KEY = [
    0,
    None,
    "0",
    np.int64(3),
    jnp.zeros(2),
    jnp.zeros(3, jnp.uint32),
    jnp.zeros((), jnp.uint32),
    jax.random,
]
KEYS = [jax.random.split(KEY, 2), KEY[None], jnp.zeros((2, 2), jnp.uint32)]


@pytest.mark.parametrize("call", TAKE_KEYS)
def test_what_is_no_key(call):
    with pytest.raises(ValueError, match=r"^key must be a key such as jax.random.key\(0\), got 7\."):
        jax.eval_shape(lambda: call(7))
    with pytest.raises(
        ValueError, match=r"^key must be one key, got keys of shape \(2,\): a batch goes through"
    ):
        jax.eval_shape(lambda: call(jax.random.split(KEY, 2)))


@pytest.mark.parametrize("key", NO_KEY)
def test_all_that_is_no_key(key):
    with pytest.raises(ValueError, match=r"^key must be a key such as jax.random.key\(0\), got "):
        TAKE_KEYS[0](key)


@pytest.mark.parametrize("key", KEYS)
def test_several_keys(key):
    with pytest.raises(
        ValueError, match=r"^key must be one key, got keys of shape \([12],\): a batch goes through"
    ):
        TAKE_KEYS[0](key)


def test_keys_of_before_are_keys():
    np.testing.assert_array_equal(
        *(TAKE_KEYS[6](key).frequencies for key in (jax.random.PRNGKey(3), jax.random.key(3)))
    )
    jax.vmap(TAKE_KEYS[6])(jax.random.split(KEY, 2))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: losses.flow_matching_log_likelihood(MATCHING)(FIELD, example(key=7), KEY),
            "extras['key'] must be a key such as jax.random.key(0), got 7.",
        ),
        (
            lambda: losses.prediction_change(NOISE)(FIELD, example(key=7, predictions=ACTION[None]), KEY),
            "extras['key'] must be a key such as jax.random.key(0), got 7.",
        ),
        (
            lambda: audit.network({"sac": sac}, ENV.spec, KEY),
            "the algorithm sac must be an Algorithm, as sac() is: call",
        ),
        (
            lambda: audit.objectives({"bc": bc}, FIELD, lambda obs, action: ACTION[0], ENV.spec, KEY),
            "the algorithm bc must be an Algorithm, as bc() is: call the recipe, got <function bc",
        ),
        (
            lambda: policy_of(sac, None),
            "algorithm must be an Algorithm, as sac() is: call the recipe, got <function",
        ),
        (lambda: policy_of(None, None), "algorithm must be an Algorithm, got None."),
        (
            lambda: policy_of(sac(), None),
            "state must be a TrainState, as a program's init gives it, got None.",
        ),
        (lambda: load_run(None), "directory must be a path, got None."),
        (lambda: load_run(3), "directory must be a path, got 3."),
        (lambda: dpolicy.load(None), "directory must be the path of a run, got None."),
        (
            lambda: samplers.ode()(None, OBS, KEY),
            "field must be a field, such as Field(...) or FunctionField(...), got None.",
        ),
        (
            lambda: samplers.ddpm()(lambda x, t, obs: x, OBS, KEY),
            "field must be a field, such as Field(...) or ",
        ),
        (
            lambda: samplers.coupled()("f", OBS, KEY),
            "field must be a field, such as Field(...) or FunctionField(...), got 'f'",
        ),
        (
            lambda: samplers.log_likelihood(None, ACTION, OBS),
            "field must be a field, such as Field(...) or Fun",
        ),
        (
            lambda: samplers.mmse_log_likelihood(None, ACTION, OBS, KEY),
            "field must be a field, such as Field(...) or Fun",
        ),
        (
            lambda: samplers.solve(samplers.ode(), None, OBS[None], KEY),
            "field must be a field, such as Field(...) or Fun",
        ),
        (
            lambda: samplers.solve(samplers.ode(), FIELD, OBS, KEY),
            "obs must be a batch of shape (b, o), got (1,).",
        ),
        (
            lambda: samplers.solve(samplers.ode(), FIELD, OBS[None], KEY, start=jnp.ones((2, 1))),
            "start must have the shape (1, 1), got (2, 1).",
        ),
        (
            lambda: samplers.coupled()(FIELD, OBS, KEY, start=ACTION),
            "start must have the shape (2, 1), got (1,).",
        ),
        (lambda: samplers.coupled().forward(FIELD, ACTION, OBS), "z must have the shape (2, 1), got (1,)."),
        (
            lambda: samplers.coupled().log_prob(FIELD, jnp.ones((2, 2)), OBS),
            "pair must have the shape (2, 1), got (2, 2).",
        ),
    ],
)
def test_what_is_taken_for_something_else(call, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        call()
