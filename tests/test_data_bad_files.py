"""Files that are not as their packages write them: each is refused in a sentence that names the array."""

import json

import h5py
import numpy as np
import pytest

from dpolicy.data import DataSet, Goals, read, read_ogbench
from dpolicy.data.reading import load_set
from dpolicy.envs import Maze, make

D4RL = {
    "observations": np.arange(12, dtype=np.float32).reshape(6, 2),
    "actions": np.zeros((6, 1)),
    "rewards": np.arange(6.0),
    "terminals": np.zeros(6, bool),
    "timeouts": np.arange(6) == 2,
}
OGBENCH = {
    "observations": np.zeros((5, 2)),
    "actions": np.zeros((5, 1)),
    "terminals": np.array([0, 0, 1, 0, 1]),
    "qpos": np.zeros((5, 2)),
}
MINARI = {
    "observations": np.zeros((3, 2)),
    "actions": np.zeros((2, 1)),
    "rewards": np.zeros(2),
    "terminations": np.zeros(2),
    "truncations": np.zeros(2),
}


def hdf5(path, arrays, prefix=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[prefix + name] = value
    return path


def minari(folder, change, metadata=None):
    hdf5(folder / "data" / "main_data.hdf5", MINARI | change, "episode_0/")
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata or {}))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": 1.0}, r"'observations' in .* must hold rows of numbers, got shape \(\)"),
        ({"rewards": h5py.Empty("f4")}, "'rewards' in .* must hold rows of numbers, got shape None"),
        ({"observations": np.zeros((6, 2, 2))}, "'observations' in .* must be two-dimensional"),
        (
            {"next_observations": np.zeros((6, 3))},
            "'next_observations' in .* must have the shape of 'observations'",
        ),
        ({"terminals": np.full(6, np.nan)}, "'terminals' in .* must hold booleans, or 0 and 1"),
        ({"timeouts": np.full(6, 0.5)}, "'timeouts' in .* must hold booleans, or 0 and 1"),
        (
            {"rewards": h5py.SoftLink("/nowhere")},
            "must hold 'rewards', got a link into another file, or to nothing",
        ),
    ],
)
def test_bad_arrays_of_d4rl(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read(hdf5(tmp_path / "a.hdf5", D4RL | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.zeros((9, 1))}, "'actions' in .* must be as long as 'observations', 5"),
        ({"qpos": np.zeros((9, 2))}, "'qpos' in .* must be as long as 'observations', 5"),
        ({"qpos": np.full((5, 2), np.nan)}, "'qpos' of the set must hold finite numbers"),
        ({"terminals": np.full(5, np.nan)}, "'terminals' in .* must hold booleans, or 0 and 1"),
        ({"observations": 1.0}, "'terminals' in .* must be as long as 'observations'"),
    ],
)
def test_bad_arrays_of_ogbench(tmp_path, change, message):
    path = tmp_path / "pointmaze-medium-navigate-v0.npz"
    np.savez(path, **OGBENCH | change)
    with pytest.raises(ValueError, match=message):
        read(path, task=0)


def test_a_goal_of_ogbench_says_the_states_of_all_buttons(tmp_path):
    np.savez(tmp_path / "a.npz", **OGBENCH, button_states=np.zeros((5, 4)))
    with pytest.raises(ValueError, match="goals must say the states of all 4 buttons"):
        read_ogbench(tmp_path / "a.npz", goals=Goals(buttons=(1, 0)))


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        ({"terminations": np.zeros(5)}, None, r"'terminations' in .* must be of shape \(2,\), got \(5,\)"),
        ({"truncations": np.full(2, np.nan)}, None, "'truncations' in .* must hold booleans, or 0 and 1"),
        ({"rewards": np.zeros((2, 1))}, None, r"'rewards' in .* must be of shape \(2,\), got \(2, 1\)"),
        ({}, {"ref_min_score": 1, "ref_max_score": "b"}, "must have numbers for reference scores"),
        ({}, {"action_space": '{"type": "Box"}'}, "must say the bounds of the actions, or nothing"),
        ({}, {"action_space": "no JSON"}, "must say the bounds of the actions, or nothing"),
    ],
)
def test_bad_episodes_of_minari(tmp_path, change, metadata, message):
    with pytest.raises(ValueError, match=message):
        read(minari(tmp_path / "a-v0", change, metadata))


def test_episodes_of_minari_are_of_one_width(tmp_path):
    path = minari(tmp_path / "a-v0", {})
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        for name, value in MINARI.items():
            file[f"episode_1/{name}"] = np.zeros((3, 4)) if name == "observations" else value
    with pytest.raises(ValueError, match="must hold episodes of one kind, got obs of shapes"):
        read(path)


def test_ends_are_booleans():
    with pytest.raises(ValueError, match="'end' in data must hold booleans, or 0 and 1"):
        DataSet(np.zeros((2, 1)), np.zeros((2, 1)), end=[0, np.nan])


def test_no_link_leads_into_another_file(tmp_path):
    hdf5(tmp_path / "other.hdf5", MINARI, "episode_0/")
    hdf5(tmp_path / "a.hdf5", {"episode_0": h5py.ExternalLink("other.hdf5", "/episode_0")})
    with pytest.raises(ValueError, match="must hold 'episode_0', got a link into another file"):
        read(tmp_path / "a.hdf5")


@pytest.mark.parametrize(
    ("setting", "owner"),
    [({"timeouts": "stored"}, "D4RL"), ({"keys": ("x",)}, "Minari"), ({"task": 0}, "OGBench")],
)
def test_settings_of_other_sets_are_refused(tmp_path, setting, owner):
    np.savez(tmp_path / "a.npz", obs=np.zeros((2, 2)), action=np.zeros((2, 2)))
    for data, env in (
        ("exact", make("bandit/rings")),
        ("maze/play", Maze()),
        (str(tmp_path / "a.npz"), Maze()),
    ):
        with pytest.raises(
            ValueError, match=f"data_{next(iter(setting))} is for sets of {owner}, got .* of dpolicy"
        ):
            load_set(data, env, size=10, temperature=1.0, **setting)


def test_a_name_tells_where_its_trajectories_are_cut_and_not_the_environment(tmp_path):
    arrays = {name: value for name, value in D4RL.items() if name != "timeouts"}
    for name, limit in (("hopper-medium-v2", "1,000"), ("mine", "3")):
        path = hdf5(tmp_path / f"{name}.hdf5", arrays)
        found = load_set(str(path), Maze(time_limit=3), size=10, temperature=1.0)
        assert f"cut after {limit} steps" in found.remarks[0]
    # What D4RL calls the file of walker2d-medium-replay-v0, as a run that is resumed has it.
    found = load_set(
        str(hdf5(tmp_path / "walker_mixed.hdf5", arrays)), Maze(time_limit=3), size=10, temperature=1.0
    )
    assert "cut after 1,000 steps" in found.remarks[0]
    assert "cut after 2 steps" in read(tmp_path / "hopper-medium-v2.hdf5", time_limit=2).remarks[0]
