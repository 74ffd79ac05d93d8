"""What carries more than networks between updates: copies, averages, tuned numbers, statistics, and their clocks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.blocks import held_within, q_critics, tuned_noise
from dpolicy.envs import MultiGoal
from dpolicy.learning import (
    Parts,
    Seen,
    Statistics,
    algorithm,
    average,
    every,
    labelled,
    statistics,
    trained,
    tuned,
)
from dpolicy.optimisers import adam, annealed

SPEC = MultiGoal().spec
KEY = jax.random.key(0)


def seen(updates=1, size=2, metrics=None, **parts):
    """What a stage called "it" sees after `updates` updates, this one included."""
    zeros, no = jnp.zeros((3, size)), jnp.zeros(3, bool)
    batch = Transition(zeros, zeros, zeros[:, 0], zeros, no, no)
    metrics = {name: jnp.asarray(value, float) for name, value in (metrics or {}).items()}
    parts = Parts(parts, updates=jnp.asarray(updates - 1))
    return Seen(parts, parts, batch, jnp.asarray(updates), metrics, "it")


def test_a_copy_is_taken_at_its_interval():
    stage = every(average("actor", 1), 3)
    part = stage.start(KEY, SPEC, Parts(actor=jnp.zeros(2)))
    copies = []
    for i in range(1, 8):
        part, _, _ = stage.step(part, seen(i, actor=jnp.full(2, float(i))), KEY)
        copies.append(float(part[0]))
    assert copies == [0, 0, 3, 3, 3, 6, 6]


def test_an_average_follows_what_stands_before_it():
    stage = average("actor", 0.25)
    part, _, _ = stage.step(jnp.zeros(2), seen(actor=jnp.ones(2)), KEY)
    np.testing.assert_allclose(part, 0.25)
    # What the update found, and what the stages before have made of it.
    later = seen(actor=jnp.ones(2))._replace(now=Parts(actor=jnp.full(2, 3.0)))
    for found, expected in ((False, 0.75), (True, 0.25)):
        part, _, _ = average("actor", 0.25, found=found).step(jnp.zeros(2), later, KEY)
        np.testing.assert_allclose(part, expected)
    part, _, _ = average("actor", lambda s: 0.1 * s.updates).step(
        jnp.zeros(2), seen(5, actor=jnp.ones(2)), KEY
    )
    np.testing.assert_allclose(part, 0.5)


@pytest.mark.parametrize(("scale", "limit"), [(0.9, 0.98378), (1.5, 0.53991)])
def test_the_learned_noise_is_an_anneal_to_its_entropy(x64, scale, limit):
    stage = tuned_noise(5.0, std=0.1, target_entropy_scale=scale, interval=1, part="it")
    part = stage.start(KEY, SPEC, Parts())

    def step(part, _):
        part, _, metrics = stage.step(part, seen(it=part), KEY)
        return part, metrics[""]

    part, noise = jax.lax.scan(step, part, None, length=3000)
    np.testing.assert_allclose(part.value, limit, rtol=1e-4)
    np.testing.assert_allclose(part.value, np.exp(-scale) / (0.1 * np.sqrt(2 * np.pi * np.e)), rtol=1e-5)
    # Adam's steps are of its rate at first and shorter later: at least log(5 / limit) / 7e-3 of them.
    assert jnp.argmin(noise > 1.01 * limit) >= np.log(5 / limit) / 7e-3


def test_the_noise_steps_at_its_interval():
    stage = tuned_noise(5.0, std=0.1, target_entropy_scale=0.9, interval=250, part="it")
    start = stage.start(KEY, SPEC, Parts())
    same, _, waits = stage.step(start, seen(249, it=start), KEY)
    moved, _, metrics = stage.step(start, seen(250, it=start), KEY)
    np.testing.assert_allclose(metrics[""], moved.value, rtol=1e-6)
    assert (waits["due"], metrics["due"], waits[""]) == (0, 1, 0)
    np.testing.assert_array_equal(same.value, start.value)
    np.testing.assert_allclose(jnp.log(moved.value / start.value), -7e-3, rtol=1e-3)


def test_a_dual_temperature_finds_its_divergence(getkey):
    """Gaussian Q, 64 samples, KL 2: lambda / std(Q) = .39."""
    slack = lambda s: 2.0 - s.metrics["actor/weight_kl"]
    stage, std = tuned(1.0, slack, adam(5e-3), multiplier="value"), 3.0

    def step(part, key):
        q = std * jax.random.normal(key, (256, 64))
        log_weight = jax.nn.log_softmax(q / part.value, axis=1)
        kl = np.log(64) + jnp.mean(jnp.sum(jnp.exp(log_weight) * log_weight, axis=1))
        part, _, metrics = stage.step(part, seen(metrics={"actor/weight_kl": kl}), KEY)
        return part, metrics[""]

    part = stage.start(getkey(), SPEC, Parts())
    _, temperature = jax.jit(lambda keys: jax.lax.scan(step, part, keys))(jax.random.split(getkey(), 1000))
    assert jnp.mean(temperature[-200:]) / std == pytest.approx(0.39, abs=0.02)


@pytest.mark.parametrize(("slack", "bounds", "end"), [(1.0, {"low": 0.9}, 0.9), (-1.0, {"high": 1.25}, 1.25)])
def test_a_tuned_number_stays_within_its_bounds(slack, bounds, end):
    """It is held at the end that it is pulled across, in the state too, and comes back at once."""
    free = tuned(1.0, lambda s: s.metrics["gap"], adam(0.1))
    held = held_within(free, **bounds)
    parts = [stage.start(KEY, SPEC, Parts()) for stage in (free, held)]
    for i in range(1, 4):
        at = seen(i, metrics={"gap": slack})
        parts = [stage.step(part, at, KEY)[0] for stage, part in zip((free, held), parts, strict=True)]
        expected = np.clip(np.exp(-0.1 * slack * i), bounds.get("low"), bounds.get("high"))
        np.testing.assert_allclose(parts[1].value, expected, rtol=1e-5)
    np.testing.assert_allclose([parts[0].value, parts[1].value], [np.exp(-0.3 * slack), end], rtol=1e-5)


def test_statistics_run_and_standardise_in_that_order():
    assert Statistics(jnp.asarray(10.0), jnp.asarray(2.0))(jnp.asarray(11.0)) == 0.5
    stage = statistics(lambda s: jnp.asarray([1.0, 3.0]), 0.1)
    part, _, metrics = stage.step(stage.start(KEY, SPEC, Parts()), seen(), KEY)
    np.testing.assert_allclose([part.mean, part.std], [0.2, 1.0], rtol=1e-6)
    np.testing.assert_allclose([metrics["mean"], metrics["std"]], [0.2, 1.0], rtol=1e-6)


def test_annealed():
    values = [annealed(jnp.asarray(n), 10.0, 1.0, 250_000) for n in (0, 125_000, 250_000, 10**6)]
    np.testing.assert_allclose(values, [10, 5.5, 1, 1], rtol=1e-6)
    later = [annealed(jnp.asarray(n), 2.0, 1.0, 8, begin=4, shape="cosine") for n in (0, 4, 6, 8, 12, 99)]
    np.testing.assert_allclose(later, [2, 2, 1.5 + 0.5**1.5, 1.5, 1, 1], rtol=1e-6)


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


def quiet(actor, q, obs, key):
    return actor * jnp.tanh(obs), jnp.full((), -0.7)


def build(interval=1, **stages):
    critics = q_critics(critic_hidden=(8,), target_rate=0.25)

    def loss(s):
        q = lambda obs, action: jnp.min(s.now.critic(obs, action))
        return lambda actor, example, key: (
            -q(example.obs, actor * example.action),
            {"updates": s.before.updates},
        )

    act = lambda s: lambda obs, key: s.actor * jnp.tanh(obs)
    return algorithm(
        "test",
        "off_policy",
        explore=act,
        evaluate=act,
        critic=critics.fitted(lambda s: lambda e, key: jnp.min(s.before.target(e.next_obs, e.action))),
        target=every(critics.averaged(), interval),
        actor=every(trained(lambda key, spec: jnp.ones(spec.action_size), loss), interval),
        **stages,
    )


def test_a_delayed_actor_moves_with_the_targets(getkey):
    algorithm = build(interval=3, average=every(average("actor", 0.5), 3))
    state, moved = algorithm.init(getkey(), SPEC), []
    leaves = lambda s: jax.tree.leaves(eqx.filter((s["actor"], s.target, s.average), eqx.is_array))
    update = eqx.filter_jit(algorithm.update)
    for _ in range(6):
        new, metrics = update(state, experience(getkey()), getkey())
        moved.append({bool(jnp.any(a != b)) for a, b in zip(leaves(state), leaves(new), strict=True)})
        assert any(
            bool(jnp.any(a != b))
            for a, b in zip(jax.tree.leaves(state.critic), jax.tree.leaves(new.critic), strict=True)
        )
        assert metrics["actor/due"] == (True in moved[-1])
        state = new
    # (Whatever moves at all; optimiser states hold leaves that do not.)
    assert [True in m for m in moved] == [False, False, True, False, False, True]


def test_stages_see_what_the_update_found_and_what_was_added_before_them(getkey):
    def add(s, example, key):
        return {"twice": 2 * s.before.actor * example.obs}

    def loss(s):
        def one(actor, example, key):
            gone = jnp.sum(actor - s.before.actor)
            return jnp.sum(actor**2), {"added": jnp.sum(example.extras["twice"]), "now": gone}

        return one

    algorithm = build(added=labelled(add), last=trained(lambda key, spec: jnp.ones(2), loss))
    batch, state = experience(getkey()), algorithm.init(getkey(), SPEC)
    new, metrics = algorithm.update(state, batch, getkey())
    np.testing.assert_allclose(metrics["last/added"], jnp.mean(jnp.sum(2 * batch.obs, axis=1)), rtol=1e-5)
    assert metrics["last/now"] == 0  # the actor as it was found, whatever its own stage has done
    assert np.any(new.actor != state.actor)
    assert (state.updates, new.updates) == (0, 1)


def test_bad_arguments():
    for make, message in (
        (lambda: every(average("actor", 1), 0), "updates must be an integer of at least 1, got 0"),
        (lambda: average("actor", 2.0), "rate must be a finite number"),
        (lambda: tuned(0.0, lambda s: 0.0), "start must be a finite number"),
        (
            lambda: held_within(tuned(1.0, lambda s: 0.0), 2.0, 1.0),
            "low must not exceed high, got 2.0 and 1.0",
        ),
        (lambda: held_within(tuned(1.0, lambda s: 0.0), low=-1.0), "low must be a finite number"),
        (lambda: tuned(1.0, lambda: 0.0), r"slack must be a function seen -> scalar, got one of \(\)"),
        (lambda: tuned(1.0, lambda s: 0.0, multiplier="exp"), "multiplier must be one of log, value"),
        (lambda: build(interval=0), "updates must be an integer of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
