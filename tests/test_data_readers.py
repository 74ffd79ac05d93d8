"""Sets of other packages, from small files as these packages write them: what is kept, repaired, refused."""

import json
import sys
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from dpolicy.data import (
    Goals,
    check_order,
    compact,
    load_npz,
    located,
    read,
    read_d4rl,
    read_minari,
    read_ogbench,
    rewards_of,
    save_npz,
    stored_form,
    task_goals,
    without_distant_goals,
)

FILES = Path(__file__).parent / "files"


def write(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value
    return path


def three_episodes():
    """Three rows each: one ends by a termination, one by a time-out, the last by both."""
    obs = np.array([0, 1, 2, 10, 11, 12, 20, 21, 22], np.float32)[:, None] + np.zeros((1, 2), np.float32)
    return {
        "observations": obs,
        "actions": np.linspace(-0.9, 0.9, 9, dtype=np.float32)[:, None],
        "rewards": np.arange(9, dtype=np.float32),
        "terminals": np.isin(np.arange(9), (2, 8)),
        "timeouts": np.isin(np.arange(9), (5, 8)),
    }


# What remains of the rows, the first number that each leads to, and which are terminated and end a trajectory.
REPAIRS = {
    "drop": ([0, 1, 2, 3, 4, 6, 7], [1, 2, 2, 11, 12, 21, 22], [2], [2, 4, 7]),
    "drop_unless_terminal": ([0, 1, 2, 3, 4, 6, 7, 8], [1, 2, 2, 11, 12, 21, 22, 22], [2, 8], [2, 4, 8]),
    "terminate": (list(range(9)), [1, 2, 2, 11, 12, 12, 21, 22, 22], [2, 5, 8], [2, 5, 8]),
    "stored": (list(range(9)), [1, 2, 3, 11, 12, 13, 21, 22, 23], [2, 8], [2, 5, 8]),
}


@pytest.mark.parametrize("timeouts", REPAIRS)
def test_d4rl_rows(tmp_path, timeouts):
    arrays = three_episodes()
    if timeouts == "stored":
        arrays["next_observations"] = arrays["observations"] + 1
    path = write(tmp_path / "hopper_medium-v2.hdf5", arrays)
    rows, led_to, terminated, ends = REPAIRS[timeouts]
    data = read_d4rl(path, timeouts=timeouts)
    np.testing.assert_array_equal(data.obs, arrays["observations"][rows])
    np.testing.assert_array_equal(data.next_obs[:, 1], led_to)
    np.testing.assert_array_equal(data.reward, rows)
    np.testing.assert_array_equal(data.terminated, np.isin(rows, terminated))
    np.testing.assert_array_equal(data.end, np.isin(rows, ends))
    assert "1 rows are terminal and cut at once." in data.remarks
    assert data.reference == (-20.272305, 3234.3) and data.name == "hopper-medium-v2"
    check_order(data.transitions())
    with pytest.raises(
        ValueError, match="data_timeouts must not be 'stored' for .* holds no 'next_observations'"
    ):
        read_d4rl(write(path, three_episodes()), timeouts="stored")


def test_d4rl_without_timeouts(tmp_path):
    arrays = three_episodes()
    del arrays["timeouts"]
    arrays |= {"rewards": arrays["rewards"][:, None], "terminals": np.isin(np.arange(9), (1,))[:, None]}
    path = write(tmp_path / "some.hdf5", arrays)
    with pytest.raises(ValueError, match="holds no 'timeouts', and nothing tells .* give time_limit"):
        read_d4rl(path)
    data = read_d4rl(path, time_limit=3)
    # Counted anew after the termination: rows 4 and 7 are cut, and the last one leads nowhere.
    np.testing.assert_array_equal(data.reward, [0, 1, 2, 3, 5, 6])
    np.testing.assert_array_equal(data.end, [0, 1, 0, 1, 0, 1])
    assert data.remarks[0] == "no 'timeouts': a trajectory is taken to be cut after 3 steps."
    assert data.reference is None
    assert len(read_d4rl(write(tmp_path / "antmaze-umaze-v0.hdf5", arrays))) == 8  # 700 steps


def test_d4rl_ends_that_nothing_marks(tmp_path):
    """antmaze: a trajectory that was reset without a flag is seen by the successor that is stored."""
    arrays = three_episodes()
    arrays["next_observations"] = arrays["observations"] + 1
    arrays["timeouts"] = np.isin(np.arange(9), (8,))
    data = read_d4rl(
        write(tmp_path / "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5", arrays)
    )
    assert data.name == "antmaze-umaze-v0" and data.reference == (0.0, 1.0)
    np.testing.assert_array_equal(data.end, [0, 0, 1, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(data.next_obs[:, 0], [1, 2, 3, 11, 12, 13, 21, 22])
    assert "1 rows end a trajectory unmarked: the next begins elsewhere." in data.remarks


def test_wrong_goals_of_antmaze(tmp_path):
    arrays = three_episodes()
    arrays["rewards"] = np.isin(np.arange(9), (1, 7)).astype(float)
    arrays["terminals"] = arrays["rewards"] > 0
    data = read_d4rl(write(tmp_path / "a.hdf5", arrays), timeouts="drop_unless_terminal")
    np.testing.assert_array_equal(data.terminated, [0, 1, 0, 0, 0, 0, 1])
    mended = without_distant_goals(data)
    np.testing.assert_array_equal(mended.reward, [0, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(mended.terminated, mended.reward)
    # What a terminal row led to is not known here: it still ends its trajectory.
    np.testing.assert_array_equal(mended.end, data.end)


def ogbench(path, **more):
    """Two trajectories of four and two transitions, as OGBench stores them; a third is cut off."""
    last = np.isin(np.arange(10), (4, 7)).astype(np.float32)
    obs = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.savez(path, observations=obs, actions=np.full((10, 1), 0.5), terminals=last, **more)
    return path


def test_ogbench_rows(tmp_path):
    data = read_ogbench(ogbench(tmp_path / "antmaze-medium-navigate-v0.npz"))
    np.testing.assert_array_equal(data.obs[:, 0], [0, 2, 4, 6, 10, 12, 16])
    np.testing.assert_array_equal(data.next_obs[:, 0], [2, 4, 6, 8, 12, 14, 18])
    np.testing.assert_array_equal(data.end, [0, 0, 0, 1, 0, 1, 1])
    assert not data.terminated.any() and data.source == "OGBench"
    assert data.remarks == (
        "the last trajectory is cut off: its last state is no row.",
        "no task: the rewards are zero.",
    )
    check_order(data.transitions())
    example = compact(np.zeros((5, 1)), np.zeros((5, 1)), [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(example["valids"], [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(example["terminals"], [0, 0, 0, 1, 1])


def test_ogbench_rewards_are_of_a_rows_own_state(tmp_path, monkeypatch):
    # Task 1 of the medium maze ends in cell (6, 6): at (20, 20), within .5.
    assert task_goals("antmaze-medium-navigate-v0", 1) == Goals(((0, (20.0, 20.0), 0.5),))
    assert task_goals("pointmaze-large-navigate-v0", 3) == Goals(((0, (36.0, 0.0), 1.0),))
    assert task_goals("antsoccer-arena-navigate-v0") == Goals(
        ((15, (0.0, 20.0), 0.5),)
    )  # the default is task 4
    qpos = np.zeros((10, 3))
    qpos[2:4, :2] = [[20, 20.4], [20.6, 20]]
    monkeypatch.setenv("OGBENCH_DATASET_DIR", str(tmp_path))
    ogbench(tmp_path / "antmaze-medium-navigate-v0.npz", qpos=qpos)
    data = read("antmaze-medium-navigate-singletask-v0")
    np.testing.assert_array_equal(data.reward, [-1, -1, 0, -1, -1, -1, -1])
    np.testing.assert_array_equal(data.terminated, [0, 0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(data.end, [0, 0, 0, 1, 0, 1, 1])
    assert read("antmaze-medium-navigate-singletask-task2-v0").reward.max() == -1
    with pytest.raises(
        ValueError, match="data_task must be None for powderworld-easy-play-v0, whose goals are not known"
    ):
        task_goals("powderworld-easy-play-v0", 1)


@pytest.mark.parametrize(
    ("name", "task", "goals"),
    [
        ("cube-single-play-v0", 4, Goals(((14, (0.5, 0.2, 0.02), 0.04),))),
        ("cube-double-noisy-v0", 0, task_goals("cube-double-play-v0", 2)),
        ("cube-double-play-v0", 5, Goals(((14, (0.425, 0, 0.02), 0.04), (21, (0.425, 0, 0.06), 0.04)))),
        ("scene-play-v0", 0, task_goals("scene-play-v0", 2)),
        ("puzzle-3x3-play-v0", 0, Goals(buttons=(1,) * 9)),
        ("puzzle-3x3-play-v0", 1, Goals(buttons=(1, 1, 0, 1, 0, 1, 0, 1, 1))),
        ("puzzle-4x4-play-v0", 0, Goals(buttons=(0,) * 16)),
        ("puzzle-4x5-play-v0", 0, Goals(buttons=(1,) * 20)),
        ("puzzle-4x6-play-v0", 4, Goals(buttons=(1, 0, 0, 0, 0, 1, *(0,) * 12, 1, 0, 0, 0, 0, 1))),
    ],
)
def test_ogbench_goals_of_things_that_are_moved(name, task, goals):
    assert task_goals(name, task) == goals


def test_ogbench_goals_are_complete():
    for size, cubes in {"single": 1, "double": 2, "triple": 3, "quadruple": 4, "octuple": 8}.items():
        for task in range(1, 6):
            places = task_goals(f"cube-{size}-play-v0", task).places
            assert [first for first, _, _ in places] == [14 + 7 * i for i in range(cubes)]
            at = np.array([place for _, place, _ in places])
            assert at.shape == (cubes, 3) and len(np.unique(at, axis=0)) == cubes
            assert ((at[:, 0] >= 0.32) & (at[:, 0] <= 0.53) & (np.abs(at[:, 1]) <= 0.25)).all()
    for size, buttons in {"3x3": 9, "4x4": 16, "4x5": 20, "4x6": 24}.items():
        for task in range(1, 6):
            assert len(task_goals(f"puzzle-{size}-play-v0", task).buttons) == buttons


def test_a_scene_of_ogbench_is_relabelled(tmp_path):
    """Task 4: the cube in the drawer, which is closed, with the first button pressed; a sub-goal more in each row."""
    qpos = np.zeros((10, 25), np.float32)
    qpos[:, 14:17] = [0.33, -0.356, 0.3]
    qpos[:, 23:] = [-0.16, 0.1]
    buttons = np.tile([[0, 1]], (10, 1))
    buttons[1:, 0] = 1
    buttons[2:, 1] = 0
    qpos[3:, 23] = -0.0399
    qpos[5:, 24] = 0.0401
    qpos[6:, 24] = 0.0399
    qpos[6:, 16] = 0.065986 + 0.039
    path = ogbench(tmp_path / "scene-play-v0.npz", qpos=qpos, button_states=buttons)
    data = read_ogbench(path, task=4)
    # Rows 4 and 7 are last states.
    np.testing.assert_array_equal(data.reward, [-5, -4, -3, -2, -2, 0, 0])
    np.testing.assert_array_equal(data.terminated, [0, 0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(data.end, [0, 0, 0, 1, 0, 1, 1])
    assert data.remarks[-1] == "2 rows are at the goal."
    # The default is task 2: other cube, both buttons off, all closed.
    np.testing.assert_array_equal(read_ogbench(path, task=0).reward, [-4, -5, -4, -3, -3, -2, -2])
    with pytest.raises(ValueError, match=r"must hold 'qpos' with at least 31 columns"):
        read_ogbench(path, task=1, name="cube-triple-play-v0")


def test_ogbench_goals_of_several_parts():
    goals = Goals(((14, (1.0, 0.0, 0.0), 0.04),), buttons=(1, 0))
    qpos = np.zeros((3, 17))
    qpos[1:, 14] = 1.03
    reward, mask = rewards_of(goals, {"qpos": qpos, "button_states": np.array([[0, 1], [1, 1], [1, 0]])})
    np.testing.assert_array_equal(reward, [-3, -1, 0])
    np.testing.assert_array_equal(mask, [1, 1, 0])
    with pytest.raises(ValueError, match="must hold 'button_states' with at least 2 columns"):
        rewards_of(goals, {"qpos": qpos})


@pytest.fixture(scope="module")
def minari(tmp_path_factory):
    """The folder of four sets that Minari wrote: `files/make_minari.py`."""
    folder = tmp_path_factory.mktemp("minari")
    with tarfile.open(FILES / "minari.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def check_minari(data, columns):
    obs = np.array([0, 1, 2, 3, 10, 11, 12])
    np.testing.assert_array_equal(data.obs[:, columns], np.tile(obs[:, None], 3))
    np.testing.assert_array_equal(data.next_obs[:, columns], np.tile(obs[:, None] + 1, 3))
    np.testing.assert_array_equal(data.reward, obs)
    np.testing.assert_array_equal(data.terminated, [0, 0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(data.end, [0, 0, 0, 1, 0, 0, 1])
    np.testing.assert_allclose(data.action[:4], np.linspace(-1, 1, 8).reshape(4, 2), atol=1e-6)
    assert "actions are mapped from [-2, 2] to [-1, 1]." in data.remarks


def test_minari_rows(minari, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(minari))
    data = read("tiny/plain-v0")
    check_minari(data, [0, 1, 2])
    assert (data.name, data.source, data.reference) == ("tiny/plain-v0", "Minari (hdf5)", None)
    np.testing.assert_array_equal(data.transitions().truncated, [0, 0, 0, 0, 0, 0, 1])
    metadata = minari / "tiny/plain-v0/data/metadata.json"
    found = json.loads(metadata.read_text()) | {"ref_min_score": 1.0, "ref_max_score": 5.0}
    metadata.write_text(json.dumps(found))
    assert read(minari / "tiny/plain-v0").reference == (1.0, 5.0)


def test_dictionaries_are_put_side_by_side_only_when_asked(minari):
    path = minari / "tiny/goals-v0"
    with pytest.raises(
        ValueError, match="data_keys must say which .* of achieved_goal, desired_goal, observation"
    ):
        read_minari(path)
    data = read_minari(path, keys=("observation", "desired_goal"))
    check_minari(data, [0, 1, 2])
    np.testing.assert_array_equal(data.obs[:, 3:], [[7, 7]] * 4 + [[8, 8]] * 3)
    with pytest.raises(ValueError, match="data_keys must be of achieved_goal, .*, got 'goal'"):
        read_minari(path, keys=("goal",))
    with pytest.raises(ValueError, match="data_keys must be empty for episode_0"):
        read_minari(minari / "tiny/plain-v0", keys=("goal",))
    (empty := minari / "tiny/empty").mkdir()
    with pytest.raises(ValueError, match="which is a folder without"):
        read_minari(empty)


@pytest.mark.parametrize("name", ["arrow", "parquet"])
def test_minari_in_arrow(minari, name):
    pytest.importorskip(
        "pyarrow", reason="pyarrow is large, and of the extra `arrow` alone: pip install -e '.[test,arrow]'"
    )
    keys = ("observation", "achieved_goal") if name == "arrow" else ()
    check_minari(read_minari(minari / f"tiny/{name}-v0", keys=keys), [0, 1, 2])


def test_forms_are_told_apart(minari, tmp_path):
    d4rl = write(tmp_path / "d.hdf5", three_episodes())
    own = save_npz(tmp_path / "own.npz", read(d4rl).transitions())
    ogbench(tmp_path / "o.npz")
    found = [
        stored_form(path)
        for path in (own, tmp_path / "o.npz", d4rl, minari / "tiny/arrow-v0/data/metadata.json")
    ]
    assert found == ["dpolicy", "OGBench", "D4RL", "Minari"]
    again = read(own)
    for part in ("obs", "action", "reward", "next_obs", "terminated", "end"):
        np.testing.assert_array_equal(getattr(again, part), getattr(read(d4rl), part))
    with pytest.raises(
        ValueError, match=r"data_task is for sets of OGBench, got 1 for .*d.hdf5, which is of D4RL"
    ):
        read(d4rl, task=1)
    with pytest.raises(ValueError, match="data_keys is for sets of Minari"):
        read(own, keys=("a",))


def test_names_say_where_they_were_looked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for variable in ("D4RL_DATASET_DIR", "OGBENCH_DATASET_DIR", "MINARI_DATASETS_PATH"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    with pytest.raises(
        ValueError, match=r"D4RL_DATASET_DIR/hopper_medium_replay-v2.hdf5, .* d4rl.*get_dataset\(\)"
    ):
        located("hopper-medium-replay-v2")
    with pytest.raises(ValueError, match=r"OGBENCH_DATASET_DIR/cube-single-play-v0.npz.*download_datasets"):
        located("cube-single-play-v0")
    with pytest.raises(
        ValueError, match="PATH/D4RL/door/human-v2. Nothing is downloaded: .* minari download D4"
    ):
        located("D4RL/door/human-v2")
    with pytest.raises(ValueError, match='"dpolicy data make" lists'):
        located("nothing")
    with pytest.raises(ValueError, match="got './x', which does not exist"):
        located("./x")
    # Too long to be looked for; and one that is only with its ending.
    with pytest.raises(
        ValueError, match=r"data must be a path or a name, got 300 characters .*name too long"
    ):
        located("x" * 300)
    with pytest.raises(ValueError, match="data must be a path or a name, got 260 characters"):
        load_npz("x" * 256 + ".npz")
    with pytest.raises(ValueError, match="looked for as data/xxx"):
        located("x" * 253)
    path = write(tmp_path / "D4RL_DATASET_DIR/walker_mixed.hdf5", three_episodes())
    assert located("walker2d-medium-replay-v0") == (path, "walker2d-medium-replay-v0", None)
    assert read("walker2d-medium-replay-v0").reference == (1.629008, 4592.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": np.zeros(4)}, "'rewards' in .* must be as long as 'observations', 9, got"),
        ({"actions": np.full((9, 1), b"a")}, "'actions' in .* must hold numbers, got"),
        ({"terminals": None}, "must hold 'terminals', got actions, observations"),
        ({"observations": np.full((9, 2), np.inf)}, "'obs' in bad must be finite"),
    ],
)
def test_bad_files_of_d4rl(tmp_path, change, message):
    arrays = {key: value for key, value in (three_episodes() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        read_d4rl(write(tmp_path / "bad.hdf5", arrays))


def test_what_is_no_set_of_anybody(tmp_path):
    (tmp_path / "text.hdf5").write_text("text")
    with pytest.raises(ValueError, match="must be a whole HDF5 file"):
        read(tmp_path / "text.hdf5")
    write(tmp_path / "else.hdf5", {"x": np.zeros(3)})
    with pytest.raises(ValueError, match=r"D4RL's 'observations' or Minari's episodes, got .* with x"):
        read(tmp_path / "else.hdf5")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match="an .npz file, an HDF5 file or a folder of Minari"):
        read(tmp_path / "a.csv")
    # An array of objects would run whatever was pickled.
    np.savez(
        tmp_path / "o.npz", observations=np.array([{}], object), actions=np.zeros(1), terminals=np.ones(1)
    )
    with pytest.raises(ValueError, match="must be an .npz file of numeric arrays"):
        read_ogbench(tmp_path / "o.npz")
    with h5py.File(tmp_path / "link.hdf5", "w") as file:
        file["observations"] = h5py.ExternalLink("d.hdf5", "observations")
    with pytest.raises(ValueError, match="must hold 'observations', got a link into another file"):
        read_d4rl(tmp_path / "link.hdf5")


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    path = write(tmp_path / "d.hdf5", three_episodes())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        ImportError, match=r'reading HDF5 needs the package h5py.*pip install "dpolicy\[data\]"'
    ):
        read(path)
