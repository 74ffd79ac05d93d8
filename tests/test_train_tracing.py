"""What a training program must be and return, found before anything is compiled."""

from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from host_program import CONFIG, Toy

from dpolicy import load
from dpolicy.plots import learning_curve
from dpolicy.train import evaluate_run, load_run, pretrained_field, read_history, record_run, train_config
from dpolicy.train.configuration import check_config
from dpolicy.train.loop import check_arguments, train_loop
from dpolicy.train.tracing import traced_init, traced_step

TOY = Toy()


def program(**parts):
    return SimpleNamespace(**{"init": TOY.init, "step": TOY.step, "steps_per_call": 10, **parts})


def measuring(metrics):
    return program(step=lambda state: (TOY.step(state)[0], metrics))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (Toy, "program must have init, step, steps_per_call, got <class"),
        (program(init=3), r"program\.init must be a function key -> state, got 3"),
        (program(init=lambda: 1), r"program\.init must be a function key -> state, got one of \(\)"),
        (
            program(step=lambda state, key: 1),
            r"program\.step must be a function state -> .*, got one of \(state, key\)",
        ),
    ],
)
def test_something_that_is_no_program(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_arguments(given, seeds=1, seed=0, steps=10)


@pytest.mark.parametrize(
    ("init", "sentence"),
    [
        (lambda key: "x", r"program\.init must return a state of arrays, got 'x'\."),
        (lambda key: {"a": ["x"]}, r"program\.init must return a state of arrays, got 'x' at \['a'\]\[0\]\."),
        (lambda key: None, "one number each; steps is missing"),
        (lambda key: {"steps": jnp.zeros(3)}, "one number each; steps is missing"),
    ],
)
def test_a_state_that_is_none(init, sentence):
    with pytest.raises(ValueError, match=sentence):
        traced_init(program(init=init), 2)


def test_a_state_of_several_steps():
    import equinox as eqx

    init = lambda key: eqx.tree_at(lambda s: s.alive, TOY.init(key), jnp.ones(3, bool))
    with pytest.raises(ValueError, match=r"one number each; alive is of shape \(3,\)"):
        traced_init(program(init=init), 2)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (program(step=lambda state: state), "must return a state and its metrics, got State"),
        (program(step=lambda state: None), "must return a state and its metrics, got NoneType"),
        (measuring([1.0]), r"the metrics of program\.step must map names to numbers, got \[1\.0\]"),
        (measuring({"a": jnp.zeros(3)}), r"metric 'a' must be one number, got shape \(3,\)"),
        (measuring({"a": "x"}), "metric 'a' must be one number, got 'x'"),
        (measuring({"a": 1j}), "metric 'a' must be one number, got 1j"),
        (measuring({3: 0.0}), "a metric must be called by a text, got 3"),
        (measuring({"step": 0.0}), "a metric cannot be called 'step'"),
    ],
)
def test_a_step_that_returns_something_else(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        traced_step(given, traced_init(TOY, 2)[1])


def test_what_a_step_measures_is_known_before_it_runs():
    _, names = traced_step(TOY, traced_init(TOY, 2)[1])
    assert names == ["evaluate/return", "loss/weights", "train/return"]
    # A sum and a number of episodes are shown as their mean.
    parts = {"train/return_sum": jnp.zeros(()), "train/episodes": jnp.zeros((), int), "a": 0.5}
    assert traced_step(measuring(parts), traced_init(TOY, 2)[1])[1] == ["a", "train/return"]


def test_seeds_are_counted_before_their_keys_are_made(monkeypatch):
    monkeypatch.setattr("dpolicy.train.memory.memory_limit", lambda: 10**9)
    with pytest.raises(ValueError, match=r"the state of this run takes 322 GB .* at most \d+ of the"):
        train_loop(TOY, seeds=2**31 - 1, steps=10, progress=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"progress": "no"}, "progress must be True or False, got 'no'"),
        ({"resume": 1}, "resume must be True or False, got 1"),
        ({"directory": ""}, "directory must be a path or None, got ''"),
        ({"directory": "a\0b"}, "directory must be a path or None, got 'a"),
        ({"console": 5}, "console must be a rich.console.Console or None, got 5"),
        ({"config": {"a": {1: 2}}}, r"config must map names to JSON values, got .* \(1 is no name\)"),
        ({"config": {"seeds": 5}}, "seeds is 1, but config has 5"),
        ({"config": {"checkpoint_every": "x"}}, "checkpoint_every must be an integer of at least 1, got 'x'"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_arguments_of_the_loop(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        train_loop(TOY, steps=10, **{"progress": False, **arguments})


@pytest.mark.usefixtures("unchecked_types")
def test_arguments_of_a_configuration():
    config = {
        "algorithm": "sac",
        "env": "probe/action",
        "hyperparameters": {},
        "program": {},
        "seeds": 1,
        "seed": 0,
    }
    with pytest.raises(ValueError, match=r"env_options must be an object of names and values, got \[1\]"):
        check_config({**config, "env_options": [1]}, named=True, run=False)
    with pytest.raises(ValueError, match="the configuration must have 'steps'"):
        train_config(config, None)
    with pytest.raises(ValueError, match="resume needs the directory of a run"):
        train_config({**config, "steps": 9}, None, resume=True)
    with pytest.raises(ValueError, match="directory must be a path or None, got 5"):
        train_config({**config, "steps": 9}, 5)
    about = dict.fromkeys(
        ("run", "algorithm", "hyperparameters", "obs_size", "action_size", "seed", "step", "sha256"), 5
    )
    with pytest.raises(ValueError, match=r"pretrained\.run must be a text, got 5"):
        pretrained_field(about)


@pytest.mark.parametrize("given", [None, 5, "", b"r", {"r": 1}, "a\0b"])
@pytest.mark.usefixtures("unchecked_types")
def test_a_directory_that_is_no_path(tmp_path, given):
    for read in (load_run, load, read_history):
        with pytest.raises(ValueError, match="directory must be "):
            read(given)
    with pytest.raises(ValueError, match="learning_curve needs|the directory of a run must be a path"):
        learning_curve({} if isinstance(given, dict) else given, tmp_path / "c.png")
    with pytest.raises(ValueError, match="the figure's (path|suffix) must be "):
        learning_curve(tmp_path, given)


@pytest.mark.usefixtures("unchecked_types")
def test_a_run_that_is_none():
    for use in (evaluate_run, record_run):
        for given in (None, "runs/x", Path("runs/x"), CONFIG):
            with pytest.raises(ValueError, match="run must be a Run, as load_run gives it, got "):
                use(given)
