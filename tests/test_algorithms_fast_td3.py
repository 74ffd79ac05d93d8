"""FastTD3: an update by hand, and the noise of each environment."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transitions import experience

from dpolicy.algorithms import fast_td3
from dpolicy.learning import Parts, Seen
from dpolicy.losses import categorical_target
from dpolicy.optimisers import ema

KEY = jax.random.key(0)
SIZE = 4
SETTINGS = {
    **{"hidden": (8,), "critic_hidden": (8,), "critic_atoms": 5, "critic_low": -1.0, "critic_high": 2.0},
    **{"discount": 0.9, "target_rate": 0.25, "target_noise": 0.6, "target_noise_clip": 0.5},
}


class Spec:
    obs_size = action_size = 2


def loss_by_hand(state, e, key, value):
    """The law of the lower critic, or of each its own, at the noised action of the actor as it is, projected."""
    _, noise_key = jax.random.split(key)
    noise = jnp.clip(0.6 * jax.random.normal(noise_key, (2,)), -0.5, 0.5)
    laws = state.target(e.next_obs, jnp.clip(state.actor(e.next_obs) + noise, -1, 1))
    law = jnp.exp(laws.log_probabilities)
    project = lambda p: categorical_target(p, e.reward, e.terminated, 0.9, low=-1.0, high=2.0)
    goals = [project(law[jnp.argmin(laws.mean)])] * 2 if value == "min" else list(map(project, law))
    return -sum(map(jnp.dot, state.critic(e.obs, e.action).log_probabilities, goals))


@pytest.mark.parametrize("value", ["min", "mean"])
def test_an_update_by_hand(value, x64):
    batch = dataclasses.replace(experience(KEY, SIZE), terminated=jnp.arange(SIZE) % 3 == 1)

    @jax.jit
    def run():
        made, keys = fast_td3(**SETTINGS, actor_value=value), jax.random.split(KEY, SIZE)
        start = made.init(KEY, Spec)
        moved = jax.tree.map(lambda leaf: 1.3 * leaf if eqx.is_inexact_array(leaf) else leaf, start.target)
        ends = lambda critic: (critic.members.low, critic.members.high)
        start = Parts(start, target=eqx.tree_at(ends, moved, ends(start.target)))
        first, _ = made.update(start, batch, KEY)
        second, _ = made.update(first, batch, KEY)
        stages = made.stages
        assert stages is not None
        seen = Seen(start, first, batch, start.updates + 1, {}, "")
        loss = lambda name: stages[name].loss(seen)
        critic = jax.vmap(lambda e, key: loss("critic")(start.critic, e, key)[0])(batch, keys)
        actor = jax.vmap(lambda e, key: loss("actor")(start.actor, e, key)[0])(batch, keys)
        values = jax.vmap(lambda e: first.critic(e.obs, start.actor(e.obs)).mean)(batch)
        by_hand = jax.vmap(lambda e, key: loss_by_hand(start, e, key, value))(batch, keys)
        return start, first, second, (critic, by_hand), (actor, values)

    start, first, second, critic, (actor, values) = run()
    np.testing.assert_allclose(*critic, rtol=1e-9)
    np.testing.assert_allclose(actor, -getattr(np, value)(values, axis=1), rtol=1e-9)
    for x, y in zip(
        *map(jax.tree.leaves, (first.target, ema(start.target, first.critic, 0.75))), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-9)
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    assert same(start.actor, first.actor) and not same(first.actor, second.actor)
    assert not same(start.critic, first.critic)


def test_each_environment_has_a_noise_of_its_own():
    """From .001 in the first to .4 in the last, and nothing leaves the box."""
    made = fast_td3(hidden=(8,), critic_hidden=(8,), exploration_low=0.001, exploration_high=0.4)
    state, obs = made.init(KEY, Spec), jnp.ones(2)
    places = jnp.asarray([0.0, 0.25, 1.0])
    act = jax.vmap(lambda key, place: made.act(state, obs, key, "explore", place)[0], (0, None))
    actions = jax.vmap(act, (None, 0))(jax.random.split(KEY, 4_000), places)
    np.testing.assert_allclose(np.std(actions, axis=1)[:2].T, [[0.001, 0.10075]] * 2, rtol=0.05)
    assert np.abs(actions).max() == 1.0
    np.testing.assert_allclose(made.act(state, obs, KEY, "evaluate")[0], state.actor(obs), rtol=1e-6)
