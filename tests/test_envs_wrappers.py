"""Wrappers on a counting environment whose every number is known, and `make` that applies them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.envs import (
    ActionChunk,
    ActionRepeat,
    Environment,
    FrameStack,
    TimeLimit,
    Vector,
    evaluate_episodes,
    make,
    unwrapped,
)
from dpolicy.envs.protocol import Spec

ENDS = 5


class Counter(Environment):
    """Counts steps from a random tenth; pays the action's first coordinate; terminates at `ENDS`, then goes mad."""

    spec: Spec

    def __init__(self, time_limit=12):
        self.spec = Spec("test/counter", 2, 2, time_limit)

    def reset(self, key):
        state = jnp.zeros(()), jax.random.randint(key, (), 0, 10) / 10
        return state, jnp.stack(state)

    def step(self, state, action, key):
        count, start = state
        count = count + 1
        mad = count > ENDS
        reward = jnp.where(mad, jnp.nan, action[0])
        return (count, start), jnp.stack([jnp.where(mad, jnp.nan, count), start]), reward, count == ENDS


def played(env, actions):
    """Observations, rewards and ends of a single episode."""
    state, obs = env.reset(jax.random.key(3))
    seen, rewards, ends = [obs], [], []
    for action in actions:
        state, obs, reward, terminated = env.step(state, jnp.asarray(action, float), jax.random.key(4))
        seen.append(obs)
        rewards.append(float(reward))
        ends.append(bool(terminated))
    return np.stack(seen), rewards, ends


def test_a_chunk_is_its_actions_in_turn_and_stops_where_the_episode_ends():
    env = ActionChunk(Counter(), 3)
    assert (env.spec.obs_size, env.spec.action_size, env.spec.time_limit) == (2, 6, 4)
    assert env.spec.name == "test/counter action_chunk=3"
    # The second coordinates would be paid if the chunk were cut the other way round.
    seen, rewards, ends = played(env, [[1, 50, 2, 60, 4, 70], [8, 50, 16, 60, 32, 70]])
    np.testing.assert_array_equal(seen[:, 0], [0, 3, ENDS])
    assert rewards == [7, 24]
    assert ends == [False, True]


def test_what_a_chunk_leaves_unexecuted_does_nothing_to_the_state():
    env = ActionChunk(Counter(), 6)
    state, _ = env.reset(jax.random.key(0))
    state, obs, reward, terminated = env.step(state, jnp.ones(12), jax.random.key(1))
    assert (float(state[0]), float(obs[0]), float(reward), bool(terminated)) == (ENDS, ENDS, ENDS, True)


def test_repeats_take_one_action_several_times():
    env = ActionRepeat(Counter(), 2)
    assert (env.spec.obs_size, env.spec.action_size, env.spec.time_limit) == (2, 2, 6)
    assert env.spec.name == "test/counter action_repeat=2"
    seen, rewards, ends = played(env, [[1, 9], [2, 9], [4, 9]])
    np.testing.assert_array_equal(seen[:, 0], [0, 2, 4, ENDS])
    assert rewards == [2, 4, 4]
    assert ends == [False, False, True]


def test_every_step_of_a_chunk_has_a_key_of_its_own():
    class Noise(Environment):
        spec: Spec = Spec("test/noise", 1, 1, 4)

        def reset(self, key):
            return jnp.zeros(()), jnp.zeros(1)

        def step(self, state, action, key):
            draw = jax.random.uniform(key)
            return state + draw, jnp.stack([draw]), draw, jnp.asarray(False)

    env = ActionChunk(Noise(), 2)
    state, obs, reward, _ = env.step(jnp.zeros(()), jnp.zeros(2), jax.random.key(0))
    assert float(obs[0]) != float(reward - obs[0])
    np.testing.assert_allclose(state, reward)


def test_stacked_frames_are_oldest_first_and_start_with_the_first_repeated():
    env = FrameStack(Counter(), 3)
    assert (env.spec.obs_size, env.spec.action_size, env.spec.time_limit) == (6, 2, 12)
    seen, _, _ = played(env, [[0, 0]] * 4)
    counts = seen.reshape(5, 3, 2)[..., 0]
    np.testing.assert_array_equal(counts, [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]])
    starts = seen.reshape(5, 3, 2)[..., 1]
    assert (starts == starts[0, 0]).all() and starts[0, 0] > 0


def test_frames_of_the_next_episode_hold_nothing_of_the_last():
    vector = Vector(FrameStack(Counter(), 2), 3)
    state = vector.init(jax.random.key(0))
    for i in range(ENDS):
        state, step = vector.step(state, jnp.ones((3, 2)), jax.random.key(i))
    assert step.terminated.all()
    np.testing.assert_array_equal(step.next_obs.reshape(3, 2, 2)[..., 0], [[ENDS - 1, ENDS]] * 3)
    np.testing.assert_array_equal(state.obs.reshape(3, 2, 2)[..., 0], 0)


