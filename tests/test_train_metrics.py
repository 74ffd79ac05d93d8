"""What a chunk counts and how it is told: returns of whole episodes, diverged simulations, what is not finite."""

import io
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from host_program import Toy
from rich.console import Console

from dpolicy.algorithms import ppo, sac
from dpolicy.envs import Environment, Spec
from dpolicy.train import off_policy, on_policy, read_history, train_loop
from dpolicy.train.evaluate import of_stages, on_host, summarised
from dpolicy.train.failures import Failure, new_failures, remarks

LIMIT, CHUNKS = 8, 7


class Paying(Environment):
    """Pays 1 a step, from step `spoilt` of an episode on nan; at step `ends` it ends, with an observation of nan."""

    spec: Spec = Spec("test/paying", 1, 1, LIMIT)
    spoilt: Any = -1
    ends: Any = -1

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jnp.zeros(1)

    def step(self, state, action, key):
        new = state + 1
        ended = new == self.ends
        reward = jnp.where((self.spoilt > 0) & (new >= self.spoilt), jnp.nan, 1.0)
        return new, jnp.where(ended, jnp.nan, 0.1 * new)[None], reward, ended


PROGRAMS = {
    "ppo": lambda env: on_policy(
        ppo(hidden=(4,), value_hidden=(4,), epochs=1, minibatches=1),
        env,
        num_envs=4,
        rollout=3,
        iterations_per_evaluation=1,
        evaluation_episodes=2,
    ),
    "sac": lambda env: off_policy(
        sac(hidden=(4,), critic_hidden=(4,)),
        env,
        num_envs=4,
        batch_size=8,
        replay_size=64,
        warmup=4,
        evaluation_interval=12,
        evaluation_episodes=2,
        normalise_observations=True,
    ),
}


@pytest.fixture(scope="module", params=PROGRAMS)
def run(request):
    """The last state and the metrics of a few chunks in an environment."""

    @eqx.filter_jit
    def run(env):
        program = PROGRAMS[request.param](env)
        step = lambda state, _: program.step(state)
        return jax.lax.scan(step, program.init(jax.random.key(1)), None, length=CHUNKS)

    return lambda **options: run(
        Paying(**{name: jnp.asarray(options.get(name, -1)) for name in ("spoilt", "ends")})
    )


def per_chunk(metrics):
    """As the host sees them, chunk by chunk, for one seed."""
    chunks = [{name: values[i : i + 1] for name, values in metrics.items()} for i in range(CHUNKS)]
    return [on_host(chunk) for chunk in chunks]


def test_a_healthy_run_is_finite_and_its_returns_are_of_whole_episodes(run):
    with jax.debug_nans(True):
        state, metrics = run()
    assert bool(state.alive)
    returns = np.concatenate([chunk["train/return"] for chunk in per_chunk(metrics)])
    # A chunk is shorter than an episode.
    assert np.isnan(returns[0])
    assert np.isfinite(returns).sum() >= 2
    np.testing.assert_array_equal(returns[np.isfinite(returns)], LIMIT)
    assert returns.dtype == np.float32
    assert metrics["train/episodes"].sum() > 0
    for name in ("train/diverged", "train/not_finite", "evaluate/diverged"):
        np.testing.assert_array_equal(metrics[name], 0)


