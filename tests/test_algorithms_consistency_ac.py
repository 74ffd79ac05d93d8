"""Consistency-AC against its specification: what it descends, whose action backs it up, and when it acts at random."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from transitions import experience

from dpolicy._types import Transition
from dpolicy.algorithms import consistency_ac
from dpolicy.fields import ConsistencyField, Karras
from dpolicy.learning import Parts, Seen
from dpolicy.losses import add, batched, bptt, consistency_matching, denoiser_weight, matching, perturb
from dpolicy.optimisers import ema
from dpolicy.samplers import consistency

KEY, SIZE = jax.random.key(0), 6
SETTINGS = {
    **{
        "hidden": (8,),
        "critic_hidden": (8,),
        "discount": 0.9,
        "target_rate": 0.25,
        "embedding": "sinusoidal",
    },
    **{
        "average_rate": 0.4,
        "average_interval": 2,
        "average_after": 2,
        "sampler_steps": 2,
        "initialisation": "torch",
    },
    **{"levels": 5, "candidates": 2, "evaluation_candidates": 2},
}


class Spec:
    obs_size = action_size = 2


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: factor * leaf if eqx.is_inexact_array(leaf) else leaf, tree)


def apart(state, updates=0):
    """The state with slow copies that are not what they follow."""
    return Parts(
        state,
        target=scaled(state.target, 1.3),
        average=scaled(state.average, 0.6),
        updates=jnp.asarray(updates),
    )


def two_steps(actor, obs, key):
    """f at noise of 80, then of 2; the action alone is clipped."""
    first, second = jax.random.split(key)
    schedule = Karras()
    x = actor(80 * jax.random.normal(first, (2,)), jnp.asarray(1.0), obs)
    noise = jnp.sqrt(2.0**2 - 0.002**2) * jax.random.normal(second, (1, 2))[0]
    return jnp.clip(actor(x + noise, schedule.time(2.0), obs), -1, 1)


def test_what_the_actor_descends(x64):
    """A critic in units of the other, through both calls, and the consistency loss at a count of levels that grows."""
    method = consistency_ac(**SETTINGS, q_weight=0.7, consistency_weight=0.3, scaled=True, level_updates=20)

    @jax.jit
    def both(start, updates, count):
        state, batch = apart(start, updates), experience(KEY, SIZE)
        loss = batched(method.stages["actor"].loss(Seen(state, state, batch, jnp.asarray(1), {})))
        keys = jax.random.split(KEY, SIZE)
        climb_keys, fit_keys = (jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys) for i in range(2))
        fit = consistency_matching(state.average, levels=count, scaled=True)
        fit = jax.vmap(lambda e, key: fit(state.actor, e, key)[0])(batch, fit_keys)

        def climb(actor, j):
            sample = lambda obs, key: two_steps(actor, obs, jax.random.split(key)[0])
            values = jax.vmap(state.critic)(batch.obs, jax.vmap(sample)(batch.obs, climb_keys))
            size = jnp.mean(jnp.abs(jax.lax.stop_gradient(values[:, 1 - j])))
            return -jnp.mean(values[:, j]) / size

        (_, metrics), slopes = jax.value_and_grad(
            lambda actor: (lambda found: (found[1]["q/loss"], found[1]))(loss(actor, batch, KEY)),
            has_aux=True,
        )(state.actor)
        by_hand = [jax.value_and_grad(climb)(state.actor, j) for j in range(2)]
        return metrics, slopes, jnp.mean(fit), by_hand

    start = eqx.filter_jit(method.init)(KEY, Spec())
    for updates, count in ((0, 2.0), (5, 4.0), (40, 5.0)):
        metrics, slopes, fit, by_hand = both(start, jnp.asarray(updates), jnp.asarray(count))
        np.testing.assert_allclose(metrics["fit/loss"], fit, rtol=1e-9)
        np.testing.assert_allclose(metrics["loss"], 0.7 * metrics["q/loss"] + 0.3 * fit, rtol=1e-9)
        errors = [abs(metrics["q/loss"] - value) for value, _ in by_hand]
        assert min(errors) < 1e-9 < max(errors)
        _, expected = by_hand[int(np.argmin(errors))]
        for one, other in zip(jax.tree.leaves(slopes), jax.tree.leaves(expected), strict=True):
            assert np.any(other != 0)
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-12)


def test_settings_of_a_term_that_is_off_are_refused(x64):
    """Where the weight is the number 0, which leaves the term out; a sweep's 0 does not, and adds nothing."""
    for setting, said in (({"scaled": True}, "True"), ({"level_updates": 10}, "10")):
        sentence = f"{next(iter(setting))} needs a consistency_weight above 0, got {said} without."
        with pytest.raises(ValueError, match=re.escape(sentence)):
            consistency_ac(**SETTINGS, **setting)

    def descended(weight):
        method = consistency_ac(**SETTINGS, consistency_weight=weight)
        state, batch = apart(method.init(KEY, Spec())), experience(KEY, SIZE)
        return batched(method.stages["actor"].loss(Seen(state, state, batch, jnp.asarray(1), {})))(
            state.actor, batch, KEY
        )

    (alone, metrics), (beside, more) = jax.jit(lambda weight: (descended(0.0), descended(weight)))(0.0)
    np.testing.assert_allclose(alone, beside, rtol=1e-12)
    assert "fit/loss" in more and "fit/loss" not in metrics


