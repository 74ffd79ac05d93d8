import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from host_program import CONFIG, SETTINGS, Toy, arrays

from dpolicy.train.configuration import read_config
from dpolicy.train.loop import train_loop
from dpolicy.train.run_files import only_process

FILES = ("metrics.csv", "metrics.jsonl", "config.json")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    return directory, train_loop(Toy(), directory=directory, config=CONFIG, progress=False, **SETTINGS)


def killed(directory: Path, at: int) -> None:
    script = Path(__file__).with_name("host_program.py")
    done = subprocess.run(
        [sys.executable, str(script), str(directory), str(at)], capture_output=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def same_bits(a, b):
    for left, right in zip(arrays(a), arrays(b), strict=True):
        assert left.dtype == right.dtype
        assert left.tobytes() == right.tobytes()


# At 10 no checkpoint is there yet; at 40 the newest is of step 30, and the rows of step 40 are on disk already.
@pytest.mark.parametrize("at", [10, 40])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, uninterrupted, at):
    directory, expected = uninterrupted
    killed(tmp_path, at)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows[-1].startswith(f"{at},2,1,")
    # What a kill in the middle of writing leaves: half a row, half a checkpoint.
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 50, "see')
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp-1").mkdir()

    resumed = train_loop(Toy(), directory=tmp_path, config=CONFIG, resume=True, progress=False, **SETTINGS)

    same_bits(resumed.state, expected.state)
    np.testing.assert_equal(resumed.history, expected.history)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["5", "6"]
    events = [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert "resume" in events
    assert events[-1] == "end"


def test_a_finished_run_can_be_taken_further(tmp_path, uninterrupted):
    _, expected = uninterrupted
    train_loop(Toy(), directory=tmp_path, config=CONFIG, progress=False, **{**SETTINGS, "steps": 25})
    longer = train_loop(Toy(), directory=tmp_path, config=CONFIG, resume=True, progress=False, **SETTINGS)
    same_bits(longer.state, expected.state)
    again = train_loop(Toy(), directory=tmp_path, config=CONFIG, resume=True, progress=False, **SETTINGS)
    same_bits(again.state, expected.state)
    np.testing.assert_equal(again.history, expected.history)
    # What is finished is read without compiling anything.
    events = [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event for event in events if event in ("compile", "resume")] == [
        "compile",
        "resume",
        "compile",
        "resume",
    ]


def test_rare_checkpoints_give_the_same_run(tmp_path, uninterrupted):
    _, expected = uninterrupted
    train_loop(Toy(), directory=tmp_path, config=CONFIG, progress=False, checkpoint_every=4, **SETTINGS)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "6"]
    again = train_loop(Toy(), directory=tmp_path, config=CONFIG, resume=True, progress=False, **SETTINGS)
    same_bits(again.state, expected.state)


def test_a_plain_resume_keeps_the_rate_of_checkpoints(tmp_path, uninterrupted):
    settings = {**SETTINGS, "steps": 10}
    train_loop(Toy(), directory=tmp_path, config=CONFIG, progress=False, checkpoint_every=4, **settings)
    again = train_loop(Toy(), directory=tmp_path, config=CONFIG, resume=True, progress=False, **SETTINGS)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "6"]
    same_bits(again.state, uninterrupted[1].state)
    train_loop(
        Toy(), directory=tmp_path, config=CONFIG, resume=True, progress=False, checkpoint_every=2, **SETTINGS
    )
    assert read_config(tmp_path)["checkpoint_every"] == 2


@pytest.mark.parametrize(
    "name",
    ["checkpoints/6/x", "log.jsonl", "metrics.csv", "metrics.jsonl", "versions.json", "learning_curve.png"],
)
@pytest.mark.parametrize("resume", [False, True])
def test_what_belongs_to_no_run_is_left_alone(tmp_path, name, resume):
    """A run would take another's checkpoints for its own, and delete or write over the rest."""
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    with pytest.raises(ValueError, match=f"holds {name.split('/')[0]} that belongs to no run"):
        train_loop(Toy(), directory=tmp_path, steps=10, progress=False, resume=resume)
    assert contents(tmp_path) == {name: b"mine"}


