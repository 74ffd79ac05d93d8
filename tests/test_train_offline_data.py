"""Training from sets of other packages: settings from the command line, scores, and what is refused."""

import csv
import json
import shutil

import h5py
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from dpolicy.algorithms import bc
from dpolicy.blocks import Survey, surveyed
from dpolicy.cli import main
from dpolicy.data import DataSet, exact_samples, normalised_score
from dpolicy.envs import make
from dpolicy.learning import algorithm, labelled, remembered, reported
from dpolicy.train import offline
from dpolicy.train.epochs import batch_of, epoch_orders
from dpolicy.train.offline_data import SIZE, TEMPERATURE, given_data
from dpolicy.train.pinning import pinned

ENV = make("bandit/double_well")
SETTINGS = {
    "size": SIZE,
    "temperature": TEMPERATURE,
    "rewards": "none",
    "action_clip": None,
    "extras": (),
    "discount": 0.99,
    "reference": None,
}


RUN = (
    "train bc --env bandit/double_well --data hopper-medium-v2 --data-rewards iql_locomotion --data-action-clip 0.999 "
    "--data-sampling epochs --hidden 4 --sampler-steps 2 --batch-size 4 --updates-per-evaluation 2 "
    "--evaluation-episodes 2 --steps 2"
)


@pytest.fixture
def hopper(tmp_path, monkeypatch):
    """The folder of D4RL with a set that fits the bandit, of returns 3 and 12."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    with h5py.File(tmp_path / "hopper_medium-v2.hdf5", "w") as file:
        file["observations"] = np.zeros((8, 1), np.float32)
        file["actions"] = np.linspace(-1.05, 0.9, 8, dtype=np.float32)[:, None]
        file["rewards"] = np.array([1, 1, 1, 9, 3, 4, 5, 9], np.float32)
        file["terminals"] = np.zeros(8, bool)
        file["timeouts"] = np.isin(np.arange(8), (3, 7))
    return tmp_path


def test_a_run_from_a_name(hopper, monkeypatch, capsys):
    monkeypatch.chdir(hopper)
    words = RUN.split()
    out = hopper / "run"
    assert main([*words, "--out", str(out), "--no-progress", "--no-report"]) == 0
    config = json.loads((out / "config.json").read_text())
    program = config["program"]
    assert program["data"] == str(hopper / "hopper_medium-v2.hdf5") and len(config["data_sha256"]) == 64
    assert (program["data_rewards"], program["data_action_clip"]) == ("iql_locomotion", 0.999)
    (row,) = csv.DictReader((out / "metrics.csv").read_text().splitlines())
    expected = normalised_score(float(row["evaluate/return"]), (-20.272305, 3234.3))
    np.testing.assert_allclose(float(row["evaluate/score"]), expected, rtol=1e-4)
    # The numbers are clipped because that was asked for, and not otherwise.
    capsys.readouterr()
    assert (
        main([*(word for word in words if word not in ("--data-action-clip", "0.999")), "--print-config"])
        == 2
    )
    assert "clip it (data_action_clip)" in capsys.readouterr().err
    assert main([*words, "--data-rewards", "x1000"]) == 2
    assert (
        main(["train", "bc", "--env", "bandit/double_well", "--data", "hopper-expert-v2", "--print-config"])
        == 2
    )
    assert "hopper_expert-v2.hdf5, " in capsys.readouterr().err


def given(data, **settings):
    return given_data(ENV, None, str(data), None, **SETTINGS | settings)


def test_rewards_are_treated_once_for_the_whole_set(hopper):
    found = given(
        "hopper-medium-v2", rewards="iql_locomotion", action_clip=1.0, extras=("mc_return",), discount=0.5
    )
    rows = found.rows
    # The rows with a time-out are left out, so the returns are 3 and 12: the factor is 1000 / 9.
    np.testing.assert_allclose(rows.reward, np.array([1, 1, 1, 3, 4, 5]) * 1000 / 9, rtol=1e-6)
    np.testing.assert_array_equal(rows.truncated, [0, 0, 1, 0, 0, 1])
    np.testing.assert_allclose(rows.extras["mc_return"][:3], np.array([1.75, 1.5, 1]) * 1000 / 9, rtol=1e-6)
    assert found.reference == (-20.272305, 3234.3) and rows.action.min() == -1.0
    other = given("hopper-medium-v2", action_clip=0.5, reference=(0.0, 2.0))
    assert other.reference == (0.0, 2.0) and other.rows.action.min() == -0.5


def test_a_set_in_the_place_of_its_name():
    data = DataSet(
        np.zeros((3, 1)), np.full((3, 1), 0.5), np.arange(3.0), np.zeros((3, 1)), reference=(0.0, 4.0)
    )
    learner = algorithm(
        "seen",
        "offline",
        explore=lambda s: lambda obs, key: jnp.zeros(1),
        evaluate=lambda s: lambda obs, key: jnp.zeros(1),
        nothing=labelled(lambda s, example, key: {}),
    )
    assert offline(learner, ENV, dataset=data, data_rewards="minmax").steps_per_call == 1000
    with pytest.raises(ValueError, match="data_rewards is for data that are read, or a DataSet"):
        offline(learner, ENV, dataset=exact_samples(ENV, 4, 0.5), data_rewards="minmax")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rewards": "x"}, "data_rewards must be one of none, iql_locomotion"),
        ({"action_clip": 2.0}, r"data_action_clip must be a finite number in \(0, 1\]"),
        ({"discount": 2.0}, r"data_discount must be a finite number in \[0, 1\]"),
        ({"reference": (2.0, 1.0)}, "data_reference must be two returns, the lower one first"),
        ({"reference": 3}, "data_reference must be two returns"),
        ({"size": 4}, r"data_size is for 'exact' samples and 'maze/KIND', .* got 4 for 'hopper-medium-v2'"),
        ({"temperature": 1.0}, "data_temperature is for 'exact' samples, got 1.0 for 'hopper-medium-v2'"),
        ({"timeouts": "x"}, "data_timeouts must be one of drop"),
        ({"task": 1}, "data_task is for sets of OGBench"),
        ({"keys": ("a",)}, "data_keys is for sets of Minari"),
        ({"action_clip": 1.0, "extras": ("x",)}, "extras must be one of next_action"),
    ],
)
def test_settings_are_refused_by_their_own_names(hopper, monkeypatch, settings, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        given("hopper-medium-v2", **settings)
    with pytest.raises(ValueError, match="dataset must be a Transition, a DataSet or None"):
        offline(bc(), ENV, dataset={})
    with pytest.raises(ValueError, match="data_size is for .*, got 5 for a dataset, which is given"):
        offline(bc(), ENV, dataset=exact_samples(ENV, 4, 0.5), data_size=5)
    with pytest.raises(ValueError, match="data_temperature is for 'exact' samples, got 1.0 for 'maze/play'"):
        offline(bc(), make("maze/four"), data="maze/play", data_size=5, data_temperature=1.0)


def test_a_set_larger_than_memory_is_refused(hopper, monkeypatch):
    monkeypatch.setattr("dpolicy.train.offline_data.memory_limit", lambda: 100)
    with pytest.raises(
        ValueError, match=r"data must fit into the 100 B of memory .* What dpolicy.data.save_npz has written"
    ):
        given("hopper-medium-v2")


def test_the_task_of_a_name_is_pinned(tmp_path, monkeypatch):
    monkeypatch.setenv("OGBENCH_DATASET_DIR", str(tmp_path))
    path = tmp_path / "antmaze-large-navigate-v0.npz"
    np.savez(path, observations=np.zeros((3, 1)), actions=np.zeros((3, 1)), terminals=[0, 0, 1])
    config = {"algorithm": "bc", "env": "multigoal", "hyperparameters": {}}
    program = {"data": "antmaze-large-navigate-singletask-task3-v0", "data_task": None}
    assert pinned(config | {"program": program})["program"] == {"data": str(path), "data_task": 3}
    (folder := tmp_path / "arrow").mkdir()
    for name in ("metadata.json", "part.arrow"):
        shutil.copy(path, folder / name)
    digest = lambda: pinned(config | {"program": {"data": str(folder)}})["data_sha256"]
    before = digest()
    (folder / "part.arrow").write_bytes(b"other")
    assert digest() != before
    # In HDF5 the metadata say the bounds that actions are mapped from.
    shutil.copy(path, folder / "main_data.hdf5")
    before = digest()
    (folder / "metadata.json").write_bytes(b"other")
    assert digest() != before


def test_epochs_take_each_row_once_whatever_the_chunks():
    """Seven rows in batches of two: three batches of different rows, another order and another rest in each epoch."""
    key, rows, batch = jax.random.key(3), 7, 2

    def taken(first, updates):
        orders = epoch_orders(key, jnp.asarray(first), updates, rows, batch)
        return np.stack(
            [batch_of(orders, jnp.asarray(first), jnp.asarray(first + i)) for i in range(updates)]
        )

    whole = taken(0, 9)
    epochs = whole.reshape(3, 6)
    assert (
        all(len(set(epoch)) == 6 for epoch in epochs.tolist()) and len(set(map(tuple, epochs.tolist()))) == 3
    )
    np.testing.assert_array_equal(np.concatenate([taken(0, 4), taken(4, 1), taken(5, 4)]), whole)


def test_a_program_of_epochs_sees_them():
    """Its metric is the mean of the observations seen: over one epoch that of the data, from any state on."""
    obs = np.arange(6.0)[:, None]
    data = DataSet(obs, np.zeros((6, 1)), np.zeros(6), obs)
    seen = reported(lambda s: {"seen": jnp.mean(s.batch.obs)})
    idle = lambda s: lambda obs, key: jnp.zeros(1)
    learner = algorithm("seen", "offline", explore=idle, evaluate=idle, seen=seen)
    small = {"batch_size": 2, "updates_per_evaluation": 3, "evaluation_episodes": 1}
    program = offline(learner, ENV, dataset=data, data_sampling="epochs", **small)
    state = jax.jit(jax.vmap(program.init))(jax.random.split(jax.random.key(0), 2))
    step = jax.jit(jax.vmap(program.step))
    for _ in range(2):
        state, metrics = step(state)
        np.testing.assert_allclose(metrics["seen"], [2.5, 2.5], rtol=1e-6)
    with pytest.raises(ValueError, match="batch_size must be at most the 6 rows of an epoch, got 7"):
        offline(learner, ENV, dataset=data, data_sampling="epochs", **small | {"batch_size": 7})


def surveying(looks, due=lambda updates: updates == 3):
    """Beside each row the sum of the observations from it on, times the update; metrics of what the batch holds."""

    def look(seen, key):
        jax.debug.callback(lambda: looks.append(1))
        sums = jnp.cumsum(seen.batch.obs[::-1, 0])[::-1]
        return {"ahead": seen.updates * sums + 0 * seen.batch.extras["ahead"]}

    survey = surveyed(ahead=Survey(lambda row: {"ahead": row.obs[0] * 0 - 1}, look, due))
    report = reported(
        lambda s: {
            "right": jnp.mean(
                s.batch.extras["ahead"] == 3 * (5 - s.batch.obs[:, 0] + 1) * (s.batch.obs[:, 0] + 5) / 2
            ),
            "first": jnp.mean(s.batch.extras["ahead"] == -1),
        }
    )
    idle = lambda s: lambda obs, key: jnp.zeros(1)
    return algorithm("surveying", "offline", explore=idle, evaluate=idle, memory=survey, report=report)


@pytest.mark.parametrize("sampling", ["uniform", "epochs"])
def test_a_look_at_all_rows_when_it_is_due(sampling):
    """Two seeds in one program look once, together; what is found stands beside the rows from then on."""
    obs = np.arange(6.0)[:, None]
    data, looks = DataSet(obs, np.zeros((6, 1)), np.zeros(6), obs), []
    small = {"batch_size": 2, "updates_per_evaluation": 2, "evaluation_episodes": 1}
    program = offline(surveying(looks), ENV, dataset=data, data_sampling=sampling, **small)
    state = jax.jit(jax.vmap(program.init))(jax.random.split(jax.random.key(0), 2))
    step, found = jax.jit(jax.vmap(program.step)), []
    for _ in range(3):
        state, metrics = step(state)
        found.append([float(metrics[name][0]) for name in ("first", "right")])
    jax.effects_barrier()
    assert found == [[1, 0], [0, 1], [0, 1]]
    assert len(looks) == 1  # for both seeds
    np.testing.assert_array_equal(state.experience.entries["ahead"][1], 3 * np.array([15, 15, 14, 12, 9, 5]))


def test_a_look_that_finds_something_else_or_a_replays_memory_is_refused(unchecked_types):
    idle, no = (lambda s: lambda obs, key: jnp.zeros(1)), reported(lambda s: {})
    acting = {"explore": idle, "evaluate": idle, "no": no}
    data = exact_samples(ENV, 4, 0.5)
    small = {"batch_size": 2, "updates_per_evaluation": 1, "evaluation_episodes": 1}
    wrong = Survey(lambda row: {"one": row.reward}, lambda s, key: {"two": s.batch.reward}, lambda n: n == 1)
    program = offline(
        algorithm("own", "offline", **acting, memory=surveyed(look=wrong)), ENV, dataset=data, **small
    )
    with pytest.raises(
        ValueError, match=r"look finds must be like what it starts with, \{'one': 'float32\[4\]'\}"
    ):
        jax.eval_shape(lambda key: program.step(program.init(key)), jax.random.key(0))
    kept = remembered(lambda row: {"one": row.reward}, lambda s: lambda example, key: {"one": example.reward})
    with pytest.raises(ValueError, match="own stores entries beside the transitions of a replay"):
        offline(algorithm("own", "offline", **acting, kept=kept), ENV, dataset=data, **small)
    with pytest.raises(ValueError, match="at least one name=Survey"):
        surveyed()
    with pytest.raises(ValueError, match=r"look must be a Survey\(start, look, due\), got 3"):
        surveyed(look=3)
