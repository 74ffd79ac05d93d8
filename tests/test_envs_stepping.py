"""What environments return, on the way into a batch, an evaluation, a recording: refused, or made sound."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from walks import (
    FiveValues,
    FloatFlag,
    GrowingState,
    IntegerObs,
    LongerObs,
    LongObs,
    ResetReturnsObs,
    VectorReward,
    Walk,
)

from dpolicy.data import episode_returns, record
from dpolicy.envs import (
    ActionChunk,
    ActionRepeat,
    Brax,
    Environment,
    FrameStack,
    Gymnax,
    Playground,
    Spec,
    TimeLimit,
    Vector,
    evaluate_episodes,
)
from dpolicy.envs.protocol import check_environment

KEY = jax.random.key(0)


class HalfObs(Walk):
    def step(self, state, action, key):
        state, obs, reward, terminated = super().step(state, action, key)
        return state, obs.astype(jnp.bfloat16), reward, terminated


class DictObs(Walk):
    def reset(self, key):
        state, obs = super().reset(key)
        return state, {"place": obs}


class IntegerReward(Walk):
    def step(self, state, action, key):
        state, obs, _, terminated = super().step(state, action, key)
        return state, obs, 1, terminated


class NamedState(Walk):
    def reset(self, key):
        state, obs = super().reset(key)
        return {"place": state, "name": "walk"}, obs


class Branches(Walk):
    """Asks Python about a number that is only known when the program runs."""

    def step(self, state, action, key):
        return state, state, 1.0 if state[0] > 1 else 0.0, False


class Raises(Walk):
    def reset(self, key):
        raise KeyError("start")


SLIPS = [
    (Raises(), "reset raises KeyError: 'start'."),
    (Branches(), "step raises TracerBoolConversionError: "),
    (ResetReturnsObs(), "reset must return (state, obs), got a tuple of 3."),
    (LongObs(), "the observation of reset must be float32[2], got float32[3]."),
    (IntegerObs(), "the observation of reset must be float32[2], got int32[2]."),
    (DictObs(), "the observation of reset must be float32[2], got a dict."),
    (NamedState(), "a state must be a pytree of arrays, but state['name'] is a str."),
    (
        FiveValues(),
        "step must return (state, obs, reward, terminated), got a tuple of 5; a time limit belongs",
    ),
    (VectorReward(), "the reward must be float32[], got float32[1]."),
    (IntegerReward(), "the reward must be float32[], got int32[]."),
    (FloatFlag(), "terminated must be bool[], got float32[]."),
    (HalfObs(), "the observation of step must be float32[2], got bfloat16[2]."),
    (LongerObs(), "the observation of step must be float32[2], got float32[3]."),
    (
        GrowingState(),
        "step must keep structure, shapes and types of the state: state['time'] is missing after",
    ),
]


def batched(env):
    """A step of a batch and an evaluation and a recording of `env`, each traced only."""
    policy = lambda obs, key: jnp.zeros(env.spec.action_size)
    vector = Vector(env, 2)
    step = lambda: vector.step(vector.init(KEY), jnp.zeros((2, env.spec.action_size)), KEY)
    return (
        step,
        lambda: evaluate_episodes(env, policy, KEY, 2, 3),
        lambda: record(env, policy, KEY, episodes=2),
    )


@pytest.mark.parametrize(("env", "sentence"), SLIPS, ids=lambda value: type(value).__name__)
def test_a_slip_is_one_sentence_wherever_the_environment_goes(env, sentence):
    # The size of an action is an argument of `VectorReward`'s; it has one, like those of the others.
    env = dataclasses.replace(env, spec=Spec("mine/walk", 2, 1, 4))
    around = [env, TimeLimit(env, 4), ActionChunk(env, 2), ActionRepeat(env, 2), FrameStack(env, 2)]
    calls = [*batched(env), *(batched(wrapped)[0] for wrapped in around[1:])]
    for call in calls:
        with pytest.raises(ValueError, match=r"^mine/walk") as caught:
            jax.eval_shape(call)
        assert sentence in str(caught.value)
        assert "`dpolicy check-env`" in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        (lambda obs, key: obs, "must return an array of shape (1,), got shape (2,)."),
        (lambda obs, key: (obs[:1], {}), "must return an array of shape (1,), got tuple."),
        (lambda obs, key: [0.0], "must return an array of shape (1,), got list."),
        (lambda obs, key: None, "must return an array of shape (1,), got NoneType."),
        (lambda obs, key: jnp.zeros(1, int), "must return an array of floats, got int32."),
    ],
)
def test_what_a_policy_returns_is_an_action_or_refused(policy, found):
    with pytest.raises(ValueError) as caught:
        jax.eval_shape(lambda: evaluate_episodes(Walk(), policy, KEY, 2, 3))
    assert str(caught.value) == f"policy {found}"
    with pytest.raises(ValueError) as caught:
        jax.eval_shape(lambda: record(Walk(), policy, KEY, episodes=2))
    assert str(caught.value) == f"policy {found}"


def test_sizes_of_actions_are_not_broadcast():
    for wrapped in (ActionChunk(Walk(), 2), ActionRepeat(Walk(), 2)):
        size = wrapped.spec.action_size
        with pytest.raises(ValueError, match=rf"action must have the shape \({size},\) of test/walk action"):
            wrapped.step(jnp.zeros(2), jnp.zeros(3), KEY)


def test_no_environment_and_no_specification_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what a user without the checker sees
    for make in (lambda env: Vector(env, 2), lambda env: ActionChunk(env, 2), lambda env: FrameStack(env, 2)):
        with pytest.raises(ValueError, match=r"env must be an Environment, got 5\."):
            make(5)
        with pytest.raises(ValueError, match=r"env\.spec must be a Spec, got \(2, 1\)\."):
            make(dataclasses.replace(Walk(), spec=(2, 1)))
    with pytest.raises(ValueError, match='name must be a name "family/task", got 3'):
        Spec(3, 1, 1, 1)
    with pytest.raises(
        ValueError, match="time_limit must be an integer from 1 to 2147483647, got 2147483648"
    ):
        Spec("a/b", 1, 1, 2**31)
    with pytest.raises(ValueError, match="count must be an integer from 1 to 1073741823, got 1073741824"):
        FrameStack(Walk(), 2**30)
    check_environment("env", Walk())


class Plain(Environment):
    """Returns numbers of Python; terminates nowhere."""

    spec: Spec = Spec("test/plain", 1, 1, 3)

    def reset(self, key):
        return 0, np.zeros(1, np.float32)

    def step(self, state, action, key):
        return state + 1, np.zeros(1, np.float32), 1.0, False


def test_numbers_of_python_count_as_arrays():
    env, policy = Plain(), lambda obs, key: jnp.zeros(1)
    returns, lengths = evaluate_episodes(env, policy, KEY, 2, 3)
    np.testing.assert_array_equal(returns, [3.0, 3.0])
    np.testing.assert_array_equal(lengths, 3)
    data = record(env, policy, KEY, episodes=2)
    np.testing.assert_array_equal(data.truncated, [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(episode_returns(data), [3.0, 3.0])
    for wrapped in (Vector(env, 2), Vector(ActionChunk(env, 3), 2), Vector(FrameStack(env, 2), 2)):
        actions = jnp.zeros((2, wrapped.env.spec.action_size))
        _, step = jax.jit(lambda w=wrapped, a=actions: w.step(w.init(KEY), a, KEY))()
        assert step.terminated.dtype == step.truncated.dtype == bool


BREAKS = 3  # the step at which the simulations below diverge


class State(NamedTuple):
    """What brax and playground environments pass around."""

    place: Any
    obs: Any
    reward: Any
    done: Any
    info: Any


class Diverging:
    """A point that moves on by one until its numbers are nan, which the comparison that ends episodes does not see. It
    has the interface of brax and playground.
    """

    action_size = 1

    def reset(self, key):
        return State(jnp.zeros(2), jnp.zeros(2), 0.0, 0.0, {})

    def step(self, state, action):
        place = jnp.where(state.place[0] >= BREAKS - 1, jnp.nan, state.place + 1.0)
        return State(place, place, jnp.sum(place), (jnp.abs(place[0]) > 100).astype(float), {})


class GymnaxDiverging:
    class Space(NamedTuple):
        shape: tuple
        low: float = -1.0
        high: float = 1.0

    class Params(NamedTuple):
        max_steps_in_episode: int = 10

    def action_space(self, params):
        return self.Space((1,))

    def observation_space(self, params):
        return self.Space((2,))

    def reset_env(self, key, params):
        return jnp.zeros(2), jnp.zeros(2)

    def step_env(self, key, state, action, params):
        new = Diverging().step(State(state, state, 0.0, 0.0, {}), action)
        return new.obs, new.place, new.reward, new.done > 0, {}


class Own(Environment):
    """An environment of one's own that says itself that it diverges: its reward is infinite, its observation half."""

    spec: Spec = Spec("test/own", 2, 1, 10)

    def reset(self, key):
        return jnp.zeros(()), jnp.zeros(2)

    def step(self, state, action, key):
        new = state + 1
        broken = new == BREAKS
        obs = jnp.stack([jnp.where(broken, jnp.inf, new), new])
        return new, obs, jnp.where(broken, -jnp.inf, 2.0 * new), broken


