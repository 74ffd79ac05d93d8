"""A seed ends by its state, its loss or its gradient; no metric that is out of range takes it along."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpolicy._types import Transition
from dpolicy.fields import CosineVP, FunctionField
from dpolicy.learner import descend, global_norm, learner
from dpolicy.losses import LogRatio, batched, clipped, matching, perturb
from dpolicy.train.program import TrainState, guard

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


@pytest.mark.parametrize(
    ("numbers", "norm"),
    [
        ([3.0, -4.0], 5.0),
        ([0.0, 0.0], 0.0),
        ([3e30, 4e30], 5e30),
        ([BIG, BIG], BIG),
        ([3e-30, 1.0], 1.0),
        ([np.inf, 1.0], np.inf),
        ([np.nan, 1.0], np.nan),
    ],
)
def test_the_norm_of_a_gradient_is_finite_where_it_is(numbers, norm):
    tree = [jnp.asarray(numbers[0]), jnp.full((1, 1), numbers[1])]
    np.testing.assert_allclose(global_norm(tree), norm, rtol=1e-6)


def test_a_step_reports_that_norm():
    slope = jnp.asarray([3e25, -4e25])
    part = learner(jnp.ones(2), optax.sgd(1.0))
    _, metrics = descend(part, lambda model: (jnp.sum(slope * model), {}), optax.sgd(1.0))
    np.testing.assert_allclose(metrics["grad_norm"], 5e25, rtol=1e-6)


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
