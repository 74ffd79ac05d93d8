"""SfBC: returns planned along trajectories, one critic after another, several picks of the candidates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.algorithms import sfbc
from dpolicy.blocks import restarted
from dpolicy.data import DataSet
from dpolicy.envs import make
from dpolicy.learning import algorithm, trained
from dpolicy.losses import planned_returns
from dpolicy.samplers import best_of, select
from dpolicy.train import offline, train_loop

LOW = -np.inf


def test_planning_without_values_is_the_discounted_return():
    reward = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    done = jnp.array([False, False, True, False, False])
    for at in ("successor", "state"):
        found = planned_returns(reward, done, jnp.full(5, LOW), 0.5, at=at)
        np.testing.assert_allclose(found, [1 + 1 + 0.75, 2 + 1.5, 3, 4 + 2.5, 5], rtol=1e-6)


def test_planning_against_values_far_above_is_one_step_of_bootstrapping():
    reward, done = jnp.array([1.0, 2.0, 3.0]), jnp.array([False, True, False])
    found = planned_returns(reward, done, jnp.array([100.0, 200.0, 300.0]), 0.5)
    np.testing.assert_allclose(found, [1 + 0.5 * 200, 2, 3])
    # The code's form is never below the value of the row's own state.
    found = planned_returns(reward, done, jnp.array([100.0, 0.0, 2.0]), 0.5, at="state")
    np.testing.assert_allclose(found, [100, 2, 3])


def test_trajectories_that_cross_are_stitched():
    """Two come to the state 1: one goes on to nothing, the other to a reward of 10; the value of 1 is the better."""
    reward, done = jnp.array([0.0, 0.0, 0.0, 10.0]), jnp.array([False, True, False, True])
    value = jnp.array([0.0, 10.0, 0.0, 10.0])  # of the states 0, 1, 2, 1
    np.testing.assert_allclose(planned_returns(reward, done, value, 0.9), [9, 0, 9, 10])


def test_picks_without_replacement(getkey):
    actions, values = jnp.array([[0.0], [1.0], [2.0]]), jnp.log(jnp.array([0.2, 0.3, 0.5]))
    assert float(select(actions, values, picks=2)[0]) == 1.5
    draw = lambda key: select(actions, values, key, temperature=1.0, picks=2)[0]
    found = np.asarray(jax.vmap(draw)(jax.random.split(getkey(), 40_000)))
    # The pair {1, 2} is drawn 1 then 2, or 2 then 1; no pair holds an action twice.
    exact = {0.5: 0.2 * 3 / 8 + 0.3 * 2 / 7, 1.0: 0.2 * 5 / 8 + 0.5 * 2 / 5, 1.5: 0.3 * 5 / 7 + 0.5 * 3 / 5}
    for mean, share in exact.items():
        assert np.mean(found == mean) == pytest.approx(share, abs=0.01)
    assert sum(exact.values()) == pytest.approx(1.0)
    for words, call in {
        "picks must be an integer from 1 to 3, got 4": lambda: select(actions, values, picks=4),
        "picks must be an integer from 1 to 2, got 3": lambda: best_of(
            2, lambda *_: actions[0], lambda *_: 0.0, picks=3
        ),
        "picks must be an integer from 1 to 32, got 33": lambda: sfbc(picks=33),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_a_restarted_stage_begins_anew_from_the_same_place():
    """A number that falls by its optimiser's momentum: after the restart it falls as a fresh one does."""
    loss = lambda model, example, key: (model, {"loss": model})
    stage = restarted(
        trained(lambda key, spec: jax.random.normal(key), lambda s: loss), lambda updates: updates == 3
    )
    idle = lambda s: lambda obs, key: jnp.zeros(1)
    method = algorithm("own", "offline", explore=idle, evaluate=idle, number=stage)
    env = make("bandit/double_well")
    state = method.init(jax.random.key(0), env.spec)
    batch = DataSet(np.zeros((2, 1)), np.zeros((2, 1)), np.zeros(2), np.zeros((2, 1))).transitions()
    seen, update = [float(state.number)], jax.jit(method.update)
    for _ in range(4):
        state, _ = update(state, batch, jax.random.key(1))
        seen.append(float(state.number))
    fresh = float(state["fresh"].model)
    assert fresh != seen[0]
    np.testing.assert_allclose(np.diff([fresh, *seen[3:]]), np.diff(seen[:3]), rtol=1e-3)


