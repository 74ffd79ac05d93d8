"""`dpolicy data`: what a set holds and what is wrong with it, and the sets that are made here."""

import h5py
import numpy as np
import pytest
from toy_commands import mistake, run

from dpolicy.cli import main
from dpolicy.data import MADE, MIXTURES, DataSet, findings, load_npz, read


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_a_file_holds(capsys):
    with h5py.File("hopper_medium-v2.hdf5", "w") as file:
        file["observations"] = np.array([[0, 1], [1, 1], [2, 1], [9, 1], [10, 1], [11, 1]], np.float32)
        file["actions"] = np.array([[0.5], [1.5], [-0.5], [0.25], [0], [0]], np.float32)
        file["rewards"] = np.arange(6, dtype=np.float32)
        file["terminals"] = np.isin(np.arange(6), (2,))
        file["timeouts"] = np.isin(np.arange(6), (5,))
    code, out, err = run(capsys, "data", "info", "hopper_medium-v2.hdf5")
    assert (code, err) == (0, "")
    shown = [" ".join(line.split()) for line in out.splitlines()]
    assert shown[0] == "hopper-medium-v2: hopper_medium-v2.hdf5 (D4RL)"
    for line in (
        "rows 5",
        "trajectories, steps 2 2 3 2.5",
        "terminated 1",
        "cut 1",
        "returns 2 3 7 5",
        "rewards 5 different 0 4 2",
        "actions 1 numbers -0.5 1.5 0.35",
        "normalised scores 2 0.71506 0.83797 0.77652",
        "1 rows without a successor of their own are left out.",
        "1 of 5 numbers of the actions lie outside [-1, 1]: --data-action-clip.",
        "1 of 2 numbers of the observations never change.",
    ):
        assert line in shown, line
    assert mistake(capsys, "data", "info", "none.npz").endswith("'none.npz', which does not exist.")
    assert mistake(capsys, "data", "info", "hopper_medium-v2.hdf5", "--task", "1").startswith(
        "dpolicy data info: data_task is for sets of OGBench"
    )


def test_what_is_odd():
    obs = np.zeros((4, 1))
    odd = DataSet(obs, obs, np.ones(4), obs + 1, np.array([0, 1, 0, 0]), np.array([0, 0, 0, 1]), name="odd")
    assert findings(odd) == [
        "1 of 1 numbers of the observations never change.",
        "2 rows go on elsewhere than they led to: no windows of several steps can be read.",
        "1 rows are terminated within their trajectory, which goes on.",
        "every reward is 1.",
    ]
    moves = np.arange(4.0)[:, None]
    fine = DataSet(moves, obs, moves[:, 0], moves + 1, np.array([0, 0, 0, 1]))
    assert findings(fine) == []
    assert findings(DataSet(moves, obs + 1, moves[:, 0], moves + 1)) == [
        "4 of 4 numbers of the actions are at -1 or 1, where tanh densities end.",
        "nothing terminates: values are bootstrapped at every row.",
    ]


def test_sets_are_made_where_their_names_are_looked_for(capsys):
    words = ("data", "make", "cep/moons", "--size", "50", "--seed", "3")
    code, out, _ = run(capsys, *words)
    assert (code, out) == (0, "data/cep/moons.npz: 50 transitions, 50 trajectories (cep/moons)\n")
    np.testing.assert_array_equal(read("cep/moons").reward, load_npz("data/cep/moons.npz").reward)
    with open("data/cep/moons.npz", "rb") as file:
        first = file.read()
    assert mistake(capsys, *words).endswith("choose another name, or overwrite it (--overwrite).")
    assert main([*words, "--out", "again.npz"]) == 0
    with open("again.npz", "rb") as file:
        assert file.read() == first
    capsys.readouterr()
    assert mistake(capsys, "data", "make", "cep/moon").startswith("dpolicy data make: name must be one of ")
    assert mistake(capsys, "data", "make", "a", "b") == "dpolicy data make: unexpected 'b'."
    code, out, _ = run(capsys, "data", "make")
    assert [line.split()[0] for line in out.splitlines()[2:]] == [*MADE, *MIXTURES]


def test_the_words_of_data(capsys):
    code, out, _ = run(capsys, "data")
    assert code == 0 and out.startswith("usage: dpolicy data info")
    assert (
        mistake(capsys, "data", "look") == "dpolicy data: what to do must be one of info, make; got 'look'."
    )
