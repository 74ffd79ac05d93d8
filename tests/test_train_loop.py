import csv
import io
import json
import logging
import math
import re
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from host_program import Toy, arrays
from rich.console import Console

from dpolicy.train import loop, starting
from dpolicy.train.building import build
from dpolicy.train.configuration import read_config, seed_keys
from dpolicy.train.intervals import (
    bootstrap_interval,
    interquartile_interval,
    interquartile_mean,
    interval_text,
)
from dpolicy.train.loop import AllSeedsFailed, train_loop
from dpolicy.train.metrics_log import MetricsLog, read_history
from dpolicy.train.progress import Display, byte_text, clock, main_metric


def console(terminal=False):
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=200, markup=False, highlight=False, soft_wrap=True
    )


def text(console):
    return console.file.getvalue()


def test_loop_is_the_vmapped_program():
    result = train_loop(Toy(), seeds=2, seed=3, steps=20, progress=False)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(3), i) for i in range(2)])
    state, history = jax.jit(jax.vmap(Toy().init))(keys), []
    for _ in range(2):
        state, metrics = jax.jit(jax.vmap(Toy().step))(state)
        history.append(metrics)
    for left, right in zip(arrays(result.state), arrays(state), strict=True):
        np.testing.assert_array_equal(left, right)
    assert result.history.step.tolist() == [10, 20]
    returns = np.stack([m["evaluate/return"] for m in history])
    np.testing.assert_array_equal(result.history.metrics["evaluate/return"].astype(np.float32), returns)


def test_files_and_plain_lines(tmp_path, monkeypatch):
    out = console()
    monkeypatch.setattr(sys, "orig_argv", ["python", "my run.py", "--steps", "26"])
    result = train_loop(
        Toy(warmup=5), seeds=2, steps=26, directory=tmp_path, config={"widths": (1, 2)}, console=out
    )
    # 5 steps of warm-up and whole chunks of 10 until 26 are reached.
    assert result.history.step.tolist() == [15, 25, 35]
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [(row["step"], row["seed"], row["alive"]) for row in rows[:3]] == [
        ("15", "0", "1"),
        ("15", "1", "1"),
        ("25", "0", "1"),
    ]
    assert rows[0]["train/return"] == "nan"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["train/return"] is None
    assert lines[5]["loss/weights"] == float(rows[5]["loss/weights"])
    assert np.float32(lines[5]["loss/weights"]) == np.float32(result.history.metrics["loss/weights"][2, 1])
    np.testing.assert_equal(read_history(tmp_path), result.history)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"widths": [1, 2], "seeds": 2, "seed": 0, "steps": 26, "checkpoint_every": 1}
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert set(versions) >= {"python", "jax", "equinox", "optax", "dpolicy", "commit", "device"}
    assert versions["command"] == "python 'my run.py' --steps 26"
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in log] == ["start", "compile", "chunk", "chunk", "chunk", "end"]
    assert log[0]["versions"] == versions
    printed = text(out).splitlines()
    assert printed[0].startswith("compiled in ")
    assert printed[1].startswith("step 15/35  return ")
    assert "steps/s" in printed[1]
    assert printed[3].endswith("00:00 left")
    assert "35 steps x 2 seeds" in printed[4]


def test_live_display_names_everything():
    out = console(terminal=True)
    train_loop(Toy(), seeds=2, steps=20, console=out)
    for piece in ("compiled in", "step 20/20", "return ", "steps/s", " left"):
        assert piece in text(out)


