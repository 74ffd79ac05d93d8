"""Which statistics and which keys the training programs, evaluations and recordings hand to whom."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import key_reuse
import numpy as np
import pytest

import dpolicy.train
from dpolicy._types import Transition
from dpolicy.algorithm import Algorithm
from dpolicy.algorithms import ALGORITHMS
from dpolicy.cli import main
from dpolicy.envs import Environment, MultiGoal, evaluate_episodes
from dpolicy.envs.protocol import Spec
from dpolicy.train import Normaliser, Run, evaluate_run, off_policy, offline, on_policy, policy_of, record_run
from dpolicy.train.program import TrainState

KEY = jax.random.key(0)


class Drawn(Environment):
    """The first observation is drawn from [0, 1), later ones from [2, 3), and the reward is the action."""

    spec: Spec

    def __init__(self, time_limit=3):
        self.spec = Spec("test/drawn", 1, 1, time_limit)

    def reset(self, key):
        return jnp.zeros(()), jax.random.uniform(key, (1,))

    def step(self, state, action, key):
        return state, 2 + jax.random.uniform(key, (1,)), action[0], jnp.asarray(False)


def drawing(family, seen):
    """An algorithm that acts by chance and notes what it is updated with, and a draw of each update's own."""

    def act(state, obs, key, mode):
        action = jax.random.uniform(key, (1,))
        return action, {"drawn": action} if family == "on_policy" else {}

    def update(state, batch, key):
        note = lambda *parts: seen.append([np.asarray(part) for part in parts])
        jax.debug.callback(
            note, batch.obs, batch.action, batch.next_obs, jax.random.uniform(key), ordered=True
        )
        return state, {"loss": jnp.sum(batch.reward)}

    return Algorithm("drawing", family, lambda key, spec: jax.random.uniform(key), act, update)


def stepped(run, times=2):
    state, step = jax.jit(run.init)(KEY), jax.jit(run.step)
    for _ in range(times):
        state, _ = step(state)
    jax.effects_barrier()
    return state


def distinct(*values):
    flat = np.concatenate([np.ravel(value) for value in values])
    assert len(np.unique(flat)) == len(flat) > 1


@pytest.mark.parametrize("resets", ["fresh", "pool"])
def test_no_draw_of_an_on_policy_program_comes_twice(resets):
    """In two iterations of each of two calls; every environment has keys of its own."""
    seen = []
    settings = {"num_envs": 4, "rollout": 5, "iterations_per_evaluation": 2, "evaluation_episodes": 3}
    algorithm = drawing("on_policy", seen)
    run = on_policy(algorithm, Drawn(), normalise_observations=False, resets=resets, **settings)
    state = stepped(run)
    assert len(seen) == 4
    obs, actions, successors, updates = (np.stack(part) for part in zip(*seen, strict=True))
    distinct(state.algorithm, actions, successors, updates, *([obs[obs < 2]] if resets == "fresh" else []))


def test_no_draw_of_an_off_policy_program_comes_twice():
    seen = []
    settings = {"num_envs": 4, "warmup": 24, "updates_per_step": 2, "evaluation_interval": 12}
    algorithm = drawing("off_policy", seen)
    run = off_policy(algorithm, Drawn(), batch_size=6, replay_size=64, evaluation_episodes=3, **settings)
    state = stepped(run)
    stored = jax.tree.map(
        lambda leaf: leaf[: int(state.experience.replay.size)], state.experience.replay.data
    )
    assert len(stored.reward) == 24 + 2 * 12
    warmup = stored.action[:24]  # uniform over the box; the algorithm itself acts in [0, 1)
    assert -1 <= warmup.min() < -0.7 and 0.7 < warmup.max() <= 1
    distinct(state.algorithm, stored.action, stored.next_obs, stored.obs[stored.obs < 2])
    assert len(seen) == 2 * 2 * 3
    distinct([updated[3] for updated in seen])
    # Batches of one step of the environments are other draws of the same replay.
    assert len({tuple(np.ravel(updated[1]).tolist()) for updated in seen}) == len(seen)


