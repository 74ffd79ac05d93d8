"""Targets of some critics, drawn anew at every update (REDQ): against all subsets, by hand."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallest import SPEC, TINY, experience, updated

from dpolicy._types import Transition
from dpolicy.algorithms import ALGORITHMS, fast_td3
from dpolicy.blocks import acts, critic_function, q_critics
from dpolicy.learning import algorithm
from dpolicy.networks import Ensemble

KEY = jax.random.key(0)
MEMBERS = np.asarray([3.0, -1.0, 7.0, 2.0])
NO = jnp.zeros(4, bool)
BATCH = Transition(jnp.ones((4, 2)), jnp.zeros((4, 1)), jnp.full(4, 0.5), jnp.ones((4, 2)), NO, NO)


class Spec:
    obs_size, action_size = 2, 1


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_minimum_of_a_drawn_subset(size):
    """Every subset is as likely: the mean over draws is that over all of them; of all members it is the minimum."""
    four = Ensemble(jnp.asarray(MEMBERS), 4)
    value = lambda key: jnp.min(four.only(four.draw(size, key)).members)
    drawn = np.asarray(jax.jit(jax.vmap(value))(jax.random.split(KEY, 4000)))
    lowest = [min(subset) for subset in itertools.combinations(MEMBERS, size)]
    np.testing.assert_allclose(drawn.mean(), np.mean(lowest), atol=5 * np.std(lowest) / np.sqrt(4000) + 1e-6)
    assert set(drawn) == set(lowest)


def method(**settings):
    """Critics of the action zero alone, so that nothing but the subset is drawn."""
    critics = q_critics(critics=3, critic_hidden=(4,), **settings)
    zero = lambda actor, q, obs, key: (jnp.zeros(1), jnp.zeros(()))
    return algorithm(
        "test",
        "off_policy",
        explore=acts(zero, actor="critic"),
        evaluate=acts(zero, actor="critic"),
        critic=critics.backed_up(zero, actor="critic"),
        target=critics.averaged(),
    )


@pytest.mark.parametrize("kind", ["scalar", "quantile"])
def test_the_target_of_one_or_of_all(kind):
    """One: a member's own, the same for the whole batch and another at another update. All: the minimum."""

    def run(size):
        made = method(critic_subset=size, critic=kind)
        state = made.init(KEY, Spec)
        targets = lambda key: made.update(state, BATCH, key)[1]["critic/target"]
        return state, jax.jit(jax.vmap(targets))(jax.random.split(KEY, 20))

    state, every = run(None)
    values = lambda how: 0.5 + 0.99 * critic_function(state.target, how)(jnp.ones(2), jnp.zeros(1))
    each = np.asarray([values(i) for i in range(3)])
    np.testing.assert_allclose(every, each.min(), rtol=1e-5)
    np.testing.assert_allclose(run(3)[1], each.min(), rtol=1e-5)
    one = np.asarray(run(1)[1])
    nearest = np.argmin(np.abs(one[:, None] - each), axis=1)
    np.testing.assert_allclose(one, each[nearest], rtol=1e-5)
    assert set(nearest) == {0, 1, 2}


def test_methods_with_another_target_take_a_subset():
    """Traced, not run: a selection by the target critics, a mirror descent, a bound below their mean."""
    for name in ("qvpo", "dpmd", "bro", "fast_td3", "sac"):
        made = ALGORITHMS[name].recipe(**TINY[name], critics=3, critic_subset=2)

        def one(key, made=made):
            start = made.init(key, SPEC)
            return start, updated(made, start, experience(made, start, key), key)[0]

        before, after = jax.eval_shape(one, KEY)
        shapes = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
        assert shapes(before) == shapes(after), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: q_critics(critic_subset=0), "critic_subset must be an integer of at least 1, got 0."),
        (lambda: q_critics(critic_subset=3), "critic_subset must be at most critics, 2, got 3."),
        (lambda: q_critics(critic_subset=1.5), "critic_subset must be an integer of at least 1, got 1.5."),
        (
            lambda: fast_td3(critics=3, critic_subset=2, actor_value="mean"),
            "critic_subset needs actor_value min, got 2",
        ),
        (lambda: Ensemble(jnp.ones(2), 2).draw(3, KEY), "size must be an integer from 1 to 2, got 3."),
    ],
)
def test_wrong_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
