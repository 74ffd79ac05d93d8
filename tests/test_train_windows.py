"""Windows of several steps from a ring or a data set, and the returns, successors and discounts they make."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rings import data, ring, row_of, step

from dpolicy.algorithm import Stored
from dpolicy.train import data_windows, n_step, ring_windows
from dpolicy.train.replay import Replay


def one(stored, time, steps, env=0, discount=0.5, **options):
    windows, valid = ring_windows(stored, row_of(stored, time, env), steps)
    return jax.tree.map(lambda leaf: np.asarray(leaf[0]), n_step(windows, valid, discount, **options))


@pytest.mark.parametrize(
    ("time", "steps", "rewards", "last", "terminated", "truncated"),
    [
        (1, 1, [2], 1, False, False),
        (1, 3, [2, 4, 8], 3, False, False),  # a full window
        (3, 3, [8, 16], 4, True, False),  # the episode terminates inside it
        (4, 3, [16], 4, True, False),  # ... at its first step
        (5, 3, [32, 64], 6, False, True),  # the time limit cuts it
        (7, 3, [128, 256], 8, False, False),  # nothing is newer
        (8, 4, [256], 8, False, False),
    ],
)
def test_returns_worked_by_hand(time, steps, rewards, last, terminated, truncated):
    """Nine steps of one environment in a ring of eight: time 8 lies in row 0, before time 1 in row 1."""
    stored = ring(9, 8, {(4, 0): "terminated", (6, 0): "truncated"})
    assert int(row_of(stored, 8)[0]) == 0 and int(row_of(stored, 1)[0]) == 1
    found = one(stored, time, steps)
    assert found.reward == sum(reward / 2**k for k, reward in enumerate(rewards))
    assert found.discount == 0.5 ** len(rewards)
    assert found.obs[0] == time and found.extras["mark"] == time and found.action == np.float32(time / 1000)
    np.testing.assert_array_equal(found.next_obs, [last + 0.5, 2.0])
    assert (bool(found.terminated), bool(found.truncated)) == (terminated, truncated)


def test_the_seam_lies_inside_the_window():
    """Times 7 and 8 are in the last and in the first row: one window, in the order of time."""
    stored = ring(9, 8, {})
    found = one(stored, 6, 3)
    assert found.reward == 64 + 128 / 2 + 256 / 4 and found.discount == 1 / 8
    assert found.next_obs[0] == 8.5
    # Where the newest row is the last one, the first row is the oldest.
    assert one(ring(8, 8, {}), 6, 3).discount == 1 / 4


@pytest.mark.parametrize("steps", [5, 9])
def test_a_ring_that_is_not_full_ends_with_what_was_written(steps):
    stored = ring(5, 8, {})
    found = one(stored, 2, steps)
    assert found.reward == 4 + 8 / 2 + 16 / 4 and found.discount == 1 / 8 and found.next_obs[0] == 4.5
    whole = one(stored, 0, steps)
    assert whole.discount == 1 / 32
    full = one(ring(20, 8, {}), 12, 30)
    assert full.discount == 1 / 256 and full.next_obs[0] == 19.5


def test_environments_keep_to_themselves():
    """Three environments, one line written beyond the capacity; each ends at another time, in another way."""
    stored = ring(5, 12, {(2, 0): "terminated", (3, 1): "truncated"}, envs=3)
    expected = {
        0: (2.0 + 4 / 2, 2, 2.5, True, False),
        1: (3.0 + 5 / 2 + 9 / 4, 3, 103.5, False, True),
        2: (4.0 + 6 / 2 + 10 / 4 + 18 / 8, 4, 204.5, False, False),
    }
    for env, (reward, count, successor, terminated, truncated) in expected.items():
        found = one(stored, 1, 4, env)
        assert (found.reward, found.discount, found.next_obs[0]) == (reward, 0.5**count, successor)
        assert (bool(found.terminated), bool(found.truncated)) == (terminated, truncated)
    # Several rows at once are what each is alone.
    rows = jnp.concatenate([row_of(stored, 1, env) for env in range(3)])
    all_of_them = n_step(*ring_windows(stored, rows, 4), 0.5)
    np.testing.assert_array_equal(all_of_them.reward, [expected[env][0] for env in range(3)])


def test_one_step_is_the_plain_draw():
    """Bit for bit, for every row, and the discount is gamma itself."""
    stored = ring(7, 10, {(2, 0): "terminated", (3, 1): "truncated"}, envs=2)
    rows = jnp.arange(10)[::-1]
    found = n_step(*ring_windows(stored, rows, 1), 0.997)
    plain = jax.tree.map(lambda leaf: leaf[rows], stored.items)
    jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(found, discount=None), plain)
    np.testing.assert_array_equal(found.discount, np.full(10, np.float32(0.997)))
    assert plain.discount is None


def test_an_empty_ring_gives_its_zeros():
    replay = Replay.start(step(0), 4)
    windows, valid = ring_windows(Stored(replay.data, replay.cursor, replay.size, 1), jnp.array([0]), 3)
    np.testing.assert_array_equal(valid, [[True, False, False]])
    assert not np.asarray(windows.reward).any()


def test_windows_of_a_data_set_end_with_episodes_and_with_the_data():
    rows = data({2: "truncated", 3: "terminated"})
    windows, valid = data_windows(rows, jnp.array([0, 1, 2, 3, 4, 5]), 3)
    np.testing.assert_array_equal(valid.sum(axis=1), [3, 2, 1, 1, 2, 1])
    found = n_step(windows, valid, 0.5)
    np.testing.assert_array_equal(found.reward, [1 + 1 + 1, 2 + 2, 4, 8, 16 + 16, 32])
    np.testing.assert_array_equal(found.next_obs[:, 0], [2.5, 2.5, 2.5, 3.5, 5.5, 5.5])
    np.testing.assert_array_equal(found.terminated, [0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(found.truncated, [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(found.discount, 0.5 ** np.array([3, 2, 1, 1, 2, 1]))
    assert windows.obs.shape == (6, 3, 2)


def test_what_does_not_count_may_be_anything():
    windows, valid = data_windows(data({1: "terminated"}), jnp.array([0]), 4)
    spoilt = dataclasses.replace(windows, reward=jnp.where(valid, windows.reward, jnp.nan))
    assert float(n_step(spoilt, valid, 0.5).reward[0]) == 1 + 2 / 2


def test_a_chunk_holds_the_actions_and_where_they_count():
    found = n_step(*data_windows(data({1: "terminated"}), jnp.array([0, 3]), 3), 0.5, chunk=True)
    actions = np.array([[0, 1, 0], [3, 4, 5]], np.float32)[..., None] / 1000
    np.testing.assert_allclose(found.extras["actions"], actions, rtol=1e-6)
    np.testing.assert_array_equal(found.extras["actions_valid"], [[1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(found.extras["mark"], [0, 3])
    assert found.action.shape == (2, 1)


def test_a_discount_of_nothing_and_a_traced_one():
    drawn = data_windows(data(), jnp.array([0, 4]), 3)
    nothing = n_step(*drawn, 0.0)
    np.testing.assert_array_equal(nothing.reward, [1, 16])
    np.testing.assert_array_equal(nothing.discount, [0, 0])
    traced = jax.jit(lambda discount: n_step(*drawn, discount))(0.5)
    np.testing.assert_array_equal(traced.reward, [3, 32])
    np.testing.assert_array_equal(traced.discount, [1 / 8, 1 / 4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ring_windows(ring(2, 4, {}), jnp.array([0]), 0),
            "steps must be an integer of at least 1, got 0",
        ),
        (
            lambda: data_windows(data(), jnp.array([0]), 1.5),
            "steps must be an integer of at least 1, got 1.5",
        ),
        (
            lambda: n_step(*data_windows(data(), jnp.array([0]), 2), 1.5),
            r"discount must be .* \[0, 1\], got 1.5",
        ),
        (
            lambda: n_step(*data_windows(data(), jnp.array([0]), 2), 0.5, chunk=1),
            "chunk must be True or False",
        ),
    ],
)
def test_bad_arguments(unchecked_types, call, message):
    with pytest.raises(ValueError, match=message):
        call()
