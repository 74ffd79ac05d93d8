"""PA-RL: actions moved up the critic, what holds the critic down, and who clones what from when on."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallest import SPEC, TINY, experience

import dpolicy as dp
from dpolicy.algorithms import pa_rl, td3_bc
from dpolicy.blocks import optimised_actions
from dpolicy.data import DataSet
from dpolicy.envs import make
from dpolicy.learning import Parts, Seen
from dpolicy.losses import conservative, gradient_ascent
from dpolicy.train import offline

KEY, OBS, SLOPE = jax.random.key(0), jnp.zeros(1), jnp.array([2.0, -1.0])
EXAMPLE = dp.Transition(OBS, jnp.array([-5.0]), jnp.zeros(()), OBS, jnp.asarray(False), jnp.asarray(False))


@pytest.mark.parametrize("steps", [0, 3, 40])
def test_with_linear_q_plain_steps_move_by_the_slope_until_the_box_ends(steps):
    start = jnp.array([0.1, 0.4])
    found = gradient_ascent(lambda a: SLOPE @ a, start, steps=steps, rate=0.02, plain=True, highest=True)
    np.testing.assert_allclose(found, jnp.clip(start + steps * 0.02 * SLOPE, -1, 1), atol=1e-6)


def test_an_action_stays_at_the_highest_point_of_its_way():
    """Steps of 1.5 gradients of -(a - .5)^2 go too far: from 0 to 1, to -.5, to 1 again; the first is no worse."""
    value = lambda a: -jnp.sum((a - 0.5) ** 2)
    climb = lambda start, **how: gradient_ascent(
        value, jnp.array([start]), steps=3, rate=1.5, plain=True, **how
    )
    assert climb(0.0) == 1.0 and climb(0.0, highest=True) == 0.0
    assert climb(-0.9, highest=True) == pytest.approx(1.0)  # better than where it began
    assert climb(0.5, highest=True) == 0.5


def test_the_best_of_the_drawn_are_kept_and_none_gets_worse():
    sample = lambda actor, obs, key: actor * jax.random.normal(key, (1,))
    q = lambda obs, action: -jnp.sum((action - 0.2) ** 2)
    options = {"candidates": 6, "kept_candidates": 3}
    drawn = jax.vmap(lambda key: sample(0.5, OBS, key))(jax.random.split(KEY, 6))[:, 0]
    kept = drawn[jnp.argsort(jnp.abs(drawn - 0.2))[:3]]
    ranked, values = optimised_actions(**options, ascent_steps=0).actions(sample, 0.5, q, OBS, KEY)
    np.testing.assert_allclose(ranked[:, 0], kept, rtol=1e-6)
    np.testing.assert_allclose(values, -((kept - 0.2) ** 2), rtol=1e-5)
    moved, better = optimised_actions(**options, ascent_steps=2, ascent_rate=0.1).actions(
        sample, 0.5, q, OBS, KEY
    )
    np.testing.assert_allclose(moved[:, 0] - 0.2, 0.64 * (kept - 0.2), rtol=1e-4)
    assert np.all(better >= values)
    best = optimised_actions(**options, ascent_steps=0).policy(sample)
    found = [best(0.5, q, OBS, key)[0] for key in jax.random.split(KEY, 2)]
    assert found[0] != found[1]
    with pytest.raises(ValueError, match="kept_candidates must be at most candidates, 2, got 3"):
        optimised_actions(candidates=2, kept_candidates=3)


def table(values, obs, action):
    """A critic that is a table: of the policy's actions (at 5), of those in the box, of the data's (at -5)."""
    return values @ jnp.stack([action[0] > 2, jnp.abs(action[0]) <= 1, action[0] < -2]).astype(float)


def term(values, floor=None, **options):
    """The conservative term of two critics that are this table, and its gradient in it."""
    loss = conservative(lambda e, key: 5 * jnp.ones((2, 1)), floor=floor, **options)
    two = lambda values: loss(lambda obs, action: table(values, obs, action) * jnp.ones(2), EXAMPLE, KEY)[0]
    return jax.value_and_grad(two)(jnp.asarray(values))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_conservative_term_is_the_soft_maximum_above_the_data(temperature):
    """Of two policy actions three times each, four random ones and the data's, eleven in all."""
    values, counts = np.array([1.2, -0.3, 0.4]), np.array([6, 4, 1]) / 11
    options = {"random": 4, "copies": 3, "temperature": temperature}
    found, slope = term(values, **options)
    weights = counts * np.exp(values / temperature)
    np.testing.assert_allclose(found, temperature * np.log(weights.sum()) - values[2], rtol=1e-5)
    np.testing.assert_allclose(slope, weights / weights.sum() - [0, 0, 1], atol=1e-6)
    same, _ = term(values, lambda e: jnp.asarray(1.1), **options)  # Q above the floor everywhere: CQL's term
    np.testing.assert_allclose(same, found, rtol=1e-6)


