"""FlashSAC by hand: its network, what its critics and its actor descend, whose weights stay where."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transitions import experience

from dpolicy.algorithms import flash_sac
from dpolicy.learning import Parts, Seen
from dpolicy.losses import categorical_target
from dpolicy.networks import FlashNet, unit_rows

KEY, SIZE, ATOMS = jax.random.key(0), 7, 5
SETTINGS = {
    **{"hidden": (5,), "critic_hidden": (4,), "atoms": ATOMS, "value_low": -1.0, "value_high": 2.0},
    **{"discount": 0.9, "temperature": 0.3},
}


class Spec:
    obs_size = action_size = 2


def forward(net, *parts):
    """The network on a batch [n, size], by mean and variance of the whole batch."""

    def normal(norm, x):
        x = (x - jnp.mean(x, 0)[None]) / jnp.sqrt(jnp.var(x, 0) + 1e-5)[None]
        return norm.scale[None] * x + norm.shift[None]

    x = jnp.concatenate([normal(norm, part) for norm, part in zip(net.inputs, parts, strict=True)], 1)
    y = x @ jnp.concatenate(net.layers[0].weights, 1).T
    for i, (up, down) in enumerate(net.inner):
        z = jax.nn.relu(normal(net.norms[2 * i], y @ up.weights[0].T))
        y = y + jax.nn.relu(normal(net.norms[2 * i + 1], z @ down.weights[0].T))
    y = y / jnp.sqrt(jnp.mean(y**2, 1) + 1e-6)[:, None] * net.scale[None]
    return y @ net.layers[1].weights[0].T + net.layers[1].bias[None]


def joint(critic, batch, action):
    """The laws of both critics by one pass over [(s, a), (s', action)]: two arrays [2, n, atoms]."""
    obs, acts = (jnp.concatenate(pair) for pair in ((batch.obs, batch.next_obs), (batch.action, action)))
    found = jax.nn.log_softmax(jnp.stack([forward(critic[i].mlp, obs, acts) for i in range(2)]))
    return found[:, :SIZE], found[:, SIZE:]


def drawn(outputs, key):
    """A sample of the squashed Gaussian and its log-density, from the outputs of its network."""
    mean, q = jnp.split(outputs, 2)
    log_std = -10 + 6 * (1 + jnp.tanh(q))
    noise = jax.random.normal(key, mean.shape)
    u = mean + jnp.exp(log_std) * noise
    density = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi) - jnp.log(1 - jnp.tanh(u) ** 2)
    return jnp.tanh(u), jnp.sum(density)


@pytest.fixture(scope="module")
def ran():
    with jax.enable_x64(True):
        return jax.tree.map(lambda x: np.asarray(x) if eqx.is_array(x) else x, jax.jit(run)())


def run():
    ends = jnp.arange(SIZE) % 3
    batch = dataclasses.replace(experience(KEY, SIZE), terminated=ends == 1, truncated=ends == 2)
    made = flash_sac(**SETTINGS, norm_rate=0.25)

    def step(state, key):
        state, metrics = made.update(state, batch, key)
        return state, (state, metrics)

    begin, stages = made.init(KEY, Spec), made.stages
    assert stages is not None
    state, (states, metrics) = jax.lax.scan(step, begin, jax.random.split(KEY, 4))
    keys = jax.random.split(KEY, SIZE)
    # What the critics see is the actor and lambda after their step: here those of another state.
    now = Parts(state, actor=begin["actor"], temperature=begin["temperature"])
    seen = Seen(state, now, batch, state.updates + 1, {}, "critic")

    def mean(loss):
        each = lambda model: jax.vmap(lambda e, k: loss(model, e, k)[0], axis_name="batch")(batch, keys)
        return eqx.filter_value_and_grad(lambda model: jnp.mean(each(model)))

    value, gradient = mean(stages["critic"].loss(seen))(state.critic)
    action, log_prob = jax.vmap(lambda obs, key: drawn(begin.actor.mlp(obs), key))(batch.next_obs, keys)
    slow = joint(state.target, batch, action)[1]
    values = jnp.exp(slow) @ jnp.linspace(-1.0, 2.0, ATOMS)
    lower = jnp.where((values[0] <= values[1])[:, None], slow[0], slow[1])
    reward = batch.reward - jnp.where(batch.terminated, 0, 0.9 * begin.temperature * log_prob)
    project = lambda p, r, end: categorical_target(p, r, end, 0.9, low=-1.0, high=2.0)
    goal = jax.vmap(project)(jnp.exp(lower), reward, batch.terminated)
    by_hand = lambda critic: -jnp.sum(goal[None] * joint(critic, batch, action)[0]) / (2 * SIZE)
    critics = (value, gradient), eqx.filter_value_and_grad(by_hand)(state.critic)

    def climbs(actor):
        outputs = forward(actor.mlp, jnp.concatenate([batch.obs, batch.next_obs]))[:SIZE]
        action, log_prob = jax.vmap(drawn)(outputs, keys)
        values = jax.vmap(state.critic)(batch.obs, action).mean
        return jnp.mean(state.temperature * log_prob - jnp.min(values, 1))

    actors = (
        mean(stages["actor"].loss(seen))(state.actor),
        eqx.filter_value_and_grad(climbs)(state.actor),
    )
    return begin, states, metrics, critics, actors, batch


def weights(model):
    net = getattr(model, "members", model).mlp
    layers = [*net.layers, *(layer for pair in net.inner for layer in pair)]
    return net, [np.concatenate(layer.weights, -1) for layer in layers]


def learned(model):
    """What a gradient reaches: weights, norms, the last scale and bias."""
    net, found = weights(model)
    norms = [array for norm in (*net.inputs, *net.norms) for array in (norm.scale, norm.shift)]
    return [*found, *norms, net.scale, net.layers[-1].bias]


@pytest.mark.parametrize("of", [3, 4], ids=["critics", "actor"])
def test_losses_and_their_gradients(ran, of):
    """Critics: cross-entropy with the lower law of their copies, of a pass of their own, at a' of the new actor."""
    (value, gradient), (expected, by_hand) = ran[of]
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert max(np.abs(leaf).max() for leaf in learned(by_hand)) > 0.01
    for left, right in zip(learned(gradient), learned(by_hand), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-10)


def test_norms_stay_what_they_are(ran):
    """All rows at 1, each BN's scales and shifts at sqrt(n), from the start on; no bias but the last ever moves."""
    begin, states = ran[:2]
    for state in (begin, states):
        for model in (state.actor, state.critic):
            net, rows = weights(model)
            for weight in rows:
                np.testing.assert_allclose(np.linalg.norm(weight, axis=-1), 1, rtol=1e-9)
            whole = [
                tuple(np.concatenate([getattr(n, of) for n in net.inputs], -1) for of in ("scale", "shift"))
            ]
            for scale, shift in whole + [(norm.scale, norm.shift) for norm in net.norms]:
                square = np.sum(scale**2 + shift**2, -1)
                np.testing.assert_allclose(square, scale.shape[-1], rtol=1e-7)
            np.testing.assert_allclose(np.sum(net.scale**2, -1), net.scale.shape[-1], rtol=1e-7)
            assert not any(np.any(layer.bias) for layer in (net.layers[0], *net.inner[0]))
    assert np.any(states.critic.members.mlp.layers[-1].bias)


def test_who_moves_when(ran):
    """Actor and temperature at every second update; the latter by H - d/2 log(2 pi e sigma^2), 2 x -.4782 nats."""
    begin, states, metrics = ran[:3]
    np.testing.assert_array_equal(metrics["actor/due"], [0, 1, 0, 1])
    weight = lambda state: np.asarray(state.actor.mlp.layers[0].weights[0])
    moved = np.any(np.diff(np.concatenate([weight(begin)[None], weight(states)]), axis=0), axis=(1, 2))
    np.testing.assert_array_equal(moved, [False, True, False, True])
    assert 0.5 * math.log(2 * math.pi * math.e * 0.15**2) == pytest.approx(-0.4782, abs=1e-4)
    change = np.diff(np.log([0.3, *states.temperature]))
    gap = metrics["actor/entropy"] + 2 * 0.4782
    # A first step of Adam is its rate, against the slack's sign.
    np.testing.assert_allclose(change[:2], [0, -3e-4 * np.sign(gap[1])], atol=1e-7)
    slow = np.asarray(states.target.members.mlp.layers[0].weights[0])[0]
    first = np.asarray(begin.critic.members.mlp.layers[0].weights[0])
    now = np.asarray(states.critic.members.mlp.layers[0].weights[0])[0]
    np.testing.assert_allclose(slow, 0.99 * first + 0.01 * now, rtol=1e-9)


def test_running_statistics_are_those_of_both_halves(ran):
    """After one update from mean 0 and variance 1 at a rate of 1/4: a quarter of those of s and s' together."""
    states, batch = ran[1], ran[5]
    both = np.concatenate([batch.obs, batch.next_obs])
    norm = states.critic.members.mlp.inputs[0]
    np.testing.assert_allclose(norm.mean[0], 0.25 * np.tile(both.mean(0), (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(norm.var[0], 0.75 + 0.25 * np.tile(both.var(0), (2, 1)), rtol=1e-6)
    actor = states.actor.mlp.inputs[0]
    np.testing.assert_allclose(actor.mean[1], 0.25 * both.mean(0), rtol=1e-6)


def test_any_scale_is_taken_back():
    """Rows scaled by anything are the same network after `unit_rows`; doing it twice changes nothing."""
    net = unit_rows(FlashNet((2,), 3, hidden=(4,), key=KEY))
    layers = lambda n: [layer.weights for layer in (*n.layers, *n.inner[0])]
    scaled = eqx.tree_at(layers, net, jax.tree.map(lambda w: 3.7 * w, layers(net)))
    for model in (unit_rows(scaled), unit_rows(net)):
        for left, right in zip(*map(jax.tree.leaves, (model, net)), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-5)
    with pytest.raises(ValueError, match="hidden must be equal widths, one for each block"):
        FlashNet((2,), 3, hidden=(4, 5), key=KEY)
