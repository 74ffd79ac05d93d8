"""A seed ends by its state, its loss or its gradient; no metric that is out of range takes it along."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.algorithms import sac
from dpolicy.envs import MultiGoal
from dpolicy.fields import CosineVP, FunctionField
from dpolicy.losses import LogRatio, batched, clipped, matching, perturb
from dpolicy.optimisers import adam, all_finite, descend, learner
from dpolicy.train import off_policy
from dpolicy.train.program import TrainState, guard, settled

NO, KEY = jnp.asarray(False), jax.random.key(0)
EXAMPLE = Transition(jnp.ones(1), jnp.ones(1), jnp.asarray(1.0), jnp.ones(1), NO, NO)
BIG = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(("surrogate", "held"), [("ppo", 80.0), ("spo", 40.0), ("aspo", 80.0)])
@pytest.mark.parametrize("log_ratio", [100.0, [1.0, 100.0]])
def test_ratios_are_reported_as_the_surrogate_holds_them(surrogate, held, log_ratio):
    stored = {"advantage": jnp.asarray(2.0), "log_prob": jnp.zeros(np.shape(log_ratio))}
    example = dataclasses.replace(EXAMPLE, extras=stored)
    ratio = LogRatio(lambda model, example, key: model * jnp.asarray(log_ratio))
    loss = clipped(ratio, eps=0.2, surrogate=surrogate)
    (value, metrics), gradient = jax.value_and_grad(lambda m: loss(m, example, KEY), has_aux=True)(1.0)
    assert jnp.isfinite(value) and jnp.isfinite(gradient)
    assert all(np.isfinite(number) for number in metrics.values())
    assert metrics["ratio_max"] == jnp.exp(held)
    np.testing.assert_allclose(metrics["ratio_min"], np.exp(np.minimum(np.min(log_ratio), held)), rtol=1e-5)


STATE = TrainState(None, None, None, KEY, jnp.asarray(7), ~NO, jnp.asarray(-1))


@pytest.mark.parametrize(
    ("metrics", "lives"),
    [
        ({"ratio_max": np.inf, "policy/kl": np.nan, "loss": 1.0, "grad_norm": 2.0}, True),
        ({"policy/loss": np.nan, "flow/ema/loss": np.nan, "loss": 1.0}, True),
        ({"actor/bc/loss": np.inf, "actor/loss": 1.0, "critic/loss": 1.0}, True),
        ({"actor/loss": 1.0, "critic/loss": np.nan}, False),
        ({"actor/loss": np.inf}, False),
        ({"loss": np.nan}, False),
        ({"actor/loss": 1.0, "actor/grad_norm": np.inf}, False),
        ({"loss": 1.0, "novelty/grad_norm": np.nan}, False),
    ],
)
def test_what_ends_a_seed(metrics, lives):
    metrics = {name: jnp.asarray(value) for name, value in metrics.items()}
    kept, alive, failed_at = guard(jnp.asarray(1.0), jnp.asarray(2.0), metrics, STATE, jnp.asarray(64))
    assert (bool(alive), float(kept), int(failed_at)) == ((True, 2.0, -1) if lives else (False, 1.0, 64))


def test_a_state_that_is_not_finite_ends_a_seed():
    kept, alive, _ = guard(jnp.asarray(1.0), jnp.asarray(jnp.nan), {"loss": jnp.ones(())}, STATE, STATE.steps)
    assert not alive and kept == 1


def test_a_norm_whose_square_is_not_finite_ends_a_seed():
    """Adam would carry that square along as infinity, and its parameters never move again."""
    part, optimiser = learner(jnp.ones(2), adam(0.1)), adam(0.1)
    step = lambda slope: descend(
        part, lambda model: (jnp.sum(slope * model), {"loss": jnp.ones(())}), optimiser
    )
    for slope, lives in (([1.2e19, 1.2e19], True), ([1.9e19, 0.0], False)):
        new, metrics = step(jnp.asarray(slope))
        assert bool(jnp.isfinite(metrics["grad_norm"])) == lives and bool(all_finite(new)) == lives
        kept, alive, _ = guard(part, new, metrics, STATE, STATE.steps)
        assert bool(alive) == lives and bool(all_finite(kept))


@pytest.mark.parametrize(
    ("metrics", "read", "lives"),
    [
        ({"loss": 1.0, "grad_norm": 1.0}, False, True),
        ({"loss": 1.0, "grad_norm": 1.0}, True, False),
        ({"actor/loss": 1.0, "critic/loss": 1.0, "actor/grad_norm": 1.0}, False, False),
        ({"grad_norm": 1.0}, False, False),
        ({}, False, False),
    ],
)
def test_the_state_is_read_where_no_gradient_speaks_for_it(metrics, read, lives):
    metrics = {name: jnp.asarray(value) for name, value in metrics.items()}
    _, alive, _ = guard(jnp.ones(()), jnp.asarray(jnp.nan), metrics, STATE, STATE.steps, read=read)
    assert bool(alive) == lives


def test_what_the_guard_has_missed_ends_a_seed_with_the_chunk():
    """The state is then that of before the chunk; a seed that failed within it keeps what it was left with."""
    begun = dataclasses.replace(
        STATE, algorithm={"w": jnp.asarray(1.0)}, normaliser=None, steps=jnp.asarray(7)
    )
    ended = dataclasses.replace(begun, steps=jnp.asarray(9))
    for value, alive, kept, lives, failed_at in (
        (2.0, True, 2.0, True, -1),
        (jnp.nan, True, 1.0, False, 9),
        (jnp.inf, False, 1.0, False, 8),
        (2.0, False, 2.0, False, 8),
    ):
        new = dataclasses.replace(
            ended,
            algorithm={"w": jnp.asarray(value)},
            alive=jnp.asarray(alive),
            failed_at=jnp.asarray(-1 if alive else 8),
        )
        found = settled(begun, new)
        seen = (float(found.algorithm["w"]), bool(found.alive), int(found.failed_at), int(found.steps))
        assert seen == (kept, lives, failed_at, 9)


def test_a_learning_rate_that_is_nan_leaves_a_seed_as_it_began():
    """The loss and the gradient of its one update are finite; the others of the sweep go on."""
    sizes = {"num_envs": 2, "batch_size": 4, "replay_size": 8, "warmup": 4, "evaluation_interval": 2}

    def run(rate, key):
        algorithm = sac(hidden=(4,), critic_hidden=(4,), learning_rate=rate)
        program = off_policy(algorithm, MultiGoal(), evaluation_episodes=1, **sizes)
        begun = program.init(key)
        return begun.algorithm, *program.step(begun)

    rates, keys = jnp.asarray([1e-3, jnp.nan]), jax.random.split(KEY, 2)
    begun, state, metrics = jax.jit(jax.vmap(run))(rates, keys)
    np.testing.assert_array_equal(state.alive, [True, False])
    np.testing.assert_array_equal(state.failed_at, [-1, 6])
    assert np.isfinite(metrics["actor/loss"]).all()
    changed = jax.tree.map(
        lambda old, new: np.any(np.asarray(old != new).reshape(2, -1), axis=1), begun, state.algorithm
    )
    np.testing.assert_array_equal(np.any(jax.tree.leaves(changed), axis=0), [True, False])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.algorithm))


def test_the_effective_batch_of_huge_weights_is_finite():
    schedule = CosineVP()
    field = FunctionField(lambda x, t, obs: x, schedule=schedule, prediction="noise", action_size=1)

    def transform(example, match, key):
        match = perturb(schedule)(example, match, key)
        return dataclasses.replace(match, weight=1e25 * example.reward[None], normalised=False)

    batch = jax.tree.map(lambda leaf: jnp.stack(3 * [leaf]), EXAMPLE)
    batch = dataclasses.replace(batch, reward=jnp.asarray([1.0, 3.0, 0.0]))
    value, metrics = batched(matching(transform))(field, batch, KEY)
    assert jnp.isfinite(value)
    np.testing.assert_allclose(metrics["batch_ess"], 16 / 10, rtol=1e-6)