def test_the_slow_copy_backs_the_critics_up_and_waits(x64):
    method = consistency_ac(**SETTINGS)
    start, update = eqx.filter_jit(method.init)(KEY, Spec()), eqx.filter_jit(method.update)

    def both():
        state, batch = apart(start), experience(KEY, SIZE)
        loss = method.stages["critic"].loss(Seen(state, state, batch, jnp.asarray(1), {}))

        def by_hand(e, key):
            value = jnp.min(state.target(e.next_obs, two_steps(state.average, e.next_obs, key)))
            return jnp.sum((state.critic(e.obs, e.action) - e.reward - 0.9 * value) ** 2)

        keys = jax.random.split(KEY, SIZE)
        found = jax.vmap(lambda e, key: loss(state.critic, e, key)[0])(batch, keys)
        return found, jax.vmap(by_hand)(batch, keys)

    np.testing.assert_allclose(*jax.jit(both)(), rtol=1e-8)
    state, batch, moved = apart(start), experience(KEY, SIZE), []
    for step in range(4):
        before = state
        state, metrics = update(state, batch, jax.random.key(step))
        moved.append(float(metrics["average/due"]))
        for name, followed, decay in (
            ("target", "critic", 0.75),
            ("average", "actor", 0.6 if step == 3 else 1.0),
        ):
            expected = ema(getattr(before, name), getattr(state, followed), decay)
            for one, other in zip(*map(jax.tree.leaves, (getattr(state, name), expected)), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert moved == [0, 0, 0, 1]


def test_it_explores_at_random_with_a_share_that_falls():
    """1, .6 and .2 of actions that are uniform, before, at half and at the end of the updates; never in evaluation."""
    method = consistency_ac(**SETTINGS, random_share=0.2, random_updates=10)
    start = eqx.filter_jit(method.init)(KEY, Spec())
    start = Parts(
        start, actor=jax.tree.map(lambda leaf: 0 * leaf, start["actor"])
    )  # whose own actions are near 0

    @jax.jit
    def actions(updates):
        state = Parts(start, updates=updates)
        act = jax.vmap(lambda key, mode: method.act(state, jnp.zeros(2), key, mode)[0], (0, None))
        return {mode: act(jax.random.split(KEY, 2_000), mode) for mode in ("explore", "evaluate")}

    for updates, share in ((0, 1.0), (5, 0.6), (30, 0.2)):
        found = actions(jnp.asarray(updates))
        random = np.mean(np.abs(found["explore"]).max(axis=1) > 0.7)
        own = np.mean(np.abs(found["evaluate"]).max(axis=1) > 0.7)
        np.testing.assert_allclose(random, share * (1 - 0.7**2) + (1 - share) * own, atol=0.03)


def test_what_each_term_leaves_of_two_peaks():
    """Of a Q with two equal peaks and a replay of both: Q alone goes to one, the consistency loss beside it keeps both.

    A reconstruction draws between them.
    """
    obs, no = jnp.zeros(1), jnp.asarray(False)
    q = lambda obs, action: -jnp.minimum((action[0] - 0.6) ** 2, (action[0] + 0.6) ** 2)
    climb = bptt(consistency(clip=1.0), q)
    reconstruct = matching(perturb(Karras(), times="grid"), time_weight=denoiser_weight())

    def trained(weights, seed):
        keys = jax.random.split(jax.random.key(seed), 3)
        field = ConsistencyField(1, 1, hidden=(32, 32), key=keys[0])
        optimiser = optax.adam(2e-3)

        def step(carry, key):
            model, slow, state = carry
            sign_key, loss_key = jax.random.split(key)
            signs = jnp.where(jax.random.bernoulli(sign_key, 0.5, (64, 1)), 0.6, -0.6)
            batch = jax.vmap(lambda action: Transition(obs, action, jnp.zeros(()), obs, no, no))(signs)
            terms = climb, consistency_matching(slow, levels=10), reconstruct
            names = "q", "consistency", "reconstruction"
            loss = batched(add(**dict(zip(names, zip(weights, terms, strict=True), strict=True))))
            gradient = eqx.filter_grad(lambda model: loss(model, batch, loss_key)[0])(model)
            change, state = optimiser.update(gradient, state)
            model = eqx.apply_updates(model, change)
            return model, ema(slow, model, 0.95), state

        start = field, field, optimiser.init(eqx.filter(field, eqx.is_inexact_array))
        arrays, rest = eqx.partition(start, eqx.is_array)
        body = lambda arrays, key: (eqx.filter(step(eqx.combine(arrays, rest), key), eqx.is_array), None)
        arrays, _ = jax.lax.scan(body, arrays, jax.random.split(keys[1], 1_000))
        model = eqx.combine(arrays, rest)[0]
        draw = jax.vmap(lambda key: consistency(clip=1.0)(model, obs, key)[0])
        return draw(jax.random.split(keys[2], 1_000))

    rows = jnp.asarray([[1.0, 0.0, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 1.0]])
    climbing, held, reconstructed = np.asarray(jax.jit(jax.vmap(trained, (0, None)))(rows, 0))
    assert np.mean(climbing > 0.5) > 0.99 or np.mean(climbing < -0.5) > 0.99
    assert np.mean(held > 0.4) > 0.25 and np.mean(held < -0.4) > 0.2
    assert np.all(np.abs(reconstructed) < 0.3)
