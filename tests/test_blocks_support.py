"""Actions kept beside every row of a data set, the value over them, and several stages that move one part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transitions import experience

from dpolicy.algorithm import Stored
from dpolicy.blocks import in_support_value, in_turn, support_actions, surveyed
from dpolicy.learning import Parts, Stage, algorithm, every, labelled

KEY = jax.random.key(0)
ROWS = 300  # more than are drawn at once, and no multiple of it


@pytest.fixture(scope="module")
def found():
    """Of two surveys, one at each observation: entries at the start, after an update that is not due, and after it."""
    data = experience(KEY, ROWS)
    act = lambda parts: lambda obs, key: parts.actor + obs + 0.01 * jax.random.normal(key, obs.shape)
    due = lambda updates: updates == 3
    memory = surveyed(
        here=support_actions(act, 4, due),
        there=support_actions(act, 2, due, name="next_support", at="next_obs"),
    )
    extras = jax.vmap(memory.start)(data)

    @jax.jit
    def look(updates):
        state = Parts(actor=jnp.asarray(5.0), updates=updates)
        items = jax.tree.map(lambda x: x, data)
        items.extras.update(extras)
        return memory.organise(state, Stored(items, jnp.zeros((), int), jnp.asarray(ROWS), 1), KEY)[1]

    return data, extras, look(jnp.asarray(1)), look(jnp.asarray(2))


def test_every_row_has_actions_of_its_own_state(found):
    data, start, before, after = found
    assert all(not entries[name].any() for entries in (start, before) for name in entries)
    for name, obs, count in (("support", data.obs, 4), ("next_support", data.next_obs, 2)):
        assert after[name].shape == (ROWS, count, 2)
        away = after[name] - obs[:, None] - 5
        assert np.abs(away).max() < 0.06 and np.unique(away).size > 0.95 * away.size
        assert away.std() == pytest.approx(0.01, rel=0.1)


def test_the_value_is_over_the_actions_at_the_next_observation(found):
    data, _, _, after = found
    row = jax.tree.map(lambda leaf: leaf[7], data)
    row.extras.update(next_support=after["next_support"][7])
    target = lambda obs, action: action[0] - 2 * obs[1]
    values = np.array([target(row.next_obs, action) for action in after["next_support"][7]], float)
    weights = np.exp((values - values.max()) / 0.01)
    expected = weights @ values / weights.sum()
    np.testing.assert_allclose(in_support_value(target, 0.01)(row, KEY), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="count must be an integer of at least 1"):
        support_actions(lambda parts: None, 0, lambda updates: updates == 1)


def test_several_stages_of_one_part():
    """Each moves what the one before has left, in phases; the part starts as the first starts it."""

    def add(amount):
        return Stage(
            lambda key, spec, parts: jnp.asarray(amount),
            lambda part, seen, key: (part + amount, {}, {"": part + amount, "seen": seen.now.sum}),
        )

    stages = {"one": every(add(1.0), 1, until=2), "two": every(add(10.0), 1, after=1)}
    idle = lambda parts: lambda obs, key: obs
    own = algorithm("own", "offline", explore=idle, evaluate=idle, sum=in_turn(**stages))
    update, states, metrics = jax.jit(own.update), [own.init(KEY, None)], []
    for _ in range(3):
        state, found = update(states[-1], experience(KEY, 2), KEY)
        states.append(state)
        metrics.append(found)
    assert [float(state["sum"]) for state in states] == [1, 2, 13, 23]
    assert [float(found["sum/two"]) for found in metrics] == [0, 13, 23]
    assert [float(found["sum/two/seen"]) for found in metrics] == [0, 3, 13]
    assert [float(found["sum/one/due"]) for found in metrics] == [1, 1, 0]
    with pytest.raises(ValueError, match="rows of in_turn must move one part"):
        in_turn(rows=labelled(lambda seen, example, key: {}))