@pytest.mark.parametrize(
    ("wrap", "steps", "counts"),
    [
        (lambda env: TimeLimit(env, 4), 4, 4),
        (lambda env: ActionChunk(TimeLimit(env, 4), 2), 2, 4),
        (lambda env: ActionRepeat(TimeLimit(env, 4), 2), 2, 4),
        (lambda env: FrameStack(TimeLimit(env, 3), 2), 3, 3),
        (lambda env: TimeLimit(ActionRepeat(env, 2), 1), 1, 2),
    ],
)
def test_a_limit_is_reached_exactly_and_is_no_termination(wrap, steps, counts):
    env = wrap(Counter())
    assert env.spec.time_limit == steps
    vector = Vector(env, 2)
    state = vector.init(jax.random.key(0))
    for i in range(steps):
        state, step = vector.step(state, jnp.ones((2, env.spec.action_size)), jax.random.key(i))
        assert not step.terminated.any()
        assert (step.truncated == (i + 1 == steps)).all()
    # The true successor, with everything that was executed, and after it a fresh start.
    np.testing.assert_array_equal(step.next_obs[:, -2], counts)
    np.testing.assert_array_equal(step.episode_return, counts)
    np.testing.assert_array_equal(state.obs[:, -2], 0)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            lambda: ActionChunk(Counter(), 5),
            r"ActionChunk needs a size that divides .*, 12, got 5.*\(env, 10\)",
        ),
        (
            lambda: ActionRepeat(Counter(), 5),
            r"ActionRepeat needs a count that divides .*TimeLimit\(env, 10\)",
        ),
        (lambda: ActionChunk(Counter(), 13), r"TimeLimit\(env, 13\)"),
        (lambda: ActionChunk(Counter(), 0), "size must be an integer of at least 1, got 0"),
        (lambda: ActionRepeat(Counter(), 0), "count must be an integer of at least 1, got 0"),
        (lambda: FrameStack(Counter(), -1), "count must be an integer of at least 1, got -1"),
        (lambda: TimeLimit(Counter(), 0), "steps must be an integer of at least 1, got 0"),
        (
            lambda: make("gymnax/MountainCarContinuous-v0", action_chunk=2),
            "999, got 2.*give make a time_limit",
        ),
        (lambda: make("multigoal", action_chunk=0), "action_chunk must be an integer of at least 1, got 0"),
        (lambda: make("multigoal", frame_stacks=2), "got 'frame_stacks'. Did you mean frame_stack?"),
        (lambda: make("multigoal", horizon=3, time_limit=4), "takes a horizon or a time_limit, got 3 and 4"),
    ],
)
def test_what_does_not_fit_is_refused(wrap, message):
    with pytest.raises(ValueError, match=message):
        wrap()


def test_make_wraps_the_repeat_inside_then_the_stack_then_the_chunk():
    env = make("probe/time_limit", action_chunk=4, action_repeat=2, frame_stack=3, time_limit=5)
    assert env.spec == Spec("probe/time_limit action_repeat=2 frame_stack=3 action_chunk=4", 3, 4, 5)
    assert [type(e).__name__ for e in (env, env.env, env.env.env, env.env.env.env)] == [
        "ActionChunk",
        "FrameStack",
        "ActionRepeat",
        "Probe",
    ]
    assert env.env.env.env.spec.time_limit == 5 * 4 * 2
    assert unwrapped(env) is env.env.env.env
    # The state flips twice within a repeat, so every frame is the start; its reward s and -s cancel out.
    state, obs = env.reset(jax.random.key(0))
    _, after, reward, _ = env.step(state, jnp.zeros(4), jax.random.key(1))
    np.testing.assert_array_equal(obs, after)
    assert float(reward) == 0.0


@pytest.mark.parametrize(
    "name", ["bandit/quadratic", "multigoal", "probe/constant", "gymnax/Pendulum-v1"], ids=lambda n: n
)
def test_make_sets_every_familys_time_limit(name):
    assert make(name, time_limit=7).spec.time_limit == 7
    assert make(name, time_limit=7, action_chunk=2, action_repeat=3).spec.time_limit == 7


def test_defaults_change_nothing():
    for name in ("bandit/quadratic", "multigoal", "probe/constant", "gymnax/Pendulum-v1"):
        plain, wrapped = make(name), make(name, action_chunk=1, action_repeat=1, frame_stack=1)
        assert type(plain) is type(wrapped) is type(unwrapped(plain))
        assert plain.spec == wrapped.spec


def test_evaluation_counts_the_wrappers_steps():
    env = ActionChunk(ActionRepeat(TimeLimit(Counter(), 4), 2), 2)
    policy = lambda obs, key: jnp.ones(4)
    returns, lengths = evaluate_episodes(env, policy, jax.random.key(0), 2, env.spec.time_limit)
    np.testing.assert_array_equal(lengths, 1)
    np.testing.assert_array_equal(returns, 4.0)