def test_silent_without_progress(capsys):
    train_loop(Toy(), steps=10, progress=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_failed_seeds_are_reported_and_the_others_go_on(tmp_path):
    out = console()
    result = train_loop(Toy(doom=0.5), seeds=6, steps=60, directory=tmp_path, console=out)
    doomed = np.asarray(result.state.doomed)
    assert 0 < doomed.sum() < 6
    np.testing.assert_array_equal(result.history.alive[-1], ~doomed)
    assert result.history.alive[:3].all()
    healthy = train_loop(Toy(), seeds=6, steps=60, progress=False)
    np.testing.assert_array_equal(
        np.asarray(result.state.weights)[~doomed], np.asarray(healthy.state.weights)[~doomed]
    )
    first = int(np.flatnonzero(doomed)[0])
    assert f"non-finite: seed {first} at step 31 (loss/weights, train/return)" in text(out)
    assert f"{doomed.sum()} of 6 seeds failed: seed {first} at step 31" in text(out).splitlines()[-1]
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    failures = [event for event in events if event["event"] == "failed seed"]
    assert [event["seed"] for event in failures] == np.flatnonzero(doomed).tolist()
    assert failures[0]["step"] == 31


def test_all_seeds_dead_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    sentence = r"Every seed has become non-finite: seed 0 at step 31 \(.*\); seed 1 at step 31 \(.*\)\."
    for resume in (False, True):
        out = console()
        with pytest.raises(AllSeedsFailed, match=sentence):
            train_loop(
                Toy(doom=2.0),
                seeds=2,
                steps=60,
                directory=tmp_path,
                progress=False,
                resume=resume,
                console=out,
            )
        assert text(out).count("its last finite state is kept\n") == 2
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_large_states_are_announced(monkeypatch):
    out = console()
    monkeypatch.setattr(starting, "_WORTH_SAYING", 100)
    train_loop(Toy(), seeds=2, steps=10, console=out)
    # Per seed: two 4 x 4 float32, two bfloat16, two booleans, two int32 and a key of two words.
    assert text(out).splitlines()[0] == "state: 300 B (2 x 150 B, one per seed)"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"steps": 10, "seeds": 0}, "seeds must be"),
        ({"steps": 10, "seed": -1}, "seed must be"),
        ({"steps": 10, "checkpoint_every": 0}, "checkpoint_every must be"),
        # The last chunk would end at 2^31.
        ({"steps": 2**31 - 8}, "steps must be an integer from 1 to 2147483638, got 2147483640"),
        ({"steps": 10, "seed": 2**32}, "seed must be an integer from 0 to 4294967295, got 4294967296"),
        ({"steps": 10, "directory": 5}, "directory must be a path or None, got 5"),
        ({"steps": 10, "config": [1]}, r"config must map names to JSON values, got \[1\]"),
        ({"steps": 10, "config": {"a": {1}}}, "config must map names to JSON values, got "),
        ({"steps": 10, "on_chunk": 5}, "on_chunk must be a function of a Chunk or None, got 5"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_arguments_are_checked(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.setattr(loop, "start", lambda job: pytest.fail("too late"))
    with pytest.raises(ValueError, match=sentence):
        train_loop(Toy(), **{"directory": tmp_path / "run", **arguments})
    assert not (tmp_path / "run").exists()


def test_a_program_is_checked(tmp_path):
    with pytest.raises(ValueError, match="program must have init, step, steps_per_call, got 5"):
        train_loop(5, steps=10)
    with pytest.raises(ValueError, match=r"program.steps_per_call must be an integer of at least 1, got 0"):
        train_loop(Toy(steps_per_call=0), steps=10)

    class Idle(Toy):
        def step(self, state):
            return state, Toy.step(self, state)[1]

    with pytest.raises(ValueError, match=r"program\.step must add to the steps of its state: 0 became 0"):
        train_loop(Idle(), steps=20, progress=False)
    with pytest.raises(ValueError, match="the configuration must have 'algorithm'"):
        loop.train_config({}, None)


@pytest.mark.usefixtures("unchecked_types")
def test_numpy_integers_are_integers(tmp_path):
    numbers = {"steps": np.int64(10), "seeds": np.int32(1), "seed": np.uint32(2**32 - 1)}
    train_loop(Toy(), directory=tmp_path, progress=False, **numbers)
    assert read_config(tmp_path) == {
        "seeds": 1,
        "seed": 2**32 - 1,
        "steps": 10,
        "checkpoint_every": 1,
    }
    keys = jax.random.key_data(seed_keys(2**32 - 1, 1))
    assert keys.tolist() != jax.random.key_data(seed_keys(0, 1)).tolist()
    for seed in (-1, 2**32, 1.5):
        with pytest.raises(ValueError, match="seed must be an integer from 0 to 4294967295"):
            seed_keys(seed, 1)


def test_a_seed_with_an_evaluation_that_is_not_finite_is_reported_once():
    class Unsound(Toy):
        def step(self, state):
            state, metrics = Toy.step(self, state)
            bad = jnp.where(state.steps > 10, jnp.nan, metrics["evaluate/return"])
            return state, {**metrics, "evaluate/return": bad}

    out = console()
    result = train_loop(Unsound(), seeds=1, steps=40, progress=False, console=out)
    assert result.history.alive.all()
    assert text(out) == (
        "non-finite: evaluate/return of seed 0 at step 20; its state is finite, it goes on\n"
    )


def test_a_run_that_cannot_start_leaves_no_run(tmp_path):
    with pytest.raises(
        ValueError, match="steps must exceed the 30 that are taken before learning starts, got 20"
    ):
        train_loop(Toy(warmup=30), steps=20, directory=tmp_path, progress=False)

    class Growing(Toy):
        def step(self, state):
            state, metrics = Toy.step(self, state)
            return eqx.tree_at(lambda s: s.weights, state, jnp.zeros((9,))), metrics

    with pytest.raises(ValueError, match=r"program\.step must return a state of the structure"):
        train_loop(Growing(), steps=20, directory=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []
    train_loop(Toy(), steps=20, directory=tmp_path, progress=False)


def test_metrics_log_refuses_what_it_cannot_write(tmp_path):
    log = MetricsLog(tmp_path)
    alive = np.array([True, False])
    log.append(1, alive, {"a": np.array([0.1, np.inf], np.float32), "b": np.array([1, 2])})
    with pytest.raises(ValueError, match="keep their names"):
        log.append(2, alive, {"a": np.zeros(2)})
    with pytest.raises(ValueError, match="one number per seed, got shape"):
        log.append(2, alive, {"a": np.zeros(3), "b": np.zeros(2)})
    with pytest.raises(ValueError, match="'seed'"):
        MetricsLog(None).append(1, alive, {"seed": np.zeros(2)})
    assert (tmp_path / "metrics.csv").read_text() == "step,seed,alive,a,b\n1,0,1,0.1,1\n1,1,0,inf,2\n"
    history = read_history(tmp_path)
    assert history.metrics["a"].tolist() == [[0.1, math.inf]]
    assert history.alive.tolist() == [[True, False]]
    with pytest.raises(ValueError, match="is shorter than"):
        MetricsLog(tmp_path, {"metrics.csv": 10_000})


_ROWS = [
    f'{{"step": {step}, "seed": {seed}, "alive": true, "a": 0.5}}'
    for step in (10, 20, 30)
    for seed in range(3)
]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (["garbage", *_ROWS], "line 1 is no row of metrics"),
        ([*_ROWS[:4], "", *_ROWS[4:]], "line 5 is no row of metrics"),
        (["\udcff\udcfe", *_ROWS], "line 1 is no row of metrics"),
        (["[]", *_ROWS], "line 1 is no row of metrics"),
        ([row.replace("0.5", '"x"') for row in _ROWS], "line 1 is no row of metrics"),
        ([row.replace("0.5", "[1]") for row in _ROWS], "line 1 is no row of metrics"),
        ([row.replace("true", "2") for row in _ROWS], "line 1 is no row of metrics"),
        ([*_ROWS[:4], _ROWS[4].replace('"a"', '"b"'), *_ROWS[5:]], "line 5 has .*, b; the first has .*, a"),
        ([*_ROWS[:4], *_ROWS[5:]], "line 5 is of seed 2, where seed 1 is due"),
        (_ROWS[1:], "line 1 is of seed 1, where seed 0 is due"),
        ([row for row in _ROWS if '"seed": 2' not in row], "line 3 is of seed 0, where seed 2 is due"),
        ([*_ROWS[:4], _ROWS[7], *_ROWS[5:]], "line 5 is of step 30, its chunk of step 20"),
    ],
)
def test_damaged_metrics_are_one_sentence(tmp_path, rows, sentence):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(row + "\n" for row in rows), errors="surrogateescape")
    with pytest.raises(ValueError, match=rf"metrics\.jsonl is damaged: {sentence}"):
        read_history(tmp_path, seeds=3)


