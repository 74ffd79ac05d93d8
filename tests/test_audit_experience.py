"""What an audit stands on: uniform actions, the critic of that behaviour, a network fitted to the actions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.audit import fitted, uniform_experience
from dpolicy.envs import make
from dpolicy.fields import CosineVP, Field
from dpolicy.losses import batched, matching, perturb
from dpolicy.networks import MLP

ENV = make("probe/observation_action")
SCHEDULE = CosineVP()


def collect(key, env=ENV, **options):
    """As the command has it: one compiled program."""
    return jax.jit(lambda key: uniform_experience(env, key, **options))(key)


@pytest.fixture(scope="module")
def experience():
    return collect(jax.random.key(0), size=192, updates=300)


def test_the_actions_are_uniform(experience):
    batch, _ = experience
    assert batch.action.shape == (192, 1) and np.abs(batch.action).max() <= 1
    # Of a uniform sample of 192: 5 standard errors of its mean, and of its second moment, which is 1/3.
    np.testing.assert_allclose(jnp.mean(batch.action), 0, atol=5 * (1 / 3 / 192) ** 0.5)
    np.testing.assert_allclose(jnp.mean(batch.action**2), 1 / 3, atol=5 * (4 / 45 / 192) ** 0.5)
    np.testing.assert_allclose(batch.reward, (1 - (batch.action - 0.5 * batch.obs) ** 2)[:, 0], atol=1e-6)
    assert batch.terminated.all()


def test_the_critic_is_that_of_the_behaviour(experience):
    batch, q = experience
    # Every step ends the episode, so what an action is worth is its reward.
    found = jax.vmap(q)(batch.obs, batch.action)
    assert np.mean((found - batch.reward) ** 2) < 0.05 * np.var(batch.reward)
    untrained = collect(jax.random.key(0), size=192, updates=0)[1]
    assert np.mean((jax.vmap(untrained)(batch.obs, batch.action) - batch.reward) ** 2) > np.var(batch.reward)


def test_the_critic_bootstraps():
    batch, q = collect(jax.random.key(1), make("probe/discount"), size=192, updates=600)
    first = batch.obs[:, 0] == 0
    values = jax.vmap(q)(batch.obs, batch.action)
    np.testing.assert_allclose(jnp.mean(values[~first]), 1, atol=0.05)
    np.testing.assert_allclose(jnp.mean(values[first]), 0.99, atol=0.1)


def test_one_key_is_one_experience(experience):
    again = uniform_experience(ENV, jax.random.key(0), size=192, updates=0)[0]  # not compiled as one program
    np.testing.assert_array_equal(again.action, experience[0].action)
    other = uniform_experience(ENV, jax.random.key(1), size=192, updates=0)[0]
    assert not np.any(other.action == again.action)


def test_a_field_is_fitted_to_the_actions(experience):
    batch, _ = experience
    field = Field(1, 1, schedule=SCHEDULE, hidden=(16,), embedding="raw", key=jax.random.key(2))
    loss = batched(matching(perturb(SCHEDULE)))
    before, after = (
        float(loss(model, batch, jax.random.key(3))[0])
        for model in (field, jax.jit(lambda key: fitted(field, batch, key))(jax.random.key(4)))
    )
    assert after < 0.5 * before
    same = fitted(field, batch, jax.random.key(4), updates=0)
    assert eqx.tree_equal(same, field)


def test_another_network_stays_as_it_is(experience):
    mlp = MLP((1,), 2, hidden=(3,), key=jax.random.key(0))
    assert fitted(mlp, experience[0], jax.random.key(1)) is mlp


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: uniform_experience(ENV, jax.random.key(0), size=1), "size must be an integer of at least 2"),
        (
            lambda: uniform_experience(ENV, jax.random.key(0), updates=-1),
            "updates must be an integer of at least 0",
        ),
        (lambda: uniform_experience(ENV, jax.random.split(jax.random.key(0))), "key must be one key"),
        (lambda: uniform_experience("multigoal", jax.random.key(0)), "env must be"),
        (
            lambda: fitted(None, None, jax.random.key(0), updates=0.5),
            "updates must be an integer of at least 0",
        ),
        (lambda: fitted(None, None, 0), "key must be a key such as"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_mistakes_are_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
