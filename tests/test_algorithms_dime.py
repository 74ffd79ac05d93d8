"""DIME by hand: what its critics and its actor descend, who moves when, and what it samples where Q is known."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joint_by_hand import joint
from transitions import experience

from dpolicy.algorithms import dime
from dpolicy.audit import objective
from dpolicy.blocks import path_policy
from dpolicy.fields import LangevinControl
from dpolicy.learning import Parts, Seen
from dpolicy.losses import batched
from dpolicy.optimisers import adam, descend, learner

KEY, SIZE, ATOMS = jax.random.key(0), 7, 6
SETTINGS = {
    **{"hidden": (5,), "time_size": 4, "sampler_steps": 3, "critic_hidden": (6, 4), "atoms": ATOMS},
    **{"discount": 0.9, "temperature": 0.3, "value_low": -3.0, "value_high": 2.0, "entropy_weight": 0.1},
}


class Spec:
    obs_size = action_size = 2


def transitions():
    ends = jnp.arange(SIZE) % 3
    return dataclasses.replace(experience(KEY, SIZE), terminated=ends == 1, truncated=ends == 2)


def projected(law, reward, discount):
    """The law of reward + discount z on the atoms -3 ... 2 of distance 1: each value's share by floor and ceiling."""
    place = jnp.clip(reward + discount * jnp.arange(-3.0, 3.0), -3, 2) + 3
    low = jnp.minimum(jnp.floor(place), ATOMS - 2).astype(int)
    return jnp.zeros(ATOMS).at[low].add(law * (low + 1 - place)).at[low + 1].add(law * (place - low))


@pytest.fixture(scope="module")
def ran():
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(run)())


def run():
    made, batch = dime(**SETTINGS, renorm_rate=0.25), transitions()
    policy = path_policy(sampler_steps=3, hidden=(5,), time_size=4)

    def step(state, key):
        state, metrics = made.update(state, batch, key)
        return state, (state, metrics)

    start = made.init(KEY, Spec)
    state, (states, metrics) = jax.lax.scan(step, start, jax.random.split(KEY, 6))
    keys = jax.random.split(KEY, SIZE)
    over = lambda loss, model: jax.vmap(lambda e, k: loss(model, e, k)[0], axis_name="batch")(batch, keys)
    mean = lambda loss: eqx.filter_value_and_grad(lambda model: jnp.mean(over(loss, model)))
    path = lambda obs: jax.vmap(lambda obs, key: policy.path(state.actor, obs, key))(obs, keys)

    ahead = path(batch.next_obs)
    seen = Seen(state, state, batch, state.updates + 1, {}, "critic")
    value, gradient = mean(made.stages["critic"].loss(seen))(state.critic)

    def by_hand(critic, target):
        log_p = jax.nn.log_softmax(joint(critic, batch, ahead.point)[0])
        entropy = 0.1 * jnp.sum(jnp.exp(log_p) * log_p)
        return (entropy - jnp.sum(jnp.broadcast_to(target[None], log_p.shape) * log_p)) / SIZE

    laws = jax.nn.softmax(joint(state.critic, batch, ahead.point)[1])
    cost = state.temperature * ahead.log_ratio
    keep = jnp.where(batch.terminated, 0, 0.9)
    of_both = jax.vmap(jax.vmap(projected), (0, None, None))(laws, batch.reward - keep * cost, keep)
    target = jnp.mean(of_both, 0)
    critics = (value, gradient), eqx.filter_value_and_grad(by_hand)(state.critic, target)

    later = start.critic  # any other than that which the update has found
    seen = Seen(state, Parts(state, critic=later), batch, state.updates + 1, {}, "actor")
    here = path(batch.obs)
    law = jnp.exp(jax.vmap(later)(batch.obs, here.point).log_probabilities)  # by what the critics have stored
    climbed = jnp.mean(law @ jnp.arange(-3.0, 3.0), 1)
    actors = over(made.stages["actor"].loss(seen), state.actor), state.temperature * here.log_ratio - climbed
    # Beside another target, d, which a cost of 5 is above.
    seen = seen._replace(metrics={"actor/running_cost": jnp.asarray(5.0)}, stage="temperature")
    slack = dime(**SETTINGS, cost_target_scale=1.0).stages["temperature"]
    fresh = made.stages["temperature"].start(KEY, Spec, state)
    risen = slack.step(fresh, seen._replace(updates=jnp.asarray(3)), KEY)[0].value / fresh.value
    return critics, actors, (start, states), metrics, batch, risen


def test_the_critics_loss_and_its_gradient(ran):
    """Cross-entropies of both with the mean of two projections, of r + gamma (z - lambda C'), less the entropies."""
    (value, gradient), (expected, by_hand) = ran[0]
    np.testing.assert_allclose(value, expected, rtol=1e-8)
    parts = lambda tree: (tree.members.mlp.layers, [n.scale for n in tree.members.mlp.norms])
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(parts(by_hand))) > 0.05
    for left, right in zip(*(jax.tree.leaves(parts(tree)) for tree in (gradient, by_hand)), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-9)


