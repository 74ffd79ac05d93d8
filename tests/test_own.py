"""An environment and an algorithm of one's own, in a file: by command, from Python, and the policy loaded."""

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_commands import mistake, run

import dpolicy
from dpolicy._places import RunWarning
from dpolicy.cli import main
from dpolicy.envs import evaluate_episodes, make
from dpolicy.presets import resolve
from dpolicy.train import History, load_run, policy_of, read_history, train_config, train_loop
from dpolicy.train.policy import TrainedPolicy

# The policy is a tuned multiple of what it sees; it draws where it explores. Each seed has a factor of its own.
OWN = '''
import jax
import jax.numpy as jnp

from dpolicy.algorithm import Algorithm
from dpolicy.envs import Environment, Spec


class Cart(Environment):
    """Stay where the observation is zero."""

    spec: Spec
    length: float

    def __init__(self, *, length: float = 1.0):
        self.spec = Spec("mine/cart", 2, 2, 4)
        self.length = length

    def reset(self, key):
        start = 1.0 + jax.random.uniform(key, (2,))
        return start, start

    def step(self, state, action, key):
        new = state + self.length * jnp.clip(action, -1, 1)
        return new, new, -jnp.sum(new**2), jnp.asarray(False)


def linear(*, factor=0.5, widths=(4, 4), noise: float = 0.1, squash=jnp.tanh):
    """Acts by a multiple of the observation.

    Args:
        factor: The multiple of which the seeds have a share each.
        widths: Nothing.
    """
    if factor < 0:
        raise ValueError(f"factor must not be negative, got {factor}.")

    def init(key, spec):
        return {"factor": -factor * jax.random.uniform(key), "key": key}

    def act(state, obs, key, mode):
        action = squash(state["factor"] * obs)
        return (action if mode == "evaluate" else action + noise * jax.random.normal(key, obs.shape)), {}

    return Algorithm("linear", "off_policy", init, act, lambda state, batch, key: (state, {}))


def nothing():
    return None


def broken(*, factor=1.0):
    return linear(factor=factor)._replace(act=lambda state, obs, key, mode: (obs["position"], {}))


def needs(spec, *, factor=1.0):
    return linear(factor=factor)
'''
SMALL = (
    "--num-envs 2 --warmup 4 --replay-size 8 --batch-size 2 --evaluation-interval 4 --evaluation-episodes 3"
)
TRAIN = (
    f"train own.py:linear --env own.py:Cart --env-option length=0.5 --factor 0.7 --seeds 3 --steps 8 {SMALL} "
    "--normalise-observations --no-progress --out run"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with the file "own.py" and a run of it, "run"."""
    directory = tmp_path_factory.mktemp("own")
    (directory / "own.py").write_text(OWN)
    path = list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        assert main(TRAIN.split()) == 0
    yield directory
    sys.path[:] = path
    sys.modules.pop("own", None)


@pytest.fixture
def here(folder, monkeypatch):
    """That directory as the current one; the file is as it was afterwards."""
    monkeypatch.chdir(folder)
    yield folder
    (folder / "own.py").write_text(OWN)


def test_the_configuration_has_the_file_and_its_digest(here):
    config = json.loads((here / "run" / "config.json").read_text())
    assert config["algorithm"] == f"{here}/own.py:linear"
    assert config["env"] == f"{here}/own.py:Cart"
    assert config["env_options"] == {"length": 0.5}
    # What JSON cannot hold stays in the file.
    assert config["hyperparameters"] == {"factor": 0.7, "widths": [4, 4], "noise": 0.1}
    assert list(config["files_sha256"]) == [f"{here}/own.py"]
    assert config["source"] is None


def test_the_commands_on_such_a_run(here, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    place = str(here / "run")
    code, out, err = run(capsys, "evaluate", place, "--episodes", "2")
    assert (code, err) == (0, "")
    assert "\nlinear on own.py:Cart length=0.5, mode evaluate: return " in out
    code, out, _ = run(capsys, "record", place, "--out", "d.npz", "--episodes", "2")
    assert code == 0
    assert out.startswith("d.npz: 24 transitions, 6 episodes, mean return ")
    assert run(capsys, "plot", place)[0] == 0
    monkeypatch.chdir(here)
    code, out, _ = run(capsys, "train", *TRAIN.split()[1:-4], "--print-config")
    assert json.loads(out)["env_options"] == {"length": 0.5}


def test_a_file_that_has_changed_is_said_and_one_that_is_gone_is_a_sentence(here, capsys):
    changed = f"{here}/own.py has changed since the run in run was started.\n"
    before = json.loads((here / "run" / "config.json").read_text())["files_sha256"]
    (here / "own.py").write_text(OWN + "# changed\n")
    for words in ("evaluate run --episodes 1", "record run --out d.npz --episodes 1 --overwrite"):
        code, _, err = run(capsys, *words.split())
        assert (code, err) == (0, f"dpolicy: {changed}")
    with pytest.warns(RunWarning, match="own.py has changed since"):
        dpolicy.load("run")
    code, out, _ = run(capsys, "train", "--resume", "run", "--steps", "12", "--no-progress", "--no-report")
    assert (code, out) == (0, changed)
    # It is what the run was started with that a run that went on remembers.
    assert json.loads((here / "run" / "config.json").read_text())["files_sha256"] == before
    (here / "own.py").unlink()
    for words in ("evaluate run", "record run --out d.npz --overwrite", "train --resume run"):
        assert mistake(capsys, *words.split()).endswith(": own.py is not a file.")
    assert run(capsys, "plot", "run")[0] == 0


def test_what_the_file_raises_is_a_sentence_or_where_asked_for_a_traceback(here, capsys, monkeypatch):
    words = ["train", "own.py:broken", "--env", "own.py:Cart", "--print-config"]
    line = next(i for i, text in enumerate(OWN.splitlines(), 1) if "position" in text)
    said = mistake(capsys, *words)
    assert said.startswith("dpolicy train own.py:broken: own.py raises TypeError: ")
    assert said.endswith(f" (line {line}). (DPOLICY_TRACEBACK=1 shows the way there.)")
    monkeypatch.setenv("DPOLICY_TRACEBACK", "1")
    with pytest.raises(TypeError):
        main(words)


def test_help_is_the_docstring(here, capsys):
    with pytest.raises(SystemExit):
        main(["train", "own.py:linear", "--env", "own.py:Cart", "--help"])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Acts by a multiple of the observation." in printed
    assert "--factor FLOAT The multiple of which the seeds have a share each. (default: 0.5)" in printed
    assert "--widths [INT [INT ...]] Nothing. (default: 4 4)" in printed
    assert "--noise FLOAT" in printed
    assert "squash" not in printed
    assert "--replay-size" in printed
    assert "of which there are none here" in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("own.py:liner --env own.py:Cart", "own.py has no 'liner'. Did you mean linear?"),
        (
            "own.py:nothing --env own.py:Cart",
            "what own.py:nothing returns must be an Algorithm, .*, got None.",
        ),
        ("own.py:Cart --env own.py:Cart", "what own.py:Cart returns must be an Algorithm, .*"),
        ("own.py:OWN --env own.py:Cart", "own.py has no 'OWN'."),
        (
            "own.py:needs --env own.py:Cart",
            "own.py:needs must have a default for each of its arguments, which are its hyperparameters; spec has none.",
        ),
        ("own.py:linear --env own.py:Cart --factr 1", "unknown flag --factr; did you mean --factor?"),
        ("own.py:linear --env own.py:Cart --factor x", "--factor must be a number, got 'x'."),
        (
            "own.py:linear --env own.py:Cart --factor -1",
            "own.py:linear raises ValueError: factor must not be negative, got -1.0 (line .*).",
        ),
        (
            "own.py:linear --env own.py:Cart --env-option lenght=2",
            "own.py:Cart takes length; got 'lenght'. Did you mean length?",
        ),
        (
            "own.py:linear --env own.py:Cart --env-option length=2 --env-option length=3",
            "--env-option length was given twice.",
        ),
        (
            "own.py:linear --env own.py:Cart --env-option frame_stack=2",
            "frame_stack has a flag of its own: --frame-stack 2",
        ),
        (
            "own.py:linear --env multigoal --env-option bonos=2",
            "multigoal/multigoal takes action_cost, .* bonus?",
        ),
        (
            "own.py:linear --env multigoal --env-option name=x",
            "multigoal/multigoal takes action_cost, .*; got 'name'.",
        ),
        (
            "own.py:linear --env gymnax/Pendulum-v1 --env-option task=x",
            "gymnax/Pendulum-v1 takes no options; got 'task'.",
        ),
        ("own.py:linear --env multigoal/", "env must be .*; got 'multigoal/'. Did you mean .*"),
        ("own.py --env own.py:Cart", "own.py needs the name of what is in it: own.py:NAME."),
    ],
)
def test_a_mistake_is_one_sentence(here, capsys, words, sentence):
    said = mistake(capsys, "train", *words.split(), "--no-progress")
    pattern = ".*".join(map(re.escape, sentence.split(".*")))
    assert re.fullmatch(f"dpolicy train( [^ ]+)?: {pattern}", said), said


def test_option_values_are_json_or_words():
    from dpolicy.cli.train import env_options

    blank = {"action_chunk": 1, "action_repeat": None, "frame_stack": 1, "time_limit": None}
    words = (
        "a=1",
        "b=0.5",
        "c=true",
        "d=True",
        "e=[1, 2]",
        "f=jax",
        "g=null",
        "h=a=b",
        'i="7"',
        "j.k=2",
        "l=",
    )
    assert env_options({**blank, "env_option": words}, "p") == {
        **{"a": 1, "b": 0.5, "c": True, "d": True, "e": (1, 2), "f": "jax", "g": None, "h": "a=b", "i": "7"},
        **{"j.k": 2, "l": ""},
    }


def test_from_python_by_name_or_object(here, unchecked_types, tmp_path):
    import own  # what the file holds, as a script beside it would import it

    overrides = {
        "num_envs": 2,
        "warmup": 4,
        "replay_size": 8,
        "batch_size": 2,
        "evaluation_interval": 4,
        "steps": 8,
    }
    config = resolve(own.linear, own.Cart, overrides | {"factor": 0.3}, env_options={"length": 2.0})
    assert config == resolve(
        "own.py:linear", "own.py:Cart", overrides | {"factor": 0.3}, env_options={"length": 2.0}
    )
    assert resolve(dpolicy.algorithms.sac, "multigoal/multigoal")["algorithm"] == "sac"
    seen = []
    trained, history = train_config(
        config | {"seeds": 1, "seed": 0},
        tmp_path / "r",
        progress=False,
        on_chunk=lambda chunk: seen.append(chunk.step),
    )
    assert isinstance(history, History)
    assert seen == [8]
    assert trained.algorithm_name == "linear"
    np.testing.assert_array_equal(load_run(tmp_path / "r").state.steps, [8])
    with pytest.raises(ValueError, match="algorithm must be a name, or the function or class that makes it"):
        resolve(own.linear(), own.Cart)
    with pytest.raises(ValueError, match="must be a name, or a class or function at the top level of a file"):
        resolve(lambda: own.linear(), own.Cart)
    with pytest.raises(ValueError, match="setting must be one of factor, widths, noise, squash, num_envs"):
        resolve(own.linear, own.Cart, {"factr": 1})


OBS = np.array([[0.5, 1.0], [-1.0, 2.0], [0.0, 30.0]])


@pytest.mark.parametrize("seed", [0, 2, "best"])
def test_a_loaded_policy_is_what_evaluation_asks(here, seed):
    policy, loaded = dpolicy.load("run", seed=seed), load_run("run")
    assert isinstance(policy, TrainedPolicy)
    if seed == "best":
        returns = read_history(here / "run").metrics["evaluate/return"][-1]
        assert policy.seed == np.argmax(returns) != np.argmin(returns)
    assert (policy.mode, policy.deterministic, policy.modes) == ("evaluate", True, ("explore", "evaluate"))
    assert policy.step == int(loaded.state.steps[0])
    state = jax.tree.map(lambda leaf: leaf[policy.seed], loaded.state)
    seen_by = state.normaliser
    # The normaliser is part of it, and is that of the seed.
    seen = (OBS - np.asarray(seen_by.mean)) / np.sqrt(np.asarray(seen_by.second) / int(seen_by.count))
    np.testing.assert_allclose(policy(OBS), np.tanh(state.algorithm["factor"] * seen), rtol=1e-5)
    act = policy_of(loaded.algorithm, state)
    key = jax.random.key(5)
    a, b = (evaluate_episodes(policy.env, which, key, 3, 4)[0] for which in (policy, act))
    np.testing.assert_array_equal(a, b)


def test_any_array_of_observations(here):
    policy = dpolicy.load("run", seed=1)
    rows = policy(OBS)
    assert rows.shape == (3, 2)
    for same in (OBS.tolist(), jnp.asarray(OBS), OBS.astype(np.float32)):
        np.testing.assert_array_equal(policy(same), rows)
    np.testing.assert_allclose(policy(OBS[0]), rows[0], rtol=1e-6)
    np.testing.assert_array_equal(policy(OBS.reshape(3, 1, 2))[:, 0], rows)
    assert policy(np.ones((0, 2), int)).shape == (0, 2)
    np.testing.assert_array_equal(jax.jit(policy)(OBS), rows)


def test_draws(here):
    policy, key = dpolicy.load("run", seed=1, mode="explore"), jax.random.key(1)
    assert not policy.deterministic
    same = np.tile(OBS[:1], (4, 1))
    drawn = policy(same, key)
    assert len(np.unique(drawn)) == drawn.size  # a draw for every row
    np.testing.assert_array_equal(policy(same, key=key), drawn)
    keys = jax.random.split(key, 4)
    np.testing.assert_array_equal(policy(same, keys), drawn)
    np.testing.assert_allclose(policy(same[0], keys[2]), drawn[2], rtol=1e-6)
    np.testing.assert_array_equal(jax.jit(policy)(same, key), drawn)
    # Without a key every call draws anew, and a policy that is loaded again draws the same.
    first = [policy(same[0]) for _ in range(2)]
    assert not np.array_equal(*first)
    again = dpolicy.load("run", seed=1, mode="explore")
    np.testing.assert_array_equal(np.stack(first), np.stack([again(same[0]) for _ in range(2)]))
    far = dpolicy.load("run", seed=1, mode="explore")(np.zeros((64, 2)))
    assert np.abs(far).max() <= 1.0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda p: p(np.zeros(3)),
            r"obs must be real numbers of shape [2] or [..., 2] (mine/cart), got float32[3].",
        ),
        (lambda p: p(np.zeros(())), "got float32[]."),
        (lambda p: p("x"), "obs must be an array of numbers, got 'x'."),
        (lambda p: p(None), "obs must be "),
        (lambda p: p(np.zeros(2), key=3), "key must be a key such as jax.random.key(0), got 3."),
        (
            lambda p: p(np.zeros(2), jax.random.PRNGKey(3)),
            "key must be a key such as jax.random.key(0), got ",
        ),
        (
            lambda p: p(OBS, jax.random.split(jax.random.key(0), 2)),
            "key must be one key, or one for each of the observations (3,), got shape (2,).",
        ),
        (lambda p: jax.jit(p)(np.zeros(2)), "within jit, vmap or scan a policy that draws needs a key: "),
        (lambda p: jax.vmap(p)(OBS), "within jit, vmap or scan a policy that draws needs a key: "),
        (
            lambda p: jax.jit(lambda: p(np.zeros(2)))(),
            "within jit, vmap or scan a policy that draws needs a key: ",
        ),
        (lambda p: dpolicy.load("run", seed=3), "seed must be an integer from 0 to 2, got 3."),
        (lambda p: dpolicy.load("run", seed="bst"), "seed must be one of best, 0, 1, 2; got 'bst'."),
        (
            lambda p: dpolicy.load("run", mode="evalute"),
            "mode must be one of explore, evaluate; got 'evalute'.",
        ),
        (lambda p: dpolicy.load("nowhere"), "nowhere is not the directory of a run: it has no config.json."),
        (lambda p: dpolicy.load(None), "directory must be the path of a run, got None."),
    ],
)
def test_what_is_no_observation_key_or_policy(here, unchecked_types, call, sentence):
    policy = dpolicy.load("run", mode="explore")
    with pytest.raises(ValueError, match=re.escape(sentence)):
        call(policy)


def test_a_run_of_a_program_without_a_name_says_so(tmp_path):
    from host_program import Toy

    train_loop(Toy(), steps=10, directory=tmp_path / "r", progress=False)
    with pytest.raises(ValueError, match="was not started by name, so it cannot be rebuilt"):
        dpolicy.load(tmp_path / "r")


def test_make_takes_an_environment_in_a_file(here):
    env = make("own.py:Cart", length=2.0, frame_stack=2, time_limit=2)
    assert (env.spec.name, env.spec.obs_size) == ("mine/cart time_limit=2 frame_stack=2", 4)
    assert make(f"{Path.cwd()}/own.py:Cart").length == 1.0