def test_below_its_floor_a_policys_action_has_no_gradient():
    """Only the random actions and the data's have one, though the floor counts in the soft maximum."""
    found, slope = term([1.2, -0.3, 0.4], lambda e: jnp.asarray(2.0), random=4, copies=3)
    weights = np.array([6, 4, 1]) * np.exp([2.0, -0.3, 0.4])
    np.testing.assert_allclose(slope, weights / weights.sum() * [0, 1, 1] - [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(found, np.log(weights.sum() / 11) - 0.4, rtol=1e-5)


def test_the_critics_wait_for_the_clone_and_the_clone_turns_to_improved_actions():
    """In one program: update 1 is cloning alone, the critics step from 2 on, and improved actions are cloned from 3."""
    numbers = {"cloning_updates": 1, "distillation_after": 2, "learning_rate": 1e-2}
    made = pa_rl(**{**TINY["pa_rl"], **numbers})
    assert made.stages is not None
    state = made.init(KEY, SPEC)
    batch, update = experience(made, state, KEY), jax.jit(made.update)
    first, _ = update(state, batch, KEY)
    second, metrics = update(first, batch, KEY)
    assert eqx.tree_equal(first.critic, state.critic) and not eqx.tree_equal(first.actor, state.actor)
    assert not eqx.tree_equal(second.critic, first.critic) and metrics["critic/due"] == 1
    one = jax.tree.map(lambda leaf: leaf[0], batch)
    one = dataclasses.replace(one, extras={"improved": -0.5 * one.action})
    moved = dataclasses.replace(one, action=one.extras["improved"])
    seen = lambda updates: Seen(Parts(state), Parts(state), batch, jnp.asarray(updates), {}, "actor")
    loss = lambda updates, example: made.stages["actor"].loss(seen(updates))(state.actor, example, KEY)[0]
    np.testing.assert_allclose(loss(3, one), loss(2, moved), rtol=1e-6)
    assert abs(float(loss(3, one) - loss(2, one))) > 1e-3


def test_actions_are_improved_by_the_mean_of_the_critics_that_the_update_finds():
    """Members of 10 and -8 times a_0: their mean climbs to a_0 = 1, their minimum to 0; no target is read."""
    sizes = {
        **TINY["pa_rl"],
        "cloning_updates": 0,
        "distillation_after": 0,
        "ascent_steps": 3,
        "ascent_rate": 2.0,
    }
    made = pa_rl(**sizes)
    assert made.stages is not None
    field = dp.FunctionField(lambda x, t, obs: x, schedule=dp.LinearVP(), prediction="noise", action_size=2)
    critic = lambda obs, action: jnp.array([10.0, -8.0]) * action[0]
    rows = jax.tree.map(lambda x: jnp.stack([x, x]), dataclasses.replace(EXAMPLE, action=jnp.zeros(2)))
    before, step = Parts(critic=critic, actor=field), made.stages["candidates"].step
    one = lambda key: step({}, Seen(before, Parts(), rows, jnp.asarray(1), {}, "candidates"), key)[1]
    found = jax.jit(one)(KEY)
    assert set(found) == {"improved", "best", "next_best"}
    for action in found.values():
        np.testing.assert_array_equal(action[:, 0], 1.0)


def test_targets_value_the_improved_action_of_the_next_state():
    """r + gamma min Qbar(s', a*'), where a*' is what the update has put beside the transition."""
    scalar = {"critic": "scalar", "critic_low": None, "critic_high": None, "critic_atoms": None}
    made = pa_rl(**{**TINY["pa_rl"], **scalar}, conservatism=0.3, discount=0.9, critic_subset=None)
    q = lambda obs, action: jnp.stack([SLOPE @ action, 2 + action[0], 3 - action[1]])
    extras = {"best": 0.4 * jnp.ones(2), "next_best": jnp.array([0.2, -0.3]), "mc_return": jnp.zeros(())}
    one = dp.Transition(
        OBS, jnp.ones(2), jnp.asarray(0.7), OBS, jnp.asarray(False), jnp.asarray(False), extras
    )
    assert made.stages is not None
    parts = Parts(critic=q, target=q, actor=None)
    loss = made.stages["critic"].loss(Seen(parts, Parts(), one, jnp.asarray(1), {}, "critic"))
    value, metrics = loss(q, one, KEY)
    goal = 0.7 + 0.9 * 0.7
    np.testing.assert_allclose(metrics["target"], goal, rtol=1e-6)
    fit = jnp.mean((q(OBS, jnp.ones(2)) - goal) ** 2)
    np.testing.assert_allclose(value, fit + 0.3 * metrics["beside/loss"], rtol=1e-5)


def test_nothing_is_improved_by_critics_that_have_not_learned():
    with pytest.raises(ValueError, match="distillation_after must be at least cloning_updates, 20, got 10"):
        pa_rl(cloning_updates=20, distillation_after=10)
    assert pa_rl(cloning_updates=20, distillation_after=None).phases == 20


def test_returns_of_another_discount_are_refused():
    """They would be a floor under values that are discounted otherwise."""
    data, env = (
        DataSet(np.zeros((8, 1)), np.zeros((8, 1)), terminated=np.ones(8, bool)),
        make("bandit/double_well"),
    )
    program = lambda method, **data_options: offline(method, env, dataset=data, batch_size=4, **data_options)
    assert program(pa_rl(**TINY["pa_rl"], discount=0.9), data_discount=0.9).algorithm.discount == 0.9
    with pytest.raises(ValueError, match=r"data_discount must be the discount of pa_rl, 0\.9, got 0\.99"):
        program(pa_rl(**TINY["pa_rl"], discount=0.9))
    with pytest.raises(
        ValueError, match="data_discount is of the extra mc_return, which is not asked for, got 0.5"
    ):
        program(td3_bc(**TINY["td3_bc"]), data_discount=0.5)