def test_refuses_to_mix_runs(uninterrupted):
    directory, _ = uninterrupted
    with pytest.raises(ValueError, match="already holds a run"):
        train_loop(Toy(), directory=directory, config=CONFIG, progress=False, **SETTINGS)
    with pytest.raises(ValueError, match=r"has seeds = 3; it cannot go on with 4\."):
        train_loop(
            Toy(), directory=directory, config=CONFIG, resume=True, progress=False, **{**SETTINGS, "seeds": 4}
        )
    with pytest.raises(ValueError, match=r"of another program: it has \.weights float32\[3, 4, 4\], not"):
        train_loop(Toy(width=5), directory=directory, config=CONFIG, resume=True, progress=False, **SETTINGS)
    with pytest.raises(ValueError, match="resume needs the directory"):
        train_loop(Toy(), steps=10, resume=True)


def test_one_process_at_a_time(tmp_path):
    directory = tmp_path / "run"
    with only_process(directory), pytest.raises(ValueError, match="another process is training in .*run"):
        train_loop(Toy(), directory=directory, config=CONFIG, progress=False, **SETTINGS)
    assert not directory.exists()  # nothing was written, so nothing is left
    train_loop(Toy(), directory=directory, config=CONFIG, progress=False, **SETTINGS)
    with only_process(directory), pytest.raises(ValueError, match="another process is training"):
        train_loop(Toy(), directory=directory, config=CONFIG, resume=True, progress=False, **SETTINGS)
    assert (directory / "config.json").exists()


def test_a_run_that_cannot_start_leaves_no_directory(tmp_path):
    with pytest.raises(ValueError, match="steps must exceed the 50"):
        train_loop(Toy(warmup=50), directory=tmp_path / "run", steps=20, progress=False)
    assert not (tmp_path / "run").exists()


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def refused(directory, sentence, **changes):
    """A resume that is refused with a sentence and has written nothing."""
    before = contents(directory)
    with pytest.raises(ValueError, match=sentence):
        train_loop(
            Toy(), directory=directory, config=CONFIG, resume=True, progress=False, **SETTINGS | changes
        )
    assert contents(directory) == before


@pytest.fixture
def copy(tmp_path, uninterrupted):
    return Path(shutil.copytree(uninterrupted[0], tmp_path / "copy"))


def test_a_run_that_lost_its_checkpoints_is_not_started_over(copy):
    shutil.rmtree(copy / "checkpoints")
    refused(copy, "has metrics of 6 chunks but no checkpoint to go on from", checkpoint_every=100)
    assert not (copy / "checkpoints").exists()
    (copy / "checkpoints").mkdir()
    refused(copy, "has metrics of 6 chunks but no checkpoint to go on from", checkpoint_every=5)


def test_a_run_without_a_checkpoint_yet_says_that_it_starts_over(copy, uninterrupted, capsys):
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").mkdir()
    rows = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(rows[:6]))
    again = train_loop(
        Toy(),
        directory=copy,
        config=CONFIG,
        resume=True,
        progress=False,
        checkpoint_every=2,
        **SETTINGS,
    )
    assert "no checkpoint yet" in capsys.readouterr().out
    same_bits(again.state, uninterrupted[1].state)


def test_steps_that_the_run_has_taken_are_not_untaken(copy):
    refused(copy, "steps must be at least 60, which the run has taken, got 30", steps=30)


def test_a_refused_resume_has_written_nothing(copy):
    rows = (copy / "metrics.jsonl").read_bytes()
    (copy / "metrics.jsonl").write_bytes(b"\xff" + rows[1:])
    refused(copy, "metrics.jsonl is damaged: line 1 is no row of metrics")
    (copy / "metrics.jsonl").write_bytes(rows[:-5])
    refused(copy, "metrics.jsonl is shorter than")


