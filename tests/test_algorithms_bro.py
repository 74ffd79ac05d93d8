"""BRO: an update by hand, its explorer and multipliers, and resets of what is learned."""

import dataclasses
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transitions import experience

from dpolicy.algorithms import bro, ppo, sac
from dpolicy.blocks import Multiplier, optimistic, resetting
from dpolicy.learning import Parts, Seen
from dpolicy.losses import quantile_huber
from dpolicy.networks import TanhGaussian, gaussian_kl
from dpolicy.optimisers import ema

KEY = jax.random.key(0)
SIZE = 4
SETTINGS = {
    **{"hidden": (8,), "critic_hidden": (8,), "explorer_hidden": (8,), "critic_atoms": 3, "discount": 0.9},
    **{"target_rate": 0.25, "temperature": 0.3, "pessimism": 0.4, "optimism": 1.5, "kl_weight": 0.6},
    **{"multiplier_learning_rate": 0.01, "reset_updates": (2,)},
}


class Spec:
    obs_size = action_size = 2


def transitions():
    return dataclasses.replace(experience(KEY, SIZE), terminated=jnp.arange(SIZE) % 3 == 1)


def bound(quantiles, weight):
    """mean + weight deviation, of each pair of quantiles: half of how far they are apart."""
    first, second = quantiles
    return (first + second) / 2 + weight * jnp.abs(first - second) / 2


def losses_by_hand(before, after, batch, keys):
    def one(e, key):
        action, log_prob = before.actor.sample(e.next_obs, key)
        psi = bound(before.target(e.next_obs, action).quantiles, -0.4)
        y = e.reward + jnp.where(e.terminated, 0, 0.9) * (psi - before.temperature * log_prob)
        critic = sum(quantile_huber(q, y) for q in before.critic(e.obs, e.action).quantiles)
        action, log_prob = before.actor.sample(e.obs, key)
        value = jnp.mean(bound(after.critic(e.obs, action).quantiles, -0.4))
        actor = before.temperature * log_prob - value
        mean, log_std = after.actor.parameters(e.obs)
        shift = before.explorer(e.obs, mean)
        u = mean + shift + 0.75 * jnp.exp(log_std) * jax.random.normal(key, (2,))
        upper = jnp.mean(bound(after.critic(e.obs, jnp.tanh(u)).quantiles, before.optimism()))
        kl = jnp.sum(gaussian_kl(mean + shift, log_std, mean, log_std))
        return {"critic": critic, "actor": actor, "explorer": before.kl_weight() * kl - upper}

    return jax.vmap(one)(batch, keys)


def test_an_update_by_hand_and_a_reset(x64):
    @jax.jit
    def run():
        made, batch, keys = bro(**SETTINGS), transitions(), jax.random.split(KEY, SIZE)
        start = made.init(KEY, Spec)
        moved = jax.tree.map(lambda leaf: 1.3 * leaf if eqx.is_inexact_array(leaf) else leaf, start.target)
        start = Parts(start, target=moved)
        step = lambda state, key: (lambda out: (out[0], out))(made.update(state, batch, key))
        _, (states, metrics) = jax.lax.scan(step, start, jax.random.split(KEY, 3))
        after = jax.tree.map(lambda leaf: leaf[0], states)
        seen = Seen(start, after, batch, start.updates + 1, {}, "")
        stages = made.stages
        assert stages is not None
        loss = lambda name: stages[name].loss(seen)
        found = {
            name: jax.vmap(lambda e, key, of=name: loss(of)(getattr(start, of), e, key)[0])(batch, keys)
            for name in ("critic", "actor", "explorer")
        }
        return start, states, metrics, found, losses_by_hand(start, after, batch, keys)

    start, states, metrics, found, expected = run()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, err_msg=name)
    at = lambda i: jax.tree.map(lambda leaf: leaf[i], states)
    for x, y in zip(
        *map(jax.tree.leaves, (at(0).target, ema(start.target, at(0).critic, 0.75))), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-9)
    # Further from the actor than the target: less optimism, more weight on the distance; both by a rate of .01.
    far = metrics["explorer/kl"][0] > 0.05
    raw = lambda of: [of(start).raw, of(at(0)).raw]
    for of, sign in ((lambda s: s.optimism, -1), (lambda s: s.kl_weight, 1)):
        old, new = raw(of)
        np.testing.assert_allclose(new - old, 0.01 * sign * (1 if far else -1), rtol=1e-4)
    # After two updates it starts anew: a step of the third has moved each parameter by a rate at most.
    np.testing.assert_array_equal(metrics["resets"], [0, 0, 1])
    np.testing.assert_array_equal(states.updates, [1, 2, 3])
    weights = lambda state: state.critic.members.mlp.layers[0].weights[0]
    assert np.abs(weights(at(1)) - weights(start)).max() < 1e-3
    assert np.abs(weights(at(2)) - weights(start)).max() > 0.1
    np.testing.assert_allclose(at(2)["critic"].opt_state[0].count, 1)
    assert at(2).temperature == pytest.approx(0.3, rel=1e-3)


def test_the_kl_of_the_explorer(x64):
    """Of two Gaussians of one width; the action is at the narrower one, and the actor is not moved."""
    actor = TanhGaussian(2, 2, hidden=(4,), width="tanh", log_std_min=-3.0, log_std_max=1.0, key=KEY)
    obs, shift = jnp.asarray([0.3, -1.0]), jnp.asarray([0.2, -0.5])
    mean, log_std = actor.parameters(obs)
    action, kl = optimistic(actor, lambda obs, mean: shift, obs, KEY, 0.0)
    np.testing.assert_allclose(action, jnp.tanh(mean + shift), rtol=1e-9)
    np.testing.assert_allclose(kl, jnp.sum(gaussian_kl(mean + shift, log_std, mean, log_std)), rtol=1e-9)
    of = lambda actor: jnp.sum(optimistic(actor, lambda obs, mean: mean, obs, KEY, 0.7)[0])
    assert all(not np.any(slope) for slope in jax.tree.leaves(eqx.filter_grad(of)(actor)))


@pytest.mark.parametrize("value", [1e-4, 0.25, 1.0, 1500.0])
def test_a_multiplier_starts_where_it_is_told(value, x64):
    np.testing.assert_allclose(Multiplier(value)(), value, rtol=1e-9)
    bounded = eqx.tree_at(lambda m: m.raw, Multiplier(value), jnp.asarray(1e3))
    np.testing.assert_allclose(bounded(), np.exp(7.5), rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: resetting(ppo(), (1,)),
            "algorithm must be made of stages and learn off policy or offline, got ppo",
        ),
        (lambda: resetting(sac(), (0,)), "updates must be an integer"),
        (lambda: resetting(sac(), (5, 5)), "updates must rise, got (5, 5)."),
        (lambda: bro(optimism=2e3), "optimism must be a finite number in (4.53999e-05, 1808.04)"),
        (lambda: bro(kl_target=-1.0), "kl_target must be a finite number in [0, inf)"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_without_updates_there_is_no_reset():
    method = sac()
    assert resetting(method, ()) is method
