"""Rates that follow the algorithm's clock or a divergence, and parts that wait: as links of optax's chains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpolicy._types import Transition
from dpolicy.learning import Term, algorithm, labelled_by_part, together
from dpolicy.optimisers import adam, by_kl, by_updates, descend, learner, waiting

KEY = jax.random.key(0)
SLOPE = np.asarray([2.0, -4.0], np.float32)


def steps(optimiser, counts, kls=None, name="kl"):
    """The changes and the rates of steps along SLOPE, each at a count of updates and with a metric of the loss."""
    state = learner(jnp.zeros(2), optimiser)

    @jax.jit
    def one(state, count, kl):
        loss = lambda model: (jnp.sum(SLOPE * model), {name: kl})
        new, metrics = descend(state, loss, optimiser, updates=count)
        return new, (new.model - state.model, metrics["learning_rate"])

    found = []
    for count, kl in zip(counts, [0.0] * len(counts) if kls is None else kls, strict=True):
        state, outcome = one(state, jnp.asarray(count), jnp.asarray(kl))
        found.append(outcome)
    changes, rates = zip(*found, strict=True)
    return np.stack(changes), np.stack(rates)


def test_a_rate_by_updates_has_the_clock_of_the_algorithm(unchecked_types):
    """Whatever number of its own steps it has taken: none between two of them, or several in one update."""
    counts = [0, 0, 4, 5, 2]
    changes, rates = steps(by_updates(lambda updates: 0.1 * (updates + 1)), counts)
    expected = 0.1 * (np.asarray(counts) + 1)
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    np.testing.assert_allclose(changes, -expected[:, None] * SLOPE, rtol=1e-4)
    with pytest.raises(ValueError, match="rate must be a function updates -> rate, got 0.1"):
        by_updates(0.1)


@pytest.mark.parametrize("floor", [0.0, -0.01])
def test_a_rate_by_kl_is_adapted_before_its_step(floor):
    """Down by 1.5 above twice the target, up by it between the floor and half of it, else the same; within bounds."""
    target = 0.01
    kls = [0.021, 0.019, 0.0051, 0.0049, 0.0049, 0.0, -0.001, -0.02]
    up = float(floor < 0)
    powers = np.cumsum([-1, 0, 0, 1, 1, up, up, 0])
    changes, rates = steps(by_kl(1e-3, target, floor=floor), [0] * len(kls), kls)
    np.testing.assert_allclose(rates, 1e-3 * 1.5**powers, rtol=1e-5)
    np.testing.assert_allclose(changes, -rates[:, None] * SLOPE, rtol=1e-3)
    _, rates = steps(by_kl(0.9e-2, target), [0] * 3, [0.001] * 3)
    np.testing.assert_allclose(rates, 1e-2, rtol=1e-6)
    _, rates = steps(by_kl(1.1e-5, target), [0] * 3, [1.0] * 3)
    np.testing.assert_allclose(rates, 1e-5, rtol=1e-6)


def test_a_rate_by_kl_waits_and_has_a_factor():
    """Through the first updates it stays; the factor, even 0, is on the step and not on what adapts."""
    factor = lambda updates: jnp.asarray([1.0, 0.5, 0.0, 2.0])[updates]
    optimiser = by_kl(1e-3, 0.01, after=1, factor=factor)
    changes, rates = steps(optimiser, [0, 1, 2, 3], [1.0] * 4)
    expected = 1e-3 * 1.5 ** -np.asarray([0, 1, 2, 3]) * [1.0, 0.5, 0.0, 2.0]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    np.testing.assert_allclose(changes, -expected[:, None] * SLOPE, rtol=1e-3, atol=1e-9)


def test_a_rate_by_kl_names_the_metric_that_is_not_there():
    with pytest.raises(ValueError) as caught:
        steps(by_kl(1e-3, 0.01, metric="policy/kl"), [0], name="loss")
    assert str(caught.value) == (
        "kl, the metric of the loss that the learning rate adapts to, must be one of loss; got 'policy/kl'."
    )
    _, rates = steps(by_kl(1e-3, 0.01, metric="policy/kl"), [0], [1.0], name="policy/kl")
    np.testing.assert_allclose(rates, 1e-3 / 1.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: by_kl(0.0, 0.01), r"learning_rate must be a finite number in \(0, inf\), got 0.0"),
        (lambda: by_kl(1e-3, -1.0), r"target_kl must be a finite number in \(0, inf\), got -1.0"),
        (lambda: by_kl(1e-3, 0.01, after=-1), "after must be an integer of at least 0, got -1"),
        (lambda: waiting(adam(0.1), -1), "updates must be an integer of at least 0, got -1"),
    ],
)
def test_values_out_of_range_are_refused(make, sentence, unchecked_types):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_part_that_waits_starts_as_if_new():
    """Until then nothing moves, not by the decay of the weights either, and Adam does not count."""
    inner = adam(0.1, weight_decay=0.5)
    optimiser, parameters = waiting(inner, 2), jnp.asarray([1.0, -3.0])
    state = begun = optimiser.init(parameters)
    for count in (0, 1):
        change, state = optimiser.update(jnp.asarray(5 * SLOPE), state, parameters, count=count)
        np.testing.assert_array_equal(change, 0)
        for now, before in zip(jax.tree.leaves(state), jax.tree.leaves(begun), strict=True):
            np.testing.assert_array_equal(now, before)
    fresh = inner.init(parameters)
    for count in (2, 3):
        change, state = optimiser.update(jnp.asarray(SLOPE), state, parameters, count=count)
        expected, fresh = inner.update(jnp.asarray(SLOPE), fresh, parameters)
        np.testing.assert_allclose(change, expected, rtol=1e-6)
        assert np.all(change != 0)
    assert optax.tree_utils.tree_get(state, "count") == 2


def test_what_waits_may_have_a_rate_of_the_clock():
    """Arguments are handed on to the link inside."""
    changes, rates = steps(waiting(by_updates(lambda updates: 1.0 + updates), 2), [0, 1, 2, 3])
    np.testing.assert_allclose(changes, -np.asarray([0, 0, 3, 4])[:, None] * SLOPE, rtol=1e-6)
    np.testing.assert_allclose(rates, [1, 1, 3, 4], rtol=1e-6)


def test_parts_of_one_gradient_have_optimisers_of_their_own():
    """One waits and then follows a divergence, one moves from the start by the clock."""
    each = {
        "early": optax.chain(adam(None), by_updates(lambda updates: 0.01 * (updates + 1))),
        "late": optax.chain(waiting(adam(None), 2), by_kl(4e-3, 0.01, metric="late/kl", after=2)),
    }
    start = lambda key, spec: jnp.ones(1)
    loss = lambda s: lambda model, example, key: (jnp.sum(model), {"kl": jnp.ones(())})
    stage = together(optax.partition(each, labelled_by_part), early=Term(start, loss), late=Term(start, loss))
    no_act = lambda parts: lambda obs, key: obs
    method = algorithm("parts", "offline", explore=no_act, evaluate=no_act, both=stage)
    state, moved = method.init(KEY, None), []
    zeros, no = jnp.zeros((3, 1)), jnp.zeros(3, bool)
    batch = Transition(zeros, zeros, zeros[:, 0], zeros, no, no)
    update = jax.jit(lambda state: method.update(state, batch, KEY)[0])
    for _ in range(4):
        new = update(state)
        moved.append([float((state[name] - new[name])[0]) for name in ("early", "late")])
        state = new
    # Every step of Adam along a constant slope is as long as the rate.
    early, late = np.asarray(moved).T
    np.testing.assert_allclose(early, [0.01, 0.02, 0.03, 0.04], rtol=1e-4)
    np.testing.assert_allclose(late, [0, 0, 4e-3 / 1.5, 4e-3 / 1.5**2], rtol=1e-4)
