"""The commands, on stand-ins for an algorithm and its training program: the way from words to runs."""

import inspect
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from toy_commands import config_of, mistake, run, toy_program
from toy_commands import stand_ins as stand_ins  # the toy algorithm and its program

import dpolicy.algorithms
import dpolicy.plots
import dpolicy.presets
import dpolicy.reports
import dpolicy.train
from dpolicy.cli import main
from dpolicy.train import load_run


def test_settings_come_from_defaults_then_preset_then_words(capsys):
    assert config_of(capsys, "--env", "probe/constant", "--seeds", "2", "--seed", "5", "--steps", "1e3") == {
        "algorithm": "toy",
        "env": "probe/constant",
        "hyperparameters": {"temperature": 0.5, "hidden": [8], "steps": 3, "fail": False},
        "program": {"chunk": 10, "steps": 7},
        "source": None,
        "seeds": 2,
        "seed": 5,
        "steps": 1000,
    }
    config = config_of(capsys, "--env", "probe/action", "--chunk", "30")
    assert config["hyperparameters"]["temperature"] == 0.25
    assert (config["program"]["chunk"], config["steps"], config["source"]) == (30, 60, "a table")
    # Names that the run itself uses are told apart.
    config = config_of(
        capsys, "--env=probe/action", "--algorithm-steps", "4", "--program-steps", "8", "--steps", "9"
    )
    assert config["hyperparameters"]["steps"] == 4
    assert config["program"]["steps"] == 8
    assert config["steps"] == 9
    assert config_of(capsys, "--env", "multigoal")["env"] == "multigoal/multigoal"


def test_train_resume_evaluate_plot(capsys, monkeypatch, tmp_path):
    reported = []
    report = lambda run, directory, *, progress=True: reported.append((run, directory, progress))
    monkeypatch.setattr(dpolicy.reports, "report_for", lambda env: report if env == "probe/action" else None)
    drawn, draw = [], dpolicy.plots.learning_curve
    monkeypatch.setattr("dpolicy.plots.learning_curve", lambda *a, **k: drawn.append(a) or draw(*a, **k))
    words = ("train", "toy", "--env", "probe/action", "--seeds", "2")
    code, out, err = run(capsys, *words, "--steps", "20")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "toy on probe/action, 2 seeds, in runs/toy-probe-action-0"
    assert lines[1] == "settings from a table"
    assert any(line.startswith("step 20/20  return ") for line in lines)
    assert lines[-2] == "next: dpolicy plot runs/toy-probe-action-0"
    assert reported[0][0].algorithm_name == "toy"
    assert str(reported[0][1]) == "runs/toy-probe-action-0"
    # From the directory, which knows the method and the task.
    assert list(map(str, drawn[0])) == [
        "runs/toy-probe-action-0",
        "runs/toy-probe-action-0/learning_curve.png",
    ]

    assert main([*words, "--steps", "20", "--no-progress", "--no-report"]) == 0
    assert capsys.readouterr().out == ""
    assert len(reported) == 1
    assert (tmp_path / "runs" / "toy-probe-action-1").is_dir()

    code, out, _ = run(capsys, "train", "--resume", "runs/toy-probe-action-0", "--steps", "40")
    assert code == 0
    assert "resumed at step 20" in out
    loaded = load_run("runs/toy-probe-action-0")
    assert loaded.algorithm_name == "toy"
    assert loaded.state.steps.tolist() == [40, 40]
    assert loaded.config["steps"] == 40

    # probe/action pays 1 - (a - 1/2)^2 once; the policy acts with its temperature 1/4, or with -1/4.
    code, out, _ = run(capsys, "evaluate", "runs/toy-probe-action-0", "--episodes", "3")
    assert code == 0
    assert out.splitlines()[-1] == (
        "toy on probe/action, mode evaluate: return 0.9375 [0.9375, 0.9375] (2 seeds x 3 episodes, 95 % interval over "
        "seeds)"
    )
    _, out, _ = run(capsys, "evaluate", "runs/toy-probe-action-0", "--mode", "negative")
    assert "return 0.4375 [" in out
    assert mistake(capsys, "evaluate", "runs/toy-probe-action-0", "--mode", "negativ") == (
        "dpolicy evaluate: mode must be one of evaluate, negative; got 'negativ'. Did you mean negative?"
    )

    code, out, _ = run(
        capsys, "plot", "runs/toy-probe-action-0", "runs/toy-probe-action-1", "--out", "a/c.svg"
    )
    assert (code, out) == (0, "a/c.svg\n")
    assert (tmp_path / "a" / "c.svg").stat().st_size > 5_000
    message = mistake(capsys, "plot", "runs/toy-probe-action-0", "--metric", "loss/acto")
    assert message.startswith("dpolicy plot: metric must be one of ")
    assert message.endswith("Did you mean loss/actor?")

    (tmp_path / "old").mkdir()
    config = {**loaded.config, "program": {"chunks": 10}}
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    for words_ in (("evaluate", "old"), ("train", "--resume", "old")):
        assert mistake(capsys, *words_).endswith(
            ": toy has no setting 'chunks' in this version of the library."
        )
    assert mistake(capsys, *words, "--out", "runs/toy-probe-action-0").endswith(
        "runs/toy-probe-action-0 already holds a run: resume it or choose another directory."
    )