def test_a_table_that_is_not_the_rows_is_refused(tmp_path):
    log = MetricsLog(tmp_path)
    log.append(1, np.array([True]), {"a": np.array([0.1])})
    sizes = log.offsets()
    (tmp_path / "metrics.csv").write_text("step,seed,alive,a\n1,0,1,0.2\n")
    with pytest.raises(
        ValueError, match=r"metrics\.csv is damaged: it does not hold the rows of metrics.jsonl"
    ):
        MetricsLog(tmp_path, sizes, seeds=1)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"steps": 10', "it is no JSON"),
        (b"\xff\x00", "it is no JSON"),
        (b"null", "the configuration must be an object of names and values, got None"),
        (b"[]", r"the configuration must be an object of names and values, got \[\]"),
        (b'{"seeds": 1, "seed": 0}', "the configuration must have 'steps', got seeds, seed"),
        (b'{"seeds": 1, "seed": 0, "steps": "x"}', "steps must be an integer of at least 1, got 'x'"),
        (b'{"seeds": 0, "seed": 0, "steps": 1}', "seeds must be an integer of at least 1, got 0"),
        (
            b'{"algorithm": "bc", "hyperparameters": {}, "program": {}, "seeds": 1, "seed": 0, "steps": 1}',
            "the configuration must have 'env'",
        ),
        (
            b'{"algorithm": "bc", "env": "multigoal", "hyperparameters": 5, "program": {}}',
            "the configuration must have 'seeds'|hyperparameters must be an object",
        ),
    ],
)
def test_a_damaged_configuration_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json is damaged: ({sentence})"):
        read_config(tmp_path)


