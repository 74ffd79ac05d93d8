"""Values of several actions, critic by critic; critics that see the data's actions only, and who sees whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallest import SPEC, build, experience
from transitions import experience as transitions

from dpolicy.algorithms import dac, iql
from dpolicy.blocks import value_of_several
from dpolicy.learning import Parts, Seen
from dpolicy.losses import expectile_weight

KEY = jax.random.key(0)


def test_the_largest_of_several_is_taken_within_each_critic():
    """Two critics that disagree about the order: the lower of the largest, not the largest of the lower; lcb of two."""
    example = jax.tree.map(lambda leaf: leaf[0], transitions(KEY, 1))
    drawn = lambda key: jnp.where(jax.random.bernoulli(key), 1.0, -1.0) * jnp.ones(2)
    policy = lambda actor, q, obs, key: (drawn(key), jnp.zeros(()))
    critic = lambda obs, action: jnp.stack([2 * action[0], -action[0]])
    q = lambda obs, action: jnp.zeros(())
    asked = lambda **options: value_of_several(policy, None, q, critic, actions=16, **options)(example, KEY)
    assert asked(over="max") == 1.0  # min(2, 1); the largest of the lower ones is -1
    share = np.mean([drawn(key)[0] for key in jax.random.split(KEY, 16)])
    np.testing.assert_allclose(asked(over="mean", how="mean"), share / 2, rtol=1e-5)
    values = np.array([2 * share, -share])
    np.testing.assert_allclose(asked(how="lcb", pessimism=1.0), values.min(), rtol=1e-5)
    np.testing.assert_allclose(asked(how="lcb", pessimism=0.0), values.mean(), rtol=1e-5)
    dear = lambda actor, q, obs, key: (drawn(key), 3 + drawn(key)[0])
    less = value_of_several(dear, None, q, critic, actions=16, over="max", temperature=0.5)(example, KEY)
    np.testing.assert_allclose(less, 1 - 0.5 * (3 + share), rtol=1e-5)
    with pytest.raises(ValueError, match="actions must be"):
        value_of_several(policy, None, q, critic, actions=0)


@pytest.fixture(scope="module")
def stepped():
    """IQL before and after an update in which every network moves by its gradient."""
    algorithm = build("iql", learning_rate=1e-2, critic_learning_rate=1e-2)
    state = algorithm.init(KEY, SPEC)
    # Targets of their own, so that what is read of which shows.
    state = Parts(state, target=jax.tree.map(lambda x: 1.5 * x, state.target))
    batch = experience(algorithm, state, KEY)
    after, metrics = jax.jit(algorithm.update)(state, batch, KEY)
    return state, after, batch, metrics


def means(state, after, batch):
    """By hand: the losses of value, actor and critics, where each sees what its turn gives it."""
    of = lambda function: jax.vmap(function)(batch.obs, batch.action)
    lower = of(lambda obs, action: jnp.min(state.target(obs, action)))
    old, new = (jax.vmap(parts.value)(batch.obs) for parts in (state, after))
    value = jnp.mean(expectile_weight(lower - old, 0.7) * (lower - old) ** 2)
    log_prob = of(state.actor.log_prob)
    actor = -jnp.mean(jnp.minimum(jnp.exp(3 * (lower - new)), 100) * log_prob)
    goal = batch.reward + 0.99 * jnp.where(batch.terminated, 0, jax.vmap(after.value)(batch.next_obs))
    critic = jnp.mean((of(state.critic) - goal[:, None]) ** 2)
    return {"value/loss": value, "actor/loss": actor, "critic/loss": critic}


def test_the_value_comes_first_and_the_others_see_the_new_one(stepped):
    state, after, batch, metrics = stepped
    for name, by_hand in means(state, after, batch).items():
        np.testing.assert_allclose(metrics[name], by_hand, rtol=1e-4, err_msg=name)
    stale = means(state, state, batch)
    assert abs(stale["actor/loss"] - metrics["actor/loss"]) > 1e-3 * abs(metrics["actor/loss"])
    assert abs(stale["critic/loss"] - metrics["critic/loss"]) > 1e-4 * abs(metrics["critic/loss"])


@pytest.mark.parametrize(("fit", "expected"), [(1.3, 0.53), (0.9, 0.49), (9.0, 0.6), (-9.0, 0.4)])
def test_eta_rises_where_the_fit_is_worse_than_its_budget(fit, expected):
    """By at most its rate: the excess is clipped to [-1, 1]."""
    stages = dac(eta=0.5, eta_rate=0.1, hidden=(4,), critic_hidden=(4,)).stages
    assert stages is not None
    stage = stages["eta"]
    metrics = {"actor/fit/loss": jnp.asarray(fit)}
    seen = Seen(Parts(), Parts(), None, jnp.asarray(1), metrics)
    assert stage.step(jnp.asarray(0.5), seen, KEY)[0] == pytest.approx(expected)
    low, high = stage.step(jnp.asarray(0.02), seen, KEY)[0], stage.step(jnp.asarray(99.99), seen, KEY)[0]
    assert low >= 1e-3 and high <= 100


def test_an_expectile_of_one_is_refused():
    with pytest.raises(ValueError, match="expectile must be"):
        iql(expectile=1.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eta": 1e-5}, "eta must be"),
        ({"behaviour_budget": None, "eta_rate": 0.1}, "eta_rate must be None without a behaviour_budget"),
    ],
)
def test_what_would_be_clipped_or_ignored_of_eta_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        dac(**settings)