def test_no_draw_of_an_offline_program_comes_twice():
    seen = []
    column, no = jnp.arange(20.0)[:, None], jnp.zeros(20, bool)
    data = Transition(column, column / 100, column[:, 0], column, no, no)
    run = offline(
        drawing("offline", seen),
        Drawn(),
        dataset=data,
        batch_size=6,
        updates_per_evaluation=3,
        evaluation_episodes=3,
    )
    state = stepped(run)
    distinct(state.algorithm, [updated[3] for updated in seen])
    assert len({tuple(np.ravel(updated[0]).tolist()) for updated in seen}) == len(seen) == 6


def test_an_offline_update_is_given_standardised_observations():
    """By the statistics of the data's observations, those before a step and those after it."""
    seen = []
    obs, no = jnp.linspace(3.0, 9.0, 20)[:, None], jnp.zeros(20, bool)
    data = Transition(obs, obs / 100, obs[:, 0], 2 * obs, no, no)
    settings = {"batch_size": 6, "updates_per_evaluation": 3, "evaluation_episodes": 3}
    stepped(
        offline(drawing("offline", seen), Drawn(), dataset=data, normalise_observations=True, **settings), 1
    )
    for now, action, following, _ in seen:
        given = 100 * action
        np.testing.assert_allclose(now, (given - 6) / np.std(obs), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(following, (2 * given - 6) / np.std(obs), rtol=1e-3, atol=1e-3)


def test_every_episode_of_an_evaluation_is_drawn_by_itself():
    returns, lengths = evaluate_episodes(Drawn(), lambda obs, key: jax.random.uniform(key, (1,)), KEY, 20, 3)
    distinct(returns)
    np.testing.assert_array_equal(lengths, 3)
    obs = evaluate_episodes(Drawn(), lambda obs, key: obs, KEY, 20, 3)[0]
    distinct(obs, returns)
    # From the first on no step repeats the draws of the one before it.
    steps = [
        evaluate_episodes(Drawn(), lambda obs, key: jax.random.uniform(key, (1,)), KEY, 5, n)[0]
        for n in (1, 2, 3)
    ]
    distinct(steps[0], steps[1] - steps[0], steps[2] - steps[1])


def programs():
    tiny = {"hidden": (4,), "critic_hidden": (4,)}
    field = {**tiny, "sampler_steps": 2}
    on = {"num_envs": 4, "rollout": 4, "iterations_per_evaluation": 2, "evaluation_episodes": 2}
    off = {"num_envs": 2, "batch_size": 4, "replay_size": 32, "warmup": 4, "evaluation_interval": 8}
    off |= {"evaluation_episodes": 2, "updates_per_step": 2}
    make = lambda name, **settings: ALGORITHMS[name].recipe(**settings)
    ppo = make("ppo", hidden=(4,), value_hidden=(4,), epochs=2, minibatches=2)
    yield "on policy", on_policy(ppo, MultiGoal(), resets="pool", reward_discount=0.9, **on)
    yield (
        "off policy",
        off_policy(make("sac", **tiny), MultiGoal(), resets="pool", normalise_observations=True, **off),
    )
    yield "with a memory", off_policy(make("dipo", **field), MultiGoal(), **off)
    data = Transition(*[jnp.zeros((8, 2))] * 2, jnp.zeros(8), jnp.zeros((8, 2)), *[jnp.zeros(8, bool)] * 2)
    bc = make("bc", hidden=(4,), sampler_steps=2)
    yield (
        "offline",
        offline(bc, MultiGoal(), dataset=data, batch_size=4, updates_per_evaluation=2, evaluation_episodes=2),
    )


@pytest.mark.parametrize("run", [pytest.param(run, id=name) for name, run in programs()])
def test_no_key_of_a_program_serves_twice(run):
    """Neither within a call, evaluation included, nor in the next one."""

    def twice(key):
        state, _ = run.step(run.init(key))
        return run.step(state)[0].steps

    key_reuse.check(twice, KEY)


def test_an_offline_run_that_diverges_says_at_which_update():
    """Update 4, in the second call, is nan: what the third left is kept, and the count goes on."""
    column, no = jnp.ones((8, 1)), jnp.zeros(8, bool)
    data = Transition(column, column / 100, column[:, 0], column, no, no)

    def update(state, batch, key):
        return jnp.where(state == 3, jnp.nan, state + 1), {"loss": jnp.zeros(())}

    algorithm = drawing("offline", [])._replace(init=lambda key, spec: jnp.zeros(()), update=update)
    settings = {"batch_size": 4, "updates_per_evaluation": 2, "evaluation_episodes": 2}
    state = stepped(offline(algorithm, Drawn(), dataset=data, **settings), times=3)
    assert (float(state.algorithm), int(state.steps), int(state.failed_at)) == (3.0, 6, 4)
    assert not state.alive


# Normalised: (obs - 1) / 2.
SEEN = Normaliser(jnp.ones(1), 4 * jnp.full(1, 10.0), jnp.full((), 10), jnp.zeros(1), jnp.zeros(1))


def echo(family="off_policy"):
    """Acts by a tenth of what it sees; exploring, by minus that."""

    def act(state, obs, key, mode):
        return state * obs / 10 * (-1 if mode == "explore" else 1), {}

    return Algorithm(
        "echo", family, lambda key, spec: jnp.ones(()), act, lambda s, b, k: (s, {"loss": jnp.zeros(())})
    )


def trained(seeds, failed=()):
    """A run of seeds that differ in how far they act, with statistics; in an environment of one step."""
    one = lambda i: TrainState(
        algorithm=jnp.asarray(1.0 + i),
        normaliser=SEEN,
        experience=None,
        key=jax.random.key(i),
        steps=jnp.asarray(5),
        alive=jnp.asarray(i not in failed),
        failed_at=jnp.asarray(3 if i in failed else -1),
    )
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(one, range(seeds)))
    program = SimpleNamespace(algorithm=echo())
    config = {"algorithm": "echo", "env": "test/drawn", "seeds": seeds, "seed": 0}
    return Run("echo", echo(), Drawn(1), program, state, config)