def test_a_damaged_checkpoint_is_one_sentence(copy, uninterrupted):
    newest = copy / "checkpoints" / "6"
    for part in ("state", "about"):
        shutil.rmtree(newest / part)
        refused(copy, r"checkpoint 6 in .*checkpoints is damaged; remove it to go on from 5\.")
    shutil.rmtree(newest)
    again = train_loop(Toy(), directory=copy, config=CONFIG, resume=True, progress=False, **SETTINGS)
    same_bits(again.state, uninterrupted[1].state)
    shutil.rmtree(copy / "checkpoints" / "5")
    for path in (newest / "about").iterdir():
        path.write_bytes(b"")
    refused(copy, "checkpoint 6 in .*checkpoints is damaged; there is no older one to go on from")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rate": {"value": 0.2}}, r"rate\.value = 0\.2, not 0\.1"),
        ({"seed": 8}, "seed = 8, not 7"),
        ({"rate": {"value": 0.1, "more": None}}, None),
        ({"widths": [4]}, r"widths = \[4\], not \[4, 4\]"),
        ({"data_sha256": "b"}, "data_sha256 = 'b', not 'a'"),
        ({"files_sha256": {"f.py": "2"}}, "files_sha256 = {'f.py': '2'}, not {'f.py': '1'}"),
        ({"program": {"data": "moved.npz"}}, None),
        ({"checkpoint_every": 3}, None),
    ],
)
def test_a_checkpoint_is_of_its_configuration(tmp_path, changes, sentence):
    """Edited in config.json, and so in what a resume is asked for."""
    config = {**CONFIG, "rate": {"value": 0.1}, "program": {"data": "here.npz"}, "data_sha256": "a"}
    config["files_sha256"] = {"f.py": "1"}
    numbers = {**SETTINGS, "steps": 10}
    train_loop(Toy(), directory=tmp_path, config=config, progress=False, **numbers)
    edited = {**read_config(tmp_path), **changes}
    (tmp_path / "config.json").write_text(json.dumps(edited))
    numbers = {name: edited[name] for name in numbers}
    again = {"directory": tmp_path, "config": edited, "resume": True, "progress": False, **numbers}
    if sentence is None:
        train_loop(Toy(), **again)
        return
    before = contents(tmp_path)
    with pytest.raises(
        ValueError, match=rf"config\.json is not what its checkpoint was made with: {sentence}\. Put it back"
    ):
        train_loop(Toy(), **again)
    assert contents(tmp_path) == before


def test_a_resume_says_that_other_versions_started_the_run(copy, capsys):
    again = {"directory": copy, "config": CONFIG, "resume": True, "progress": False, **SETTINGS}
    train_loop(Toy(), **again)
    assert capsys.readouterr().out == ""
    versions = json.loads((copy / "versions.json").read_text())
    (copy / "versions.json").write_text(json.dumps(versions | {"jax": "0.1.2", "device": "abacus"}))
    train_loop(Toy(), **again)
    said = capsys.readouterr().out
    assert f"the run in {copy} was started with jax 0.1.2 (now {versions['jax']}), device abacus (now" in said
    (copy / "versions.json").write_text("[")
    train_loop(Toy(), **again)
    assert "versions.json is missing or damaged" in capsys.readouterr().out


def test_a_resume_says_that_other_flags_of_the_compiler_started_the_run(copy, capsys, monkeypatch):
    # They choose the rounding. The compiler has read its own by now.
    flags = json.loads((copy / "versions.json").read_text())["XLA_FLAGS"]
    monkeypatch.setenv("XLA_FLAGS", "--other")
    train_loop(Toy(), directory=copy, config=CONFIG, resume=True, progress=False, **SETTINGS)
    assert (
        f"was started with XLA_FLAGS {flags} (now --other): its numbers may differ" in capsys.readouterr().out
    )


def test_a_run_whose_metrics_have_other_columns_is_not_gone_on_with(copy):
    class Measuring(Toy):
        def step(self, state):
            state, metrics = Toy.step(self, state)
            return state, {**metrics, "new": metrics.pop("loss/weights")}

    before = contents(copy)
    longer = {**SETTINGS, "steps": 70}
    with pytest.raises(ValueError, match=r"the metrics in .* are of another version .* \(they lack new\)"):
        train_loop(Measuring(), directory=copy, config=CONFIG, resume=True, progress=False, **longer)
    assert contents(copy) == before


def test_an_event_that_was_cut_short_spoils_no_other(copy):
    with open(copy / "log.jsonl", "a") as file:
        file.write('{"time": 1')
    again = {"directory": copy, "config": CONFIG, "resume": True, "progress": False, **SETTINGS}
    train_loop(Toy(), **again)
    lines = (copy / "log.jsonl").read_text().splitlines()
    assert lines.pop(-3) == '{"time": 1'
    assert [json.loads(line)["event"] for line in lines][-3:] == ["end", "resume", "end"]
