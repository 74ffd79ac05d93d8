"""BDPO's phases, and who sees whom: by one compiled update from many states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallest import SPEC, TINY, experience

from dpolicy.algorithms import bdpo
from dpolicy.blocks import copied_until
from dpolicy.learning import Parts, Seen, average
from dpolicy.optimisers import Learner

KEY = jax.random.key(0)
PHASES = {"behaviour_updates": 2, "critic_updates": 1, "actor_interval": 2, "average_interval": 2}
RATES = {"learning_rate": 1e-2, "critic_learning_rate": 1e-2, "behaviour_learning_rate": 1e-2}


@pytest.fixture(scope="module")
def run():
    """An update, the states around four of them, and their metrics: two of the behaviour, one of critics, and all."""
    algorithm = bdpo(**{**TINY["bdpo"], **PHASES, **RATES})
    state = jax.jit(algorithm.init, static_argnums=1)(KEY, SPEC)
    batch, update = experience(algorithm, state, KEY), jax.jit(algorithm.update)
    states, metrics = [state], []
    for i in range(4):
        state, found = update(state, batch, jax.random.fold_in(KEY, i))
        states.append(state)
        metrics.append(found)
    return update, batch, states, metrics


def same(before, after, part):
    return all(
        np.array_equal(a, b)
        for a, b in zip(*(jax.tree.leaves(getattr(s, part)) for s in (before, after)), strict=True)
    )


MOVED = (
    {"behaviour", "behaviour_average", "actor", "average"},
    {"behaviour", "behaviour_average", "actor", "average"},
    {"critic", "value", "target", "value_target"},
    {"behaviour", "behaviour_average", "actor", "average", "critic", "value", "target", "value_target"},
)


def test_what_moves_in_each_phase(run):
    """The actor and its slow copy are that of the behaviour until they move themselves."""
    _, _, states, metrics = run
    for phase, before, after in zip(MOVED, states, states[1:], strict=False):
        assert {part for part in MOVED[-1] if not same(before, after, part)} == phase
    for state in states[:-1]:
        for part in ("actor", "average"):
            jax.tree.map(np.testing.assert_array_equal, getattr(state, part), state.behaviour_average)
    stages = ("behaviour/alone", "behaviour/beside", "critic", "actor")
    due = [[found[f"{stage}/due"] for stage in stages] for found in metrics]
    assert np.asarray(due).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]]


def test_the_slow_copies_follow_by_their_rates(run):
    before, after = run[2][-2:]
    for slow, fast in (("behaviour_average", "behaviour"), ("average", "actor"), ("value_target", "value")):
        mixed = jax.tree.map(
            lambda old, new: 0.995 * old + 0.005 * new, getattr(before, slow), getattr(after, fast)
        )
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        jax.tree.map(close, getattr(after, slow), mixed)


# What of the state each number of an update depends on; the actor climbs targets that have just moved, and so on all
# that the critics have seen.
DEPENDS = {
    "behaviour/beside/loss": {"behaviour"},
    "critic/target": {"average", "behaviour_average", "target"},
    "value/target": {"average", "behaviour_average", "target", "value_target"},
    "actor/divergence": {"actor", "behaviour_average"},
    "actor/value": {
        *("actor", "average", "behaviour_average", "critic", "value", "target", "value_target"),
    },
}


def test_who_sees_whom(run):
    """And that no loss but its own reaches the behaviour: its step is the same whatever the others are."""
    update, batch, states, metrics = run
    before, after = states[-2:]
    found = {number: set() for number in DEPENDS}
    for part in MOVED[-1]:
        held = before[part]
        model = jax.tree.map(lambda x: 1.3 * x, held.model if isinstance(held, Learner) else held)
        changed = Learner(model, held.opt_state) if isinstance(held, Learner) else model
        state, numbers = update(Parts(before, **{part: changed}), batch, jax.random.fold_in(KEY, 3))
        for number, parts in found.items():
            if not np.isclose(numbers[number], metrics[-1][number], rtol=1e-6):
                parts.add(part)
        assert same(state, after, "behaviour") == (part != "behaviour")
        assert same(state, after, "behaviour_average") == (part not in ("behaviour", "behaviour_average"))
    assert found == DEPENDS


def test_phases_of_no_length_and_mistakes():
    stage = average("of", 0.5)
    at = lambda updates: Seen(Parts(), Parts(of=jnp.ones(())), None, jnp.asarray(updates), {}, "slow")
    copied = copied_until(stage, "of", 0)
    assert copied.start(KEY, None, Parts(of=jnp.asarray(3.0))) == 3
    assert copied.step(jnp.zeros(()), at(1), KEY)[0] == 0.5
    assert bdpo(behaviour_updates=20, critic_updates=5).phases == 25  # what a run must be longer than
    with pytest.raises(ValueError, match="updates must be"):
        copied_until(stage, "of", -1)
    with pytest.raises(ValueError, match="behaviour_updates must be"):
        bdpo(behaviour_updates=-1)
    with pytest.raises(ValueError, match="hyperparameter of bdpo"):
        bdpo(sampler="ddim")