def test_diverged_simulations_are_counted_and_the_run_goes_on(run):
    state, metrics = run(ends=2)
    assert bool(state.alive)
    # Each of 4 copies ends at every second step, once or twice in a chunk of 3; 2 episodes are evaluated.
    counts = np.asarray(metrics["train/diverged"])
    assert (counts >= 4).all() and (counts <= 8).all() and abs(counts.sum() - 4 * 3 * CHUNKS // 2) <= 2
    np.testing.assert_array_equal(metrics["evaluate/diverged"], 2)
    np.testing.assert_array_equal(metrics["evaluate/return"], 1.0)
    np.testing.assert_array_equal(metrics["train/not_finite"], 0)
    assert all(np.isfinite(values).all() for values in jax.tree.leaves(metrics))


def test_what_the_environment_spoilt_is_named_as_its_own(run):
    state, metrics = run(spoilt=2)
    assert not bool(state.alive)
    told, alive = [], [np.array([True])]
    for chunk in per_chunk(metrics):
        seeds = SimpleNamespace(failed_at=state.failed_at[None])
        now = np.array([not chunk["train/not_finite"].any() and alive[-1][0]])
        told += new_failures(seeds, now, alive[-1], chunk, {})
        alive.append(now)
    (failure,) = told
    step = int(state.failed_at)
    assert str(failure) == (
        f"seed 0 at step {step:,} (the environment gave an observation or a reward that is not finite)"
    )
    assert "loss" in " ".join(failure.metrics)


def test_the_host_loop_divides_and_says(tmp_path):
    toy, out = Toy(), Console(file=io.StringIO(), soft_wrap=True)

    def step(state):
        state, metrics = toy.step(state)
        episodes = state.steps // 10 - 1  # none in the first chunk, then one, then two
        sums = {
            "train/return_sum": 3.0 * episodes,
            "train/episodes": episodes,
            "train/diverged": episodes // 2,
        }
        return state, {"evaluate/return": metrics["evaluate/return"], **sums}

    program = SimpleNamespace(init=toy.init, step=step, steps_per_call=10)
    train_loop(program, seeds=2, steps=30, directory=tmp_path, console=out)
    history = read_history(tmp_path)
    assert sorted(history.metrics) == ["evaluate/return", "train/diverged", "train/return"]
    np.testing.assert_array_equal(history.metrics["train/return"], [[np.nan] * 2, [3.0] * 2, [3.0] * 2])
    np.testing.assert_array_equal(history.metrics["train/diverged"], [[0, 0], [0, 0], [1, 1]])
    assert "diverged: simulations by step 30 (1 of seed 0, 1 of seed 1);" in out.file.getvalue()


def test_counts_are_added_up_exactly():
    many = 2**24 + 1
    stack = {
        "train/episodes": jnp.array([many, 0, 1]),
        "train/return_sum": jnp.array([3.0, 0.0, 4.0]),
        "loss": jnp.array([1.0, 2.0, 6.0]),
        "ratio_max": jnp.array([1, 5, 2]),
    }
    _, found = jax.jit(lambda: summarised(lambda carry, row: (carry, row), (), stack))()
    assert int(found["train/episodes"]) == many + 1
    assert {name: float(values) for name, values in found.items() if name != "train/episodes"} == {
        "train/return_sum": 7.0,
        "loss": 3.0,
        "ratio_max": 5.0,
    }


def measured_now_and_then(ran):
    """The chunk of a stage that runs where `ran` says so, of another inside it, and of one that always does."""

    def body(carry, due):
        loss = carry + 1.0
        metrics = {
            "slow": jnp.where(due, 2 * loss, 0.0),
            "slow/due": due.astype(float),
            "slow/loss": jnp.where(due, loss, 0.0),
            "slow/inner/due": jnp.where(due & (loss > 2), 1.0, 0.0),
            "slow/inner/loss": jnp.where(due & (loss > 2), 10 * loss, 0.0),
            "slow/ratio_max": jnp.where(due, -loss, -jnp.inf),
            "slower/loss": loss,
        }
        return loss, metrics

    run = lambda ran: of_stages(summarised(body, jnp.zeros(()), ran)[1])
    found = jax.jit(jax.vmap(run))(jnp.asarray([ran, ran]))
    return {name: values[1] for name, values in on_host(found).items()}


def test_a_stage_that_runs_now_and_then_is_averaged_over_when_it_ran():
    found = measured_now_and_then([False, True, False, True])
    expected = {
        "slow": 6.0,  # of 4 and 8
        "slow/due": 0.5,
        "slow/loss": 3.0,
        "slow/inner/due": 0.25,
        "slow/inner/loss": 40.0,  # at the last update only
        "slow/ratio_max": -2.0,
        "slower/loss": 2.5,
    }
    assert {name: float(value) for name, value in found.items()} == expected


def test_a_stage_that_never_ran_measures_nothing():
    with jax.debug_nans(True):
        found = measured_now_and_then([False] * 4)
    assert [name for name, value in found.items() if not np.isnan(value)] == [
        "slow/due",
        "slow/inner/due",
        "slower/loss",
    ]
    metrics = {name: np.asarray([value]) for name, value in found.items()} | {"loss": np.array([np.inf])}
    state, one = SimpleNamespace(failed_at=np.array([7])), np.array([True])
    assert new_failures(state, ~one, one, metrics, {}) == [Failure(0, 7, ["loss"])]


def test_a_failure_of_the_losses_own_names_its_metrics():
    state = SimpleNamespace(failed_at=np.array([7, 7]))
    metrics = {"loss": np.array([np.nan, 1.0]), "train/not_finite": np.array([0, 3])}
    before, alive = np.array([True, True]), np.array([False, True])
    assert new_failures(state, alive, before, metrics, {}) == [Failure(0, 7, ["loss"])]


def test_each_seed_is_remarked_on_once():
    said: set[Any] = set()
    alive = np.array([True, True, False])
    metrics = {
        "train/diverged": np.array([0, 2, 1_000]),
        "evaluate/diverged": np.array([0, 1, 0]),
        "evaluate/return": np.array([np.nan, 1.0, np.nan]),
    }
    lines = list(remarks(metrics, alive, 5_120, said))
    assert lines == [
        "non-finite: evaluate/return of seed 0 at step 5,120; its state is finite, it goes on",
        "diverged: simulations by step 5,120 (3 of seed 1, 1,000 of seed 2); each ended its episode, with a reward of "
        "zero, and is counted in train/diverged or evaluate/diverged",
    ]
    assert list(remarks(metrics, alive, 10_240, said)) == []
    (line,) = remarks({"train/diverged": np.array([1, 1, 1])}, alive, 10_240, said)
    assert "(1 of seed 0)" in line
