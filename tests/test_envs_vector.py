"""Autoreset, time limits, episode statistics and evaluation, on an environment whose every number is known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from dpolicy.envs import Environment, MultiGoal, Spec, Vector, evaluate_episodes


class Count(Environment):
    """Observes (a random start, the step); pays the step plus the action; terminates at step `end`, then pays nan."""

    spec: Spec
    end: int = eqx.field(static=True)

    def __init__(self, *, end: int = 1000, time_limit: int = 3):
        self.spec = Spec("test/count", 2, 1, time_limit)
        self.end = end

    def reset(self, key):
        obs = jnp.stack([jax.random.uniform(key), jnp.zeros(())])
        return obs, obs

    def step(self, state, action, key):
        obs = state + jnp.array([0.0, 1.0])
        reward = jnp.where(state[1] >= self.end, jnp.nan, obs[1] + action[0])
        return obs, obs, reward, obs[1] == self.end


def rollout(vector, key, length, state=None):
    """The state that each step started from, and each step, stacked over time."""
    init_key, key = jax.random.split(key)
    actions = jnp.zeros((vector.num, vector.env.spec.action_size))

    def one(state, key):
        new, step = vector.step(state, actions, key)
        return new, (state, step)

    @jax.jit
    def run():
        start = vector.init(init_key) if state is None else state
        return jax.lax.scan(one, start, jax.random.split(key, length))

    last, (states, steps) = run()
    return last, states, steps


@pytest.mark.parametrize("resets", ["fresh", "pool"])
def test_chain_of_time_limits(getkey, resets):
    last, states, steps = rollout(Vector(Count(), 4, resets=resets, pool_size=8), getkey(), 7)
    done = np.tile(np.array([0, 0, 1, 0, 0, 1, 0], bool)[:, None], (1, 4))
    np.testing.assert_array_equal(steps.truncated, done)
    assert not steps.terminated.any()
    np.testing.assert_array_equal(steps.done, done)
    # The successor is the true one, also at the limit; the policy goes on from the reset observation.
    np.testing.assert_array_equal(
        steps.next_obs[..., 1], np.tile([[1], [2], [3], [1], [2], [3], [1]], (1, 4))
    )
    np.testing.assert_array_equal(states.obs[..., 1], np.tile([[0], [1], [2], [0], [1], [2], [0]], (1, 4)))
    np.testing.assert_array_equal(steps.next_obs[:3, :, 0], np.tile(states.obs[:1, :, 0], (3, 1)))
    np.testing.assert_array_equal(steps.episode_return[:, 0], [1, 3, 6, 1, 3, 6, 1])
    np.testing.assert_array_equal(steps.episode_length[:, 0], [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(last.returns, 1.0)
    np.testing.assert_array_equal(last.steps, 1)


@pytest.mark.parametrize(("end", "time_limit", "terminated"), [(3, 3, True), (2, 3, True), (4, 3, False)])
def test_termination_and_truncation_exclude_each_other(getkey, end, time_limit, terminated):
    _, _, steps = rollout(Vector(Count(end=end, time_limit=time_limit), 2), getkey(), 8)
    length = min(end, time_limit)
    expected = np.arange(1, 9) % length == 0
    np.testing.assert_array_equal(steps.terminated[:, 0], expected & terminated)
    np.testing.assert_array_equal(steps.truncated[:, 0], expected & (not terminated))


def test_fresh_resets_differ(getkey):
    _, states, _ = rollout(Vector(Count(time_limit=1), 4), getkey(), 16)
    assert len(np.unique(states.obs[..., 0])) == 64


def test_pool_resets_come_from_the_pool_until_it_is_refreshed(getkey):
    vector = Vector(Count(time_limit=1), 4, resets="pool", pool_size=3)
    last, states, _ = rollout(vector, getkey(), 32)
    pool = np.asarray(last.pool[1][:, 0])
    assert set(np.unique(states.obs[..., 0])) == set(pool)
    refreshed = vector.refresh(last, getkey())
    assert not set(np.asarray(refreshed.pool[1][:, 0])) & set(pool)
    np.testing.assert_array_equal(refreshed.obs, last.obs)
    _, later, _ = rollout(vector, getkey(), 32, refreshed)
    assert set(np.unique(later.obs[1:, :, 0])) == set(np.asarray(refreshed.pool[1][:, 0]))


def test_refresh_without_a_pool_changes_nothing(getkey):
    vector = Vector(Count(), 2)
    state = vector.init(getkey())
    assert vector.refresh(state, getkey()) is state


def test_random_start_spreads_the_time_limits(getkey):
    vector = Vector(Count(time_limit=10), 400, random_start=True)
    last, states, steps = rollout(vector, getkey(), 10)
    np.testing.assert_array_equal(np.unique(states.steps[0]), np.arange(10))
    assert (steps.truncated.sum(axis=1) > 15).all()  # 40 expected
    np.testing.assert_array_equal(steps.truncated.sum(axis=0), 1)
    # The length of a cut episode is what was played, not what the clock shows.
    np.testing.assert_array_equal(
        steps.episode_length[steps.truncated], (10 - states.steps[0][None]).repeat(10, 0)[steps.truncated]
    )
    np.testing.assert_array_equal(last.lengths, last.steps)


@pytest.mark.parametrize("resets", ["fresh", "pool"])
def test_deterministic_under_a_key_and_mapped_over_seeds(getkey, resets):
    vector = Vector(MultiGoal(horizon=4), 3, resets=resets, pool_size=4, random_start=True)

    def run(key):
        init_key, act_key, key = jax.random.split(key, 3)
        actions = jax.random.normal(act_key, (6, 3, 2))
        step = lambda state, x: vector.step(state, x[0], x[1])
        return jax.lax.scan(step, vector.init(init_key), (actions, jax.random.split(key, 6)))

    keys = jax.random.split(getkey(), 2)
    single, several = jax.jit(run), jax.jit(jax.vmap(run))
    mapped = several(keys)
    jax.tree.map(np.testing.assert_array_equal, mapped, several(keys))
    first = jax.tree.map(lambda leaf: leaf[0], mapped)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first, single(keys[0]))
    assert not np.array_equal(mapped[1].next_obs[0], mapped[1].next_obs[1])


def test_evaluation_counts_the_first_episode_only(getkey):
    policy = lambda obs, key: jnp.full(1, 0.5)
    returns, lengths = evaluate_episodes(Count(end=4), policy, getkey(), 3, 20)
    np.testing.assert_array_equal(lengths, 4)
    np.testing.assert_allclose(returns, 1 + 2 + 3 + 4 + 4 * 0.5)


def test_evaluation_is_cut_at_the_limit(getkey):
    policy = lambda obs, key: jnp.zeros(1)
    returns, lengths = jax.jit(lambda key: evaluate_episodes(Count(), policy, key, 2, 5))(getkey())
    np.testing.assert_array_equal(lengths, 5)
    np.testing.assert_allclose(returns, 15.0)


def test_evaluation_gives_every_step_and_copy_its_own_key(getkey):
    policy = lambda obs, key: jax.random.normal(key, (1,))
    run = lambda steps: evaluate_episodes(Count(), policy, jax.random.key(0), 2, steps)[0]
    first, second = run(1) - 1.0, run(2) - run(1) - 2.0
    assert len({float(x) for x in (*first, *second)}) == 4


def test_methods_of_an_environment_that_holds_arrays_can_be_compiled(getkey):
    """Those of two environments that differ in the values of their arrays only are two functions."""
    key, actions = getkey(), jnp.ones((2, 2))
    rewards = []
    for cost in (1.0, 3.0):
        vector = Vector(MultiGoal(action_cost=cost, distance_cost=0.0, bonus=0.0), 2)
        state = jax.jit(vector.init)(key)
        rewards.append(jax.jit(vector.step)(state, actions, key)[1].reward)
        jax.jit(vector.env.reset)(key)
    np.testing.assert_allclose(rewards, [[-2.0] * 2, [-6.0] * 2])
    assert hash(MultiGoal(action_cost=1.0)) == hash(MultiGoal(action_cost=3.0)) != hash(MultiGoal(horizon=5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, a: (None, a), "state must be a VectorState, as init gives it, got None"),
        (lambda s, a: (s, a.tolist()), r"actions must be an array of shape \(2, 1\) for 2 .*, got list"),
        (lambda s, a: (s, a[:, 0]), r"actions must be an array of shape \(2, 1\) for 2 .*, got \(2,\)"),
        (lambda s, a: (s, jnp.zeros((3, 1))), r"actions must be an array .* of test/count, got \(3, 1\)"),
        (lambda s, a: (jax.tree.map(lambda x: x[:1], s), a), r"state.obs must be .* got \(1, 2\)"),
    ],
)
def test_what_does_not_fit_the_batch_is_refused(getkey, monkeypatch, change, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what a user without the checker sees
    vector = Vector(Count(), 2)
    with pytest.raises(ValueError, match=message):
        vector.step(*change(vector.init(getkey()), jnp.zeros((2, 1))), getkey())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num must be an integer of at least 1, got 0"),
        ({"num": 2, "resets": "cached"}, "resets must be one of fresh, pool; got 'cached'"),
        ({"num": 2, "pool_size": 0}, "pool_size must be an integer of at least 1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Vector(Count(), **options)


def test_a_specification_checks_its_numbers():
    with pytest.raises(ValueError, match="time_limit must be an integer of at least 1, got 0"):
        Spec("a/b", 1, 1, 0)
