"""QGPO and QIPO: their phases, what is drawn when, and which copy of which network each loss reads."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallest import SPEC, TINY, experience

from dpolicy.algorithm import Stored
from dpolicy.algorithms import ALGORITHMS, qgpo
from dpolicy.blocks import critic_function
from dpolicy.learning import Parts, stage_key
from dpolicy.losses import (
    batched,
    boltzmann,
    chain,
    energy_matching,
    matching,
    mix,
    perturb,
    stored_actions,
)

KEY = jax.random.key(0)
PHASES = {"behaviour_updates": 2, "critic_updates": 1, "support": 3}
FAST = {"learning_rate": 1e-2, "critic_learning_rate": 1e-2, "target_rate": 0.3}


def run(name, updates=6, **settings):
    """The state before each update and after the last, the metrics of each, and the batch, whose support is drawn."""
    algorithm = ALGORITHMS[name].recipe(**{**TINY[name], **FAST, **settings})
    state = algorithm.init(KEY, SPEC)
    # Targets of their own, so that what is read of which shows.
    state = Parts(state, target=jax.tree.map(lambda x: 1.5 * x, state.target))
    batch, keys = experience(algorithm, state, KEY), jax.random.split(KEY, 2)
    draw = lambda key: jax.random.uniform(key, (16, 3, SPEC.action_size), minval=-1.0, maxval=1.0)
    batch = dataclasses.replace(batch, extras={"support": draw(keys[0]), "next_support": draw(keys[1])})
    update, states, metrics = jax.jit(algorithm.update), [state], []
    for key in jax.random.split(KEY, updates):
        state, found = update(states[-1], batch, key)
        states.append(state)
        metrics.append(found)
    return algorithm, states, metrics, batch


def moves(states, part):
    """The updates, from 1, at which the part moved."""
    leaves = [jax.tree.leaves(eqx.filter(state[part], eqx.is_inexact_array)) for state in states]
    same = [
        all(np.array_equal(a, b) for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(leaves)
    ]
    return [update for update, still in enumerate(same, 1) if not still]


@pytest.fixture(scope="module")
def guided():
    return run("qgpo", **PHASES)


@pytest.fixture(scope="module")
def weighted():
    return run("qipo", renewal_updates=2, **PHASES)


def test_first_the_behaviour_then_the_critics_and_the_energy_from_then_on(guided):
    _, states, metrics, _ = guided
    assert {part: moves(states, part) for part in ("behaviour", "critic", "target", "energy")} == {
        "behaviour": [1, 2],
        "critic": [3],
        "target": [3],
        "energy": [3, 4, 5, 6],
    }
    assert [float(found["energy/due"]) for found in metrics] == [0, 0, 1, 1, 1, 1]


def test_first_the_field_then_the_critics_then_the_field_by_weights(weighted):
    _, states, metrics, _ = weighted
    assert moves(states, "actor") == [1, 2, 4, 5, 6] and moves(states, "critic") == [3]
    assert [float(found["actor/clone/due"]) for found in metrics] == [1, 1, 0, 0, 0, 0]
    assert [float(found["actor/improve/due"]) for found in metrics] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("which", ["guided", "weighted"])
def test_targets_are_in_support(which, request):
    """r + gamma sum_j p_j Q_j over the actions at the next state, Q the lower target critic as it was found."""
    _, states, metrics, batch = request.getfixturevalue(which)
    before = states[2]
    q = lambda obs, action: jnp.min(before.target(obs, action))
    values = jax.vmap(jax.vmap(q, (None, 0)))(batch.next_obs, batch.extras["next_support"])
    value = jnp.sum(jax.nn.softmax(3 * values, axis=1) * values, axis=1)
    goal = batch.reward + 0.99 * jnp.where(batch.terminated, 0, value)
    errors = jax.vmap(before.critic)(batch.obs, batch.action) - goal[:, None]
    np.testing.assert_allclose(metrics[2]["critic/loss"], jnp.mean(errors**2), rtol=1e-4)


@pytest.mark.parametrize("labels", ["normalised", "exponential"])
def test_labels_are_of_the_target_that_the_update_has_left(guided, labels):
    _, states, metrics, batch = guided if labels == "normalised" else run("qgpo", 3, labels=labels, **PHASES)
    own = labels == "normalised"
    schedule = states[0].behaviour.schedule

    @jax.jit
    def by_hand(target, energy, key):
        label = boltzmann(critic_function(target), 1 / 3, normalise=own, rescale=not own)
        loss = energy_matching(chain(stored_actions("support"), label), schedule)
        return batched(loss)(energy, batch, stage_key(key, "energy"))[0]

    key, found = jax.random.split(KEY, len(metrics))[2], metrics[2]["energy/loss"]
    np.testing.assert_allclose(found, by_hand(states[3].target, states[2].energy, key), rtol=1e-5)
    assert abs(found - by_hand(states[2].target, states[2].energy, key)) > 1e-4


def test_candidates_are_the_datas_own_action_and_the_fields(weighted):
    _, states, metrics, batch = weighted
    noise = perturb(states[0].actor.schedule)
    weight = boltzmann(critic_function(states[3].target), 1 / 3)
    links = chain(mix((1 / 4, chain()), (3 / 4, stored_actions("support"))), weight, noise)
    loss = jax.jit(batched(matching(links, reduction="sum")))
    key = stage_key(stage_key(jax.random.split(KEY, 6)[3], "actor"), "improve")
    np.testing.assert_allclose(
        metrics[3]["actor/improve/loss"], loss(states[3].actor, batch, key)[0], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("which", "drawn"),
    [
        ("guided", {"support": [3], "next_support": [3]}),
        ("weighted", {"support": [4, 6, 8], "next_support": [3]}),
    ],
)
def test_actions_are_drawn_once_or_renewed(which, drawn, request):
    """Before the first update of a phase, by the policy that the update finds."""
    algorithm, states, _, batch = request.getfixturevalue(which)
    blank = dataclasses.replace(batch, extras=jax.vmap(algorithm.memory.start)(batch))
    stored = Stored(blank, jnp.asarray(0), jnp.asarray(16), 1)

    @jax.jit
    def look(updates):
        return algorithm.memory.organise(Parts(states[2], updates=updates), stored, KEY)[1]

    found = {name: [] for name in drawn}
    for update in range(1, 9):
        for name, actions in look(jnp.asarray(update - 1)).items():
            assert actions.shape == (16, 3, SPEC.action_size)
            found[name] += [update] if np.any(actions) else []
    assert found == drawn


def test_phases_that_are_none_are_refused():
    with pytest.raises(ValueError, match="got 'n_step'"):  # a window's end has no actions beside it
        qgpo(n_step=3)
    with pytest.raises(ValueError, match="behaviour_updates must be an integer of at least 1"):
        qgpo(behaviour_updates=0)
    with pytest.raises(ValueError, match="labels must be one of normalised, exponential"):
        qgpo(labels="softmax")
