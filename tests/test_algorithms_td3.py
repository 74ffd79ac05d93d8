"""DDPG and TD3: what backs the critics up, what the actor climbs, and who moves when."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from transitions import experience

from dpolicy.algorithms import ddpg, td3
from dpolicy.learning import Parts, Seen
from dpolicy.losses import bellman
from dpolicy.networks import TanhDeterministic
from dpolicy.optimisers import ema

KEY = jax.random.key(0)
TINY = {"hidden": (8,), "critic_hidden": (8,)}
GOAL = jnp.asarray([0.3, -0.7])
BOTH = pytest.mark.parametrize("recipe", [ddpg, td3])


class Spec:
    obs_size = action_size = 2


def seen(batch=None, **parts):
    """What a stage sees where these are the parts, before and now."""
    return Seen(Parts(parts), Parts(parts), batch, jnp.asarray(2), {}, "actor")


def targets(algorithm, batch, target, actor=lambda obs: 0.8 * jnp.ones(2)):
    """The temporal-difference target of every transition, with these in the place of the slow copies."""
    parts = {"critic": target, "target": target, "target_actor": actor}
    loss = algorithm.stages["critic"].loss(seen(**parts))
    zero = lambda obs, action: jnp.zeros(2)
    keys = jax.random.split(KEY, batch.reward.shape[0])
    return jax.jit(jax.vmap(lambda e, key: loss(zero, e, key)[1]["target"]))(batch, keys)


def test_the_next_action_is_smoothed_within_its_bound():
    """|a' - mu(s')| <= .5 and a' in the box, at both ends of both; of N(0, .04) where neither is reached."""
    batch = dataclasses.replace(experience(KEY, 4_000), reward=jnp.zeros(4_000))
    asked = lambda **settings: targets(
        td3(discount=1.0, **TINY, **settings), batch, lambda obs, action: jnp.stack([action[0], 9.0])
    )
    wild = asked(target_noise=3.0)
    assert wild.min() == pytest.approx(0.3, abs=1e-6) and wild.max() == 1
    assert np.mean(wild < 0.3001) > 0.3  # the noise is clipped, not drawn anew
    calm = asked(target_noise=0.02)
    np.testing.assert_allclose([calm.mean(), calm.std()], [0.8, 0.02], rtol=0.05)
    np.testing.assert_allclose(asked(target_noise=0.0), 0.8, rtol=1e-6)


def test_the_lower_target_is_chosen_for_each_transition_and_only_an_end_cuts_it():
    batch = experience(KEY, 12)
    ends = jnp.arange(12) % 3
    batch = dataclasses.replace(batch, terminated=ends == 1, truncated=ends == 2)
    first = batch.next_obs[:, 0]
    assert np.any(first[ends != 1] > 0) and np.any(first[ends != 1] < 0)
    found = targets(td3(discount=0.9), batch, lambda obs, action: jnp.stack([obs[0], -2 * obs[0]]))
    lower = jnp.minimum(first, -2 * first)
    np.testing.assert_allclose(found, batch.reward + jnp.where(ends == 1, 0, 0.9 * lower), rtol=1e-5)


def test_ddpg_backs_up_the_slow_actor_itself():
    batch = experience(KEY, 6)
    found = targets(ddpg(discount=0.9), batch, lambda obs, action: action[:1] + obs[:1], jnp.tanh)
    following = jnp.tanh(batch.next_obs[:, 0]) + batch.next_obs[:, 0]
    np.testing.assert_allclose(found, batch.reward + 0.9 * following, rtol=1e-5)


def curved(scale):
    """A critic of two members, the second of another shape."""
    first = lambda obs, action: jnp.sum(jnp.sin(2 * action + obs)) - action[0] * action[1]
    return lambda obs, action: jnp.stack([first(obs, action), scale * jnp.sum(jnp.cos(3 * action))])


def actor_gradient(algorithm, actor, critic, batch):
    loss = algorithm.stages["actor"].loss(seen(critic=critic))
    mean = lambda actor: jnp.mean(jax.vmap(lambda e: loss(actor, e, KEY)[0])(batch))
    return ravel_pytree(eqx.filter_grad(mean)(actor))[0]


@BOTH
def test_the_gradient_is_that_of_the_first_critic_through_the_action(recipe, x64):
    """- (dQ_1/da)(da/dtheta), by Jacobians and by finite differences, whatever the second critic is."""
    actor, batch = TanhDeterministic(2, 2, hidden=(4,), key=KEY), experience(KEY, 5)
    flat, unflatten = ravel_pytree(actor)
    q = lambda obs, action: curved(0.0)(obs, action)[0]

    @jax.jit
    def results(direction):
        actions = lambda theta: jax.vmap(unflatten(theta))(batch.obs)
        slopes = jax.vmap(jax.grad(q, argnums=1))(batch.obs, actions(flat))
        chained = -jnp.einsum("ba,bap->p", slopes, jax.jacobian(actions)(flat)) / 5
        value = lambda theta: jnp.mean(jax.vmap(q)(batch.obs, actions(theta)))
        differences = (value(flat - 1e-5 * direction) - value(flat + 1e-5 * direction)) / 2e-5
        found = [actor_gradient(recipe(), actor, curved(scale), batch) for scale in (1.0, -5.0)]
        mean = [actor_gradient(td3(actor_value="mean"), actor, curved(scale), batch) for scale in (1.0, -5.0)]
        return found, chained, differences, mean

    direction = jax.random.normal(jax.random.key(1), flat.shape)
    (found, other), chained, differences, mean = results(direction)
    np.testing.assert_array_equal(found, other)
    np.testing.assert_allclose(found, chained, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found @ direction, differences, rtol=1e-7)
    assert np.abs(mean[0] - mean[1]).max() > 0.01


