"""Recorded data sets: what is stored, in chunks and in files."""

import dataclasses
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from dpolicy import Transition
from dpolicy.data import episode_returns, in_chunks, load_npz, record, save_npz
from dpolicy.envs import ActionChunk, Environment, Spec, make

KEY = jax.random.key(0)


class Counter(Environment):
    """Counts its steps up from `start`; pays the action times a power of ten, ends at `end`."""

    spec: Spec
    end: int = eqx.field(static=True)

    def __init__(self, end, limit):
        self.spec = Spec("test/counter", 1, 2, limit)
        self.end = end

    def reset(self, key):
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, state, action, key):
        obs = state + 1
        return obs, obs, 10.0 ** state[0] * action[0], obs[0] >= self.end


def rising(obs, key):
    """Actions that tell at which step they were taken."""
    return jnp.array([0.1, 0.01]) * (obs[0] + 1)


def same(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_episodes_one_after_the_other():
    data = record(Counter(3, 10), rising, KEY, episodes=2)
    np.testing.assert_array_equal(data.obs[:, 0], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(data.next_obs[:, 0], [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(data.terminated, [0, 0, 1, 0, 0, 1])
    assert not data.truncated.any()
    np.testing.assert_allclose(data.action[:3], [[0.1, 0.01], [0.2, 0.02], [0.3, 0.03]], rtol=1e-6)
    np.testing.assert_allclose(data.reward[:3], [0.1, 2, 30], rtol=1e-6)
    np.testing.assert_allclose(episode_returns(data), [32.1, 32.1], rtol=1e-6)
    cut = record(Counter(30, 4), rising, KEY, episodes=1)
    np.testing.assert_array_equal(cut.truncated, [0, 0, 0, 1])
    assert not cut.terminated.any()
    # Ending at the very limit is an end.
    assert record(Counter(4, 4), rising, KEY, episodes=1).truncated.sum() == 0


def test_an_episode_is_the_same_among_any_number():
    env = make("gymnax/Pendulum-v1", time_limit=3)
    policy = lambda obs, key: jax.random.uniform(key, (1,), minval=-1.0)
    many = record(env, policy, KEY, episodes=130, noise=0.1)
    assert len(many.reward) == 390
    same(jax.tree.map(lambda leaf: leaf[:15], many), record(env, policy, KEY, episodes=5, noise=0.1))
    starts = np.asarray(many.obs)[::3]
    assert len(np.unique(starts, axis=0)) == 130
    np.testing.assert_array_equal(many.obs[1::3], many.next_obs[::3])


def test_what_is_stored_was_executed():
    """probe/action pays 1 - (a - 1/2)^2 for the clipped action."""
    env = make("probe/action")
    data = record(env, lambda obs, key: jnp.full(1, 0.9), KEY, episodes=500, noise=0.3)
    np.testing.assert_allclose(data.reward, 1 - (data.action[:, 0] - 0.5) ** 2, rtol=1e-6)
    assert data.action.max() == 1
    # N(0.9, 0.3) lies below its mean half of the time, above 1 with probability 0.369.
    np.testing.assert_allclose((data.action < 0.9).mean(), 0.5, atol=0.07)
    np.testing.assert_allclose((data.action == 1).mean(), 0.369, atol=0.07)
    quiet = record(env, lambda obs, key: jnp.full(1, 2.0), KEY, episodes=2)
    np.testing.assert_array_equal(quiet.action, np.ones((2, 1)))


def test_policies_of_one_structure_are_compiled_once():
    traced = []

    def act(scale, obs, key):
        traced.append(1)
        return scale * rising(obs, key)

    env = Counter(3, 5)
    single, double = (record(env, Partial(act, jnp.asarray(s)), KEY, episodes=1) for s in (1.0, 2.0))
    assert len(traced) == 1
    np.testing.assert_allclose(double.action, 2 * single.action, rtol=1e-6)


@pytest.mark.parametrize(("end", "limit"), [(30, 8), (6, 8), (8, 8), (3, 8), (1, 4)])
def test_chunks_are_what_the_chunked_environment_shows(end, limit):
    """A policy that ignores what it sees acts alike in both, up to what comes after the end."""
    env = Counter(end, limit)
    steady = lambda obs, key: jnp.array([0.3, -0.7])
    chunks = in_chunks(record(env, steady, KEY, episodes=3), 4)
    same(chunks, record(ActionChunk(env, 4), lambda obs, key: jnp.tile(steady(obs, key), 4), KEY, episodes=3))


def test_chunks_of_a_simulated_task():
    env, steady = make("gymnax/Pendulum-v1", time_limit=8), lambda obs, key: jnp.array([0.5])
    chunked = record(ActionChunk(env, 4), lambda obs, key: jnp.full(4, 0.5), KEY, episodes=3)
    chunks = in_chunks(record(env, steady, KEY, episodes=3), 4)
    for a, b in zip(jax.tree.leaves(chunks), jax.tree.leaves(chunked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_last_action_fills_a_chunk_that_the_end_cut_short():
    data = in_chunks(record(Counter(3, 8), rising, KEY, episodes=1), 2)
    np.testing.assert_allclose(data.action, [[0.1, 0.01, 0.2, 0.02], [0.3, 0.03, 0.3, 0.03]], rtol=1e-6)
    np.testing.assert_allclose(data.reward, [2.1, 30], rtol=1e-6)
    np.testing.assert_array_equal(data.next_obs[:, 0], [2, 3])


def test_what_time_or_the_data_cut_is_left_out():
    """Episodes of 3 (cut by time), 2 (terminated), 3 (cut by the end of the data), in chunks of 2."""
    rows = jnp.arange(8.0)
    ends = lambda *at: jnp.isin(jnp.arange(8), jnp.array(at))
    data = Transition(rows[:, None], rows[:, None] / 10, rows, rows[:, None] + 1, ends(4), ends(2))
    chunks = in_chunks(data, 2)
    np.testing.assert_array_equal(chunks.obs[:, 0], [0, 3, 5])
    np.testing.assert_array_equal(chunks.reward, [1, 7, 11])
    np.testing.assert_array_equal(chunks.terminated, [0, 1, 0])
    assert not chunks.truncated.any()
    np.testing.assert_array_equal(episode_returns(data), [3, 7])
    same(in_chunks(data, 1), data)
    with pytest.raises(ValueError, match=r"size must be at most .*, got 4"):
        in_chunks(jax.tree.map(lambda leaf: leaf[5:], data), 4)
    with pytest.raises(ValueError, match="size must be an integer of at least 1, got 0"):
        in_chunks(data, 0)


def test_files(tmp_path):
    data = record(Counter(3, 8), rising, KEY, episodes=2)
    path = save_npz(tmp_path / "new" / "d.npz", data)
    same(load_npz(path), data)
    first = path.read_bytes()
    with pytest.raises(ValueError, match=r"d\.npz already exists: choose another name, or overwrite it"):
        save_npz(path, data)
    save_npz(path, data, overwrite=True)
    assert path.read_bytes() == first
    assert os.listdir(path.parent) == ["d.npz"]
    with pytest.raises(ValueError, match=r"suffix \.npz, got 'd\.csv'"):
        save_npz("d.csv", data)
    (tmp_path / "e.npz").mkdir()
    with pytest.raises(ValueError, match="must not be a directory"):
        save_npz(tmp_path / "e.npz", data)


def test_what_could_not_be_read_is_not_written(tmp_path, monkeypatch):
    data = record(Counter(3, 8), rising, KEY, episodes=1)
    bad = eqx.tree_at(lambda d: d.reward, data, data.reward * jnp.nan)
    with pytest.raises(ValueError, match="'reward' in data must be finite"):
        save_npz(tmp_path / "d.npz", bad)
    several = dataclasses.replace(data, discount=jnp.full_like(data.reward, 0.9))
    with pytest.raises(ValueError, match="data must hold arrays among obs, .*, truncated; got 'discount'"):
        save_npz(tmp_path / "d.npz", several)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        save_npz(tmp_path / "d.npz", data)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": 0}, "episodes must be an integer of at least 1, got 0"),
        ({"noise": -0.1}, r"noise must be a finite number in \[0, inf\), got -0.1"),
        ({"noise": float("nan")}, "noise must be .*, got nan"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        record(Counter(3, 8), rising, KEY, **settings)
