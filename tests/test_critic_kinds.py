"""Kinds of critics: what is bootstrapped of their laws, by hand; that each learns, and that every family takes each."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallest import SPEC, TINY, experience, updated

from dpolicy._types import Transition
from dpolicy.algorithms import ALGORITHMS, sac
from dpolicy.blocks import critic_function, next_value, q_critics
from dpolicy.learning import Seen, algorithm
from dpolicy.losses import quantile_error
from dpolicy.networks import QNetwork, QuantileValue

KEY = jax.random.key(0)
NO = jnp.asarray(False)
EXAMPLE = Transition(jnp.ones(2), jnp.zeros(1), jnp.asarray(0.5), jnp.full(2, 2.0), NO, NO)


class Spec:
    obs_size, action_size = 2, 1


def counted(actor, q, obs, key):
    """An action of the key's own, between 0 and 1, of log-density -2."""
    return jax.random.uniform(key, (1,)), jnp.asarray(-2.0)


KINDS = ["c51", "hl_gauss", "quantile", "gaussian"]


def laws(obs, action):
    """Two members of three quantiles each, moved by the action; the second has the lower mean."""
    return QuantileValue(jnp.asarray([[0.0, 3.0, 6.0], [-4.0, 1.0, 6.0]]) + action[0])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("min", [-4.0, 1.0, 6.0]),
        ("mean", [-2.0, 2.0, 6.0]),
        ("lcb", [-4.0, 1.0, 6.0]),  # of each pair of quantiles the mean minus the deviation: the lower
        (0, [0.0, 3.0, 6.0]),
        ("each", [[0.0, 3.0, 6.0], [-4.0, 1.0, 6.0]]),
    ],
)
def test_what_is_bootstrapped_of_laws(how, expected):
    """With the entropy of the action in every point; the value is what the members' means say."""
    target = critic_function(laws, how)
    value = next_value(lambda *_: (jnp.ones(1), jnp.asarray(-2.0)), None, target, target, 0.25)
    np.testing.assert_allclose(value(EXAMPLE, KEY).value, np.asarray(expected) + 1.5, rtol=1e-6)
    np.testing.assert_allclose(target(EXAMPLE.obs, jnp.ones(1)), np.mean(expected) + 1, rtol=1e-6)


def test_the_law_of_several_actions(x64):
    target = critic_function(laws, "min")
    drawn = np.asarray(jax.vmap(lambda k: jax.random.uniform(k))(jax.random.split(KEY, 4)))
    mixture = next_value(counted, None, target, target, actions=4)(EXAMPLE, KEY)
    np.testing.assert_allclose(mixture.mean, 1 + drawn.mean(), rtol=1e-6)
    np.testing.assert_allclose([mixture.value.size, jnp.sum(mixture.weight)], [12, 1])
    best = next_value(counted, None, target, target, actions=4, over="max")(EXAMPLE, KEY)
    np.testing.assert_allclose(best.value, np.asarray([-4.0, 1.0, 6.0]) + drawn.max(), rtol=1e-6)
    with pytest.raises(ValueError, match="over must be mean or max for critics that give laws"):
        next_value(counted, None, target, target, actions=4, over="soft")(EXAMPLE, KEY)


@pytest.mark.parametrize("kind", ["scalar", "huber"])
def test_critics_that_are_numbers_have_targets_of_their_own(kind, x64):
    """FastTD3 whose actor climbs the mean: each Q is fitted to r + gamma Q_j, not to the mean of them."""
    settings = {
        **TINY["fast_td3"],
        "critic": kind,
        "critic_atoms": None,
        "discount": 0.9,
        "target_noise": 0.0,
    }

    @jax.jit
    def both():
        made = ALGORITHMS["fast_td3"].recipe(
            **settings, critic_low=None, critic_high=None, actor_value="mean"
        )
        state = made.init(KEY, SPEC)
        obs, action = jnp.ones(SPEC.obs_size), jnp.zeros(SPEC.action_size)
        e = Transition(obs, action, jnp.asarray(3.0), 2 * obs, NO, NO)
        loss = made.stages["critic"].loss(Seen(state, state, None, jnp.asarray(1), {}))
        goals = 3.0 + 0.9 * state.target(2 * obs, state.actor(2 * obs))
        apart = state.critic(obs, action) - goals
        errors = apart**2 if kind == "scalar" else jnp.abs(apart) - 0.5
        return loss(state.critic, e, KEY)[0], jnp.sum(errors), jnp.abs(goals[0] - goals[1])

    found, expected, difference = both()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert difference > 1e-3


