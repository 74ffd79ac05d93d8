"""The documented values of the probes, by rollout and by the fixed point of temporal differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.envs import Probe, Vector

TASKS = ["constant", "observation", "discount", "action", "observation_action", "time_limit"]
DISCOUNT = 0.9


def discounted(env, state, action, steps=200):
    """The return of one action and then the optimal ones, past every time limit."""

    def one(carry, power):
        state, action, alive = carry
        state, obs, reward, terminated = env.step(state, action, jax.random.key(0))
        return (state, env.optimal_action(obs), alive & ~terminated), jnp.where(alive, power * reward, 0.0)

    start = (state, action, jnp.asarray(True))
    return jnp.sum(jax.lax.scan(one, start, DISCOUNT ** jnp.arange(steps))[1])


@pytest.mark.parametrize("task", TASKS)
def test_values_by_rollout(getkey, task):
    env = Probe(task)
    value_of = jax.jit(lambda state, action: discounted(env, state, action))
    for _ in range(3):
        state, obs = env.reset(getkey())
        best = value_of(state, env.optimal_action(obs))
        np.testing.assert_allclose(env.value(obs, DISCOUNT), best, rtol=1e-5)
        action = jax.random.uniform(getkey(), (1,), minval=-1.5, maxval=1.5)
        q = env.q_value(obs, action, DISCOUNT)
        np.testing.assert_allclose(q, value_of(state, action), rtol=1e-5, atol=1e-6)
        assert float(q) <= float(env.value(obs, DISCOUNT)) + 1e-6


@pytest.mark.parametrize("task", ["observation", "observation_action", "time_limit"])
def test_both_observations_occur(getkey, task):
    _, obs = jax.vmap(Probe(task).reset)(jax.random.split(getkey(), 64))
    assert set(np.unique(obs)) == {-1.0, 1.0}


def td_slope(steps, states, cut, following):
    """The w of V(s) = w s that temporal differences converge to."""
    s, after = states.obs[..., 0], following[..., 0]
    target = s - DISCOUNT * jnp.where(cut, 0.0, after)
    return float(jnp.sum(s * steps.reward) / jnp.sum(s * target))


def test_the_time_limit_probe_tells_right_from_wrong(getkey):
    vector = Vector(Probe("time_limit"), 512)

    def one(state, key):
        new, step = vector.step(state, jnp.zeros((512, 1)), key)
        return new, (state, step, new.obs)

    state = vector.init(getkey())
    _, (states, steps, resets) = jax.jit(lambda k: jax.lax.scan(one, state, jax.random.split(k, 64)))(
        getkey()
    )
    np.testing.assert_allclose(td_slope(steps, states, steps.terminated, steps.next_obs), 1 / 1.9, rtol=1e-6)
    wrong = 1 / (1 + DISCOUNT / 2)
    np.testing.assert_allclose(td_slope(steps, states, steps.done, steps.next_obs), wrong, rtol=1e-6)
    np.testing.assert_allclose(td_slope(steps, states, steps.terminated, resets), wrong, rtol=0.03)


def test_unknown_task():
    with pytest.raises(ValueError, match=r"task must be one of .* Did you mean observation"):
        Probe("observaton")
