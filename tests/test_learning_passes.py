"""Combinators of stages: one gradient for several parts, passes over a rollout, cadence and repetition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpolicy._types import Transition
from dpolicy.learning import (
    Parts,
    Stage,
    Term,
    algorithm,
    every,
    labelled,
    passes,
    reported,
    times,
    together,
    trained,
)

KEY = jax.random.key(0)
LENGTH, COPIES = 6, 4


def rollout():
    """[time, environment]; the reward of a step is 10 times its environment plus its time."""
    time, copy = jnp.meshgrid(jnp.arange(LENGTH), jnp.arange(COPIES), indexing="ij")
    number, no = 10.0 * copy + time, jnp.zeros((LENGTH, COPIES), bool)
    column = number[..., None]
    return Transition(column, column, number, column, no, no)


def method(**stages):
    no_act = lambda parts: lambda obs, key: obs
    return algorithm("own", "on_policy", explore=no_act, evaluate=no_act, **stages)


def updated(updates=1, **stages):
    """The state after each of some updates on the same rollout, the first one included, and the metrics of each."""
    own = method(**stages)
    update, states, metrics = jax.jit(own.update), [own.init(KEY, None)], []
    for key in jax.random.split(KEY, updates):
        state, found = update(states[-1], rollout(), key)
        states.append(state)
        metrics.append(found)
    return states, metrics


def noting(shape, steps=100):
    """A stage that notes the rewards of each batch that it is given, in order."""

    def step(part, seen, key):
        count, rows = part
        return (count + 1, rows.at[count].set(seen.batch.reward)), {}, {"last": seen.batch.reward.max()}

    return Stage(lambda key, spec, parts: (jnp.zeros((), int), jnp.full((steps, *shape), -1.0)), step)


def counting(note=lambda: None):
    """A stage that counts its steps, and calls `note` at each."""

    def step(count, seen, key):
        jax.debug.callback(note)
        return count + 1, {}, {"count": count + 1.0, "count_min": count + 1.0}

    return Stage(lambda key, spec, parts: jnp.zeros((), int), step)


def slope(factor, other=None):
    """A part of two equal numbers whose loss is `factor` times the first of them, times another part if named."""

    def loss(s):
        def per_example(model, example, key):
            value = factor * model[0] * (1.0 if other is None else s.now[other][0])
            return value, {"loss": value}

        return per_example

    return Term(lambda key, spec: jnp.ones(2), loss)


PLAIN = optax.scale_by_learning_rate(1.0)
BOUNDED = optax.chain(optax.clip_by_global_norm(1.0), PLAIN)


def moved(optimiser, **terms):
    (start, end), (metrics,) = updated(both=together(optimiser, **terms))
    return {name: float((end[name] - start[name])[0]) for name in terms}, metrics


def test_parts_together_have_one_global_norm():
    found, metrics = moved(BOUNDED, one=slope(3.0), two=slope(4.0))
    assert found == pytest.approx({"one": -0.6, "two": -0.8})
    expected = {"loss": 7.0, "grad_norm": 5.0, "one/loss": 3.0, "two/loss": 4.0}
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected)


@pytest.mark.parametrize("nothing", [0, lambda s: jnp.where(s.before.updates == 0, 0.0, 1.0)])
def test_a_coefficient_weighs_a_term_and_at_zero_nothing_of_it_enters(nothing):
    """Neither its part nor the norm that bounds the others; its metrics are there."""
    found, metrics = moved(BOUNDED, one=slope(3.0)._replace(coefficient=nothing), two=slope(4.0))
    assert found == pytest.approx({"one": 0, "two": -1})
    assert (metrics["loss"], metrics["grad_norm"], metrics["one/loss"]) == (4, 4, 3)
    found, metrics = moved(PLAIN, one=slope(3.0)._replace(coefficient=lambda s: 2.0), two=slope(4.0))
    assert found == pytest.approx({"one": -6, "two": -4})
    assert (metrics["loss"], metrics["one/loss"]) == (10, 3)


def test_only_its_own_part_is_moved_by_a_term():
    """Whatever other parts a loss reads, those that move with it as well."""
    found, _ = moved(PLAIN, one=slope(3.0, other="two"), two=slope(4.0))
    assert found == pytest.approx({"one": -3, "two": -4})


def test_together_takes_terms(unchecked_types):
    with pytest.raises(ValueError, match=r"together must be given at least one part name=Term\(make, loss\)"):
        together()
    with pytest.raises(ValueError, match=r"one must be a Term\(make, loss\), got 3"):
        together(one=3)


def test_passes_see_every_transition_once_in_each():
    """`now` is what the minibatches before have left, `before` what the update found; metrics are means."""
    gone = reported(lambda s: {"gone": s.now["count"] - s.before["count"], "gone_max": s.now["count"]})
    stages = {"count": counting(), "notes": noting((6,)), "gone": gone}
    (_, state, again), (metrics, later) = updated(2, learn=passes(epochs=3, minibatches=4, **stages))
    count, rows = state["notes"]
    assert (int(count), int(state["count"]), int(again["count"])) == (12, 12, 24)
    everything = np.sort(np.ravel(rollout().reward))
    orders = np.asarray(rows[:12]).reshape(3, 24)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), everything)
    assert len({tuple(order) for order in orders}) == 3
    assert metrics["gone"] == later["gone"] == np.mean(np.arange(1, 13))
    assert (metrics["gone_max"], later["gone_max"]) == (12, 24)
    np.testing.assert_allclose(metrics["notes/last"], np.mean(rows[:12].max(axis=1)), rtol=1e-6)
    assert metrics["count/count_min"] == 1


def test_a_stop_undoes_its_step_and_all_later_ones():
    """Also those that would not have stopped by themselves; the share is a metric, and the next update starts anew."""
    stages = {"notes": noting((1,)), "count": counting()}
    whole = passes(epochs=1, minibatches=24, **stages)
    stopping = passes(epochs=1, minibatches=24, stop=lambda metrics: metrics["notes/last"] == 12, **stages)
    order = np.ravel(updated(learn=whole)[0][1]["notes"][1])[:24]
    (_, state, again), (metrics, _) = updated(2, learn=stopping)
    first = int(np.flatnonzero(order == 12)[0])
    assert 0 < first < 23
    count, rows = state["notes"]
    assert int(count) == int(state["count"]) == first
    np.testing.assert_array_equal(np.ravel(rows)[:24], np.where(np.arange(24) < first, order, -1))
    np.testing.assert_allclose(metrics["stopped"], 1 - first / 24, rtol=1e-6)
    assert again["count"] > state["count"]
    (_, state), (metrics,) = updated(
        learn=passes(epochs=1, minibatches=24, stop=lambda metrics: metrics["notes/last"] < 0, **stages)
    )
    assert (int(state["count"]), metrics["stopped"]) == (24, 0)


def test_segments_keep_the_axis_of_time():
    """Stretches of three steps of one environment, each once in a pass, and what a stage makes of them along time."""

    def summed(s, example, key):
        return {"twice": 2 * example.reward}

    total = reported(lambda s: {"twice": jnp.mean(s.batch.extras["twice"] - 2 * s.batch.reward)})
    stages = {"twice": labelled(summed), "total": total, "notes": noting((3, 2))}
    (_, state), (metrics,) = updated(learn=passes(epochs=2, minibatches=4, segment=3, **stages))
    count, rows = state["notes"]
    stretches = np.asarray(rows[:8]).transpose(0, 2, 1).reshape(2, 8, 3)
    assert count == 8
    wanted = np.sort(
        [[10 * copy + first + step for step in range(3)] for copy in range(4) for first in (0, 3)], axis=0
    )
    for stretch in stretches:
        np.testing.assert_array_equal(stretch[np.argsort(stretch[:, 0])], wanted)
    assert metrics["twice"] == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"minibatches": 5}, "minibatches must divide the 24 samples of an iteration, got 5"),
        ({"minibatches": 5, "name": "parts"}, "parts must divide the 24 samples of an iteration, got 5"),
        ({"minibatches": 3, "segment": 3}, "minibatches must divide the 8 segments of an iteration, got 3"),
        ({"minibatches": 1, "segment": 4}, "recompute_segment must divide the 6 steps of a rollout, got 4"),
        ({"minibatches": 0}, "minibatches must be an integer of at least 1, got 0"),
        ({"minibatches": 1, "epochs": 0}, "epochs must be an integer of at least 1, got 0"),
        ({"minibatches": 1, "segment": 0}, "segment must be an integer of at least 1, got 0"),
    ],
)
def test_passes_that_do_not_come_out_even_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        updated(learn=passes(**{"epochs": 1, "count": counting(), **settings}))


def test_a_stage_at_intervals_costs_nothing_in_between():
    calls = []
    stage = every(counting(lambda: calls.append(1)), 3, after=3)
    states, metrics = updated(9, count=stage)
    jax.effects_barrier()
    assert len(calls) == 2
    assert [int(state["count"]) for state in states] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 2]
    assert [float(found["count/due"]) for found in metrics] == [0, 0, 0, 0, 0, 1, 0, 0, 1]
    # Where it did not run its metrics are what enters no mean of those that did, and no extreme.
    assert [float(found["count/count"]) for found in metrics] == [0, 0, 0, 0, 0, 1, 0, 0, 2]
    assert [float(found["count/count_min"]) for found in metrics][4:] == [np.inf, 1, np.inf, np.inf, 2]


def test_a_stage_of_a_phase():
    states, metrics = updated(6, count=every(counting(), 2, after=2, until=4))
    assert [int(state["count"]) for state in states] == [0, 0, 0, 0, 1, 1, 1]
    assert [float(found["count/due"]) for found in metrics] == [0, 0, 0, 1, 0, 0]
    states, _ = updated(3, count=every(counting(), 1, until=2))
    assert [int(state["count"]) for state in states] == [0, 1, 2, 2]
    with pytest.raises(ValueError, match="until must be an integer of at least 5, got 4"):
        every(counting(), 1, after=4, until=4)


def test_several_parts_at_intervals():
    """Passes inside keep the names of their metrics and the order of their parts, whatever that is."""
    inner = passes(epochs=2, minibatches=2, second=counting(), first=counting())
    states, metrics = updated(2, fit=every(inner, 2))
    assert (
        [int(state["first"]) for state in states] == [int(state["second"]) for state in states] == [0, 0, 4]
    )
    assert {"fit/due", "first/count", "second/count"} <= set(metrics[0])
    assert (metrics[0]["fit/due"], metrics[1]["fit/due"], metrics[1]["first/count"]) == (0, 1, 2.5)


def test_what_is_always_due_is_the_stage_itself(unchecked_types):
    stage = counting()
    assert every(stage, 1) is stage
    assert times(stage, 1) is stage
    labels = every(labelled(lambda s, example, key: {"one": 1.0 * example.reward}), 2)
    with pytest.raises(ValueError, match="stage 'label' adds one to the batch: it must run at every update"):
        updated(label=labels)
    for combine, name in ((every, "updates"), (times, "steps")):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
            combine(stage, 0)
        with pytest.raises(ValueError, match="stage must be a Stage, got 3"):
            combine(3, 2)


def test_a_stage_several_times_takes_as_many_steps_on_the_same_batch():
    """With randomness of its own in each; entries are those of its last step, metrics their means."""

    def step(part, seen, key):
        count, draws = part
        new = draws.at[count].set(jax.random.uniform(key))
        return (count + 1, new), {"count": jnp.full_like(seen.batch.reward, count)}, {"count": count * 1.0}

    stage = Stage(lambda key, spec, parts: (jnp.zeros((), int), jnp.zeros(4)), step)
    after = reported(lambda s: {"entry": jnp.mean(s.batch.extras["count"])})
    (_, state), (metrics,) = updated(draws=times(stage, 4), after=after)
    count, draws = state["draws"]
    assert (int(count), len(np.unique(draws))) == (4, 4)
    assert (metrics["draws/count"], metrics["entry"]) == (1.5, 3)
    # Steps of an optimiser.
    loss = lambda s: lambda model, example, key: (jnp.sum(model**2) / 2, {})
    net = trained(lambda key, spec: jnp.ones(2), loss, optax.scale_by_learning_rate(0.5))
    (_, state), _ = updated(net=times(net, 3))
    np.testing.assert_allclose(state.net, 0.125)
    assert isinstance(state, Parts)