def test_policies_see_standardised_observations():
    run, obs = trained(1), jnp.full(1, 0.4)
    state = jax.tree.map(lambda leaf: leaf[0], run.state)
    np.testing.assert_allclose(policy_of(run.algorithm, state)(obs, KEY), (0.4 - 1) / 2 / 10, rtol=1e-6)
    np.testing.assert_allclose(policy_of(run.algorithm, state, "explore")(obs, KEY), 0.03, rtol=1e-6)
    raw = dataclasses.replace(state, normaliser=None)
    np.testing.assert_allclose(policy_of(run.algorithm, raw)(obs, KEY), 0.04, rtol=1e-6)


def test_evaluations_of_a_run_see_standardised_observations():
    run = trained(3)
    result = evaluate_run(run, episodes=5)
    assert result.returns.shape == (3, 5)
    # Each return is one action, (obs - 1) / 20 of an observation in [0, 1), times the seed's factor.
    obs = 20 * result.returns / np.arange(1, 4)[:, None] + 1
    assert np.all((obs >= 0) & (obs < 1))
    distinct(obs)
    explored = evaluate_run(run, episodes=5, mode="explore")
    np.testing.assert_allclose(explored.returns, -result.returns, rtol=1e-5)
    np.testing.assert_array_equal(evaluate_run(run, episodes=5, seed=0).returns, result.returns)
    distinct(evaluate_run(run, episodes=5, seed=1).returns, result.returns)


def test_recordings_of_a_run_see_standardised_observations():
    run = trained(3, failed=(1,))
    data = record_run(run, episodes=4)
    factor = np.repeat([1.0, 3.0], 4)[:, None]
    np.testing.assert_allclose(data.action, factor * (data.obs - 1) / 20, rtol=1e-5, atol=1e-7)
    assert np.all(data.obs < 1) and np.all(data.next_obs >= 2)  # as the environment gives them
    distinct(data.obs, record_run(run, episodes=4, seed=1).obs)
    np.testing.assert_array_equal(record_run(run, episodes=4, seed=0).obs, data.obs)
    explored = record_run(run, episodes=4, mode="explore")
    np.testing.assert_allclose(explored.action, -data.action, rtol=1e-5)


