"""Critics of every kind as stages: what their targets are made of, by hand, and the mistakes at slots."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.algorithm import Horizon
from dpolicy.algorithms import ALGORITHMS, sac
from dpolicy.blocks import critic_function, next_value, q_critics, temporal_difference
from dpolicy.learning import Parts, Seen, algorithm, average, every, labelled, remembered, trained
from dpolicy.losses import categorical_loss, categorical_target, expectile_regression, support
from dpolicy.networks import CategoricalQ, QNetwork, ValueNetwork
from dpolicy.optimisers import adam

KEY = jax.random.key(0)
NO = jnp.asarray(False)
MEMBERS = jnp.asarray([3.0, -1.0, 7.0])
EXAMPLE = Transition(jnp.ones(2), jnp.zeros(1), jnp.asarray(0.5), jnp.full(2, 2.0), NO, NO)


class Spec:
    obs_size, action_size = 2, 1


def ensemble(obs, action):
    """Three members that agree on the action's value up to a constant."""
    return MEMBERS + 10 * action[0]


def counted(actor, q, obs, key):
    """An action of the key's own, between 0 and 1, of log-density -2."""
    return jax.random.uniform(key, (1,)), jnp.asarray(-2.0)


@pytest.mark.parametrize(
    ("how", "pessimism", "expected"),
    [("min", 1.0, -1.0), ("mean", 1.0, 3.0), ("lcb", 0.5, 3 - 0.5 * math.sqrt(32 / 3)), (2, 1.0, 7.0)],
)
def test_every_reduction_of_an_ensemble(how, pessimism, expected):
    q = critic_function(ensemble, how, pessimism=pessimism)
    np.testing.assert_allclose(q(jnp.ones(2), jnp.zeros(1)), expected, rtol=1e-6)


@pytest.mark.parametrize("over", ["mean", "max", "soft"])
def test_the_value_of_several_actions(x64, over):
    target = critic_function(ensemble, "min")
    value = next_value(counted, None, target, target, 0.25, actions=4, over=over, scale=2.0)
    each = -1 + 10 * np.asarray(jax.vmap(lambda k: jax.random.uniform(k))(jax.random.split(KEY, 4))) + 0.5
    soft = 2 * (np.log(np.mean(np.exp(each / 2))))
    expected = {"mean": each.mean(), "max": each.max(), "soft": soft}[over]
    np.testing.assert_allclose(value(EXAMPLE, KEY), expected, rtol=1e-6)


def test_a_window_brings_its_own_discount(x64):
    """One step: r + gamma v. Three: R + gamma^3 v, whatever gamma the method has; an end cuts either."""
    loss = temporal_difference(lambda e, key: jnp.sum(e.next_obs), 0.9)
    error = lambda e: loss(lambda obs, action: jnp.asarray([1.0, 2.0]), e, KEY)[1]["target"]
    window = eqx.tree_at(lambda e: e.discount, EXAMPLE, jnp.asarray(0.7), is_leaf=lambda leaf: leaf is None)
    over = eqx.tree_at(lambda e: e.terminated, window, ~NO)
    np.testing.assert_allclose([error(e) for e in (EXAMPLE, window, over)], [0.5 + 3.6, 0.5 + 2.8, 0.5])


def test_every_off_policy_method_takes_several_steps():
    for name, entry in ALGORITHMS.items():
        if entry.family == "off_policy" and name != "ddiffpg":  # whose intrinsic reward is of single steps
            assert entry.recipe().horizon is None, name
            assert entry.recipe(n_step=3, discount=0.9).horizon == Horizon(3, 0.9), name


def fitted(make, loss):
    """The critic of a small algorithm after a hundred steps on one transition that ends."""
    method = algorithm(
        "test",
        "off_policy",
        explore=lambda s: lambda obs, key: jnp.zeros(1),
        evaluate=lambda s: lambda obs, key: jnp.zeros(1),
        critic=trained(make, loss, adam(3e-2)),
        target=average("critic", 0.1),
    )
    batch = jax.tree.map(
        lambda leaf: jnp.stack([leaf] * 2), eqx.tree_at(lambda e: e.terminated, EXAMPLE, ~NO)
    )
    step = lambda state, key: (method.update(state, batch, key)[0], None)
    keys = jax.random.split(KEY, 100)
    return jax.jit(lambda: jax.lax.scan(step, method.init(KEY, Spec), keys)[0].critic)()


def test_a_categorical_critic():
    atoms = support(-1.0, 1.0, 5)

    def loss(s):
        def one(critic, e, key):
            law = jnp.exp(s.before.target(e.next_obs, e.action))
            goal = categorical_target(law, e.reward, e.terminated, 0.9, low=-1.0, high=1.0)
            value = categorical_loss(critic(e.obs, e.action), goal)
            return value, {"loss": value}

        return one

    make = lambda key, spec: CategoricalQ(2, 1, atoms=5, hidden=(8,), key=key)
    critic = fitted(make, loss)
    assert jnp.sum(jnp.exp(critic(EXAMPLE.obs, EXAMPLE.action)) * atoms) == pytest.approx(0.5, abs=0.05)


def test_a_gaussian_critic():
    """Its mean and width by maximum likelihood: the width of one return falls to the floor."""

    class Gaussian(eqx.Module):
        mean: QNetwork
        log_std: jax.Array

        def __call__(self, obs, action):
            return self.mean(obs, action), jnp.exp(self.log_std) + 0.1

    def loss(s):
        def one(critic, e, key):
            mean, std = critic(e.obs, e.action)
            value = 0.5 * ((e.reward - mean) / std) ** 2 + jnp.log(std)
            return value, {"loss": value}

        return one

    critic = fitted(lambda key, spec: Gaussian(QNetwork(2, 1, hidden=(8,), key=key), jnp.zeros(())), loss)
    mean, std = critic(EXAMPLE.obs, EXAMPLE.action)
    assert mean == pytest.approx(0.5, abs=0.02) and std < 0.3


