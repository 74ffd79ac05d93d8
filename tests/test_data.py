"""Data sets: exact samples, files, and what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from dpolicy.algorithms import bc
from dpolicy.data import episode_returns, exact_samples, in_chunks, load, load_npz
from dpolicy.envs import MultiGoal, make
from dpolicy.train import offline

GOOD = {"obs": np.ones((3, 2)), "action": np.ones((3, 1))}


def test_exact_samples_have_the_bandits_moments():
    env = make("bandit/double_well")
    data = exact_samples(env, 20_000, 0.25)
    assert data.action.shape == (20_000, 1)
    assert data.terminated.all()
    np.testing.assert_allclose(data.action.mean(), 0.3485, atol=0.015)
    np.testing.assert_allclose((data.action > 0).mean(), 0.7935, atol=0.01)
    np.testing.assert_allclose(data.reward[0], env.energy(data.action[0]), rtol=1e-6)


def test_a_file_round_trips(tmp_path):
    path = tmp_path / "data.npz"
    obs, action = np.ones((5, 2)), np.linspace(-1, 1, 10).reshape(5, 2)
    np.savez(path, obs=obs, action=action, reward=np.arange(5.0), next_obs=2 * obs)
    data = load(str(path), MultiGoal(), size=1, temperature=1.0)
    np.testing.assert_allclose(data.action, action, rtol=1e-6)
    np.testing.assert_array_equal(data.reward, np.arange(5.0))
    np.testing.assert_array_equal(data.next_obs, 2 * obs)
    assert not data.terminated.any()
    np.savez(path, obs=obs, action=action, reward=np.arange(5.0), terminated=np.ones(5))
    assert load_npz(path).terminated.all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"obs": np.ones((3, 2))}, "must hold a two-dimensional array 'action'"),
        ({"obs": np.ones(3), "action": np.ones((3, 1))}, "must hold a two-dimensional array 'obs'"),
        ({"obs": np.ones((2, 2)), "action": np.ones((3, 1))}, "'obs' in .* must be as long as 'action', of "),
        ({"obs": np.full((3, 2), np.nan), "action": np.ones((3, 1))}, "'obs' in .* must be finite"),
        ({"obs": np.ones((3, 2)), "action": 2 * np.ones((3, 1))}, r"must lie in \[-1, 1\]"),
        ({"obs": np.full((3, 2), 1e300), "action": np.ones((3, 1))}, "'obs' in .* must be finite in single"),
        (
            {"obs": np.ones((3, 2)), "action": 1j * np.ones((3, 1))},
            "'action' .* real numbers, got complex128",
        ),
        ({"obs": np.full((3, 2), "a"), "action": np.ones((3, 1))}, "'obs' .* real numbers, got <U1"),
        ({"obs": np.ones((0, 2)), "action": np.ones((0, 1))}, "at least one transition, got none"),
        ({**GOOD, "reward": np.float64(1.0)}, r"'reward' .* of shape \(3,\), got \(\)"),
        ({**GOOD, "reward": np.ones((3, 1))}, r"'reward' .* of shape \(3,\), got \(3, 1\)"),
        ({**GOOD, "reward": np.zeros(3, "datetime64[s]")}, "'reward' .* real numbers, got datetime64"),
        ({**GOOD, "next_obs": np.ones((3, 5))}, r"'next_obs' .* of shape \(3, 2\), got \(3, 5\)"),
        ({**GOOD, "terminated": np.full(3, 2)}, "'terminated' .* must hold booleans, or 0 and 1"),
        ({**GOOD, "terminated": np.ones(3), "truncated": np.ones(3)}, "must not be set together"),
        ({**GOOD, "reward": np.ones(3)}, "must hold 'next_obs' where it holds 'reward', unless every step"),
        (
            {**GOOD, "reward": np.ones(3), "terminated": np.array([1, 1, 0])},
            "must hold 'next_obs' where it holds 'reward', unless every step is 'terminated'",
        ),
        ({**GOOD, "obs": np.ones((3, 0))}, "'obs' in .* must hold at least one number a row, got none"),
        ({**GOOD, "actions": np.ones((3, 1))}, "arrays among obs, action, .*; got 'actions'"),
    ],
)
def test_bad_files(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_npz(tmp_path / "bad.npz")


def test_no_file_and_no_bandit(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_npz(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ValueError, match="must be an .npz file of numeric arrays"):
        load_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "good.npz", **GOOD)
    data = bytearray((tmp_path / "good.npz").read_bytes())
    (tmp_path / "cut.npz").write_bytes(data[:-30])
    data[data.index(b"\x93NUMPY") + 130] ^= 255
    (tmp_path / "crc.npz").write_bytes(data)
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "one.npy", np.ones(3))
    for name in ("cut.npz", "crc.npz", "empty.npz", "one.npy"):
        with pytest.raises(ValueError, match=f"must be an .npz file of numeric arrays, got .*{name}"):
            load_npz(tmp_path / name)
    with pytest.raises(ValueError, match="is no bandit"):
        load("exact", MultiGoal(), size=1, temperature=1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_npz(None), "data must be a path, got None"),
        (lambda: load("exact", None, size=3, temperature=1.0), "env must be an Environment, got None"),
        (
            lambda: exact_samples(MultiGoal(), 3, 1.0),
            "env must be a Bandit, whose distribution is known, got",
        ),
        (
            lambda: exact_samples(make("bandit/double_well"), 3, 1.0, seed=-1),
            "seed must be an integer from 0 to",
        ),
        (lambda: in_chunks(None, 2), "data must be a Transition, got None"),
        (lambda: episode_returns({"reward": 1}), "data must be a Transition, got {'reward': 1}"),
        (
            lambda: in_chunks(one_row(lambda x: x[0]), 2),
            "data must be transitions with one leading axis, the",
        ),
        (lambda: in_chunks(one_row(lambda x: x[None]), 2), "data must be transitions with one leading axis,"),
        (
            lambda: in_chunks(one_row(lambda x: x[: x.ndim]), 1),
            "data must be transitions with one leading axis",
        ),
    ],
)
def test_what_is_no_data_set_is_refused(monkeypatch, call, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what a user without the checker sees
    with pytest.raises(ValueError, match=message):
        call()


def one_row(change):
    """Exact samples, changed part by part."""
    return jax.tree.map(change, exact_samples(make("bandit/double_well"), 4, 0.25))


def test_sizes_must_be_the_environments():
    data = exact_samples(make("bandit/double_well"), 8, 0.25)
    with pytest.raises(ValueError, match="dataset must have observations and actions of sizes"):
        offline(bc(), MultiGoal(), dataset=data)
    assert jnp.ndim(data.reward) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d.reward, jnp.ones((8, 1))), r"'reward' in dataset .* got \(8, 1\)"),
        (lambda d: (d.action, 2 * jnp.ones((8, 1))), r"'action' in dataset must lie in \[-1, 1\]"),
        (lambda d: (d.obs, d.obs[:4]), "'obs' in dataset must be as long as 'action'"),
        (lambda d: (d.reward, d.reward * jnp.nan), "'reward' in dataset must be finite"),
        (lambda d: (d.truncated, d.terminated), "must not be set together"),
    ],
)
def test_a_data_set_given_as_arrays_is_checked_alike(change, message):
    env = make("bandit/double_well")
    good = exact_samples(env, 8, 0.25)
    old, new = change(good)
    bad = jax.tree.map(lambda leaf: new if leaf is old else leaf, good)
    with pytest.raises(ValueError, match=message):
        offline(bc(), env, dataset=bad)


def test_a_step_has_no_discount_unless_it_is_given_one():
    """It is no leaf then, so that what is stacked, stored and sliced is what it was before there was one."""
    data = exact_samples(make("bandit/double_well"), 8, 0.25)
    assert data.discount is None and len(jax.tree.leaves(data)) == 6
    several = eqx.tree_at(lambda d: d.discount, data, data.reward, is_leaf=lambda leaf: leaf is None)
    assert len(jax.tree.leaves(several)) == 7
    with pytest.raises(ValueError, match="dataset must hold arrays among .*; got 'discount'"):
        offline(bc(), make("bandit/double_well"), dataset=several)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": None}, "data must be a path, the name of a set or 'exact', got None"),
        ({"data": 5}, "data must be a path, the name of a set or 'exact', got 5"),
        ({"dataset": 5}, "dataset must be a Transition, a DataSet or None, got int"),
        ({"data_size": 0}, "data_size must be an integer of at least 1, got 0"),
        ({"data_temperature": 0}, "data_temperature must be .*, got 0"),
        ({"data": "good.npz", "data_size": -7}, "data_size must be an integer of at least 1, got -7"),
    ],
)
def test_settings_of_the_data_are_refused_by_their_own_names(monkeypatch, settings, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what a user without the checker sees
    with pytest.raises(ValueError, match=message):
        offline(bc(), make("bandit/double_well"), **settings)
