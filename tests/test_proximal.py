"""The proximal update: its gradient by hand, the ratio of a real rollout, time limits, and seeds that diverge."""

import inspect
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from proximal_by_hand import (
    MAKE,
    ONCE,
    REGULARISED,
    SPEC,
    by_hand,
    check_moved,
    gradient_of,
    log_likelihood,
    moved,
    rollout,
    started,
)

from dpolicy._types import Transition
from dpolicy.algorithm import Algorithm
from dpolicy.algorithms import ALGORITHMS
from dpolicy.envs import MultiGoal
from dpolicy.fields import RectifiedFlow
from dpolicy.losses import perturb, power_times
from dpolicy.losses.match import start
from dpolicy.train import RewardScale, on_policy


def as_expected(batch):
    """Episodes of one step that earn just what was expected: every advantage is zero."""
    fields = lambda b: (b.reward, b.terminated, b.truncated)
    yes = jnp.ones_like(batch.terminated)
    return eqx.tree_at(fields, batch, (batch.extras["value"], yes, ~yes))


def after_one_update(make, key, *edits):
    """The first state, and batches, next states and metrics stacked over `edits`, functions of one rollout.

    With `(edit, share)` in place of an edit, `make(share)` is what takes the update.
    """
    edits, shares = zip(*[edit if isinstance(edit, tuple) else (edit, 0.0) for edit in edits], strict=True)

    def run(key):
        keys = jax.random.split(key, 3)
        algorithm = make(0.0)
        state = started(algorithm, keys[0])
        # Computed once: rewards that were the values up to rounding would not do for an advantage of zero.
        batch = jax.lax.optimization_barrier(rollout(algorithm, state, keys[1]))
        batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(edit(batch) for edit in edits))
        update = lambda given: make(given[0]).update(state, given[1], keys[2])
        return state, batches, *jax.lax.map(update, (jnp.asarray(shares), batches))

    return jax.jit(run)(key)


@pytest.mark.parametrize("name", MAKE)
def test_gradient_of_the_first_step(name, x64, getkey):
    def make(share):
        return MAKE[name](**ONCE, **{n: share * number for n, number in REGULARISED[name][0].items()})

    same = lambda batch: batch
    edits = (same, as_expected, (moved(name, 0.3), 1.0), (moved(name, 0.005), 1.0))
    state, *outcome = after_one_update(make, getkey(), *edits)
    (batch, new, metrics), (_, resting, _), (far, _, of_far), (near, _, of_near) = (
        jax.tree.map(lambda x, i=i: x[i], outcome) for i in range(len(edits))
    )
    check_moved(name, state, far, of_far, 0.3)
    check_moved(name, state, near, of_near, 0.005)
    advantage, returns, mask = by_hand(state, batch, brax=name == "fpo")
    assert np.any(batch.terminated) and np.any(batch.truncated)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)

    def surrogate(policy):  # -E[A log pi], whose gradient is that of the clipped surrogate at ratio 1
        return -jnp.mean(advantage * jax.vmap(lambda e: log_likelihood(name, policy, e))(flat))

    def value_loss(value):
        return jnp.mean(mask * (jax.vmap(value)(flat.obs) - returns) ** 2)

    coefficient = {"fpo": 0.25, "dppo": 0.25}.get(name, 1.0)
    ours = gradient_of(new)
    expected = eqx.filter_grad(surrogate)(state.policy), eqx.filter_grad(value_loss)(state.value)
    for left, right in zip(jax.tree.leaves(ours.policy), jax.tree.leaves(expected[0]), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-11)
    for left, right in zip(jax.tree.leaves(ours.value), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(left, coefficient * right, rtol=1e-8, atol=1e-11)
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(ours.policy)) > 1e-3
    if "kl" in metrics:  # nothing has moved yet, so the adaptive rate stays where it was
        np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-12)
        rate = inspect.signature(ALGORITHMS[name].recipe).parameters["learning_rate"].default
        # GenPO's k1 may be negative, so there a KL of zero counts as small.
        np.testing.assert_allclose(
            metrics["learning_rate"], rate * (1.5 if name == "genpo" else 1), rtol=1e-6
        )
    # Zero advantages, zero gradient: but for rounding in the values, 1e-16, over the 1e-8 that standardising adds.
    for leaf in jax.tree.leaves(gradient_of(resting).policy):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-8)


