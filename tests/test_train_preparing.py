"""The one door of training: a configuration is looked at, pinned, built and traced once, whoever asks."""

import hashlib
import json

import numpy as np
import pytest

from dpolicy.cli import main
from dpolicy.presets import resolve
from dpolicy.train import preparing, starting, train_config
from dpolicy.train.preparing import prepare

SMALL = "--hidden 4 --activation relu --embedding raw --batch-size 4 --updates-per-evaluation 2 --evaluation-episodes 1"


@pytest.fixture
def data(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", obs=rng.choice([-1.0, 1.0], (8, 1)), action=rng.uniform(-1, 1, (8, 1)))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "d.npz"


@pytest.fixture
def counted(monkeypatch):
    """How often a function that is dear, by module and name, has been called."""
    calls = {}

    def count(module, name):
        function = getattr(module, name)

        def counting(*arguments, **keywords):
            calls[name] = calls.get(name, 0) + 1
            return function(*arguments, **keywords)

        monkeypatch.setattr(module, name, counting)

    count(hashlib, "file_digest")
    for name in ("build", "traced_init", "check_memory", "pinned"):
        count(preparing, name)
    for name in ("traced_init", "check_memory"):
        count(starting, name)
    return calls


ONCE = dict.fromkeys(("file_digest", "build", "traced_init", "check_memory", "pinned"), 1)


def configured(data):
    """A run of bc on the data."""
    small = {"hidden": (4,), "activation": "relu", "embedding": "raw", "batch_size": 4, "data": str(data)}
    small |= {"updates_per_evaluation": 2, "evaluation_episodes": 1, "steps": 2}
    return {**resolve("bc", "probe/action", small), "seeds": 1, "seed": 0}


def test_a_run_from_the_command_line_is_looked_at_once(data, counted):
    words = f"train bc --env probe/action --data d.npz {SMALL} --steps 2 --no-progress --out run"
    assert main(words.split()) == 0
    assert counted == ONCE
    counted.clear()
    assert main(["train", "--resume", "run", "--steps", "4", "--no-progress"]) == 0
    assert counted == ONCE
    config = json.loads((data.parent / "run" / "config.json").read_text())
    assert config["steps"] == 4 and config["data_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()


def test_a_run_from_python_is_looked_at_once(data, counted):
    run, history = train_config(configured(data), "run", progress=False)
    assert counted == ONCE
    assert run.config["program"]["data"] == str(data)
    assert run.state.steps.tolist() == [2] and history.step.tolist() == [2]


def test_a_configuration_that_is_shown_reads_no_data(data, counted, capsys):
    words = f"train bc --env probe/action --data d.npz {SMALL} --steps 2 --print-config"
    assert main(words.split()) == 0
    assert json.loads(capsys.readouterr().out)["program"]["data"] == "d.npz"
    assert counted == {"build": 1, "traced_init": 1, "check_memory": 1}


def test_what_can_be_refused_at_once_is(data, counted):
    config = configured(data)
    (data.parent / "taken").mkdir()
    (data.parent / "taken" / "log.jsonl").write_text("{}")
    for directory, sentence in (
        ("taken", "taken holds log.jsonl that belongs to no run"),
        ("d.npz", "is a file"),
    ):
        with pytest.raises(ValueError, match=sentence):
            prepare(config, directory)
    (data.parent / "report").mkdir()
    (data.parent / "report" / "goals.png").write_text("")
    with pytest.raises(ValueError, match=r"report holds goals\.png that belongs to no run"):
        prepare(config, "report", also=("goals.png",))
    with pytest.raises(ValueError, match="nowhere.npz.*does not exist"):
        prepare({**config, "program": {**config["program"], "data": "nowhere.npz"}}, None)
    assert "build" not in counted


def test_nothing_is_written_before_training(data):
    prepared = prepare(configured(data), "new/run")
    assert prepared.directory == (data.parent / "new" / "run").relative_to(data.parent)
    assert [path.name for path in data.parent.iterdir()] == ["d.npz"]
    assert prepared.built.shapes.steps.shape == (1,)
