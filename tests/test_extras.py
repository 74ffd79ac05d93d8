"""Further state of an actor-critic: each part's rule in numbers, and how slots read it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.envs import MultiGoal
from dpolicy.learning import (
    Extra,
    FromState,
    Statistics,
    Updated,
    actor_critic,
    annealed,
    averaged_actor,
    copied,
    dual_temperature,
    running_statistics,
    tuned_noise,
)

SPEC = MultiGoal().spec


def updated(actor=None, updates=1, moved=True, size=2, **metrics):
    zeros, no = jnp.zeros((3, size)), jnp.zeros(3, bool)
    batch = Transition(zeros, zeros, zeros[:, 0], zeros, no, no)
    metrics = {name: jnp.asarray(value, float) for name, value in metrics.items()}
    return Updated(
        actor, lambda obs, action: jnp.sum(action), batch, metrics, jnp.asarray(updates), jnp.asarray(moved)
    )


def test_a_copy_is_taken_at_its_interval():
    part = copied(3)
    state = part.start(jax.random.key(0), SPEC, jnp.zeros(2))
    seen = []
    for i in range(1, 8):
        state, _ = part.follow(state, updated(jnp.full(2, float(i)), i))
        seen.append(float(state[0]))
    assert seen == [0, 0, 3, 3, 3, 6, 6]


def test_an_average_follows_an_actor_that_moved():
    part = averaged_actor(0.25)
    state, _ = part.follow(jnp.zeros(2), updated(jnp.ones(2), moved=False))
    np.testing.assert_array_equal(state, 0)
    state, _ = part.follow(state, updated(jnp.ones(2)))
    np.testing.assert_allclose(state, 0.25)


@pytest.mark.parametrize(("scale", "limit"), [(0.9, 0.98378), (1.5, 0.53991)])
def test_the_learned_noise_is_an_anneal_to_its_entropy(x64, scale, limit):
    part = tuned_noise(5.0, std=0.1, target_entropy_scale=scale, interval=1)
    state = part.start(jax.random.key(0), SPEC, None)

    def step(state, _):
        state, metrics = part.follow(state, updated())
        return state, metrics["noise"]

    state, noise = jax.lax.scan(step, state, None, length=3000)
    np.testing.assert_allclose(state.value, limit, rtol=1e-4)
    np.testing.assert_allclose(state.value, np.exp(-scale) / (0.1 * np.sqrt(2 * np.pi * np.e)), rtol=1e-5)
    # Adam's steps are of its rate at first and shorter later: at least log(5 / limit) / 7e-3 of them.
    assert jnp.argmin(noise > 0.101 * limit) >= np.log(5 / limit) / 7e-3


def test_the_noise_steps_at_its_interval():
    part = tuned_noise(5.0, std=0.1, target_entropy_scale=0.9, interval=250)
    start = part.start(jax.random.key(0), SPEC, None)
    same, _ = part.follow(start, updated(updates=249))
    moved, metrics = part.follow(start, updated(updates=250))
    np.testing.assert_allclose(metrics["noise"], 0.1 * moved.value, rtol=1e-6)
    np.testing.assert_array_equal(same.value, start.value)
    np.testing.assert_allclose(jnp.log(moved.value / start.value), -7e-3, rtol=1e-3)


def test_the_dual_temperature_finds_its_divergence(getkey):
    """Gaussian Q, 64 samples, KL 2: lambda / std(Q) = .39."""
    part, std = dual_temperature(1.0, target_kl=2.0, learning_rate=5e-3), 3.0

    def step(state, key):
        q = std * jax.random.normal(key, (256, 64))
        log_weight = jax.nn.log_softmax(q / state.value, axis=1)
        kl = np.log(64) + jnp.mean(jnp.sum(jnp.exp(log_weight) * log_weight, axis=1))
        return part.follow(state, updated(weight_kl=kl))

    state = part.start(getkey(), SPEC, None)
    _, metrics = jax.jit(lambda keys: jax.lax.scan(step, state, keys))(jax.random.split(getkey(), 1000))
    assert jnp.mean(metrics["temperature"][-200:]) / std == pytest.approx(0.39, abs=0.02)


def test_statistics_run_and_standardise_in_that_order():
    assert Statistics(jnp.asarray(10.0), jnp.asarray(2.0))(jnp.asarray(11.0)) == 0.5
    part = running_statistics(lambda updated: jnp.asarray([1.0, 3.0]), 0.1)
    state = part.start(jax.random.key(0), SPEC, None)
    state, metrics = part.follow(state, updated())
    np.testing.assert_allclose([state.mean, state.std], [0.2, 1.0], rtol=1e-6)
    np.testing.assert_allclose([metrics["q_mean"], metrics["q_std"]], [0.2, 1.0], rtol=1e-6)


def test_annealed():
    values = [annealed(jnp.asarray(n), 10.0, 1.0, 250_000) for n in (0, 125_000, 250_000, 10**6)]
    np.testing.assert_allclose(values, [10, 5.5, 1, 1], rtol=1e-6)
    later = [annealed(jnp.asarray(n), 2.0, 1.0, 8, begin=4, shape="cosine") for n in (0, 4, 6, 8, 12, 99)]
    np.testing.assert_allclose(later, [2, 2, 1.5 + 0.5**1.5, 1.5, 1, 1], rtol=1e-6)


def policy(actor, q, obs, key):
    return actor * jnp.tanh(obs), jnp.full((), -0.7)


def plain_loss(q, temperature):
    def loss(actor, example, key):
        metrics = {"temperature_seen": temperature, "next": jnp.sum(example.extras["next_action"])}
        return -q(example.obs, actor * example.action), metrics

    return loss


def build(**options):
    settings = {
        "explore": policy,
        "evaluate": policy,
        "actor_loss": plain_loss,
        "critic_hidden": (8,),
        "target_rate": 0.25,
        **options,
    }
    return actor_critic(name="test", make_actor=lambda key, spec: jnp.ones(spec.action_size), **settings)


def experience(key, size=6):
    keys = jax.random.split(key, 4)
    no = jnp.zeros(size, bool)
    return Transition(
        jax.random.normal(keys[0], (size, SPEC.obs_size)),
        jnp.tanh(jax.random.normal(keys[1], (size, SPEC.action_size))),
        jax.random.normal(keys[2], (size,)),
        jax.random.normal(keys[3], (size, SPEC.obs_size)),
        no,
        no,
    )


def test_slots_read_the_state(getkey):
    counter = Extra(
        lambda key, spec, actor: jnp.full((), 2.0),
        lambda state, updated: (state + 1, {"count": state, "last": updated.updates.astype(float)}),
    )
    doubled = FromState(lambda s: lambda actor, q, obs, key: (s.count * actor * obs, jnp.zeros(())))
    algorithm = build(
        extras={"count": counter},
        explore=doubled,
        temperature=FromState(lambda s: 0.1 * s.count),
        actor_loss=FromState(lambda s: plain_loss),
    )
    batch, state = experience(getkey()), algorithm.init(getkey(), SPEC)
    new, metrics = algorithm.update(state, batch, getkey())
    # The state before the update is what slots see; the next actions are those of the target.
    assert metrics["actor/temperature_seen"] == pytest.approx(0.2)
    np.testing.assert_allclose(
        metrics["actor/next"], jnp.mean(jnp.sum(2 * batch.next_obs, axis=1)), rtol=1e-5
    )
    assert (metrics["count"], metrics["last"], new.count) == (2, 1, 3)
    action, _ = algorithm.act(new, batch.obs[0], getkey(), "explore")
    np.testing.assert_allclose(action, 3 * new.actor * batch.obs[0], rtol=1e-6)
    action, _ = algorithm.act(new, batch.obs[0], getkey(), "evaluate")
    np.testing.assert_allclose(action, new.actor * jnp.tanh(batch.obs[0]), rtol=1e-6)


def test_a_delayed_actor_moves_with_the_targets(getkey):
    algorithm = build(actor_interval=3, extras={"average": averaged_actor(0.5)})
    state, moved = algorithm.init(getkey(), SPEC), []
    leaves = lambda s: jax.tree.leaves(eqx.filter((s.actor, s.target, s.extra), eqx.is_array))
    for _ in range(6):
        new, _ = algorithm.update(state, experience(getkey()), getkey())
        moved.append({bool(jnp.any(a != b)) for a, b in zip(leaves(state), leaves(new), strict=True)})
        assert any(
            bool(jnp.any(a != b))
            for a, b in zip(jax.tree.leaves(state.critic), jax.tree.leaves(new.critic), strict=True)
        )
        state = new
    # (Whatever moves at all; optimiser states hold leaves that do not.)
    assert [True in m for m in moved] == [False, False, True, False, False, True]


def test_bad_arguments():
    for make, message in (
        (lambda: copied(0), "reference_interval must be an integer of at least 1, got 0"),
        (lambda: averaged_actor(2.0), "average_rate must be a finite number"),
        (lambda: dual_temperature(1.0, target_kl=0.0), "target_kl must be a finite number"),
        (lambda: build(actor_interval=0), "actor_interval must be an integer of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
