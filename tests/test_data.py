"""Data sets: exact samples, files, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.algorithms import bc
from dpolicy.data import exact_samples, load, load_npz
from dpolicy.envs import MultiGoal, make
from dpolicy.train import offline


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
    np.savez(path, obs=obs, action=action, reward=np.arange(5.0))
    data = load(str(path), MultiGoal(), size=1, temperature=1.0)
    np.testing.assert_allclose(data.action, action, rtol=1e-6)
    np.testing.assert_array_equal(data.reward, np.arange(5.0))
    assert not data.terminated.any()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"obs": np.ones((3, 2))}, "must hold a two-dimensional array 'action'"),
        ({"obs": np.ones(3), "action": np.ones((3, 1))}, "must hold a two-dimensional array 'obs'"),
        ({"obs": np.ones((2, 2)), "action": np.ones((3, 1))}, "'obs' in .* must be finite and as long"),
        ({"obs": np.full((3, 2), np.nan), "action": np.ones((3, 1))}, "'obs' in .* must be finite"),
        ({"obs": np.ones((3, 2)), "action": 2 * np.ones((3, 1))}, r"must lie in \[-1, 1\]"),
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
    with pytest.raises(ValueError, match="is no bandit"):
        load("exact", MultiGoal(), size=1, temperature=1.0)


def test_sizes_must_be_the_environments():
    data = exact_samples(make("bandit/double_well"), 8, 0.25)
    with pytest.raises(ValueError, match="dataset must have observations and actions of sizes"):
        offline(bc(), MultiGoal(), dataset=data)
    assert jnp.ndim(data.reward) == 1
