"""CrossQ by hand: the joint pass, what has a gradient, whose statistics move when."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joint_by_hand import forward, joint
from transitions import experience

from dpolicy.algorithms import crossq
from dpolicy.blocks import carried, carrying
from dpolicy.learning import Parts, Seen, algorithm, trained
from dpolicy.optimisers import adam, ema

KEY = jax.random.key(0)
SETTINGS = {"hidden": (5,), "critic_hidden": (6, 4), "discount": 0.9, "temperature": 0.3}
SIZE = 7


class Spec:
    obs_size = action_size = 2


def transitions():
    ends = jnp.arange(SIZE) % 3
    return dataclasses.replace(experience(KEY, SIZE), terminated=ends == 1, truncated=ends == 2)


def begun(made):
    """A state whose running statistics are not those that it starts with."""
    step = lambda state, key: (made.update(state, transitions(), key)[0], None)
    return jax.lax.scan(step, made.init(KEY, Spec), jax.random.split(KEY, 3))[0]


def drawn(actor, obs, key, network=None):
    """A sample of the squashed Gaussian and its log-density, from the outputs of its network."""
    mean, log_std = jnp.split(actor.mlp(obs) if network is None else network, 2)
    log_std = jnp.clip(log_std, -20, 2)
    noise = jax.random.normal(key, mean.shape)
    u = mean + jnp.exp(log_std) * noise
    density = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi) - jnp.log(1 - jnp.tanh(u) ** 2)
    return jnp.tanh(u), jnp.sum(density)


def test_the_critics_loss_and_its_gradient(x64):
    """sum_j (Q_j(s, a) - y)^2 of one pass over both halves, y without gradient."""

    @jax.jit
    def run():
        made = crossq(**SETTINGS)
        state, batch = begun(made), transitions()
        seen = Seen(state, state, batch, state.updates + 1, {}, "critic")
        keys = jax.random.split(KEY, SIZE)
        loss = made.stages["critic"].loss(seen)

        def ours(critic):
            return jnp.mean(jax.vmap(lambda e, k: loss(critic, e, k)[0], axis_name="batch")(batch, keys))

        action, log_prob = jax.vmap(lambda obs, key: drawn(state.actor, obs, key))(batch.next_obs, keys)

        both = lambda critic: [half[..., 0] for half in joint(critic, batch, action)]
        following = jnp.min(both(state.critic)[1], 0) - state.temperature * log_prob
        y = batch.reward + jnp.where(batch.terminated, 0, 0.9 * following)
        theirs = lambda critic: jnp.mean(jnp.sum((both(critic)[0] - y[None]) ** 2, 0))
        return [eqx.filter_value_and_grad(f)(state.critic) for f in (ours, theirs)]

    (value, gradient), (expected, by_hand) = run()
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    parts = lambda tree: (tree.members.mlp.layers, [n.scale for n in tree.members.mlp.norms])
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(parts(by_hand))) > 0.1
    for left, right in zip(*(jax.tree.leaves(parts(tree)) for tree in (gradient, by_hand)), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-7, atol=1e-10)


def test_the_actors_loss(x64):
    """Its network by the batch; the critics by what they have stored, after their step."""

    @jax.jit
    def run():
        made = crossq(**SETTINGS)
        state, batch = begun(made), transitions()
        keys = jax.random.split(KEY, SIZE)
        critic = made.update(state, batch, KEY)[0].critic
        seen = Seen(state, Parts(state, critic=critic), batch, state.updates + 1, {}, "actor")
        loss = made.stages["actor"].loss(seen)
        ours = jax.vmap(lambda e, k: loss(state.actor, e, k)[0], axis_name="batch")(batch, keys)
        outputs = forward(state.actor.mlp, batch.obs)
        action, log_prob = jax.vmap(lambda obs, key, out: drawn(None, obs, key, out))(
            batch.obs, keys, outputs
        )
        values = jax.vmap(critic)(batch.obs, action)
        return ours, state.temperature * log_prob - jnp.min(values, 1)

    ours, theirs = run()
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)


def statistics(model):
    mlp = getattr(model, "members", model).mlp
    return [getattr(norm, name) for norm in (*mlp.inputs, *mlp.norms) for name in ("mean", "var", "calls")]


def test_whose_statistics_move_when():
    """Those of the critics at each update, those of the actor with it, at the third; the temperature with it."""

    @jax.jit
    def run():
        made = crossq(**SETTINGS, renorm_rate=0.25)

        def step(state, key):
            state, metrics = made.update(state, transitions(), key)
            return state, (state, metrics)

        start = made.init(KEY, Spec)
        return start, *jax.lax.scan(step, start, jax.random.split(KEY, 3))[1]

    start, after, metrics = run()
    states = [start, *(jax.tree.map(lambda leaf, i=i: leaf[i], after) for i in range(3))]
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(statistics(a), statistics(b), strict=True))
    for i, (before, after) in enumerate(itertools.pairwise(states), 1):
        assert not same(before.critic, after.critic)
        assert same(before.actor, after.actor) == (i < 3)
        assert (before.temperature == after.temperature) == (i < 3)
        weights = [jax.tree.leaves(state.actor.mlp.layers) for state in (before, after)]
        assert all(np.array_equal(*pair) for pair in zip(*weights, strict=True)) == (i < 3)
    assert "target" not in states[-1]
    assert statistics(states[-1].actor)[2] == 1 and statistics(states[-1].critic)[2].tolist() == [3, 3]
    assert not any("carried" in name for name in metrics)
    # The actions of both halves differ between updates, the observations do not: their mean is known.
    batch = transitions()
    mean = np.mean(np.concatenate([batch.obs, batch.next_obs]), 0)
    np.testing.assert_allclose(statistics(states[1].critic)[0], [0.25 * mean] * 2, rtol=1e-5)
    expected = ema(jnp.zeros(2), jnp.mean(batch.obs, 0), 0.75)
    np.testing.assert_allclose(statistics(states[-1].actor)[0], expected, rtol=1e-5)


def test_what_no_loss_has_reported_is_missed():
    loss = lambda s: lambda model, example, key: (jnp.sum(model**2), {})
    stage = carrying(trained(lambda key, spec: jnp.ones(1), loss), lambda model, values: model)
    made = algorithm("bare", "off_policy", explore=lambda s: s, evaluate=lambda s: s, actor=stage)
    with pytest.raises(ValueError, match="the loss of stage 'actor' must report what is carried, got"):
        made.update(made.init(KEY, Spec), experience(KEY, 2), KEY)


def test_more_than_ten_carried_values_keep_their_order():
    values = [jnp.full((), float(i)) for i in range(12)]
    loss = lambda s: lambda model, example, key: (jnp.sum(model**2), carried(values))
    stage = carrying(trained(lambda key, spec: jnp.ones(12), loss), lambda model, found: jnp.stack(found))
    made = algorithm("ordered", "off_policy", explore=lambda s: s, evaluate=lambda s: s, actor=stage)
    state = made.update(made.init(KEY, Spec), experience(KEY, 2), KEY)[0]
    np.testing.assert_array_equal(state.actor, np.arange(12))


def test_adam_with_another_first_decay():
    optimiser, parameter = adam(0.1, b1=0.5), jnp.zeros(())
    state, first, second = optimiser.init(parameter), 0.0, 0.0
    for step, gradient in enumerate((2.0, -1.0), 1):
        update, state = optimiser.update(jnp.asarray(gradient), state)
        first, second = 0.5 * first + 0.5 * gradient, 0.999 * second + 0.001 * gradient**2
        direction = first / (1 - 0.5**step) / np.sqrt(second / (1 - 0.999**step))
        np.testing.assert_allclose(update, -0.1 * direction, rtol=1e-4)
    with pytest.raises(ValueError, match="b1 must be"):
        adam(0.1, b1=1.0)
