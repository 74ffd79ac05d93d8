"""Blocks that scale by the batch: every example by one statistic of all, which is not the example's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.fields import CosineVP, FunctionField
from dpolicy.losses import (
    add_q_score,
    ascend,
    boltzmann,
    bptt,
    candidates,
    chain,
    one_step,
    perturb,
    q_score,
    smoothed_score,
)
from dpolicy.losses.match import start
from dpolicy.losses.noise import reverse_sample

SCHEDULE, KEY = CosineVP(), jax.random.key(0)
# Two states, of which the second sees three times the values and gradients of the first.
SCALE = jnp.asarray([1.0, 3.0])
NO = jnp.zeros(2, bool)
BATCH = Transition(SCALE[:, None], jnp.full((2, 1), 0.5), jnp.zeros(2), SCALE[:, None], NO, NO)


def q(obs, action):
    return obs[0] * action[0]


def other(obs, action):
    """A normaliser that is not the critic: over the batch the mean of its size is 5."""
    return -5 * obs[0] * action[0]


def results(function):
    """What `function(example, key)` gives for both, in one batch."""
    return jax.vmap(function, in_axes=(0, None), axis_name="batch")(BATCH, KEY)


def targets(*links):
    """Noise targets over sigma, and alpha / sigma: minus the scores, in one batch."""

    def one(example, key):
        match = chain(perturb(SCHEDULE), *links)(example, start(example), key)
        return match.target.noise[:, 0] / SCHEDULE.sigma(match.t), match.weight

    return results(one)


def test_pathwise_values_over_the_mean_size_of_another_critic():
    """-q / mean |normaliser| at the action, 0.5 here, for both ways through an action."""
    sampler = lambda gain, obs, key: gain * jnp.ones(1)
    found = results(lambda example, key: bptt(sampler, q, normaliser=other)(0.5, example, key)[0])
    np.testing.assert_allclose(found, -0.5 * SCALE / 5, rtol=1e-6)
    field = FunctionField(lambda x, t, obs: 0 * x + 0.5, schedule=SCHEDULE, prediction="data", action_size=1)
    loss = one_step(SCHEDULE, q, normaliser=other)
    found = results(lambda example, key: loss(field, example, key)[0])
    np.testing.assert_allclose(found, -0.5 * SCALE / 5, rtol=1e-6)


def test_scores_in_units_of_the_mean_gradient():
    """Gradients 1 and 3, of mean size 2, over a temperature of 1/2."""
    noise, _ = targets(q_score(q, 0.5, variant="flowrl"))
    np.testing.assert_allclose(noise[:, 0], -SCALE / (0.5 * 2), rtol=1e-5)
    noise, _ = targets(
        reverse_sample(SCHEDULE, 4, proposal="gaussian"), smoothed_score(q, 0.5, normalise=True)
    )

    def plain(example, key):
        links = (
            perturb(SCHEDULE),
            reverse_sample(SCHEDULE, 4, proposal="gaussian"),
            smoothed_score(q, 0.5 * 2),
        )
        match = chain(*links)(example, start(example), key)
        return match.target.noise[:, 0] / SCHEDULE.sigma(match.t)

    np.testing.assert_allclose(noise, results(plain), rtol=1e-4)


def test_an_added_score_over_the_mean_size_of_another_critic():
    """0.2 grad q / mean |normaliser|, the latter at the action: 5."""
    plain, _ = targets()
    noise, _ = targets(add_q_score(q, 0.2, normaliser=other))
    np.testing.assert_allclose((noise - plain)[:, 0], -0.2 * SCALE / 5, rtol=1e-3)


def test_weights_over_the_largest_of_the_batch():
    """exp((Q - max Q) / temperature), Q = 0.5 and 1.5."""
    _, weight = targets()
    np.testing.assert_array_equal(weight, 1)

    def one(example, key):
        links = boltzmann(q, 0.5, normalise=False, rescale=True)
        return links(example, start(example), key).weight[0]

    np.testing.assert_allclose(results(one), np.exp([(0.5 - 1.5) / 0.5, 0.0]), rtol=1e-6)


@pytest.mark.parametrize("bound", [4e-5, 1e-3])
def test_ascent_under_a_bound_on_the_gradient_of_the_batch(bound):
    """One step: a + rate g / (|g| + eps) with g = (1, 3) scaled to the norm of both, sqrt(10)."""
    move = ascend(q, steps=1, rate=0.1, max_grad_norm=bound)
    found = results(lambda example, key: move(example, start(example), key).action[0, 0])
    gradient = np.asarray(SCALE) * bound / np.sqrt(10)
    np.testing.assert_allclose(found, 0.5 + 0.1 * gradient / (gradient + 1e-5), rtol=1e-4)


def test_what_is_drawn_anew_keeps_the_total_weight():
    """Five candidates of a state that weighs 0.7 weigh that together."""

    def one(example, key):
        links = boltzmann(lambda obs, a: jnp.log(0.7), 1.0, normalise=False), candidates(lambda o, k: o, 5)
        return chain(*links)(example, start(example), key).weight

    np.testing.assert_allclose(results(one), np.full((2, 5), 0.14), rtol=1e-6)
