"""Programs hand an algorithm transitions of as many steps as its horizon asks for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.algorithm import Algorithm, Horizon, Memory
from dpolicy.data import check_order, record
from dpolicy.envs import Environment, Spec, Vector
from dpolicy.train import OffPolicyLoop, n_step, off_policy, offline, on_policy, ring_windows
from dpolicy.train.program import checked_parts

KEY = jax.random.key(0)


class Counter(Environment):
    """Observes 10 + the time, pays the time, ends at step 4."""

    spec: Spec = Spec("test/counter", 1, 1, 5)

    def reset(self, key):
        return jnp.zeros(()), jnp.full(1, 10.0)

    def step(self, state, action, key):
        return state + 1, (11 + state)[None], state + 1.0, state == 3


def noting(seen, family="off_policy", memory=None, **horizon):
    """An algorithm that notes what each update is given."""

    def update(state, batch, key):
        jax.debug.callback(lambda batch: seen.append(jax.tree.map(np.asarray, batch)), batch, ordered=True)
        return state, {"loss": jnp.sum(batch.reward)}

    act = lambda state, obs, key, mode: (jax.random.uniform(key, (1,)), {})
    made = Horizon(**{"discount": 0.5, **horizon}) if horizon else None
    return Algorithm(
        "noting", family, lambda key, spec: jnp.zeros(()), act, update, memory=memory, horizon=made
    )


def loop_of(algorithm, **settings):
    sizes = {"batch_size": 16, "replay_size": 12, "warmup": 10, "updates_per_step": 1, "interval": 2}
    other = {"reward_scale": 2.0, "normalise_observations": False, **sizes, **settings}
    env = Counter()
    return OffPolicyLoop(checked_parts(algorithm, env, "off_policy"), Vector(env, 2), **other)


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("chunk", [False, True])
def test_a_draw_gives_transitions_of_several_steps(chunk):
    loop = loop_of(noting([], steps=3, chunk=chunk))
    state = loop.start(KEY)
    rows, drawn = loop.draw(state, jax.random.key(3))
    same(drawn, n_step(*ring_windows(loop.stored(state), rows, 3), 0.5, chunk=chunk))
    counts = np.log2(np.asarray(drawn.discount))
    assert set(counts) == {-1, -2, -3} and len(set(np.asarray(rows))) > 4
    assert ("actions" in drawn.extras) == chunk


def test_without_a_horizon_a_draw_gives_what_is_stored():
    loop = loop_of(noting([]))
    state = loop.start(KEY)
    rows, drawn = loop.draw(state, KEY)
    assert drawn.discount is None
    same(drawn, state.experience.replay[rows])


def test_rows_that_the_algorithm_chooses_begin_the_windows():
    chosen = jnp.array([0, 3, 9, 9])
    memory = Memory(lambda step: {}, lambda state, batch, key: batch, draw=lambda *_: chosen)
    loop = loop_of(noting([], memory=memory, steps=2), batch_size=4)
    state = loop.start(KEY)
    rows, drawn = loop.draw(state, KEY)
    np.testing.assert_array_equal(rows, chosen)
    # Row 0 is time 0 of one environment, row 3 time 1 of the other, row 9 the newest: time 0 again.
    np.testing.assert_array_equal(drawn.obs[:, 0], [10, 11, 10, 10])
    np.testing.assert_array_equal(drawn.reward, [2 * (1 + 2 / 2), 2 * (2 + 3 / 2), 2, 2])
    np.testing.assert_array_equal(drawn.discount, [0.25, 0.25, 0.5, 0.5])


def test_what_is_kept_is_that_of_the_first_step_and_is_rewritten_there():
    seen = []
    start = lambda step: {"seen": jnp.zeros(()), "obs": step.obs}
    more = lambda extras: {**extras, "seen": extras["seen"] + 1}
    memory = Memory(start, lambda state, batch, key: dataclasses.replace(batch, extras=more(batch.extras)))
    loop = loop_of(
        noting(seen, memory=memory, steps=3, chunk=True), normalise_observations=True, batch_size=4
    )
    state = loop.start(KEY)
    after, _ = loop.learn(state, jax.random.split(KEY))
    jax.effects_barrier()
    (batch,) = seen
    see = state.normaliser
    np.testing.assert_allclose(batch.obs, see(jnp.asarray(batch.extras["obs"])), rtol=1e-6)
    steps = np.round(np.log2(batch.discount) / np.log2(0.5))[:, None]
    np.testing.assert_allclose(batch.next_obs, see(jnp.asarray(batch.extras["obs"] + steps)), rtol=1e-5)
    np.testing.assert_array_equal(batch.extras["seen"], 1)
    assert batch.extras["actions"].shape == (4, 3, 1)
    rows, _ = loop.draw(state, jax.random.split(KEY)[0])
    expected = np.zeros(12)
    expected[np.asarray(rows)] = 1
    np.testing.assert_array_equal(after.experience.replay.data.extras["seen"], expected)
    assert set(after.experience.replay.data.extras) == {"seen", "obs"}


def test_a_whole_program_learns_from_them():
    seen = []
    sizes = {"num_envs": 2, "batch_size": 8, "replay_size": 16, "warmup": 8, "evaluation_interval": 4}
    run = off_policy(noting(seen, steps=2), Counter(), evaluation_episodes=1, **sizes)
    state, _ = jax.jit(run.step)(jax.jit(run.init)(KEY))
    jax.effects_barrier()
    assert int(state.steps) == 12 and len(seen) == 2
    for batch in seen:
        time, two = batch.obs[:, 0] - 10, batch.discount == 0.25
        np.testing.assert_array_equal(batch.reward, (time + 1) + np.where(two, (time + 2) / 2, 0))
        np.testing.assert_array_equal(batch.next_obs[:, 0], batch.obs[:, 0] + np.where(two, 2, 1))
        np.testing.assert_array_equal(batch.terminated, batch.next_obs[:, 0] == 14)
        assert two.any()


def data():
    return record(Counter(), lambda obs, key: jnp.zeros(1), KEY, episodes=3)


def test_an_offline_program_too():
    seen = []
    sizes = {"batch_size": 12, "updates_per_evaluation": 2, "evaluation_episodes": 1}
    run = offline(noting(seen, "offline", steps=3), Counter(), dataset=data(), **sizes)
    jax.block_until_ready(jax.jit(run.step)(jax.jit(run.init)(KEY)))
    jax.effects_barrier()
    for batch in seen:
        time = batch.obs[:, 0] - 10
        steps = np.minimum(3, 4 - time)
        expected = sum(np.where(k < steps, (time + 1 + k) / 2**k, 0) for k in range(3))
        np.testing.assert_array_equal(batch.reward, expected)
        np.testing.assert_array_equal(batch.discount, 0.5**steps)
        np.testing.assert_array_equal(batch.terminated, time + steps == 4)


def test_data_out_of_order_are_refused_where_it_matters():
    rows = data()
    check_order(rows)
    shuffled = jax.tree.map(lambda leaf: leaf[jnp.array([3, 1, 0, 2, *range(4, 12)])], rows)
    sentence = r"dataset must be in order .* row 1 goes on, but row 2 begins elsewhere than where it led to \(3 of 11"
    with pytest.raises(ValueError, match=sentence):
        offline(noting([], "offline", steps=3), Counter(), dataset=shuffled)
    offline(noting([], "offline", steps=1), Counter(), dataset=shuffled)
    offline(noting([], "offline"), Counter(), dataset=shuffled)
    # Half precision and an end of the data in the middle of an episode are no disorder.
    half = dataclasses.replace(rows, next_obs=rows.next_obs.astype(jnp.float16).astype(float))
    check_order(jax.tree.map(lambda leaf: leaf[:6], half))


def test_a_data_set_without_order_passes_where_every_step_ends_its_episode():
    yes, column = jnp.ones(4, bool), jnp.arange(4.0)[:, None]
    check_order(Transition(column, column / 9, column[:, 0], 7 * column, yes, ~yes))


@pytest.mark.parametrize(
    ("horizon", "message"),
    [
        ({"steps": 0}, "steps of the horizon of noting must be an integer of at least 1, got 0"),
        ({"steps": 2, "discount": 1.5}, r"discount of the horizon of noting must be .* \[0, 1\], got 1.5"),
        ({"steps": 2, "chunk": 1}, "chunk of the horizon of noting must be True or False, got 1"),
        ({"steps": 9}, "replay_size must hold the 9 steps of the horizon of noting .*, 18, got 12"),
    ],
)
def test_a_horizon_that_no_draw_can_give(unchecked_types, horizon, message):
    algorithm = noting([], **horizon)
    with pytest.raises(ValueError, match=message):
        off_policy(algorithm, Counter(), num_envs=2, batch_size=4, replay_size=12, warmup=4)


def test_a_horizon_where_there_is_none(unchecked_types):
    with pytest.raises(ValueError, match="the horizon of noting must be None, as a rollout holds every step"):
        on_policy(noting([], "on_policy", steps=2), Counter())
    with pytest.raises(ValueError, match="the horizon of noting must be a Horizon or None, got 3"):
        off_policy(noting([])._replace(horizon=3), Counter())