def test_mirror_descent_bootstraps_with_laws(x64):
    """DPMD's next action is drawn before, and what is there is a law: of its points' spread nothing is lost."""
    settings = {**TINY["dpmd"], "critic": "quantile", "critic_atoms": 3, "discount": 0.9}

    @jax.jit
    def both():
        made = ALGORITHMS["dpmd"].recipe(**settings)
        state = made.init(KEY, SPEC)
        obs, action = jnp.ones(SPEC.obs_size), jnp.zeros(SPEC.action_size)
        e = Transition(obs, action, jnp.asarray(0.5), 2 * obs, NO, NO, {"next_action": action})
        loss = made.stages["critic"].loss(Seen(state, state, None, jnp.asarray(1), {}))
        law = critic_function(state.target).outcome(2 * obs, action)
        errors, _ = quantile_error()(state.critic(obs, action), law._replace(value=0.5 + 0.9 * law.value))
        return loss(state.critic, e, KEY)[0], jnp.mean(errors)

    np.testing.assert_allclose(*both(), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_critics_of_each_kind_learn_a_value(kind):
    """A step of reward 0.5, then one of value 0.3, each known for certain: 0.5 + 0.9 * 0.3 for the first."""
    bounds = {"critic_low": -2.0, "critic_high": 2.0} if kind in ("c51", "hl_gauss") else {}
    atoms = {} if kind == "gaussian" else {"critic_atoms": 11}
    critics = q_critics(
        critic=kind, **atoms, **bounds, critic_hidden=(16,), critic_learning_rate=0.03, discount=0.9
    )
    method = algorithm(
        "test",
        "off_policy",
        explore=lambda s: lambda obs, key: jnp.zeros(1),
        evaluate=lambda s: lambda obs, key: jnp.zeros(1),
        critic=critics.backed_up(lambda *_: (jnp.zeros(1), jnp.zeros(())), actor="critic"),
        target=critics.averaged(),
    )
    second = Transition(jnp.full(2, 2.0), jnp.zeros(1), jnp.asarray(0.3), jnp.ones(2), ~NO, NO)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), EXAMPLE, second)
    step = lambda state, key: (method.update(state, batch, key)[0], None)
    keys = jax.random.split(KEY, 1500)
    state = jax.jit(lambda: jax.lax.scan(step, method.init(KEY, Spec), keys)[0])()
    q = critic_function(state.critic)
    found = [q(obs, jnp.zeros(1)) for obs in (EXAMPLE.obs, second.obs)]
    np.testing.assert_allclose(found, [0.5 + 0.9 * 0.3, 0.3], atol=0.02)


def test_critics_on_the_unit_sphere():
    """From the start on, and after an update too."""
    method = sac(hidden=(8,), critic_hidden=(8, 8), critic_network="simba", critic_unit_weights=True)
    start = method.init(KEY, SPEC)
    after, _ = jax.jit(lambda key: updated(method, start, experience(method, start, key), key))(KEY)
    for state in (start, after):
        first = np.concatenate(state.critic.members.mlp.layers[0].weights, axis=-1)
        np.testing.assert_allclose(np.linalg.norm(first, axis=-1), 1.0, rtol=1e-5)
    assert not np.array_equal(*(state.critic.members.mlp.layers[0].weights[0] for state in (start, after)))