def test_minibatches_must_divide_the_rollout(getkey):
    with pytest.raises(ValueError, match="minibatches must divide the 20 samples of an iteration, got 3"):
        after_one_update(lambda _: MAKE["ppo"](epochs=1, minibatches=3), getkey(), lambda batch: batch)


def test_recomputed_advantages_are_those_of_the_value_network_as_it_is(x64, getkey):
    """Two passes in one update are two updates, the second on values of the network that the first left behind."""
    settings = {"normalise_advantages": "minibatch", "minibatches": 1, "value_clip": None}
    twice = jax.jit(MAKE["ppo"](**settings, epochs=2, recompute_segment=5).update)
    once = MAKE["ppo"](**settings, epochs=1)
    update, keys = jax.jit(once.update), jax.random.split(getkey(), 4)
    state = once.init(keys[0], SPEC)

    def valued(state, batch):
        value = jax.vmap(jax.vmap(state.value))(batch.obs)
        return eqx.tree_at(lambda b: b.extras["value"], batch, value)

    batch = valued(state, rollout(once, state, keys[1]))
    together, _ = twice(state, batch, keys[2])
    one, _ = update(state, batch, keys[2])
    apart, _ = update(one, valued(one, batch), keys[3])
    stale, _ = update(one, batch, keys[3])
    of = lambda state: jax.tree.leaves([state[name] for name in ("policy", "value", "update")])
    for left, right in zip(of(together), of(apart), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-12)
    pairs = zip(of(together), of(stale), strict=True)
    assert max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs) > 1e-5


def test_recomputing_needs_whole_segments(getkey):
    settings = {"normalise_advantages": "none", "epochs": 1}
    with pytest.raises(ValueError, match="minibatches must divide the 20 segments of an iteration, got 3"):
        after_one_update(
            lambda _: MAKE["ppo"](**settings, recompute_segment=1, minibatches=3),
            getkey(),
            lambda batch: batch,
        )
    with pytest.raises(ValueError, match="recompute_segment must divide the 5 steps of a rollout, got 2"):
        after_one_update(
            lambda _: MAKE["ppo"](**settings, recompute_segment=2, minibatches=1),
            getkey(),
            lambda batch: batch,
        )
    with pytest.raises(ValueError, match="normalise_advantages must be minibatch or none .* got 'rollout'"):
        MAKE["ppo"](recompute_segment=5)


def test_change_of_the_prediction_as_the_measure_of_a_step(x64, getkey):
    algorithm = MAKE["fpopp"](kl_measure="prediction", stop_kl=1.0, epochs=2, minibatches=1)
    keys = jax.random.split(getkey(), 3)
    state = started(algorithm, keys[0])
    batch = rollout(algorithm, state, keys[1])
    _, metrics = jax.jit(algorithm.update)(state, batch, keys[2])
    first, _ = jax.jit(MAKE["fpopp"](**ONCE).update)(state, batch, keys[2])

    def change(example):
        x0, pairs = example.extras["unsquashed"], perturb(RectifiedFlow(), draws=2, times=power_times(1.0))
        match = pairs(example, start(example), jax.random.fold_in(example.extras["key"], 2**30))
        total = 0.0
        for eps, t in zip(match.target.noise, match.t, strict=True):
            x = (1 - t) * x0 + t * eps
            old, now = (s.policy(x, t, example.obs) for s in (state, first))
            total += jnp.mean(((1 - t) * (now - old)) ** 2) / 2  # eps_hat = x + (1 - t) v
        return total

    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
    expected = float(jnp.mean(jax.vmap(change)(flat)))
    assert expected > 0
    np.testing.assert_allclose(
        metrics["kl"], expected / 2, rtol=1e-6
    )  # mean over two passes, the first of which is 0
    with pytest.raises(ValueError, match="kl_measure must be one of ratio, prediction; got 'k1'"):
        MAKE["fpopp"](kl_measure="k1")


