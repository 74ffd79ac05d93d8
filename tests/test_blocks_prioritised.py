"""Prioritised replay of methods whose critics see more than a transition: labels of stages before, or the batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from transitions import experience

from dpolicy.algorithms import fast_sac, flash_sac
from dpolicy.blocks import prioritised

KEY = jax.random.key(0)
SIZE = 6
SMALL = {"hidden": (4,), "critic_hidden": (4,)}


class Spec:
    obs_size = action_size = 2


def test_the_error_of_a_critic_that_is_fitted_to_labels():
    """At ends the target is the reward: on average over the batch the error is what the update reports."""
    made = prioritised(
        algorithm=fast_sac(**SMALL, critic_atoms=5), priority_exponent=1.0, priority_floor=1e-3
    )
    memory = made.memory
    assert memory is not None

    @jax.jit
    def run():
        batch, state = experience(KEY, SIZE), made.init(KEY, Spec)
        ends = dataclasses.replace(batch, reward=5.0 + batch.reward, terminated=jnp.ones(SIZE, bool))
        revised = memory.revise(state, ends, KEY)
        found = made.update(state, revised, KEY)[1]
        return jnp.mean(revised.extras["priority"]), found["critic/target"] - found["critic/value"]

    np.testing.assert_allclose(*run(), rtol=1e-4)


def test_the_error_of_a_normalised_critic_is_by_the_statistics_of_the_batch():
    made = prioritised(algorithm=flash_sac(**SMALL, atoms=5), priority_exponent=1.0, priority_floor=1e-3)
    memory = made.memory
    assert memory is not None

    @jax.jit
    def run():
        batch, state = experience(KEY, SIZE), made.init(KEY, Spec)
        others = dataclasses.replace(batch, obs=batch.obs.at[1:].multiply(3.0))
        return [memory.revise(state, given, KEY).extras["priority"][0] for given in (batch, others)]

    one, two = run()
    assert abs(one - two) > 1e-4
