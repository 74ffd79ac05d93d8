"""FastSAC: an update by hand, and how its actor starts."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transitions import experience

from dpolicy.algorithms import fast_sac
from dpolicy.learning import Parts, Seen
from dpolicy.losses import categorical_target

KEY, SIZE = jax.random.key(0), 4
SETTINGS = {
    **{"hidden": (8,), "critic_hidden": (8,), "critic_atoms": 5, "critic_low": -1.0, "critic_high": 2.0},
    **{"discount": 0.9, "temperature": 0.3, "target_entropy_scale": 0.5, "actor_interval": 2},
}


class Spec:
    obs_size = action_size = 2


def target_by_hand(laws, e, action_cost, value):
    """Each critic's law of r + gamma (1 - terminated) (z - cost), or that of the lower mean for both."""
    reward = e.reward - jnp.where(e.terminated, 0, 0.9 * action_cost)
    project = lambda p: categorical_target(p, reward, e.terminated, 0.9, low=-1.0, high=2.0)
    law = jnp.exp(laws.log_probabilities)
    return [project(law[jnp.argmin(laws.mean)])] * 2 if value == "min" else list(map(project, law))


@pytest.mark.parametrize("value", ["mean", "min"])
def test_an_update_by_hand(value, x64):
    batch = dataclasses.replace(experience(KEY, SIZE), terminated=jnp.arange(SIZE) % 3 == 1)

    @jax.jit
    def run():
        made = fast_sac(**SETTINGS, actor_value=value)
        start, stages = made.init(KEY, Spec), made.stages
        assert stages is not None
        noise = lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size, dtype=float)).reshape(leaf.shape)
        shake = lambda model: jax.tree.map(lambda x: noise(x) if eqx.is_inexact_array(x) else x, model)
        ends = lambda critic: (critic.members.low, critic.members.high)
        slow = eqx.tree_at(ends, shake(start.target), ends(start.target))
        actor = start["actor"]
        start = Parts(start, target=slow, actor=eqx.tree_at(lambda a: a.model, actor, shake(actor.model)))
        first, _ = made.update(start, batch, KEY)
        second, _ = made.update(first, batch, KEY)
        seen = Seen(start, first, batch, start.updates + 1, {}, "")
        keys = jax.random.split(KEY, SIZE)

        def one(e, key):
            action, log_prob = start.actor.sample(e.next_obs, key)
            e = dataclasses.replace(e, extras=stages["following"].label(seen, e, key))
            ours = stages["critic"].loss(seen)(start.critic, e, key)[0]
            goals = target_by_hand(start.target(e.next_obs, action), e, 0.3 * log_prob, value)
            theirs = -sum(map(jnp.dot, start.critic(e.obs, e.action).log_probabilities, goals))
            climbs = stages["actor"].loss(seen)(start.actor, e, key)[0]
            here, density = start.actor.sample(e.obs, key)
            values = first.critic(e.obs, here).mean
            reduced = jnp.mean(values) if value == "mean" else jnp.min(values)
            return (ours, theirs), (climbs, first.temperature * density - reduced)

        return start, first, second, *jax.vmap(one)(batch, keys)

    start, first, second, critic, actor = run()
    np.testing.assert_allclose(*critic, rtol=1e-9)
    np.testing.assert_allclose(*actor, rtol=1e-9)
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    assert same(start.actor, first.actor) and not same(first.actor, second.actor)
    # lambda moves though the actor does not: by Adam's first step, up, as an entropy near -2.2 is below -1.
    np.testing.assert_allclose(np.log(first.temperature / 0.3), 3e-4, rtol=1e-4)


def test_the_actor_starts_in_the_middle():
    """Mean 0 and the width halfway between its bounds, e^-2.5, in every state; critics have layer norms."""
    state = fast_sac(hidden=(8,), critic_hidden=(8,), critic_atoms=5).init(KEY, Spec)
    mean, log_std = state.actor.parameters(jnp.asarray([3.0, -7.0]))
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_allclose(log_std, -2.5)
    assert len(state.critic.members.q.mlp.norms) == len(state.actor.mlp.norms) == 1