FAMILIES = {
    "brax": Brax(Diverging(), time_limit=10),
    "playground": Playground(Diverging(), time_limit=10),
    "gymnax": Gymnax(GymnaxDiverging(), GymnaxDiverging.Params()),
    "own": Own(),
    "stacked": FrameStack(Own(), 1),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_simulation_that_diverged_ends_where_it_was_last_finite(name):
    env, policy = FAMILIES[name], lambda obs, key: jnp.zeros(1)
    vector = Vector(env, 2)

    @jax.jit
    def run():
        step = lambda state, key: vector.step(state, jnp.zeros((2, 1)), key)
        return jax.lax.scan(step, vector.init(KEY), jax.random.split(KEY, 4))

    last, steps = run()
    np.testing.assert_array_equal(steps.next_obs[:, 0], [[1, 1], [2, 2], [2, 2], [1, 1]])
    np.testing.assert_array_equal(steps.reward[:, 0], [2, 4, 0, 2])
    np.testing.assert_array_equal(steps.terminated[:, 0], [0, 0, 1, 0])
    np.testing.assert_array_equal(steps.diverged[:, 0], [0, 0, 1, 0])
    np.testing.assert_array_equal(steps.episode_return[:, 0], [2, 6, 6, 2])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((last.env, last.obs, last.returns)))
    returns, lengths = evaluate_episodes(env, policy, KEY, 2, 10)
    np.testing.assert_array_equal(returns, 6.0)
    np.testing.assert_array_equal(lengths, BREAKS)
    data = record(env, policy, KEY, episodes=1)
    np.testing.assert_array_equal(data.next_obs, steps.next_obs[:3, 0])
    np.testing.assert_array_equal(data.reward, [2, 4, 0])
    np.testing.assert_array_equal(data.terminated, [0, 0, 1])


