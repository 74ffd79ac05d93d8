"""What a rollout's advantages are made of: successors as each dialect reads them, and keys of their own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.algorithm import Algorithm
from dpolicy.algorithms import ppo
from dpolicy.blocks import Advantages, proximal
from dpolicy.envs import Environment, MultiGoal
from dpolicy.envs.protocol import Spec
from dpolicy.fields import FunctionField, RectifiedFlow
from dpolicy.learning import Parts, Seen, run_stages
from dpolicy.losses import flow_matching_log_likelihood, matching, noise_predictions, perturb
from dpolicy.train import on_policy

KEY = jax.random.key(0)
YES = jnp.asarray([[False], [True]])
# Two steps of one copy, the second at the time limit: it ends at 7, and the next episode starts at 3.
ROLLOUT = Transition(
    obs=jnp.asarray([[[0.5]], [[1.0]]]),
    action=jnp.zeros((2, 1, 1)),
    reward=jnp.asarray([[1.0], [2.0]]),
    next_obs=jnp.asarray([[[1.0]], [[7.0]]]),
    terminated=jnp.zeros((2, 1), bool),
    truncated=YES,
    extras={"following": jnp.asarray([[[1.0]], [[3.0]]])},
)


@pytest.mark.parametrize(("dialect", "successor"), [("exact", 7.0), ("leaky", 3.0)])
def test_at_the_end_of_a_rollout_leaky_reads_the_observation_after_the_reset(dialect, successor):
    how = Advantages(0.9, 0.8, dialect, "none", None, None, None)
    value = lambda obs: obs[0]
    last = 2 + 0.9 * successor - 1
    expected = [1 + 0.9 * 1 - 0.5 + 0.9 * 0.8 * last, last]
    stored = {**ROLLOUT.extras, "value": ROLLOUT.obs[..., 0]}

    def labelled(stage, extras):
        parts = Parts(value=value)
        batch = dataclasses.replace(ROLLOUT, extras=extras)
        return run_stages(
            {"advantages": stage}, Seen(parts, parts, batch, jnp.ones((), int), {}), KEY
        ).batch.extras

    read = labelled(how.labelled(again=True), stored)
    assert ("following" in read) == (dialect == "leaky")
    assert set(labelled(how.labelled(), stored)) == {"value", "advantage", "return"}
    # Segments have ends of their own, and values of now: what was stored is not read.
    segments = labelled(
        how.relabelled(), {**read, "value": read["value"] + 1, "advantage": jnp.zeros((2, 1))}
    )
    assert set(segments) == {"value", "advantage", "return"}
    for found in (read, labelled(how.labelled(), stored), segments):
        np.testing.assert_allclose(found["advantage"][:, 0], expected, rtol=1e-6)
        np.testing.assert_allclose(found["return"] - found["advantage"], stored["value"], rtol=1e-6)


def test_segments_of_leaky_read_the_observation_after_the_reset():
    """Advantages computed anew in one whole segment are those of the rollout."""
    settings = {
        "gae_dialect": "leaky",
        "normalise_advantages": "minibatch",
        "hidden": (4,),
        "value_hidden": (4,),
    }
    make = lambda **more: ppo(**settings, epochs=1, minibatches=1, **more)
    state = make().init(KEY, Spec("test/two", 1, 1, 2))
    extras = {"mean": ROLLOUT.action, "log_std": ROLLOUT.action, "log_prob": jnp.zeros((2, 1))}
    extras |= {"value": jax.vmap(jax.vmap(state.value))(ROLLOUT.obs), **ROLLOUT.extras}
    batch = dataclasses.replace(ROLLOUT, extras=extras)
    other = dataclasses.replace(batch, extras={**extras, "following": batch.next_obs})
    again = jax.jit(make(recompute_segment=2).update)
    found, elsewhere, expected = (
        update(state, given, KEY)[1]["value/loss"]
        for update, given in ((again, batch), (again, other), (make().update, batch))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert abs(float(found - elsewhere)) > 1e-3


class Counting(Environment):
    """Starts at -1, -2 or -3, then counts 1, 2, ..."""

    spec: Spec

    def __init__(self):
        self.spec = Spec("test/counting", 1, 1, 3)

    def reset(self, key):
        return jnp.zeros(()), -1.0 - jax.random.randint(key, (1,), 0, 3).astype(float)

    def step(self, state, action, key):
        return state + 1, state[None] + 1, jnp.zeros(()), jnp.asarray(False)


def test_a_rollout_says_what_was_acted_on_next():
    """After a reset where there was one, and at the end of the rollout as elsewhere."""
    shape = (4, 2, 1)

    def update(state, batch, key):
        return (batch.obs, batch.extras["following"], batch.next_obs), {"loss": jnp.sum(batch.reward)}

    program = on_policy(
        Algorithm(
            "noting",
            "on_policy",
            lambda key, spec: (jnp.zeros(shape),) * 3,
            lambda state, obs, key, mode: (jnp.zeros(1), {}),
            update,
        ),
        Counting(),
        num_envs=2,
        rollout=4,
        iterations_per_evaluation=1,
        evaluation_episodes=1,
        normalise_observations=False,
    )
    state, resets = jax.jit(program.init)(KEY), 0
    step = jax.jit(program.step)
    followed = None
    for _ in range(4):
        state, _ = step(state)
        obs, following, later = map(np.asarray, state.algorithm)
        np.testing.assert_array_equal(following[:-1], obs[1:])
        if followed is not None:
            np.testing.assert_array_equal(followed, obs[0])
        followed = following[-1]
        changed = following[-1] != later[-1]
        assert np.all(following[-1][changed] < 0)
        resets += changed.sum()
    assert resets > 0


def test_the_divergence_draws_from_keys_that_no_example_has():
    seen = {"loss": set(), "kl": set()}

    def note(name, key):
        jax.debug.callback(lambda data: seen[name].add(tuple(data.tolist())), jax.random.key_data(key))

    def policy_loss(model, example, key):
        note("loss", key)
        return jnp.sum(model), {"loss": jnp.sum(model)}

    def kl(model, example, key):
        note("kl", key)
        return jnp.zeros(())

    algorithm = proximal(
        name="noting",
        make_policy=lambda key, spec: jnp.zeros(1),
        explore=lambda parts: lambda obs, key: (jnp.zeros(2), {"log_prob": jnp.zeros(())}),
        evaluate=lambda parts: lambda obs, key: jnp.zeros(2),
        policy_loss=policy_loss,
        kl=kl,
        target_kl=0.01,
        value_hidden=(2,),
        epochs=2,
        minibatches=2,
    )
    state = algorithm.init(KEY, MultiGoal().spec)
    batch = dataclasses.replace(
        ROLLOUT,
        obs=jnp.zeros((2, 4, 2)),
        action=jnp.zeros((2, 4, 2)),
        next_obs=jnp.zeros((2, 4, 2)),
        reward=jnp.arange(8.0).reshape(2, 4),
        terminated=jnp.zeros((2, 4), bool),
        truncated=jnp.zeros((2, 4), bool),
        extras={"log_prob": jnp.zeros((2, 4)), "value": jnp.zeros((2, 4))},
    )
    algorithm.update(state, batch, KEY)
    jax.effects_barrier()
    assert len(seen["kl"]) == len(seen["loss"]) == 16
    assert not seen["kl"] & seen["loss"]


def test_points_of_a_prediction_are_not_those_of_the_ratio():
    """Both come from the stored key: the measured change draws from a stream that no draw of the ratio has."""
    seen = {"change": [], "ratio": []}

    def noted(name):
        def transform(example, match, key):
            jax.debug.callback(lambda data: seen[name].append(tuple(data.tolist())), jax.random.key_data(key))
            return perturb(RectifiedFlow())(example, match, key)

        return transform

    field = FunctionField(lambda x, t, obs: x, schedule=RectifiedFlow(), prediction="velocity", action_size=1)
    example = stored_under(KEY)
    likelihood = flow_matching_log_likelihood(matching(noted("ratio")), 8)
    likelihood(field, example, KEY)
    noise_predictions(noted("change"))(field, example, KEY)
    jax.effects_barrier()
    parents = {tuple(jax.random.key_data(key).tolist()) for key in jax.random.split(KEY, 8)}
    (change,) = seen["change"]
    assert len(set(seen["ratio"])) == 8
    assert change not in parents | set(seen["ratio"]) | {tuple(jax.random.key_data(KEY).tolist())}


def stored_under(key):
    return dataclasses.replace(
        jax.tree.map(lambda leaf: leaf[0, 0], ROLLOUT), extras={"key": key, "log_prob": jnp.zeros(())}
    )
