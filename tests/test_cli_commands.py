"""The commands, on stand-ins for an algorithm and its training program: the way from words to runs."""

import json
import re
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import dpolicy.algorithms
import dpolicy.presets
import dpolicy.reports
import dpolicy.train
from dpolicy import _checks
from dpolicy.algorithm import Algorithm
from dpolicy.cli import main
from dpolicy.presets import Preset
from dpolicy.train import Normaliser, Program, TrainState, load_run


def toy(
    *, temperature: float = 0.5, hidden: tuple[int, ...] = (8,), steps: int = 3, fail: bool = False
) -> Algorithm:
    """A stand-in: acts with a constant.

    Args:
        temperature: The constant; above zero.
        hidden: Widths.
        steps: Sampler steps.
        fail: Whether every seed fails in the second chunk.
    """
    _checks.positive("temperature", temperature)

    def init(key, spec):
        if 0 in hidden:
            raise ValueError(f"hidden must be positive, got {hidden}.")
        return {"constant": jnp.full(spec.action_size, temperature), "fail": jnp.asarray(fail)}

    def act(state, obs, key, mode):
        return (state["constant"] if mode == "evaluate" else -state["constant"]), {}

    return Algorithm(
        "toy", "off_policy", init, act, lambda state, batch, key: (state, {}), ("evaluate", "negative")
    )


def toy_program(
    algorithm: Algorithm, env: dpolicy.envs.Environment, *, chunk: int = 10, steps: int = 7
) -> Program:
    """A stand-in.

    Args:
        algorithm: What to train.
        env: Where.
        chunk: Steps of a chunk.
        steps: Another thing called steps.
    """

    def init(key):
        return TrainState(
            algorithm=algorithm.init(key, env.spec),
            normaliser=Normaliser.start(env.spec.obs_size),
            experience=None,
            key=key,
            steps=jnp.asarray(0, jnp.int32),
            alive=jnp.asarray(True),
            failed_at=jnp.asarray(-1, jnp.int32),
        )

    def step(state):
        steps = state.steps + chunk
        alive = ~(state.algorithm["fail"] & (steps > chunk))
        failed_at = jnp.where(state.alive & ~alive, steps, state.failed_at)
        state = eqx.tree_at(lambda s: (s.steps, s.alive, s.failed_at), state, (steps, alive, failed_at))
        data = jnp.sum(jax.random.key_data(state.key) % 7).astype(float)
        return state, {"evaluate/return": data + steps, "loss/actor": jnp.where(alive, data, jnp.nan)}

    return Program(init, step, chunk, algorithm)


ENTRY = dpolicy.algorithms.Entry(toy, "off_policy", "g|g", "r", "t", "s", "c", "sel", "arXiv 0")


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch, tmp_path):
    monkeypatch.setitem(dpolicy.algorithms.ALGORITHMS, "toy", ENTRY)
    monkeypatch.setitem(dpolicy.train.PROGRAMS, "off_policy", toy_program)
    preset = Preset({"temperature": 0.25, "chunk": 20, "steps": 60}, "a table")
    monkeypatch.setitem(dpolicy.presets.PRESETS, "toy", [("probe/action", preset)])
    monkeypatch.setattr(dpolicy.reports, "report_for", lambda env: None)
    monkeypatch.chdir(tmp_path)


def run(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def config_of(capsys, *words):
    code, out, err = run(capsys, "train", "toy", *words, "--print-config")
    assert (code, err) == (0, "")
    return json.loads(out)


def mistake(capsys, *words, code=2):
    found, out, err = run(capsys, *words)
    assert found == code
    assert out == ""
    assert err.count("\n") == 1
    return err.rstrip("\n")


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

    monkeypatch.setattr("dpolicy.train.loop.train_loop", interrupt)
    code, _, err = run(capsys, "train", "toy", "--env", "probe/action", "--out", "r")
    assert code == 130
    assert err == 'dpolicy train toy: interrupted; "dpolicy train --resume r" goes on.\n'


def test_errors_that_are_no_mistake_of_the_user_stay_visible(monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("a bug")

    monkeypatch.setattr("dpolicy.train.loop.train_loop", broken)
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
            "dpolicy train toy: seed must be an integer of at least 0, got -1.",
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
        ("algorithms x", "dpolicy algorithms: unexpected 'x'."),
        ("envs --all", "dpolicy envs: unknown flag --all; .*"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(capsys, tmp_path, words, expected):
    extra = ["--no-progress"] if words.startswith("train toy") else []
    sentence = mistake(capsys, *words.split(), *extra)
    # ".*" stands for anything; everything else stands for itself.
    assert re.fullmatch(".*".join(map(re.escape, expected.split(".*"))), sentence), sentence
    assert not (tmp_path / "runs").exists()


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
