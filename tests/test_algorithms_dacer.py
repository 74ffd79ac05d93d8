"""DACER and DACERv2 against their specifications: what the noise is, where gradients go, and what moves omega."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.algorithms import dacer, dacerv2
from dpolicy.blocks import backpropagated, critic_function, entropic_noise, field_policy, tuned_by_samples
from dpolicy.fields import AbstractField, AbstractSchedule, FunctionField, LinearVP
from dpolicy.learning import Parts, Seen, run_stages
from dpolicy.losses import add, match_directions, q_direction
from dpolicy.networks import QNetwork
from dpolicy.samplers import ddpm

KEY, OBS, NO = jax.random.key(0), jnp.asarray([0.5, -0.3]), jnp.asarray(False)
EXAMPLE = Transition(OBS, jnp.zeros(2), jnp.asarray(0.5), OBS, NO, NO)
VP = LinearVP(0.1, 10.0, t_min=0.0)
TINY = {"hidden": (8,), "critic_hidden": (8,), "sampler_steps": 2, "embedding": "raw"}


class Spec:
    obs_size, action_size = 2, 2


def seen(**parts):
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), EXAMPLE)
    parts = Parts(parts, updates=jnp.asarray(0))
    return Seen(parts, parts, batch, jnp.asarray(1), {})


@pytest.mark.parametrize(("entropy", "sign"), [(5.0, -1), (-5.0, 1)])
def test_omega_falls_where_the_entropy_is_above_its_target_by_three_hundredths(entropy, sign):
    stage = tuned_by_samples(3.0, lambda s, key: jnp.asarray(entropy), lambda s: 0.5, 0.03)
    part = stage.start(KEY, Spec(), Parts())  # pyright: ignore[reportArgumentType]
    part, added, metrics = stage.step(part, seen(), KEY)
    np.testing.assert_allclose(np.log(part.value / 3), sign * 0.03, rtol=1e-3)
    assert metrics == {"": part.value, "entropy": entropy} and not added


def flat(obs, action):
    return jnp.zeros(())


class Shift(AbstractField):
    """A number for each coordinate."""

    shift: jax.Array
    schedule: AbstractSchedule = VP
    prediction: str = eqx.field(static=True, default="noise")
    action_size: int = eqx.field(static=True, default=2)

    def __call__(self, x, t, obs):
        return self.shift


def ends(value):
    """A policy whose chain ends at `value` and the shift of its field."""
    policy = field_policy(schedule="vp", sampler="ddpm_posterior", sampler_steps=2)
    return policy._replace(sample=lambda field, obs, key: jnp.asarray(value) + field.shift)


def test_the_noise_of_the_head_and_its_gradient():
    """Its deviation is c omega in the loss, in acting and in the target alike; the clip stops the gradient."""
    behave = entropic_noise(policy=ends([0.0, 0.9]), exploration_noise=0.15).policy(
        Parts(noise=jnp.asarray(2.0))
    )
    keys = jax.random.split(KEY, 4000)
    act = lambda shift, key: behave(Shift(shift), flat, OBS, key)[0]
    actions = jax.jit(jax.vmap(act, (None, 0)))(jnp.zeros(2), keys)
    np.testing.assert_allclose(np.std(actions[:, 0]), 0.3, rtol=0.04)
    assert np.max(np.abs(actions)) == 1.0
    slopes = jax.jit(jax.vmap(jax.grad(lambda shift, key: jnp.sum(act(shift, key))), (None, 0)))(
        jnp.zeros(2), keys
    )
    np.testing.assert_array_equal(np.asarray(slopes), np.abs(np.asarray(actions)) < 1)
    assert 0.2 < np.mean(slopes[:, 1] == 0) < 0.5  # P(.9 + .3 z > 1) = .37


@pytest.mark.parametrize("estimate", ["mixture", "mixture_value", "gaussian", "neighbours"])
def test_the_entropy_is_that_of_what_it_does(estimate):
    """A point and noise of .3 in two dimensions: 0.430 nats; the target is -0.9 for each of them."""
    behaviour = entropic_noise(
        policy=ends([0.0, 0.1]), entropy_estimate=estimate, entropy_interval=1, entropy_components=1
    )
    stage = behaviour.stages["noise"]
    part = stage.start(KEY, Spec(), Parts())
    parts = {"actor": Shift(jnp.zeros(2)), "critic": lambda obs, action: jnp.zeros(2), "noise": part}
    step = lambda: stage.step(part, seen(**parts)._replace(stage="noise"), KEY)
    moved, _, metrics = jax.jit(step)()
    np.testing.assert_allclose(metrics["entropy"], np.log(2 * np.pi * np.e * 0.3**2), atol=0.1)
    np.testing.assert_allclose(moved.value, 3 * np.exp(-0.03), rtol=1e-4)


def test_omega_is_held_where_it_is_told():
    behaviour = entropic_noise(
        policy=ends([0.0, 0.1]), entropy_estimate="gaussian", entropy_interval=1, least_noise=2.95
    )
    stage = behaviour.stages["noise"]
    part = stage.start(KEY, Spec(), Parts())
    parts = {"actor": Shift(jnp.zeros(2)), "critic": lambda obs, action: jnp.zeros(2), "noise": part}
    moved, _, metrics = jax.jit(lambda: stage.step(part, seen(**parts)._replace(stage="noise"), KEY))()
    np.testing.assert_allclose([moved.value, metrics[""]], 2.95, rtol=1e-6)  # 3 exp(-.03) without
    with pytest.raises(ValueError, match="least_noise must not exceed initial_noise, got 4.0 and 3.0"):
        dacer(least_noise=4.0)
    with pytest.raises(ValueError, match="initial_noise must not exceed most_noise, got 3.0 and 2.0"):
        dacer(most_noise=2.0)


def test_more_components_than_samples_are_refused():
    with pytest.raises(ValueError, match="entropy_samples must be at least entropy_components, 3, got 2"):
        dacer(entropy_samples=2)


def test_the_actor_moves_neither_critic_nor_omega():
    """At every second update it moves, and with it the targets, of the critics after their step; omega waits."""
    method = dacer(**TINY, entropy_samples=4)
    critics = {name: method.stages[name] for name in ("critic",)}

    batch, update = seen().batch, eqx.filter_jit(method.update)
    start = eqx.filter_jit(method.init)(KEY, Spec())
    first, _ = update(start, batch, jax.random.key(1))
    second, metrics = update(first, batch, jax.random.key(2))
    at = Seen(first, first, batch, first.updates + 1, {})
    alone = eqx.filter_jit(lambda: run_stages(critics, at, jax.random.key(2)).now)()
    start, first, second, alone = (eqx.filter(state, eqx.is_array) for state in (start, first, second, alone))
    same = lambda one, other, name: eqx.tree_equal(getattr(one, name), getattr(other, name))
    assert same(start, first, "actor") and same(start, first, "target") and not same(start, first, "critic")
    assert not same(first, second, "actor") and metrics["actor/due"] == metrics["target/due"] == 1
    np.testing.assert_allclose(second.noise, 3.0, rtol=1e-6)
    assert metrics["noise/due"] == 0
    for found, expected in zip(jax.tree.leaves(second.critic), jax.tree.leaves(alone.critic), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    share = jax.tree.map(lambda old, new: 0.995 * old + 0.005 * new, first.target, second.critic)
    for found, expected in zip(jax.tree.leaves(second.target), jax.tree.leaves(share), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("noisy", [True, False])
def test_the_actor_ascends_the_lower_mean_through_its_chain(noisy, x64):
    """In one step a chain is a generator of noise, a = clip(data(x_1)), with the gradient of Q there."""
    field = TINY | {"sampler_steps": 1, "prediction": "data", "output_scale": 0.1}
    method = dacer(**field, noise_in_loss=noisy, initial_noise=0.5)

    def both():
        state = method.init(KEY, Spec())
        loss = method.stages["actor"].loss(Seen(state, state, None, jnp.asarray(1), {}))
        found = jax.grad(lambda actor: loss(actor, EXAMPLE, KEY)[0])

        def by_hand(actor):
            sample_key, noise_key = jax.random.split(KEY) if noisy else (KEY, KEY)
            x = jax.random.normal(jax.random.split(sample_key)[0], (2,))
            action = jnp.clip(actor(x, jnp.asarray(1.0), OBS), -1, 1)
            action = jnp.clip(action + 0.05 * jax.random.normal(noise_key, (2,)) * noisy, -1, 1)
            return -jnp.min(state.critic(OBS, action).mean)

        return found(state.actor), jax.grad(by_hand)(state.actor)

    found, expected = jax.jit(both)()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.any(other != 0)
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-12)


def test_the_settings_of_the_gradient_are_those_of_the_sampler():
    policy = field_policy(sampler_steps=4)
    assert backpropagated(policy=policy) is policy
    held = backpropagated(policy=policy, gradient_steps=3, gradient_norm=0.5).sample
    assert held.truncate == 3 and held.control.max_norm == 0.5  # pyright: ignore[reportFunctionMemberAccess]


def test_the_direction_of_a_gradient():
    """Its norm is w |g| / (|g| + floor), and zero where the gradient is."""
    q = lambda obs, action: -jnp.sum(action**2) / 2
    found = q_direction(q, OBS, jnp.asarray([0.3, -0.4]), 2.0, floor=0.5)
    np.testing.assert_allclose(found, 2.0 * np.asarray([-0.3, 0.4]) / (0.5 + 0.5), rtol=1e-6)
    assert np.all(np.asarray(q_direction(q, OBS, jnp.zeros(2), 2.0)) == 0)


def test_scores_are_matched_to_directions_along_the_chain(x64):
    """The weights of the specification; and the score they ask for, where the direction of Q is the same everywhere."""
    direction = jnp.asarray([0.6, -0.8])
    q = lambda obs, action: jnp.exp(direction @ action)  # of a size that changes, of one direction
    weights = np.asarray([0.2466, 0.3679, 0.5488, 0.8187, 1.2214])  # i = 1, ..., 5

    def scored(scale, x, t, obs):
        step = jnp.round(t * 5).astype(int) - 1
        return -VP.sigma(t) * scale[step] * direction

    def field(scale):
        return FunctionField(partial(scored, scale), schedule=VP, prediction="noise", action_size=2)

    loss = match_directions(ddpm(steps=5, variance="posterior"), q)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def one(scale, key):
        slope = jax.grad(lambda scale: loss(field(scale), EXAMPLE, key)[0])(scale)
        return *loss(field(scale), EXAMPLE, key), slope

    keys = jax.random.split(KEY, 200)
    value, metrics, slope = one(jnp.asarray(weights), keys)
    np.testing.assert_allclose(value, 0, atol=1e-8)
    np.testing.assert_allclose(slope, 0, atol=3e-4)
    found, count = np.unique(np.round(metrics["weight"], 4), return_counts=True)
    np.testing.assert_allclose(found, weights, atol=6e-5)
    assert np.all(count > 20)  # of 200, i is uniform
    assert np.all(np.asarray(one(jnp.zeros(5), keys)[0]) > 0.05)


def test_matching_directions_moves_no_critic_and_only_the_score(x64):
    """No gradient reaches the critic, nor the chain that made the states."""
    critic, schedule = QNetwork(2, 2, hidden=(4,), activation="tanh", key=KEY), VP
    sampler = ddpm(steps=3, variance="posterior")

    def value(critic, shift, key):
        field = FunctionField(
            lambda x, t, obs: jnp.tanh(x) + shift, schedule=schedule, prediction="noise", action_size=2
        )
        return match_directions(sampler, critic)(field, EXAMPLE, key)

    def by_hand(shift, key):
        """With the states of the chain as constants."""
        chain_key, step_key = jax.random.split(key)
        field = FunctionField(
            lambda x, t, obs: jnp.tanh(x), schedule=schedule, prediction="noise", action_size=2
        )
        row = jax.random.randint(step_key, (), 0, 3)
        x = sampler.chain(field, OBS, chain_key)[row]
        sigma = VP.sigma(1 - row / 3)
        target = q_direction(critic, OBS, x, jnp.exp(0.4 * (3 - row) - 1.8))
        return jnp.sum((-(jnp.tanh(x) + shift) / sigma - target) ** 2)

    @jax.jit
    def slopes():
        of = lambda critic: value(critic, jnp.zeros(2), KEY)[0]
        return (
            jax.grad(of)(critic),
            jax.grad(lambda shift: value(critic, shift, KEY)[0])(jnp.zeros(2)),
            jax.grad(lambda shift: by_hand(shift, KEY))(jnp.zeros(2)),
        )

    of_critic, of_shift, expected = slopes()
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(of_critic))
    np.testing.assert_allclose(of_shift, expected, rtol=1e-9)


def test_dacerv2_is_dacer_in_five_steps_and_one_more_term():
    method, plain = dacerv2(**TINY, direction_weight=0.5), dacer(**TINY)
    state = jax.jit(lambda: plain.init(KEY, Spec()))()
    at = Seen(state, state, None, jnp.asarray(1), {})
    q = critic_function(state.critic)
    directions = match_directions(ddpm(steps=2, variance="posterior"), q)
    expected = add(q=(1.0, plain.stages["actor"].loss(at)), direction=(0.5, directions))
    both = jax.jit(
        lambda: (
            method.stages["actor"].loss(at)(state.actor, EXAMPLE, KEY)[0],
            expected(state.actor, EXAMPLE, KEY)[0],
        )
    )
    np.testing.assert_allclose(*both(), rtol=1e-6)
    assert list(method.stages) == list(plain.stages)
