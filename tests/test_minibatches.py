"""Passes over a rollout: every example once in each, in another order, and segments that stay whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.learning import in_segments, over_minibatches


def test_every_pass_has_an_order_of_its_own(getkey):
    examples = jnp.arange(24)

    def body(seen, inputs):
        minibatch, key = inputs
        draw = jax.random.bits(key)
        count, rows, draws = seen
        seen = count + 1, rows.at[count].set(minibatch), draws.at[count].set(draw)
        return seen, {"first": minibatch[0] * 1.0, "first_min": minibatch[0], "first_max": minibatch[0]}

    @jax.jit
    def passes(key):
        start = jnp.zeros((), int), jnp.zeros((15, 8), int), jnp.zeros(15, jnp.uint32)
        return over_minibatches(body, start, examples, key, epochs=5, count=3)

    key = getkey()
    (count, rows, draws), metrics = passes(key)
    assert count == 15
    orders = np.asarray(rows).reshape(5, 24)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(examples, (5, 1)))
    another = np.asarray(passes(getkey())[0][1]).reshape(5, 24)
    every = np.concatenate([orders, another, examples[None]])
    # By chance one of 24 examples is where it is in another order too.
    apart = [np.mean(a != b) for i, a in enumerate(every) for b in every[:i]]
    assert min(apart) > 0.6
    assert len(set(np.asarray(draws).tolist())) == 15  # a key for each minibatch
    first = np.asarray(rows)[:, 0]
    np.testing.assert_allclose(metrics["first"], first.mean(), rtol=1e-6)
    assert (metrics["first_min"], metrics["first_max"]) == (first.min(), first.max())


def test_segments_are_stretches_of_one_environment():
    time, envs = jnp.meshgrid(jnp.arange(6), jnp.arange(3), indexing="ij")
    number, no = 10 * envs + time, jnp.zeros((6, 3), bool)
    column = number[..., None] * 1.0
    batch = Transition(column, column, number * 1.0, column, no, no, {"number": number})
    segments = in_segments(batch, 2)
    np.testing.assert_array_equal(segments.extras["number"], np.sort(number.T.reshape(9, 2), axis=1))
    np.testing.assert_array_equal(segments.obs[..., 0], segments.reward)
    assert segments.obs.shape == (9, 2, 1)
    with pytest.raises(ValueError, match="recompute_segment must divide the 6 steps of a rollout, got 4"):
        in_segments(batch, 4)
