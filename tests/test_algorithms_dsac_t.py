"""DSAC-T: what backs the critics up, where gradients are taken, and who moves when."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from transitions import experience

from dpolicy.algorithms import dsac_t
from dpolicy.learning import Parts, Seen
from dpolicy.losses import gaussian_value_loss
from dpolicy.optimisers import ema

KEY = jax.random.key(0)
SIZE = 6
SETTINGS = {
    **{"hidden": (8,), "critic_hidden": (8,), "discount": 0.9, "temperature": 0.3},
    **{"target_rate": 0.25, "deviation_rate": 0.5, "learning_rate": 0.01, "critic_learning_rate": 0.05},
}


class Spec:
    obs_size = action_size = 2


def transitions():
    ends = jnp.arange(SIZE) % 3
    return dataclasses.replace(experience(KEY, SIZE), terminated=ends == 1, truncated=ends == 2)


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: factor * leaf if eqx.is_inexact_array(leaf) else leaf, tree)


def apart(state):
    """The state with slow copies that are not what they follow."""
    return Parts(state, target=scaled(state.target, 1.3), target_actor=scaled(state.target_actor, 0.6))


def by_hand(algorithm, state, batch, keys):
    """The loss of each transition, from its own draws."""

    def one(e, key):
        action_key, sample_key = jax.random.split(key)
        action, log_prob = state.target_actor.sample(e.next_obs, action_key)
        mean, std = state.target(e.next_obs, action)
        lower = jnp.argmin(mean)
        z = jnp.clip(jax.random.normal(sample_key, ()), -3, 3)
        soft = mean[lower] - state.temperature * log_prob
        y, sample = (e.reward + jnp.where(e.terminated, 0, 0.9 * v) for v in (soft, soft + std[lower] * z))
        values = state.critic(e.obs, e.action)
        return sum(
            gaussian_value_loss(m, s, y, sample, b) for m, s, b in zip(*values, state.deviations, strict=True)
        )

    return jax.vmap(one)(batch, keys)


def test_an_update_by_hand(x64):
    """Backed up by both slow copies; the actor climbs the lower mean of the critics before their step."""

    @jax.jit
    def run():
        made, batch, keys = dsac_t(**SETTINGS), transitions(), jax.random.split(KEY, SIZE)
        step = lambda state, key: (made.update(state, batch, key)[0],) * 2
        start = made.init(KEY, Spec)
        state, moved = jax.lax.scan(step, start, jax.random.split(KEY, 3))
        state = apart(state)
        after, metrics = made.update(state, batch, KEY)  # the fourth: all are due
        seen = Seen(state, state, batch, state.updates + 1, {}, "critic")
        critic = jax.vmap(lambda e, key: made.stages["critic"].loss(seen)(state.critic, e, key)[0])(
            batch, keys
        )

        now = seen._replace(now=after)
        actor = jax.vmap(lambda e, key: made.stages["actor"].loss(now)(state.actor, e, key)[0])(batch, keys)
        action, log_prob = jax.vmap(state.actor.sample)(batch.obs, keys)
        lower = lambda critic: jnp.min(jax.vmap(critic)(batch.obs, action).mean, 1)
        climbed = [state.temperature * log_prob - lower(critic) for critic in (state.critic, after.critic)]
        return (
            (start, moved),
            (state, after),
            metrics,
            (critic, by_hand(made, state, batch, keys)),
            (actor, climbed),
        )

    (start, moved), (state, after), metrics, critic, (actor, (before, later)) = run()
    np.testing.assert_allclose(*critic, rtol=1e-9)
    np.testing.assert_allclose(actor, before, rtol=1e-9)
    assert np.abs(before - later).max() > 1e-3
    for copy, of in (("target", "critic"), ("target_actor", "actor")):
        mixed = ema(getattr(state, copy), getattr(after, of), 0.75)
        for x, y in zip(*map(jax.tree.leaves, (getattr(after, copy), mixed)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9)
    rises = metrics["actor/entropy"] < -2
    assert (after.temperature > state.temperature) == rises
    np.testing.assert_allclose(
        after.temperature, state.temperature * np.exp([-3e-4, 3e-4][int(rises)]), rtol=1e-4
    )

    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    states = [start, *(jax.tree.map(lambda leaf, i=i: leaf[i], moved) for i in range(3))]
    for name in ("actor", "temperature", "target_actor", "target"):
        stood = [same(getattr(a, name), getattr(b, name)) for a, b in itertools.pairwise(states)]
        assert stood == [True, False, True], name
    assert not any(same(a.critic, b.critic) for a, b in itertools.pairwise(states))
    # Half of each step's mean deviation enters b, the first is taken whole.
    batch = transitions()
    stds = [np.mean(jax.vmap(s.critic)(batch.obs, batch.action).std, 0) for s in states]
    np.testing.assert_allclose(states[1].deviations, stds[0], rtol=1e-9)
    np.testing.assert_allclose(states[2].deviations, 0.5 * stds[0] + 0.5 * stds[1], rtol=1e-9)


def test_the_width_of_the_policy_is_bounded():
    actor = jax.eval_shape(lambda: dsac_t().init(KEY, Spec)).actor
    assert (actor.log_std_min, actor.log_std_max) == (-20, 0.5)