def test_a_chunk_that_diverges_is_one_step_that_does():
    env = ActionChunk(Own(), 2)
    vector = Vector(env, 1)
    state = vector.init(KEY)
    for reward, obs, diverged in ((6.0, 2.0, False), (0.0, 2.0, True)):
        state, step = vector.step(state, jnp.zeros((1, 2)), KEY)
        assert (float(step.reward[0]), bool(step.diverged[0])) == (reward, diverged)
        np.testing.assert_array_equal(step.next_obs[0], obs)


def test_what_is_not_finite_and_no_end_is_shown_as_it_is():
    class Spoilt(Own):
        def step(self, state, action, key):
            state, obs, _, _ = super().step(state, action, key)
            return state, obs, jnp.asarray(jnp.nan), jnp.asarray(False)

    vector = Vector(Spoilt(), 1)
    _, step = vector.step(vector.init(KEY), jnp.zeros((1, 1)), KEY)
    assert np.isnan(step.reward).all()
    assert not step.diverged.any()


def test_many_episodes_are_played_in_turns(monkeypatch):
    """In turns that a policy sees: no more copies at once than may be; and each start its own."""
    monkeypatch.setattr("dpolicy.envs.evaluation.AT_ONCE", 4)

    class Drawn(Walk):
        spec: Spec = Spec("test/drawn", 2, 1, 2)

        def step(self, state, action, key):
            return state, state, jnp.sum(state), jnp.asarray(False)

    run = jax.jit(
        lambda num: evaluate_episodes(Drawn(), lambda obs, key: jnp.zeros(1), KEY, num, 2), static_argnums=0
    )
    returns, lengths = run(10)
    assert returns.shape == lengths.shape == (10,)
    assert len(np.unique(returns)) == 10
    assert "f32[4,2]" in str(run.trace(10).jaxpr)
    assert "f32[10,2]" not in str(run.trace(10).jaxpr)
    few, _ = run(4)
    monkeypatch.undo()
    np.testing.assert_array_equal(
        few, jax.jit(lambda: evaluate_episodes(Drawn(), lambda o, k: jnp.zeros(1), KEY, 4, 2)[0])()
    )