@pytest.mark.usefixtures("unchecked_types")
def test_build_needs_a_configuration():
    for config in ({}, None):
        with pytest.raises(ValueError, match="the configuration must"):
            build(config)


def test_interquartile_mean_against_scipy():
    from scipy.stats import trim_mean

    rng = np.random.default_rng(0)
    for shape in ((1, 3), (2, 2), (3, 5), (4, 10)):
        scores = rng.standard_cauchy(shape)
        assert interquartile_mean(scores) == pytest.approx(trim_mean(scores.ravel(), 0.25))
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 1e9])) == 1.5


def test_interquartile_interval_is_stratified():
    """Seeds are resampled within their task: without noise in any of them the interval is a point."""
    middle, low, high = interquartile_interval(np.repeat([[0.0], [1.0], [5.0], [9.0]], 3, axis=1))
    assert low == middle == high == 3.0
    # The middle two of two tasks with two seeds: max of the first task's, 0 in 1/4 of the draws, and min of the
    # other's, 14 in 1/4. So their mean is 5 in 3/16 of the draws, 5.5, 7, and 7.5 in 3/16.
    _, low, high = interquartile_interval(np.array([[0.0, 1.0], [10.0, 14.0]]), level=0.8)
    assert (low, high) == (5.0, 7.5)


@pytest.mark.usefixtures("unchecked_types")
def test_interquartile_interval_needs_tasks_and_seeds():
    with pytest.raises(ValueError, match="finite numbers of shape"):
        interquartile_interval(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="finite numbers of shape"):
        interquartile_interval(np.array([[1.0, np.nan]]))