def scanned(algorithm, name, batch, steps, **parts):
    """The part of a stage after so many steps of it alone."""

    @jax.jit
    def run():
        state = algorithm.init(KEY, Spec)
        stage, s = algorithm.stages[name], seen(batch, **{**state, **parts})
        step = lambda part, key: (stage.step(part, s._replace(stage=name), key)[0], None)
        return jax.lax.scan(step, state[name], jax.random.split(KEY, steps))[0].model

    return run()


def test_the_actor_finds_the_maximum():
    batch = experience(KEY, 16)
    q = lambda obs, action: -jnp.sum((action - GOAL) ** 2)[None]
    actor = scanned(
        ddpg(hidden=(16,), critic_hidden=(4,), learning_rate=1e-2), "actor", batch, 1_500, critic=q
    )
    np.testing.assert_allclose(jax.vmap(actor)(batch.obs), jnp.tile(GOAL, (16, 1)), atol=0.02)


def test_without_discount_the_critic_is_the_reward():
    """Four states, two actions, one reward for each pair: a table, which 16 units can hold."""
    state, action = jnp.divmod(jnp.arange(8), 2)
    obs = jnp.stack([jnp.sin(1.6 * state), jnp.cos(1.6 * state)], axis=1)
    batch = dataclasses.replace(
        experience(KEY, 8), obs=obs, next_obs=obs[::-1], action=jnp.stack([2.0 * action - 1] * 2, axis=1)
    )
    made = ddpg(hidden=(4,), critic_hidden=(16, 16), discount=0.0, critic_learning_rate=1e-2)
    critic = scanned(made, "critic", batch, 800)
    np.testing.assert_allclose(jax.vmap(critic)(obs, batch.action)[:, 0], batch.reward, atol=1e-3)


def leaves(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]


def test_who_moves_when():
    """TD3: the critics at each update, all else at the second; DDPG: everything at each, the actor before its copy."""

    @jax.jit
    def run():
        outcome = {}
        for recipe in (td3, ddpg):
            algorithm = recipe(**TINY, target_rate=0.25)
            states = [algorithm.init(KEY, Spec)]
            for key in jax.random.split(KEY):
                states.append(algorithm.update(states[-1], experience(KEY, 4), key)[0])
            outcome[recipe.__name__] = states
        return outcome

    outcome = run()
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))
    begun, first, second = outcome["td3"]
    for name in ("actor", "target_actor", "target"):
        assert same(begun[name], first[name]) and not same(first[name], second[name]), name
    assert not same(begun.critic, first.critic) and not same(first.critic, second.critic)
    moved = [(first, second), *zip(outcome["ddpg"], outcome["ddpg"][1:], strict=False)]
    for before, after in moved:
        for copy, of in (("target_actor", "actor"), ("target", "critic")):
            mixed = ema(getattr(before, copy), getattr(after, of), 0.75)
            for x, y in zip(leaves(getattr(after, copy)), leaves(mixed), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
            assert not same(getattr(before, of), getattr(after, of))


@BOTH
def test_noise_of_exploration_stays_in_the_box(recipe):
    obs, keys = jnp.asarray([0.2, -0.4]), jax.random.split(KEY, 2_000)

    @jax.jit
    def actions():
        wild, calm = recipe(**TINY, exploration_noise=20.0), recipe(**TINY)
        state = calm.init(KEY, Spec)
        act = lambda algorithm: jax.vmap(lambda key: algorithm.act(state, obs, key, "explore")[0])(keys)
        return act(wild), act(calm), calm.act(state, obs, KEY, "evaluate")[0], state.actor(obs)

    wild, calm, evaluated, action = actions()
    assert (wild.min(), wild.max()) == (-1, 1)
    np.testing.assert_array_equal(evaluated, action)
    np.testing.assert_allclose(calm.mean(0), action, atol=0.01)
    np.testing.assert_allclose(calm.std(0), [0.1, 0.1], rtol=0.05)


def test_the_sum_over_critics_is_their_number_times_the_mean():
    critic = lambda obs, action: jnp.asarray([1.0, 2.0, 4.0])
    batch = jax.tree.map(lambda leaf: leaf[0], experience(KEY, 1))
    value = lambda **how: bellman(lambda e, key: jnp.asarray(1.0), **how)(critic, batch, KEY)[0]
    np.testing.assert_allclose([value(), value(reduction="sum")], [10 / 3, 10])
    with pytest.raises(ValueError, match="reduction must be one of mean, sum; got 'min'"):
        value(reduction="min")