def test_running_reward_scale(x64, getkey):
    rewards = np.array(3 + 2 * jax.random.normal(getkey(), (60, 3)))
    rewards[59, 1] = 1e4
    done = np.asarray(jax.random.bernoulli(getkey(), 0.3, (60, 3)))
    state, scaled, seen, running = RewardScale.start(3), [], [], np.zeros(3)
    for begin, end in ((0, 25), (25, 60)):
        state, part = state.update(jnp.asarray(rewards[begin:end]), jnp.asarray(done[begin:end]), 0.9)
        for reward, last in zip(rewards[begin:end], done[begin:end], strict=True):
            running = reward + 0.9 * running
            seen.append(running)
            running = np.where(last, 0.0, running)
        np.testing.assert_allclose(part, np.clip(rewards[begin:end] / np.std(seen), -10, 10), rtol=1e-6)
        scaled.append(part)
    np.testing.assert_allclose(state.returns, running, rtol=1e-12)
    assert np.abs(np.concatenate(scaled)[:-1]).max() < np.concatenate(scaled)[59, 1] == 10
    _, losses = RewardScale.start(3).update(jnp.asarray(-rewards), jnp.asarray(done), 0.9)
    assert losses[59, 1] == -10 == losses.min()


@cache
def program(name):
    """(init, step) of 32 environment steps a call, with observation statistics; for ppo over several seeds."""
    run = on_policy(
        MAKE[name](learning_rate=0.02, **ONCE),
        MultiGoal(horizon=5),
        num_envs=8,
        rollout=4,
        iterations_per_evaluation=1,
        evaluation_episodes=4,
    )
    over = (
        jax.vmap if name == "ppo" else lambda function: function
    )  # a batch of seeds takes longer to compile
    return jax.jit(over(run.init)), jax.jit(over(run.step))


@pytest.mark.parametrize("name", MAKE)
def test_first_ratio_of_every_update_is_one(name, getkey):
    """With running observation statistics that move a lot between iterations, and a policy that does too."""
    init, step = program(name)
    prefix = "policy/" if name == "fpo" else "policy/ppo/"
    tolerance = 1e-5 if name == "genpo" else 1e-6  # |z|^2 / 2 of an inverse, once alone and once in a batch
    state = init(jax.random.split(getkey(), 2) if name == "ppo" else getkey())
    for iteration in range(3):
        before, count = state, np.maximum(state.normaliser.count, 1)[..., None]
        std = np.sqrt(state.normaliser.second / count)
        state, metrics = step(state)
        np.testing.assert_allclose(metrics[prefix + "ratio_min"], 1.0, rtol=0, atol=tolerance)
        np.testing.assert_allclose(metrics[prefix + "ratio_max"], 1.0, rtol=0, atol=tolerance)
        types = [list(map(jax.typeof, jax.tree.leaves(tree))) for tree in (before, state)]
        assert types[0] == types[1]  # else the second call would compile again
        # The next policy acts under other statistics and other parameters.
        assert np.all(state.normaliser.count == 32 * (iteration + 1))
        assert np.all(state.normaliser.mean != before.normaliser.mean)
        assert iteration == 0 or np.all(std > 1)  # positions, of the order of the box
        policies = [s.algorithm.policy for s in (before, state)]
        pairs = zip(*map(jax.tree.leaves, policies), strict=True)
        assert max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs) > 5e-3


