"""The commands on runs that have been changed, damaged or are in the way."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from toy_commands import mistake, run
from toy_commands import stand_ins as stand_ins  # the same toy algorithm and program

from dpolicy.cli import main
from dpolicy.train import RunWarning, load_run


@pytest.fixture
def trained(capsys, stand_ins):
    """A run "r" of two chunks, with a checkpoint of each."""
    assert (
        main(["train", "toy", "--env", "probe/action", "--steps", "40", "--no-progress", "--out", "r"]) == 0
    )
    capsys.readouterr()


def edit(name, **changes):
    path = Path("r") / name
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"hyperparameters": {"temperature": 0.5}}, "hyperparameters.temperature = 0.5, not 0.25"),
        ({"program": {"steps": 8}}, "program.steps = 8, not 7"),
        ({"seed": 1}, "seed = 1, not 0"),
        ({"env_options": {"time_limit": 2}}, "env_options.time_limit = 2, not None"),
    ],
)
def test_a_configuration_that_was_edited(capsys, trained, changes, difference):
    config = json.loads(Path("r/config.json").read_text())
    Path("r/config.json").write_text(json.dumps({"env_options": {}, **config}))
    edit("config.json", **changes)
    sentence = f"r/config.json is not what its checkpoint was made with: {difference}."
    assert mistake(capsys, "train", "--resume", "r", "--steps", "80", "--no-progress") == (
        f"dpolicy train --resume: {sentence} Put it back, or start another run."
    )
    code, out, err = run(capsys, "evaluate", "r", "--episodes", "1")
    assert (code, err) == (0, f"dpolicy: {sentence}\n")
    assert "mode evaluate: return " in out
    code, _, err = run(capsys, "record", "r", "--out", "d.npz", "--episodes", "1")
    assert (code, err) == (0, f"dpolicy: {sentence}\n")
    with pytest.warns(RunWarning, match=re.escape(sentence)):
        load_run("r")


def test_versions_that_may_break_something(capsys, trained):
    edit("versions.json", equinox="0.13.0", jax="7.1.2", python="2.7.1", commit="other")
    code, _, err = run(capsys, "evaluate", "r", "--episodes", "1")
    assert code == 0
    line = "dpolicy: the run in r was started with python 2.7.1 (now 3.*), jax 7.1.2 (now 0.*)"
    assert re.fullmatch(".*".join(map(re.escape, line.split("*"))) + ": its numbers may differ.\n", err), err
    assert not any(name in err for name in ("equinox", "commit"))
    # Going on is to be bit for bit, so every version counts.
    code, out, _ = run(capsys, "train", "--resume", "r", "--steps", "60", "--no-progress", "--no-report")
    assert code == 0
    assert all(f"{name} " in out for name in ("python", "jax", "equinox", "commit"))


def test_a_run_remembers_how_often_it_writes_checkpoints(capsys, stand_ins):
    words = [
        "train",
        "toy",
        "--env",
        "probe/action",
        "--no-progress",
        "--out",
        "r",
        "--checkpoint-every",
        "3",
    ]
    assert main([*words, "--steps", "40"]) == 0
    assert main(["train", "--resume", "r", "--steps", "140", "--no-progress"]) == 0
    assert sorted(path.name for path in Path("r/checkpoints").iterdir()) == ["6", "7"]
    assert json.loads(Path("r/config.json").read_text())["checkpoint_every"] == 3


def test_figures_and_reports_of_others_are_left_alone(capsys, monkeypatch):
    Path("r").mkdir()
    Path("r/table.md").write_text("mine")
    words = ("train", "toy", "--env", "probe/action", "--no-progress", "--out", "r")
    monkeypatch.setattr("dpolicy.reports.report_files", lambda env: ("table.md",))
    assert mistake(capsys, *words) == (
        "dpolicy train toy: r holds table.md that belongs to no run (there is no config.json): choose another "
        "directory."
    )
    assert main([*words, "--no-report"]) == 0


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("train toy --env probe/action --no-progress --out no/n", "no/n"),
        ("plot r --out no/c.png", "no"),
        ("record r --out no/d.npz", "no"),
        ("audit qsm sac --env bandit/ring --out no/a", "no/a"),
    ],
)
def test_a_place_that_may_not_be_written_is_found_before_anything_is_done(
    capsys, monkeypatch, trained, words, place
):
    def full(dir=None):
        raise PermissionError(13, "Permission denied", str(dir))

    Path("no").mkdir()
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr("dpolicy.train.building.build", lambda config: pytest.fail("too late"))
    monkeypatch.setattr("dpolicy.envs.make", lambda *args, **options: pytest.fail("too late"))
    assert mistake(capsys, *words.split()).endswith(
        f": {place} must be a directory that may be written: no may not (Permission denied)."
    )


def test_a_place_that_is_a_directory_is_no_file(capsys, trained):
    Path("c.png").mkdir()
    assert mistake(capsys, "plot", "r", "--out", "c.png") == (
        "dpolicy plot: c.png must be a file, and is a directory."
    )


def _replaced(content):
    def damage(path):
        if path.is_dir():
            shutil.rmtree(path)
        path.write_bytes(content)

    return damage


def _as_directory(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_replaced(b"\x00\xff" * 50), _as_directory])
def test_damage_is_a_sentence_or_without_effect(capsys, trained, damage):
    """Every file of a run, and every command that reads it."""
    shutil.copytree("r", "sound")
    for name in ("config.json", "versions.json", "metrics.csv", "metrics.jsonl", "log.jsonl", "checkpoints"):
        for words in ("evaluate r --episodes 1", "train --resume r --steps 60 --no-progress", "plot r"):
            damage(Path("r") / name)
            code, _, err = run(capsys, *words.split())
            assert code in (0, 2)
            assert code == 0 or err.count("\n") == 1
            shutil.rmtree("r")
            shutil.copytree("sound", "r")
