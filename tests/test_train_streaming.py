"""Sets that stay on the host: what is read, and that a run from there is the run from memory, bit for bit."""

import zipfile

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from dpolicy.algorithm import Horizon
from dpolicy.algorithms import bc
from dpolicy.blocks import Survey, surveyed
from dpolicy.data import DataSet, exact_samples, read, save_npz
from dpolicy.data.sets import is_mapped
from dpolicy.data.sources import mapped_arrays
from dpolicy.envs import make
from dpolicy.learning import algorithm, reported
from dpolicy.presets import resolve
from dpolicy.train import offline, train_config, train_loop
from dpolicy.train import streaming as rooms
from dpolicy.train.offline_data import given_data
from dpolicy.train.streaming import Held, Streamed, keys_ahead

ENV = make("bandit/double_well")
N = 90
SMALL = {
    **{"hidden": (4,), "critic_hidden": (4,), "batch_size": 6, "updates_per_evaluation": 4},
    **{"evaluation_episodes": 2, "normalise_observations": True, "data_extras": ("mc_return", "next_action")},
}


def some(width=1):
    """Trajectories of ten steps, every other one terminated."""
    rng = np.random.default_rng(4)
    obs = 3 * rng.normal(size=(N + 1, width)).astype(np.float32) + 1
    end = np.arange(N) % 10 == 9
    action = rng.uniform(-1, 1, (N, width)).astype(np.float32)
    reward = rng.normal(size=N).astype(np.float32)
    return DataSet(obs[:-1], action, reward, obs[1:], end & (np.arange(N) % 20 == 9), end, name="some")


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that is large beside the memory there is said to be, read for two updates at a time."""
    monkeypatch.setattr("dpolicy.train.offline_data.memory_limit", lambda: 4_000)
    monkeypatch.setattr(rooms, "_AT_ONCE", 6 * 2 * 30)
    return save_npz(tmp_path / "some.npz", some().transitions())


def test_a_streamed_run_is_the_run_from_memory(file, tmp_path, capsys):
    """Cut short and gone on with from memory, it ends where it does in one go: all of both seeds' states."""
    config = resolve("iql", "bandit/double_well", SMALL | {"data": str(file), "steps": 8})
    config |= {"seeds": 2, "seed": 3}
    whole, history = train_config(config, None)
    assert "streamed from its file" in capsys.readouterr().out
    train_config(config | {"steps": 4}, tmp_path / "run", progress=False)
    capsys.readouterr()
    program = config["program"] | {"data_streaming": "off"}
    rest, after = train_config(config | {"program": program}, tmp_path / "run", resume=True)
    assert "streamed" not in capsys.readouterr().out
    raw = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(raw(a), raw(b)), whole.state, rest.state)
    for name, values in history.metrics.items():
        np.testing.assert_array_equal(values, after.metrics[name], err_msg=name)


def test_windows_and_epochs_are_those_of_memory(monkeypatch):
    """By what a learner is shown: sums of everything in its batches, of three steps each."""
    monkeypatch.setattr(rooms, "_AT_ONCE", 1)
    shown = lambda b: {f"x{i}": jnp.sum(leaf.astype(float)) for i, leaf in enumerate(jax.tree.leaves(b))}
    idle = lambda s: lambda obs, key: jnp.zeros(1)
    learner = algorithm(
        "seen", "offline", explore=idle, evaluate=idle, seen=reported(lambda s: shown(s.batch))
    )._replace(horizon=Horizon(3, 0.9))
    small = {"batch_size": 8, "updates_per_evaluation": 6, "evaluation_episodes": 1}
    found = [
        train_loop(
            offline(learner, ENV, dataset=some(), data_sampling="epochs", data_streaming=how, **small),
            seeds=2,
            steps=12,
            progress=False,
        ).history.metrics
        for how in ("on", "off")
    ]
    assert sum(name.startswith("x") for name in found[0]) >= 7
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)


def test_rows_are_those_of_the_set():
    data, extras = some(2), ("next_action", "mc_return", "trajectory")
    index = jnp.array([[3, 89, 9], [0, 10, 3]])
    held = Held(data.transitions(extras, discount=0.5)).rows(index)
    streamed = jax.jit(Streamed(data, extras, 0.5).rows)(index)
    jax.tree.map(np.testing.assert_array_equal, held, streamed)
    assert sorted(streamed.extras) == sorted(held.extras)
    _, keys, _ = keys_ahead(jax.random.key(1), 3)
    key = jax.random.key(1)
    for i in range(3):
        key, sample_key, _ = jax.random.split(key, 3)
        assert (jax.random.key_data(sample_key) == jax.random.key_data(keys[i])).all()