def test_bootstrap_interval():
    values = np.array(
        [[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, np.nan, np.nan, np.nan, np.nan], [7.0] * 5, [np.nan] * 5]
    )
    mean, low, high = bootstrap_interval(values, resamples=20_000)
    np.testing.assert_array_equal(mean, [3.0, 1.0, 7.0, np.nan])
    # The mean of 5 draws from {1..5}: P(sum <= 8) = 56/3125 < 2.5 % < 126/3125 = P(sum <= 9), so the quantile is 9/5.
    np.testing.assert_allclose(low, [1.8, np.nan, 7.0, np.nan])
    np.testing.assert_allclose(high, [4.2, np.nan, 7.0, np.nan])
    # One step more changes no interval.
    np.testing.assert_array_equal(bootstrap_interval(values[:1]).low, bootstrap_interval(values).low[:1])
    with pytest.raises(ValueError, match="level must be"):
        bootstrap_interval(values, level=1.0)
    assert interval_text(values[0]) == f"3 [{1.8:g}, {4.2:g}]"
    assert interval_text(values[1]) == "1"
    assert interval_text(values[3]) == "-"


def test_bootstrap_covers_the_mean():
    # 30 normal values per sweep: the percentile interval covers close to 95 % (a little less, by theory about 94 %).
    samples = np.random.default_rng(0).normal(size=(1000, 30))
    _, low, high = bootstrap_interval(samples, resamples=500)
    covered = np.mean((low <= 0.0) & (high >= 0.0))
    assert 0.91 < covered < 0.97


def test_texts():
    assert clock(59.6) == "01:00"
    assert clock(3725.0) == "1:02:05"
    assert byte_text(999) == "999 B"
    assert byte_text(1_400_000_000) == "1.4 GB"
    nan = np.full(2, np.nan)
    assert main_metric({"train/return": np.ones(2), "evaluate/return": np.zeros(2)}) == "evaluate/return"
    assert main_metric({"train/return": np.ones(2), "evaluate/return": nan}) == "train/return"
    assert main_metric({"loss": np.ones(2)}) is None
    out = console()
    with Display(total=100, enabled=True, console=out) as display:
        display.chunk(50, 50, 2.0, {"evaluate/return": np.array([1.0, np.nan])}, np.array([True, False]), 1)
    assert text(out) == "step 50/100  return 1  50 steps/s  00:02 left  1 of 2 seeds failed\n"


def test_the_display_counts_to_the_end_of_the_last_chunk():
    out = console()
    with Display(total=100, enabled=True, console=out) as display:
        for step in (48, 96, 144):
            display.chunk(step, 48, 24.0, {}, np.array([True]), 0)
    assert [line.split("  ")[::3] for line in text(out).splitlines()] == [
        ["step 48/144", "00:48 left"],
        ["step 96/144", "00:24 left"],
        ["step 144/144", "00:00 left"],
    ]


def test_the_live_line_counts_seconds_until_there_is_a_chunk(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("dpolicy.train.progress.time.perf_counter", lambda: now[0])
    out = console(terminal=True)
    shown = []

    def look():
        display._live.refresh()
        line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text(out)).splitlines()[-1]
        shown.append(line.rpartition("━")[2].strip())

    with Display(total=10, enabled=True, console=out) as display:
        now[0] += 65.0
        look()
        display.compiled(65.0)
        now[0] += 7.0
        look()
        display.chunk(10, 10, 7.0, {}, np.array([True]), 0)
        now[0] += 7.0
        look()
    assert shown == ["compiling 01:05", "training 00:07", "step 10/10  return -  1 steps/s  00:00 left"]
    assert "compiled in 65.0 s\n" in text(out)


@pytest.mark.parametrize(("terminal", "chosen", "levels"), [(1, "1", [3, 1]), (0, "1", []), (1, "0", [])])
def test_the_compiler_raises_no_alarm_across_the_live_line(monkeypatch, terminal, chosen, levels):
    # XLA logs an error when it has compiled for two minutes; 3 leaves out errors, 1 is JAX's own choice.
    seen = []
    monkeypatch.setattr("jax._src.logging_config.utils.absl_set_min_log_level", seen.append)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", chosen)
    python = logging.getLogger("jax").level, list(logging.getLogger("jax").handlers)
    with Display(total=1, enabled=True, console=console(terminal)):
        assert seen == levels[:1]
        assert (logging.getLogger("jax").level, logging.getLogger("jax").handlers) == python
    assert seen == levels