def traced(method):
    """State and metrics after an update, as shapes; those of the state stay."""

    def one(key):
        start = method.init(key, SPEC)
        return start, *updated(method, start, experience(method, start, key), key)

    before, after, metrics = jax.eval_shape(one, KEY)
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert shapes(before) == shapes(after), method.name
    return after, metrics


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_takes_critics_of_each_kind(kind):
    """Traced, not run: a method of every kind of guidance, whose update keeps shapes and reports of the critics."""
    backbone = {"c51": "simba", "hl_gauss": "bronet", "quantile": "mlp", "gaussian": "simba"}[kind]
    for name in ("td3", "qsm", "sdac", "dpmd", "dipo"):
        settings = {**TINY[name], "critic_hidden": (8, 8), "critic": kind, "critic_network": backbone}
        method = ALGORITHMS[name].recipe(**settings)
        after, metrics = traced(method)
        assert {"critic/value", "critic/target"} <= set(metrics), name
        assert ("critic/outside" in metrics) == (kind in ("c51", "hl_gauss")), name
        assert ("critic/deviation" in metrics) == ("deviations" in after) == (kind == "gaussian"), name


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dsac_t", {"critic": "scalar"}),
        ("dacer", {"critic": "c51"}),
        ("bro", {"critic": "gaussian", "reset_updates": (1,)}),  # an optimist, and a start anew
        ("fast_td3", {"critic": "gaussian", "critic_low": None, "critic_high": None, "actor_value": "mean"}),
    ],
)
def test_methods_of_one_kind_take_another(name, settings):
    given = {key: value for key, value in TINY[name].items() if key != "critic_atoms"}
    after, metrics = traced(ALGORITHMS[name].recipe(**{**given, **settings}))
    assert ("deviations" in after) == ("critic/deviation" in metrics) == (settings["critic"] == "gaussian")


def test_the_decay_of_critics_is_their_own():
    """Of the first DDPG: with no gradient a step leaves 1 - rate decay of a parameter."""
    settings = {"critic_learning_rate": 0.1, "critic_weight_decay": 0.5}
    for given, left in (({}, 0.95), ({"weight_decay": 0.2}, 0.95), ({"critic_weight_decay": None}, 1.0)):
        optimiser = q_critics(**{**settings, **given}).optimiser
        one = jnp.ones(1)
        step, _ = optimiser.update(jnp.zeros(1), optimiser.init(one), one)
        np.testing.assert_allclose(one + step, left)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic": "c52"}, "critic must be one of scalar, huber, c51, hl_gauss, quantile, gaussian"),
        ({"critic_network": "resnet"}, "critic_network must be one of mlp, layer_norm, simba, bronet"),
        ({"critic_low": 0.0}, "critic_low is of critics with atoms, got 0.0 for critic='scalar': give None."),
        ({"critic": "quantile", "critic_high": 1.0}, "critic_high is of critics with atoms, got 1.0"),
        ({"critic_atoms": 11}, "critic_atoms is of critics with atoms, got 11"),
        ({"critic": "gaussian", "critic_atoms": 11}, "critic_atoms is of critics with atoms, got 11"),
        ({"critic_form": "huber"}, "critic_form is of gaussian critics, got 'huber' for critic='scalar'"),
        ({"critic": "c51", "deviation_rate": 0.1}, "deviation_rate is of gaussian critics, got 0.1"),
        ({"critic_network": "simba", "critic_hidden": (32, 16)}, "critic_hidden must be equal widths"),
        (
            {"network": QNetwork, "critic": "c51"},
            "critic must be scalar where a network is given, got 'c51'.",
        ),
        ({"critic": "c51", "critic_atoms": 1}, "critic_atoms must be"),
        ({"critic": "c51", "critic_low": 1.0, "critic_high": 0.0}, "critic_high - critic_low must be"),
    ],
)
def test_mistakes_in_a_kind_of_critic(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        q_critics(**settings)
