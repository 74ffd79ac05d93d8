"""`dpolicy record`, on the stand-ins of the other commands."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from toy_commands import mistake, run
from toy_commands import stand_ins as stand_ins  # the same toy algorithm and program

from dpolicy.cli import main
from dpolicy.data import load_npz
from dpolicy.train import load_run, record_run


@pytest.fixture
def trained(capsys):
    """A run of two seeds in "r" that acts with 1/4, or with -1/4 in its mode "negative"."""
    words = "train toy --env probe/time_limit --temperature 0.25 --seeds 2 --steps 10 --no-progress --out r"
    assert main([*words.split(), "--time-limit", "4"]) == 0
    capsys.readouterr()


def test_a_recording(capsys, trained):
    code, out, err = run(capsys, "record", "r", "--out", "new/d.npz", "--episodes", "3")
    assert (code, err) == (0, "")
    # The observation flips between -1 and 1 and is the reward: four steps pay nothing.
    assert out == (
        "new/d.npz: 24 transitions, 6 episodes, mean return 0 (toy on probe/time_limit time_limit=4, 2 of 2 seeds)\n"
    )
    data = load_npz("new/d.npz")
    np.testing.assert_array_equal(data.action, np.full((24, 1), 0.25))
    assert set(np.unique(data.obs)) == {-1, 1}
    np.testing.assert_array_equal(data.truncated, np.arange(24) % 4 == 3)

    assert mistake(capsys, "record", "r", "--out", "new/d.npz") == (
        "dpolicy record: new/d.npz already exists: choose another name, or overwrite it (--overwrite)."
    )
    code, out, _ = run(
        capsys, "record", "r", "--out", "new/d.npz", "--mode", "negative", "--noise", "0.1", "--overwrite"
    )
    assert code == 0
    assert out.startswith("new/d.npz: 800 transitions, 200 episodes, ")
    action = load_npz("new/d.npz").action
    np.testing.assert_allclose(action.mean(), -0.25, atol=0.02)
    np.testing.assert_allclose(action.std(), 0.1, atol=0.02)


def test_the_seed_decides(capsys, trained):
    files = {}
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        words = ("record", "r", "--out", f"{name}.npz", "--episodes", "5", "--noise", "0.1", "--seed", seed)
        assert run(capsys, *words)[0] == 0
        with open(f"{name}.npz", "rb") as file:
            files[name] = file.read()
    assert files["a"] == files["b"] != files["c"]
    # Seeds of the run are recorded in different episodes.
    action = load_npz("a.npz").action
    assert not np.array_equal(action[:20], action[20:])


def test_chunks(capsys, trained):
    words = ("record", "r", "--out", "d.npz", "--episodes", "3", "--action-chunk", "2")
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert out.startswith("d.npz: 12 transitions of 2 actions each, 6 episodes, mean return 0 ")
    assert load_npz("d.npz").action.shape == (12, 2)


def test_only_living_seeds_are_recorded(trained):
    def loaded(alive):
        found = load_run("r")
        return found._replace(state=eqx.tree_at(lambda s: s.alive, found.state, jnp.array(alive)))

    first, second = (record_run(loaded(alive), episodes=1) for alive in ([True, False], [False, True]))
    both = record_run(loaded([True, True]), episodes=1)
    np.testing.assert_array_equal(both.obs, np.concatenate([first.obs, second.obs]))
    # As the environment gives them, whatever the policy sees.
    other = loaded([True, True])
    mean = lambda s: s.normaliser.mean
    other = other._replace(state=eqx.tree_at(mean, other.state, jnp.full((2, 1), 5.0)))
    np.testing.assert_array_equal(record_run(other, episodes=1).obs, both.obs)
    with pytest.raises(ValueError, match="every seed of the run has failed"):
        record_run(loaded([False, False]))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("r", "--out is missing: The file to write, .npz."),
        ("r --out d.csv", "a data file must have the suffix .npz, got 'd.csv'."),
        ("nowhere --out d.npz", "nowhere is not the directory of a run: it has no config.json."),
        ("r --out d.npz --mode negativ", "mode must be one of evaluate, negative; got 'negativ'. Did you"),
        ("r --out d.npz --episodes 2e9", "episodes must fit into the "),
        ("r --out d.npz --episodes 0", "episodes must be an integer of at least 1, got 0."),
        ("r --out d.npz --noise -1", "noise must be a finite number in [0, inf), got -1.0."),
        ("r --out d.npz --seed -1", "seed must be an integer from 0 to 4294967295, got -1."),
        ("r --out d.npz --action-chunk 0", "action_chunk must be an integer of at least 1, got 0."),
        ("r --out d.npz --action-chunk 3", "ActionChunk needs a size that divides the time limit of "),
        ("r --out file/d.npz", "file must be a directory or a new name in one: file is a file."),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_file(capsys, tmp_path, trained, words, sentence):
    (tmp_path / "file").touch()
    assert mistake(capsys, "record", *words.split()).startswith(f"dpolicy record: {sentence}")
    assert not list(tmp_path.glob("*.npz"))