def chain():
    """Two trajectories of a line of states 0 to 4, where an action of 1 earns 1: one ends in a reward of 10."""
    obs = np.array([0, 1, 2, 3, 0, 1, 2, 3], float)[:, None] / 4
    action = np.array([0.5, -0.5, 0.5, -0.5, -0.5, 0.5, 0.5, 0.5])[:, None]
    reward = np.array([0, 0, 0, 0, 0, 0, 0, 10.0])
    ends = np.isin(np.arange(8), (3, 7))
    return DataSet(obs, action, reward, obs + 0.25, terminated=ends, end=ends)


def test_a_run_through_its_phases():
    """The policy is cloned and then stays; returns are followed first, and planned before the second critic."""
    sizes = {
        "hidden": (8,),
        "critic_hidden": (16,),
        "sampler_steps": 2,
        "candidates": 2,
        "evaluation_candidates": 2,
    }
    method = sfbc(**sizes, behaviour_updates=2, critic_updates=150, support=4, critic_learning_rate=1e-2)
    small = {"batch_size": 8, "updates_per_evaluation": 76, "evaluation_episodes": 1}
    program = offline(method, make("bandit/double_well"), dataset=chain(), **small)
    step, state = jax.jit(program.step), jax.jit(program.init)(jax.random.key(0))
    states = [state]
    for _ in range(3):
        states.append(step(states[-1])[0])
    clone = lambda state: jax.tree.leaves(state.algorithm["actor"].model)
    assert all(np.array_equal(a, b) for a, b in zip(clone(states[1]), clone(states[2]), strict=True))
    powers = 10 * 0.99 ** np.array([3, 2, 1, 0])
    followed = np.concatenate([np.zeros(4), powers])
    found = states[2].experience.entries
    np.testing.assert_allclose(found["return"], followed, rtol=1e-5)
    np.testing.assert_allclose(
        found["target"], (followed - followed.mean()) / followed.std(), rtol=1e-4, atol=1e-5
    )
    # The first critic knows the returns of the chain; then the losing trajectory is planned to go on as the other.
    planned = np.asarray(states[3].experience.entries["return"])
    # In the units of returns: their deviations alone, without the mean, would be half of that.
    assert (
        ((planned[:3] > 6) & (planned[:3] < 9.9)).all()
        and planned[3] == 0
        and (planned[4:] >= followed[4:] - 1e-4).all()
    )


def test_rows_out_of_order_are_refused():
    data = chain()
    shuffled = DataSet(data.obs[::-1], data.action, data.reward, data.next_obs)
    small = {"batch_size": 2, "updates_per_evaluation": 1, "evaluation_episodes": 1}
    sizes = {"hidden": (4,), "critic_hidden": (4,), "sampler_steps": 2}
    program = offline(sfbc(**sizes), make("bandit/double_well"), dataset=shuffled, **small)
    with pytest.raises(ValueError, match="data must be in order of time"):
        jax.eval_shape(lambda key: program.step(program.init(key)), jax.random.key(0))


def test_a_run_that_ends_before_the_last_phase_is_refused():
    sizes = {
        "hidden": (4,),
        "critic_hidden": (4,),
        "sampler_steps": 2,
        "behaviour_updates": 20,
        "critic_updates": 5,
    }
    small = {"batch_size": 2, "updates_per_evaluation": 5, "evaluation_episodes": 1}
    program = offline(sfbc(**sizes), make("bandit/double_well"), dataset=chain(), **small)
    sentence = "steps must be more than 25, the updates after which the last phase of sfbc begins"
    with pytest.raises(ValueError, match=sentence):
        train_loop(program, steps=25)