def test_all_seeds_failed_is_exit_code_1(capsys):
    code, _, err = run(capsys, "train", "toy", "--env", "probe/action", "--fail", "--out", "r")
    assert code == 1
    assert err == (
        "dpolicy train toy: Every seed has become non-finite: seed 0 at step 40 (loss/actor). The last good checkpoint "
        "is in r.\n"
    )


def test_interruption_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    words = (
        "train",
        "toy",
        "--env",
        "probe/action",
        "--no-progress",
        "--out",
        "the run",
        "--checkpoint-every",
        "2",
    )
    with monkeypatch.context() as patch:
        patch.setattr("dpolicy.train.loop.train_prepared", interrupt)
        # Nothing has been written, so there is nothing to go on with.
        assert mistake(capsys, *words, code=130) == "dpolicy train toy: interrupted."
    with monkeypatch.context() as patch:
        patch.setattr("dpolicy.plots.learning_curve", interrupt)
        assert mistake(capsys, *words, code=130) == (
            "dpolicy train toy: interrupted; \"dpolicy train --resume 'the run'\" goes on."
        )
    monkeypatch.setattr("dpolicy.plots.learning_curve", interrupt)
    assert mistake(capsys, "plot", "the run", code=130) == "dpolicy: interrupted."


def test_errors_that_are_no_mistake_of_the_user_stay_visible(monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("a bug")

    monkeypatch.setattr("dpolicy.train.loop.train_prepared", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["train", "toy", "--env", "probe/action", "--no-progress"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("trian toy", "dpolicy: the command must be one of train, .*; got 'trian'. Did you mean train?"),
        (
            "train toi --env probe/action",
            "dpolicy train: algorithm must be one of .*; got 'toi'. Did you mean toy?",
        ),
        ("train --env probe/action", "dpolicy train: the algorithm comes first, as in: .*"),
        ("train toy", "dpolicy train toy: --env is missing: .*"),
        ("train toy --env probe/acton", "dpolicy train toy: env must be .*Did you mean probe/action or .*"),
        (
            "train toy --env probe/action --tempera 1",
            "dpolicy train toy: unknown flag --tempera; did you mean .*",
        ),
        (
            "train toy --env probe/action --temperature -1",
            "dpolicy train toy: temperature must be .*, got -1.0.",
        ),
        (
            "train toy --env probe/action --temperature x",
            "dpolicy train toy: --temperature must be a number, got 'x'.",
        ),
        (
            "train toy --env probe/action --hidden 0",
            "dpolicy train toy: hidden must be positive, got (0,).",
        ),
        (
            "train toy --env probe/action --seeds 0",
            "dpolicy train toy: seeds must be an integer of at least 1, got 0.",
        ),
        (
            "train toy --env probe/action --seed -1",
            "dpolicy train toy: seed must be an integer from 0 to 4294967295, got -1.",
        ),
        ("train toy extra --env probe/action", "dpolicy train toy: unexpected 'extra'."),
        ("train --resume nowhere", "dpolicy train --resume: nowhere is not the directory of a run: .*"),
        ("train --resume", "dpolicy train: --resume must be a path, got nothing."),
        ("evaluate nowhere", "dpolicy evaluate: nowhere is not the directory of a run: .*"),
        ("evaluate", "dpolicy evaluate: DIR is missing: .*"),
        ("plot", "dpolicy plot: DIRS is missing: .*"),
        ("plot nowhere", "dpolicy plot: nowhere is not the directory of a run: .*"),
        (
            "plot nowhere --out c.jpg",
            "dpolicy plot: the figure's suffix must be one of .png, .pdf, .svg; got '.jpg'.*",
        ),
        ("check-env probe/action x", "dpolicy check-env: unexpected 'x'."),
        (
            "train toy --env probe/action --seed 4294967296",
            "dpolicy train toy: seed must be an integer from 0 to 4294967295, got 4294967296.",
        ),
        (
            "train toy --env probe/action --steps 2147483640",
            "dpolicy train toy: steps must be an integer from 1 to 2147483628, got 2147483640.",
        ),
        (
            "train toy --env probe/action --frame-stack 1e9 --seeds 1000",
            "dpolicy train toy: the state of this run takes .* TB (1000 x .* GB, one per seed), more than the .* fit.",
        ),
        (
            "train toy --env probe/action --steps 2147483640 --print-config",
            "dpolicy train toy: steps must be an integer from 1 to 2147483628, got 2147483640.",
        ),
        (
            "train toy --env probe/action --env-option x",
            "dpolicy train toy: --env-option must be NAME=VALUE, .*",
        ),
        ("train toy --env probe/action --out None", "dpolicy train toy: --out must be a path, got 'None'."),
        ("train toy --env probe/action --out=", "dpolicy train toy: --out must be a path, got ''."),
        (
            "train toy --env probe/action --out file/run",
            "dpolicy train toy: file/run must be a directory or a new name in one: file is a file.",
        ),
        (
            "train toy --env probe/action --out file",
            "dpolicy train toy: file must be a directory or a new name in one: file is a file.",
        ),
        (
            f"train toy --env probe/action --out {'x' * 300}",
            f"dpolicy train toy: File name too long: {'x' * 300}.",
        ),
        (
            "train toy --env probe/acton --help",
            "dpolicy train toy: env must be .*Did you mean probe/action or .*",
        ),
        ("plot --out c.png nowhere", "dpolicy plot: nowhere is not the directory of a run: .*"),
        ("plot --out c.png", "dpolicy plot: DIRS is missing: .*"),
        ("evaluate --seed 4 nowhere x", "dpolicy evaluate: unexpected 'x'."),
        ("--version foo", "dpolicy: unexpected 'foo' after --version."),
        ("--help nonsense", "dpolicy: unexpected 'nonsense' after --help."),
        ("envs --all", "dpolicy envs: unknown flag --all; .*"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(capsys, tmp_path, words, expected):
    (tmp_path / "file").touch()
    extra = ["--no-progress"] if words.startswith("train toy") else []
    sentence = mistake(capsys, *words.split(), *extra)
    # ".*" stands for anything; everything else stands for itself.
    assert re.fullmatch(".*".join(map(re.escape, expected.split(".*"))), sentence), sentence
    assert not (tmp_path / "runs").exists()


def test_a_resume_is_refused_before_it_says_anything(capsys, tmp_path):
    assert main(["train", "toy", "--env", "probe/action", "--no-progress", "--out", "r"]) == 0
    for flag, value, low in (("steps", "-5", 1), ("checkpoint-every", "0", 1)):
        assert mistake(capsys, "train", "--resume", "r", f"--{flag}={value}") == (
            f"dpolicy train --resume: {flag.replace('-', '_')} must be an integer of at least {low}, got {value}."
        )
    assert mistake(capsys, "train", "--resume", "r", "--steps", "40", "--no-progress") == (
        "dpolicy train --resume: steps must be at least 60, which the run has taken, got 40."
    )
    assert mistake(capsys, "evaluate", "r", "--seed", "4294967296") == (
        "dpolicy evaluate: seed must be an integer from 0 to 4294967295, got 4294967296."
    )
    assert mistake(capsys, "plot", "r", "--metric", "").startswith("dpolicy plot: metric must be one of ")
    config = (tmp_path / "r" / "config.json").read_text()
    (tmp_path / "r" / "config.json").write_text(config[:-9])
    for words in (("train", "--resume", "r"), ("evaluate", "r"), ("plot", "r")):
        assert mistake(capsys, *words).endswith(": r/config.json is damaged: it is no JSON.")


def test_all_seeds_failing_at_once_leave_no_checkpoint_to_speak_of(capsys):
    code, out, err = run(
        capsys, "train", "toy", "--env", "probe/action", "--fail", "--out", "s", "--checkpoint-every", "5"
    )
    assert code == 1
    assert err.endswith("seed 0 at step 40 (loss/actor).\n")
    assert "the other seeds go on" not in out


def test_printing_the_settings_of_what_cannot_train_is_refused(capsys, monkeypatch):
    def broken(algorithm, env, **settings):
        program = toy_program(algorithm, env)

        def step(state):
            raise ValueError("the batch must be smaller.")

        return program._replace(step=step)

    broken.__signature__ = inspect.signature(toy_program)
    monkeypatch.setattr(dpolicy.train, "PROGRAMS", {"off_policy": broken})
    assert mistake(capsys, "train", "toy", "--env", "probe/action", "--print-config") == (
        "dpolicy train toy: the batch must be smaller."
    )


def test_a_path_need_not_be_text(capsys, tmp_path):
    name = os.fsdecode(b"r\xff")
    assert mistake(capsys, "train", "toy", "--env", "probe/action", "--out", name) == (
        r"dpolicy train toy: the directory of a run must have a name in UTF-8, got 'r\udcff'."
    )
    assert main(["train", "toy", "--env", "probe/action", "--no-progress", "--out", "r"]) == 0
    (tmp_path / "r").rename(name)
    assert mistake(capsys, "evaluate", name).endswith(
        r"must have a name in UTF-8, got 'r\udcff/checkpoints'."
    )
    assert main(["plot", name, "--out", name + ".png"]) == 0


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="a full disk is imitated by /dev/full, which only Linux has"
)
def test_a_full_disk_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dpolicy.cli", "--version"], stdout=full, stderr=-1, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (2, "dpolicy: No space left on device.\n")


def test_a_data_file_is_part_of_the_run(capsys, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("d.npz", obs=np.zeros((8, 1)), action=rng.uniform(-1, 1, (8, 1)))
    small = "--hidden 4 --sampler-steps 2 --batch-size 4 --updates-per-evaluation 2 --evaluation-episodes 2"
    words = (
        f"train bc --env bandit/double_well --data d.npz --steps 2 --no-progress --no-report --out r {small}"
    )
    assert main(words.split()) == 0
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["program"]["data"] == str(tmp_path / "d.npz")
    assert len(config["data_sha256"]) == 64
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["evaluate", "../r"]) == 0
    assert main(["train", "--resume", "../r", "--steps", "4", "--no-progress", "--no-report"]) == 0
    capsys.readouterr()
    np.savez(tmp_path / "d.npz", obs=np.zeros((9, 1)), action=rng.uniform(-1, 1, (9, 1)))
    assert mistake(capsys, "train", "--resume", "../r", "--steps", "6", "--no-progress") == (
        f"dpolicy train --resume: the run in ../r cannot go on: {tmp_path}/d.npz has changed since it was started."
    )
    (tmp_path / "d.npz").unlink()
    for words in (("train", "--resume", "../r"), ("evaluate", "../r")):
        assert mistake(capsys, *words).endswith("d.npz', which does not exist.")
    assert main(["plot", "../r"]) == 0


def test_a_missing_package_is_one_sentence(capsys, monkeypatch):
    def missing(name):
        raise ImportError('brax is missing: pip install "dpolicy[brax]"')

    monkeypatch.setattr(dpolicy.envs, "make", missing)
    assert mistake(capsys, "train", "toy", "--env", "probe/action") == (
        'dpolicy train toy: brax is missing: pip install "dpolicy[brax]"'
    )


def test_a_program_that_needs_an_object_is_left_to_python(capsys, monkeypatch):
    def from_data(algorithm: object, env: object, dataset: object, *, batch: int = 1) -> None:
        """A stand-in."""

    monkeypatch.setitem(dpolicy.train.PROGRAMS, "off_policy", from_data)
    assert mistake(capsys, "train", "toy", "--env", "probe/constant") == (
        "dpolicy train toy: toy learns from a dataset that has no name to be given by: call dpolicy.train.off_policy "
        "from Python."
    )


def test_catalogue(capsys):
    _, out, _ = run(capsys, "algorithms")
    assert any(
        line.split() == ["toy", "off_policy", *["A", "stand-in:", "acts", "with", "a", "constant."]]
        for line in out.splitlines()
    )
    _, plain, _ = run(capsys, "taxonomy")
    assert any(line.split()[:4] == ["toy", "off_policy", "g|g", "r"] for line in plain.splitlines())
    _, out, _ = run(capsys, "taxonomy", "--markdown")
    lines = out.splitlines()
    assert lines[0].startswith("| name ")
    assert set(lines[1]) == {"|", "-", " "}
    assert len(lines) == len(dpolicy.algorithms.ALGORITHMS) + 2
    assert r"g\|g" in lines[-1]
    _, out, _ = run(capsys, "envs")
    spec = dpolicy.envs.make("multigoal").spec
    row = next(line for line in out.splitlines() if line.startswith("multigoal/multigoal "))
    assert row.split()[1:4] == [str(spec.obs_size), str(spec.action_size), str(spec.time_limit)]


def words_of(text):
    """The words of a table, whatever lines it was broken into, without rules."""
    return sorted(word for word in text.split() if set(word) != {"-"})


@pytest.mark.parametrize("columns", [79, 100, 130, 300])
@pytest.mark.parametrize("command", ["algorithms", "taxonomy", "envs", "train", "--help"])
def test_what_is_listed_fits_the_terminal_and_is_whole(capsys, monkeypatch, command, columns):
    _, piped, _ = run(capsys, command)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, shown, _ = run(capsys, command)

    assert max(map(len, shown.splitlines())) <= columns
    if command != "taxonomy" or columns > 100:
        assert words_of(shown) == words_of(piped)
    else:  # each row is a paragraph, which repeats the names of the columns
        assert sorted(set(words_of(shown))) == sorted(set(words_of(piped)) - {"name"})
        assert "\n\ntoy\n  family      off_policy\n" in shown


def test_a_word_filters_what_is_listed(capsys):
    _, out, _ = run(capsys, "envs", "BRAX", "hopper")
    assert [line.split()[0] for line in out.splitlines() if "/" in line] == ["brax/hopper"]
    assert 'brax: rigid-body locomotion (pip install "dpolicy[brax]")' in out
    for command in ("algorithms", "taxonomy"):
        _, out, _ = run(capsys, command, "toy")
        assert [line.split()[:2] for line in out.splitlines()[2:3]] == [["toy", "off_policy"]]
    _, out, _ = run(capsys, "taxonomy", "toy", "--markdown")
    assert len(out.splitlines()) == 3
    assert mistake(capsys, "envs", "brax", "jumper") == (
        "dpolicy envs: nothing has 'brax' and 'jumper' in it; without words, all are shown."
    )


def test_help_teaches(capsys):
    for words in (["--help"], [], ["train", "--help"], ["train"]):
        code, out, err = run(capsys, *words)
        assert (code, err) == (0, "")
        assert "dpolicy train sdac --env multigoal" in out
    assert "toy" in out
    with pytest.raises(SystemExit) as exit:
        main(["train", "toy", "--env", "probe/action", "--help"])
    assert exit.value.code in (0, None)
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert (
        "A stand-in: acts with a constant. The defaults shown are for probe/action, from a table." in printed
    )
    assert "--temperature FLOAT The constant; above zero. (default: 0.25)" in printed
    assert "--algorithm-steps INT Sampler steps. (default: 3)" in printed


def test_version_in_a_process_of_its_own():
    done = subprocess.run(
        [sys.executable, "-m", "dpolicy.cli", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("dpolicy 0.")