def test_a_quantile_critic():
    """Five quantiles of a return that is always the same are all that return."""
    levels = (jnp.arange(5) + 0.5) / 5

    def loss(s):
        def one(critic, e, key):
            gap = e.reward - critic(e.obs, e.action)
            value = jnp.mean(jnp.abs(levels - (gap < 0)) * jnp.abs(gap))
            return value, {"loss": value}

        return one

    critic = fitted(lambda key, spec: CategoricalQ(2, 1, atoms=5, hidden=(8,), key=key), loss)
    assert np.all(np.isfinite(critic(EXAMPLE.obs, EXAMPLE.action)))


def test_a_value_network_may_back_up():
    """IQL's order: the value, and then the critic that is fitted to it as it is now."""
    critics = q_critics(critic_hidden=(4,))
    method = algorithm(
        "iql",
        "offline",
        explore=lambda s: lambda obs, key: jnp.zeros(1),
        evaluate=lambda s: lambda obs, key: jnp.zeros(1),
        critic=critics.fitted(lambda s: lambda e, key: s.before.value(e.next_obs)),
        target=critics.averaged(),
        value=trained(
            lambda key, spec: ValueNetwork(2, hidden=(4,), key=key),
            lambda s: expectile_regression(critic_function(s.before.target), 0.7),
        ),
    )
    batch = jax.tree.map(lambda leaf: leaf[None], EXAMPLE)
    state = method.init(KEY, Spec)
    _, metrics = jax.jit(method.update)(state, batch, KEY)
    np.testing.assert_allclose(
        metrics["critic/target"], 0.5 + 0.99 * state.value(EXAMPLE.next_obs), rtol=1e-5
    )


ACT = lambda s: lambda obs, key: jnp.zeros(1)
Q = lambda obs, action: jnp.sum(action)
MAKE = lambda key, spec: jnp.zeros(1)
LOSS = lambda s: lambda model, example, key: (jnp.sum(model), {})


def method(**changed):
    slots = {"explore": ACT, "evaluate": ACT, "actor": trained(MAKE, LOSS)} | changed
    return algorithm("mine", "off_policy", **slots)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: method(explore=lambda obs, key: obs), "explore of mine must be a function .* got one of"),
        (
            lambda: method(target=average("critc")),
            "the part that target of mine follows must be one of actor",
        ),
        (lambda: method(updates=trained(MAKE, LOSS)), "a part of mine cannot be called 'updates'"),
        (lambda: trained(MAKE, lambda: 0), "loss must be a function seen -> loss, got one of"),
        (lambda: labelled(lambda s: {}), r"label must be a function \(seen, example, key\) -> entries"),
        (lambda: remembered(lambda t: {}, lambda s, e: {}), "revise must be a function seen"),
        (lambda: next_value(counted, None, Q, Q, over="median"), "over must be one of mean, max, soft"),
        (lambda: sac(n_step=0), "n_step must be an integer of at least 1, got 0"),
    ],
)
def test_mistakes_are_named_where_an_algorithm_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def one_update(**changed):
    made = method(**changed)
    batch = jax.tree.map(lambda leaf: leaf[None], EXAMPLE)
    return made.update(made.init(KEY, Spec), batch, KEY)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda: one_update(actor=trained(MAKE, lambda s: s.now.critc)),
            "there is no part 'critc'; the parts are",
        ),
        (
            lambda: one_update(actor=trained(MAKE, lambda s: lambda model, example, key: jnp.sum(model))),
            r"the loss of stage 'actor' must return \(scalar, metrics\)",
        ),
        (
            lambda: one_update(actor=trained(MAKE, lambda s: 3.0)),
            "the loss of stage 'actor' must be a function",
        ),
        (
            lambda: one_update(more=labelled(lambda s, e, k: e.obs)),
            "stage 'more' must return a dict of entries",
        ),
        (
            lambda: one_update(more=every(labelled(lambda s, e, k: {"x": e.obs}), 2)),
            "stage 'more' adds x to the batch: it must run at every update",
        ),
        (
            lambda: method(explore=lambda s: lambda obs: obs).act(
                method().init(KEY, Spec), EXAMPLE.obs, KEY, "explore"
            ),
            r"what explore of mine returns must be a function .*got one of \(obs\)",
        ),
    ],
)
def test_mistakes_are_named_at_the_first_trace(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def test_a_part_reads_as_its_model():
    stage = trained(MAKE, LOSS)
    part = stage.start(KEY, Spec, Parts())
    parts = Parts(actor=part, updates=jnp.zeros((), jnp.int32))
    np.testing.assert_array_equal(parts.actor, part.model)
    assert parts["actor"] is part and set(parts) == {"actor", "updates"}
    assert not hasattr(parts, "critic")
    seen = Seen(parts, parts, jax.tree.map(lambda leaf: leaf[None], EXAMPLE), jnp.asarray(1), {}, "actor")
    new, added, metrics = stage.step(part, seen, KEY)  # alone
    assert np.all(new.model != part.model) and added == {} and "grad_norm" in metrics
    doubled = jax.tree.map(lambda leaf: 2 * leaf, parts)
    assert isinstance(doubled, Parts) and list(doubled) == list(parts)
