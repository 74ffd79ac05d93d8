import json
import sys

import numpy as np
import pytest

from dpolicy import plots
from dpolicy.plots import curve, curves, labels, learning_curve, line_style
from dpolicy.plots.style import SUFFIXES, step_unit
from dpolicy.train.intervals import bootstrap_interval
from dpolicy.train.metrics_log import History, MetricsLog


def history(seeds=3, chunks=4, shift=0.0):
    step = 1000 * np.arange(1, chunks + 1)
    values = shift + np.arange(chunks)[:, None] + np.arange(seeds)[None, :]
    return History(step, np.ones((chunks, seeds), bool), {"evaluate/return": values, "loss/actor": -values})


@pytest.fixture
def figures(monkeypatch):
    """The figures that `learning_curve` makes, to look at the data in them."""
    made = []

    def record(*args, **kwargs):
        made.append(plots.new_figure(*args, **kwargs)[0])
        return made[-1], np.array([made[-1].axes], dtype=object)

    monkeypatch.setattr(curves, "new_figure", record)
    return made


def write_run(directory, algorithm, env, history):
    directory.mkdir()
    config = {"algorithm": algorithm, "env": env, "hyperparameters": {}, "program": {}}
    numbers = {"seeds": history.alive.shape[1], "seed": 0, "steps": 4000}
    (directory / "config.json").write_text(json.dumps(config | numbers))
    log = MetricsLog(directory)
    for i, step in enumerate(history.step):
        log.append(int(step), history.alive[i], {name: values[i] for name, values in history.metrics.items()})
    return directory


def test_curve_leaves_out_failed_seeds_and_empty_chunks():
    record = history()
    record.alive[2:, 0] = False
    record.metrics["evaluate/return"][0] = np.nan
    line = curve(record, "evaluate/return")
    assert line.step.tolist() == [2000, 3000, 4000]
    # Seeds 0, 1, 2 give 1, 2, 3 in the second chunk; only seeds 1 and 2 count from the third on.
    assert line.mean.tolist() == [2.0, 3.5, 4.5]
    assert line.low.tolist() == [1.0, 3.0, 4.0]
    assert line.high.tolist() == [3.0, 4.0, 5.0]
    assert (line.seeds, line.failed) == (3, 1)
    with pytest.raises(ValueError, match="Did you mean evaluate/return"):
        curve(record, "evaluate/retrun")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writes_the_format_of_the_suffix(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is an error from here on
    path = tmp_path / "new" / f"curve{suffix}"
    assert learning_curve(history(), path) == path
    start = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix]
    data = path.read_bytes()
    assert data.startswith(start)
    assert len(data) > 5_000


def test_the_figure_shows_the_data(tmp_path, figures):
    learning_curve({"a": history(), "b": history(seeds=1, shift=10.0)}, tmp_path / "c.png")
    (panel,) = figures[0].axes
    a, b = panel.lines
    np.testing.assert_allclose(a.get_xdata(), [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(a.get_ydata(), [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(b.get_ydata(), [10.0, 11.0, 12.0, 13.0])
    assert panel.get_xlabel() == "thousand steps"
    assert panel.get_ylabel() == "evaluate/return"
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["a (3 seeds)", "b (1 seed)"]
    band = panel.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose(
        band[band[:, 0] == 1.0][:, 1].min(), curve(history(), "evaluate/return").low[0]
    )
    assert a.get_color() != b.get_color()


def test_runs_side_by_side(tmp_path, figures):
    one = write_run(tmp_path / "1", "sdac", "multigoal/multigoal", history())
    two = write_run(tmp_path / "2", "sdac", "multigoal/multigoal", history(shift=5.0))
    other = write_run(tmp_path / "3", "fpo", "bandit/rings", history())
    learning_curve([one, two, other], tmp_path / "c.svg", metric="loss/actor")
    learning_curve(one, tmp_path / "one.svg")
    assert figures[1].axes[0].get_title() == "multigoal/multigoal"
    left, right = figures[0].axes
    assert (left.get_title(), right.get_title()) == ("multigoal/multigoal", "bandit/rings")
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend == ["sdac (1) (3 seeds)", "sdac (2) (3 seeds)"]
    assert left.get_legend().get_title().get_text() == "mean over seeds, shaded: 95 % interval"
    np.testing.assert_allclose(left.lines[1].get_ydata(), [-6.0, -7.0, -8.0, -9.0])


def test_a_figure_of_histories_takes_their_task_and_says_what_a_band_is(tmp_path, figures):
    learning_curve({"a": history(seeds=1)}, tmp_path / "one.png", title="bandit/rings")
    learning_curve(history(), tmp_path / "several.png", level=0.8)
    one, several = (figure.axes[0] for figure in figures)
    assert (one.get_title(), several.get_title()) == ("bandit/rings", "")
    assert one.get_legend().get_title().get_text() == ""  # one seed has no band
    assert several.get_legend().get_title().get_text() == "mean over seeds, shaded: 80 % interval"


def test_mistakes_get_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"suffix must be one of \.png, \.pdf, \.svg; got '\.jpg'"):
        learning_curve(history(), tmp_path / "c.jpg")
    with pytest.raises(ValueError, match="at least one run"):
        learning_curve({}, tmp_path / "c.png")
    for empty in (history(chunks=0), history()._replace(metrics={})):
        with pytest.raises(ValueError, match="needs runs with chunks and metrics; this one has none"):
            learning_curve(empty, tmp_path / "c.png")
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        bootstrap_interval(np.ones(3), seed=-1)
    with pytest.raises(ValueError, match="is not the directory of a run"):
        learning_curve([tmp_path], tmp_path / "c.png")
    (tmp_path / "config.json").write_text('{"seeds": 1, "seed": 0, "steps": 1}')
    with pytest.raises(ValueError, match="holds no metrics"):
        learning_curve([tmp_path], tmp_path / "c.png")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_figure_gives_the_same_bytes(tmp_path, suffix):
    first, second = (learning_curve(history(), tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first == second


def test_style():
    assert len({line_style(i) for i in range(28)}) == 28
    assert labels(["a", "b", "a"]) == ["a (1)", "b", "a (2)"]
    assert labels(["a", "a", "a (1)"]) == ["a (2)", "a (3)", "a (1)"]
    assert step_unit(5e6) == (1e6, "million steps")
    assert step_unit(1999.0) == (1.0, "steps")