@pytest.mark.parametrize("reward_discount", [None, 0.9])
def test_what_the_update_is_given(reward_discount, getkey):
    """All observations under the statistics of the rollout, and the true successor at a time limit."""
    time, envs = 8, 4
    zeros, no = jnp.zeros((time, envs, 2)), jnp.zeros((time, envs), bool)
    blank = Transition(zeros, zeros, zeros[..., 0], zeros, no, no, {"following": zeros})

    def stay(state, obs, key, mode):
        return jnp.zeros(2), {}

    recorder = Algorithm("recorder", "on_policy", lambda key, spec: blank, stay, lambda _, b, key: (b, {}))
    run = on_policy(
        recorder,
        MultiGoal(horizon=5),
        num_envs=envs,
        rollout=time,
        iterations_per_evaluation=1,
        evaluation_episodes=2,
        reward_scale=0.5,
        reward_discount=reward_discount,
    )
    init, step = jax.jit(run.init), jax.jit(run.step)
    before, _ = step(init(getkey()))
    state, metrics = step(before)
    batch, statistics = state.algorithm, before.normaliser
    np.testing.assert_array_equal(batch.obs[0], statistics(before.experience.obs))
    np.testing.assert_array_equal(batch.next_obs, batch.obs)  # who stays where he is, at every step
    going = ~np.asarray(batch.done)[:-1]
    np.testing.assert_array_equal(
        np.all(batch.obs[1:] == batch.next_obs[:-1], axis=-1), going
    )  # resets elsewhere
    # What was acted on next: past the resets, also after the last step.
    following = batch.extras["following"]
    np.testing.assert_array_equal(following[:-1], batch.obs[1:])
    np.testing.assert_array_equal(following[-1], statistics(state.experience.obs))
    assert np.any(batch.truncated)
    scale = jnp.maximum(jnp.sqrt(statistics.second / statistics.count), 1e-2)
    positions = batch.obs * scale[None, None] + statistics.mean[None, None]
    rewards = jax.vmap(jax.vmap(MultiGoal().reward))(positions, zeros)
    expected = 0.5 * rewards
    if reward_discount is not None:
        _, expected = before.rewards.update(expected, batch.done, reward_discount)
        assert state.rewards.statistics.count == 2 * time * envs
    np.testing.assert_allclose(batch.reward, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(metrics["train/reward"], np.mean(rewards), rtol=1e-4)
    np.testing.assert_allclose(
        state.normaliser.mean, (statistics.mean + positions.mean((0, 1))) / 2, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", MAKE)
def test_bad_outcomes_do_not_blow_up(name, getkey):
    """1,000 updates on one rollout of which half the advantages are -100; the worst case for ratios from losses."""
    settings = {"normalise_advantages": "none", "value_coefficient": 0.0, "learning_rate": 1e-3}
    algorithm = MAKE[name](**settings, **ONCE)
    keys = jax.random.split(getkey(), 3)
    state = started(algorithm, keys[0])
    batch = rollout(algorithm, state, keys[1])
    half = (jnp.arange(batch.reward.size) % 2).reshape(batch.reward.shape)
    reward = batch.extras["value"] + jnp.where(half == 0, -100.0, 1.0)
    yes = jnp.ones_like(batch.terminated)
    batch = eqx.tree_at(lambda b: (b.reward, b.terminated, b.truncated), batch, (reward, yes, ~yes))

    @jax.jit
    def train(state, keys):
        return jax.lax.scan(lambda state, key: algorithm.update(state, batch, key), state, keys)

    after, metrics = train(state, jax.random.split(keys[2], 1_000))
    for leaf in bits((after, metrics)):
        assert np.isfinite(leaf).all()
    moved = zip(*(jax.tree.leaves(s.policy) for s in (state, after)), strict=True)
    assert max(float(jnp.max(jnp.abs(a - b))) for a, b in moved) > 1e-3


def bits(tree):
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return [np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)]


def test_a_diverged_seed_is_frozen_and_spoils_no_other(getkey):
    init, step = program("ppo")
    state, _ = step(init(jax.random.split(getkey(), 2)))
    # One environment of seed 0 blows up.
    where = lambda s: (s.experience.env, s.experience.obs)
    broken = eqx.tree_at(where, state, replace_fn=lambda leaf: leaf.at[0, 3].set(jnp.nan))
    healthy = state
    for count in (2, 3):
        healthy, _ = step(healthy)
        broken, metrics = step(broken)
        assert broken.alive.tolist() == [False, True]
        assert broken.failed_at.tolist() == [2 * 32, -1]
        assert broken.steps.tolist() == [count * 32] * 2
        assert np.isfinite(metrics["evaluate/return"]).all()  # of the last finite policy, seed 0
        pick = lambda tree, i: [leaf[i] for leaf in bits(tree)]
        for left, right in zip(pick(healthy, 1), pick(broken, 1), strict=True):
            np.testing.assert_array_equal(left, right)
        frozen = lambda s: (s.algorithm, s.normaliser)
        for left, right in zip(pick(frozen(state), 0), pick(frozen(broken), 0), strict=True):
            np.testing.assert_array_equal(left, right)
            assert np.isfinite(right).all()