@pytest.mark.parametrize("family", ["on_policy", "off_policy", "offline"])
def test_evaluations_of_a_program_see_standardised_observations(family):
    """Mean reward of actions (obs - mean) / std / 10, by the statistics of the state that is left.

    Every mode plays the same episodes: exploring, the policy does the opposite in each.
    """
    column, no = jnp.linspace(3.0, 5.0, 20)[:, None], jnp.zeros(20, bool)
    data = Transition(column, column / 100, column[:, 0], column, no, no)
    settings = {"normalise_observations": True, "evaluation_episodes": 1_000}
    if family != "offline":
        settings["evaluation_modes"] = ("explore", "evaluate")
    loop = {"num_envs": 4, "batch_size": 4, "replay_size": 32, "warmup": 4, "evaluation_interval": 8}
    run = {
        "on_policy": lambda: on_policy(
            echo(family), Drawn(1), num_envs=4, rollout=3, iterations_per_evaluation=2, **settings
        ),
        "off_policy": lambda: off_policy(echo(family), Drawn(1), **loop, **settings),
        "offline": lambda: offline(
            echo(family), Drawn(1), dataset=data, batch_size=4, updates_per_evaluation=2, **settings
        ),
    }[family]()
    state, metrics = jax.jit(run.step)(jax.jit(run.init)(KEY))
    statistics = state.normaliser
    std = np.sqrt(statistics.second / statistics.count)
    expected = (0.5 - statistics.mean) / std / 10
    raw, error = 0.05, 4 * np.sqrt(1 / 12 / 1_000) / 10  # four deviations of a mean of raw observations
    assert abs(float(metrics["evaluate/return"]) - expected) < error / std
    assert abs(raw - expected) > error / std + error  # the two cannot be taken for each other
    assert family == "offline" or metrics["evaluate/explore/return"] == -metrics["evaluate/return"]


def test_the_seed_on_the_command_line_is_that_of_the_evaluation(monkeypatch, capsys):
    asked = []
    run = trained(2)
    runs = dpolicy.train.runs
    monkeypatch.setattr(runs, "load_run", lambda directory: run)
    whole = runs.evaluate_run
    monkeypatch.setattr(runs, "evaluate_run", lambda run, **words: asked.append(words) or whole(run, **words))
    monkeypatch.setattr("dpolicy.train.configuration.env_title", lambda config: config["env"])
    outputs = []
    for seed in ("0", "0", "7"):
        assert main(["evaluate", "anywhere", "--seed", seed, "--episodes", "3", "--mode", "explore"]) == 0
        outputs.append(capsys.readouterr().out)
    assert asked == [{"episodes": 3, "mode": "explore", "seed": seed} for seed in (0, 0, 7)]
    assert outputs[0] == outputs[1] != outputs[2]


def test_episodes_that_diverged_are_told_beside_their_seed(monkeypatch, capsys):
    """What `dpolicy evaluate` shows of a seed that is well, one whose simulation diverged, and one that failed, too."""
    run, ones = trained(3, failed=(2,)), np.ones((3, 4))
    diverged = np.array([[0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0]], bool)
    runs = dpolicy.train.runs
    monkeypatch.setattr(runs, "load_run", lambda directory: run)
    monkeypatch.setattr(
        runs, "evaluate_run", lambda run, **words: runs.Evaluation(ones, ones, diverged, ~diverged)
    )
    monkeypatch.setattr("dpolicy.train.configuration.env_title", lambda config: config["env"])
    assert main(["evaluate", "anywhere", "--episodes", "4"]) == 0
    well, spoilt, failed = capsys.readouterr().out.splitlines()[2:5]
    assert "diverged" not in well
    assert spoilt.rstrip().endswith("the simulation diverged in 2")
    assert "failed at step" in failed and failed.rstrip().endswith("; the simulation diverged in 1")