def test_the_actors_loss(ran):
    """lambda C less the mean, not the lower, of the two expected values."""
    np.testing.assert_allclose(*ran[1], rtol=1e-8)


def test_who_moves_when(ran):
    """The critics at every update, actor and temperature at the third, after them; nobody has a target."""
    start, states = ran[2]
    assert set(start) == {"critic", "actor", "temperature", "updates"}
    at = lambda i: jax.tree.map(lambda leaf: leaf[i], states) if i >= 0 else start
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    for i in range(6):
        assert not same(at(i).critic, at(i - 1).critic)
        for name in ("actor", "temperature"):
            assert same(at(i)[name], at(i - 1)[name]) == (i % 3 < 2)
    norm = at(0).critic.members.mlp.inputs[0]
    mean = np.mean(np.concatenate([ran[4].obs, ran[4].next_obs]), 0)
    np.testing.assert_allclose(norm.mean, [0.25 * mean] * 2, rtol=1e-6)
    # All that the actor learns moves: also its step size, and the friction of each dimension.
    for part in ("raw_step", "raw_friction"):
        assert np.all(getattr(at(5).actor, part) != getattr(start.actor, part))


def test_the_temperature_falls_while_the_cost_is_below_its_target(ran):
    """lambda (4 d - run) is descended on log lambda, whose first step of Adam is the rate."""
    _, states = ran[2]
    cost = ran[3]["actor/running_cost"]
    assert cost[2] < 8 and cost[5] < 8  # 4 d
    np.testing.assert_allclose(states.temperature[2], 0.3 * np.exp(-1e-3), rtol=1e-6)
    np.testing.assert_allclose(ran[5], np.exp(1e-3), rtol=1e-6)


def test_the_cost_at_the_start(x64):
    """f = 0: running 2.85 a dimension, .44 of the coordinates beyond .96; the step sizes are the code's."""
    policy = path_policy()
    control = jax.jit(lambda: policy.make(KEY, Spec))()
    assert isinstance(control, LangevinControl)
    np.testing.assert_allclose(control.step_size, 0.1, rtol=1e-6)
    point = jax.random.normal(KEY, (2,))
    np.testing.assert_array_equal(control(point, jnp.asarray(0.5), point), 0.0)
    paths = jax.jit(jax.vmap(lambda key: policy.path(control, point, key)))(jax.random.split(KEY, 4000))
    assert paths.point.shape == (4000, 2) and np.abs(paths.point).max() <= 1
    np.testing.assert_allclose(np.mean(np.abs(paths.point) > 0.96), 0.44, atol=0.02)
    # The entropy of tanh(N(0, 6.25)) is -.5145, which the bound misses by less than 1e-3.
    np.testing.assert_allclose(np.mean(paths.log_ratio) / 2, 0.5145, atol=0.06)
    np.testing.assert_allclose(np.mean(paths.running) / 2, 2.3352 + 0.5145, atol=0.06)


def test_a_bandit_of_two_peaks():
    """Both peaks of exp(Q / lambda) are found; E Q - lambda E C stays below lambda log Z by what 16 steps cost."""
    small = {"hidden": (32, 32), "time_size": 16}
    made, policy = dime(**small, temperature=1.0, initial_step_size=0.5), path_policy(**small)
    q = lambda obs, action: -8.0 * jnp.sum((action**2 - 0.25) ** 2)
    batch = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 64, 0), transitions())

    class One:
        obs_size, action_size = 2, 1

    @jax.jit
    def train():
        model, loss = objective(made, made.init(KEY, One), q)
        optimiser, of_batch = adam(5e-3), batched(loss)

        def step(part, key):
            return descend(part, lambda model: of_batch(model, batch, key), optimiser)[0], None

        part, _ = jax.lax.scan(step, learner(model, optimiser), jax.random.split(KEY, 400))
        paths = jax.vmap(lambda key: policy.path(part.model, batch.obs[0], key))(jax.random.split(KEY, 8192))
        grid = jnp.linspace(-1.0, 1.0, 2001)
        return (
            paths,
            jax.vmap(lambda a: q(None, a))(paths.point),
            jnp.exp(jax.vmap(lambda a: q(None, a[None]))(grid)),
        )

    paths, values, density = train()
    grid = np.linspace(-1, 1, 2001)
    total = np.trapezoid(density, grid)
    assert np.log(total) - 0.3 < np.mean(values - paths.log_ratio) < np.log(total)
    np.testing.assert_allclose(np.mean(paths.point > 0), 0.5, atol=0.1)
    np.testing.assert_allclose(
        np.mean(np.abs(paths.point)), np.trapezoid(density * np.abs(grid), grid) / total, atol=0.05
    )
    share = np.mean(np.abs(paths.point) < 0.1)
    np.testing.assert_allclose(share, np.trapezoid(density * (np.abs(grid) < 0.1), grid) / total, atol=0.05)