def test_updates_at_once_divide_a_chunk(monkeypatch):
    rows = Streamed(some())
    monkeypatch.setattr(rooms, "_AT_ONCE", 10 * 7 * rows.row_bytes)
    assert rows.row_bytes == 18
    assert [rows.at_once(n, 10, None) for n in (12, 7, 13, 5)] == [6, 7, 1, 5]


def test_files_are_mapped(tmp_path):
    data = some()
    path = save_npz(tmp_path / "a.npz", data.transitions(), reference=(-1.0, 3.5))
    mapped, plain = read(path, mapped=True), read(path)
    assert is_mapped(mapped.obs) and is_mapped(mapped.next_obs) and not is_mapped(plain.obs)
    assert mapped.reference == (-1.0, 3.5)
    for name in ("obs", "action", "reward", "next_obs", "terminated", "end"):
        np.testing.assert_array_equal(getattr(mapped, name), getattr(data, name))
    np.testing.assert_allclose(mapped.statistics.obs_std, data.obs.std(axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        mapped.obs[0] = 1
    # Compressed, in Fortran's order or of another precision: read as ever.
    arrays = {"obs": data.obs, "action": np.asfortranarray(np.tile(data.action, 2))}
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    np.savez(tmp_path / "c.npz", **arrays | {"obs": data.obs.astype(np.float64)})
    for name in ("b.npz", "c.npz"):
        found = read(tmp_path / name, mapped=True)
        assert not is_mapped(found.obs) and not is_mapped(found.action)
        np.testing.assert_array_equal(found.action, np.tile(data.action, 2))
        np.testing.assert_array_equal(found.obs, data.obs)
    np.savez(tmp_path / "d.npz", obs=np.array([{}], object))
    (tmp_path / "e.npz").write_bytes(path.read_bytes()[:400])
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("obs.npy", "text")
    for name in "def":
        with pytest.raises(ValueError, match="must be an .npz file of numeric arrays"):
            mapped_arrays(tmp_path / f"{name}.npz")


def test_what_streams(file, monkeypatch):
    settings = {"size": 20_000, "temperature": 0.25, "rewards": "none", "action_clip": None, "extras": ()}
    given = lambda how, **more: given_data(
        ENV, None, str(file), None, streaming=how, discount=0.99, reference=None, **settings | more
    )
    found = given("auto")
    assert isinstance(found.rows, Streamed) and is_mapped(found.rows.obs)
    assert found.remarks == ("data: 1.62 kB, streamed from its file",)
    assert given("on", action_clip=0.5).rows.data.action.max() == 0.5
    whole = given("auto", whole="m")
    assert not isinstance(whole.rows, Streamed) and not whole.remarks
    monkeypatch.setattr("dpolicy.train.offline_data.memory_limit", lambda: 1_000)
    for more in ({"how": "off"}, {"how": "auto", "whole": "m"}):
        with pytest.raises(ValueError, match=r"data must fit into the 1 kB .* unless data_streaming is off"):
            given(**more)
    # Other forms are read into the memory of the machine.
    np.savez(file, observations=np.zeros((40, 1)), actions=np.zeros((40, 1)), terminals=np.zeros(40))
    assert given("auto").remarks == ("data: 702 B, streamed from the machine's memory",)
    monkeypatch.setattr("dpolicy.train.offline_data.machine_memory", lambda: 500)
    with pytest.raises(ValueError, match="data must fit into the 500 B of memory"):
        given("auto")


def test_what_cannot_be_streamed(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="data_streaming must be one of auto, on, off"):
        given_data(
            *(ENV, some(), "", None),
            **{"size": 20_000, "temperature": 0.25, "rewards": "none", "action_clip": None, "extras": ()},
            **{"discount": 0.9, "reference": None, "streaming": "x"},
        )
    with pytest.raises(ValueError, match="data_streaming is for data that are read, or a DataSet"):
        offline(bc(), ENV, dataset=exact_samples(ENV, 4, 0.5), data_streaming="on")
    wide = DataSet(some().obs, some().action + 1, name="some")
    with pytest.raises(ValueError, match="'action' in some must lie in"):
        Streamed(wide)
    looks = surveyed(
        found=Survey(lambda t: {"x": t.reward}, lambda s, k: {"x": s.batch.reward}, lambda u: u < 2)
    )
    idle = lambda s: lambda obs, key: jnp.zeros(1)
    looking = algorithm(
        "looking", "offline", explore=idle, evaluate=idle, memory=looks, seen=reported(lambda s: {})
    )
    with pytest.raises(
        ValueError, match="must be auto or off for looking, which looks at the whole data set"
    ):
        offline(looking, ENV, dataset=some(), data_streaming="on")
