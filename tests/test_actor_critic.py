"""The off-policy update by hand, and what feeds it: statistics, replay, seeds that diverge."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.algorithm import Algorithm
from dpolicy.algorithms import sac
from dpolicy.blocks import actor_critic, field_policy, within_box
from dpolicy.envs import MultiGoal
from dpolicy.learning import Parts
from dpolicy.train import Normaliser, Replay, off_policy

SPEC = MultiGoal().spec
TINY = {"hidden": (8,), "critic_hidden": (8,)}
LOG_PROB = -0.7


def scaled(actor, q, obs, key):
    """A policy whose action and log-density are known."""
    return actor * jnp.tanh(obs), jnp.full((), LOG_PROB)


def guided(q, temperature):
    """An actor loss that reports the critic it is given, at the data's action."""

    def loss(actor, example, key):
        value = q(example.obs, example.action)
        return -q(example.obs, actor * example.action), {"q": value, "entropy": jnp.full((), -LOG_PROB)}

    return loss


def make(**kwargs):
    return actor_critic(
        name="test",
        make_actor=lambda key, spec: jnp.ones(spec.action_size),
        explore=scaled,
        evaluate=scaled,
        actor_loss=guided,
        critic_hidden=(8,),
        critic_learning_rate=0.1,
        discount=0.9,
        target_rate=0.25,
        **kwargs,
    )


def experience(key, size=6):
    keys = jax.random.split(key, 4)
    ends = jnp.arange(size) % 3
    return Transition(
        jax.random.normal(keys[0], (size, SPEC.obs_size)),
        jnp.tanh(jax.random.normal(keys[1], (size, SPEC.action_size))),
        jax.random.normal(keys[2], (size,)),
        jax.random.normal(keys[3], (size, SPEC.obs_size)),
        ends == 1,
        ends == 2,
    )


def one_update(algorithm, key):
    """State before and after an update whose targets differ from the critics, and Q(s, a) of each ensemble."""
    keys = jax.random.split(key, 3)
    batch, state = experience(keys[1]), algorithm.init(keys[0], SPEC)
    state = Parts(state, target=jax.tree.map(lambda x: 0.8 * x, state.critic))
    new, metrics = algorithm.update(state, batch, keys[2])
    values = lambda critic: jax.vmap(critic)(batch.obs, batch.action)
    critics = {
        ("online", True): values(new.critic),
        ("online", False): values(state.critic),
        ("target", True): values(new.target),
        ("target", False): values(state.target),
    }
    return batch, state, new, metrics, critics


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_one_update_by_hand(temperature, x64, getkey):
    batch, state, new, metrics, critics = jax.jit(lambda key: one_update(make(temperature=temperature), key))(
        getkey()
    )
    action = state.actor[None] * jnp.tanh(batch.next_obs)
    following = np.min(jax.vmap(state.target)(batch.next_obs, action), axis=1)
    if temperature is not None:
        following = following - temperature * LOG_PROB
    # Termination cuts the bootstrap, a time limit does not.
    assert np.any(batch.truncated) and np.any(batch.terminated)
    target = np.where(batch.terminated, batch.reward, batch.reward + 0.9 * following)
    errors = critics["online", False] - target[:, None]
    np.testing.assert_allclose(metrics["critic/loss"], np.mean(errors**2), rtol=1e-12)
    mixed = jax.tree.map(lambda old, now: 0.75 * old + 0.25 * now, state.target, new.critic)
    for left, right in zip(jax.tree.leaves(new.target), jax.tree.leaves(mixed), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)
    assert int(new.updates) == 1


def test_which_critic_guides_the_actor(x64, getkey):
    choices = [
        (s, h, first) for s in ("online", "target") for h in ("min", "mean") for first in (True, False)
    ]

    def run(key):
        algorithms = [make(actor_critic_values=f"{s}_{h}", critic_first=first) for s, h, first in choices]
        outcomes = [one_update(algorithm, key) for algorithm in algorithms]
        return [metrics["actor/q"] for *_, metrics, _ in outcomes], outcomes[0][-1]

    seen, critics = jax.jit(run)(getkey())
    for (source, how, first), value in zip(choices, seen, strict=True):
        critic = critics[source, first]
        expected = np.mean(np.min(critic, axis=1) if how == "min" else critic)
        np.testing.assert_allclose(value, expected, rtol=1e-10)
    assert len({round(float(value), 8) for value in seen}) == 8


def test_a_rate_that_decays(x64, getkey):
    """One update from the same state at several counts: Adam's step is in proportion to the rate."""
    counts = jnp.asarray([0, 10, 20, 30, 50, 60])
    part = np.asarray([0, 0, 1 / 4, 1 / 2, 1, 1])
    settings = {"decay_updates": 40.0, "decay_start": 10.0, "decay_share": 0.1}
    key = getkey()

    @jax.jit
    def steps():
        def step(algorithm, count):
            state = Parts(algorithm.init(key, SPEC), updates=count)
            new, metrics = algorithm.update(state, experience(key), key)
            return new.actor - state.actor, metrics.get("actor/learning_rate", 0.0)

        over = lambda algorithm: jax.vmap(lambda count: step(algorithm, count))(counts)
        algorithms = {str(shape): make(**settings, decay_shape=shape) for shape in (None, "linear", "cosine")}
        return over(make()), {shape: over(algorithm) for shape, algorithm in algorithms.items()}

    (whole, _), decayed = steps()
    for shape, (change, rate) in decayed.items():
        progress = (1 - np.cos(np.pi * part)) / 2 if shape == "cosine" else part
        share = 1 - 0.9 * progress
        np.testing.assert_allclose(change, whole * share[:, None], rtol=1e-9)
        np.testing.assert_allclose(rate, 3e-4 * share, rtol=1e-6)


def test_a_decay_that_would_do_nothing_is_refused():
    with pytest.raises(ValueError, match="decay_share needs decay_updates, got 0.1 without"):
        make(decay_share=0.1)
    with pytest.raises(ValueError, match="decay_shape must be one of linear, cosine; got 'step'"):
        make(decay_updates=10, decay_shape="step")


def test_temperature_rises_while_the_entropy_is_below_its_target(getkey):
    key = getkey()

    def change(scale):
        algorithm = sac(**TINY, temperature=0.3, target_entropy_scale=scale, temperature_learning_rate=0.01)
        keys = jax.random.split(key, 3)
        state = algorithm.init(keys[0], SPEC)
        new, metrics = algorithm.update(state, experience(keys[1]), keys[2])
        return jnp.log(new.temperature) - jnp.log(0.3), metrics["actor/entropy"]

    changes = jax.jit(jax.vmap(change))
    change, entropy = changes(jnp.asarray([-50.0, 50.0]))  # target entropies of 100 and -100 nats
    assert np.all(np.abs(entropy) < 100)
    np.testing.assert_allclose(change, [0.01, -0.01], rtol=1e-4)
    # One and a half times what it has, and half of that, in both dimensions of the action together.
    change, _ = changes(entropy * jnp.asarray([-1.5, -0.5]) / SPEC.action_size)
    np.testing.assert_allclose(change, np.sign(entropy) * [0.01, -0.01], rtol=1e-4)


def test_statistics_do_not_depend_on_how_the_data_are_split(x64, getkey):
    data = 3.0 + 5.0 * jax.random.normal(getkey(), (60, 3)) * jnp.asarray([[1.0, 10.0, 0.0]])
    start = Normaliser.start(3)
    np.testing.assert_array_equal(start(data), data)  # nothing known: the identity
    parts = start.update(data[:1]).update(data[1:8].reshape(7, 1, 3)).update(data[8:].reshape(4, 13, 3))
    for statistics in (parts, start.update(data)):
        np.testing.assert_allclose(statistics.mean, data.mean(0), rtol=1e-12)
        np.testing.assert_allclose(statistics.second / 60, data.var(0), rtol=1e-12, atol=1e-24)
        expected = (data - data.mean(0)[None]) / np.maximum(data.std(0), 1e-2)[None]
        np.testing.assert_allclose(statistics(data), expected, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(statistics(data[0]), expected[0], rtol=1e-10, atol=1e-10)


def test_replay_keeps_the_newest(getkey):
    replay = Replay.start({"x": jnp.zeros(()), "y": jnp.zeros(2, jnp.int32)}, 6)
    item = lambda i: {"x": jnp.arange(2.0) + 2 * i + 1, "y": jnp.full((2, 2), i)}
    add = jax.jit(lambda replay, item: replay.add(item))
    for i in range(2):
        replay = add(replay, item(i))
    draw = jax.jit(lambda replay, key: replay.sample(key, 400))
    assert set(np.asarray(draw(replay, getkey())["x"]).tolist()) == {1.0, 2.0, 3.0, 4.0}  # nothing unwritten
    for i in range(2, 5):
        replay = add(replay, item(i))
    assert (int(replay.size), int(replay.cursor)) == (6, 4)
    np.testing.assert_array_equal(replay.data["x"], [7.0, 8.0, 9.0, 10.0, 5.0, 6.0])
    batch = draw(replay, getkey())
    counts = np.bincount(np.asarray(batch["x"], int), minlength=11)
    assert counts[:5].sum() == 0 and np.all(np.abs(counts[5:] - 400 / 6) < 6 * np.sqrt(400 / 6))
    np.testing.assert_array_equal(
        batch["y"][:, 0], (np.asarray(batch["x"], int) - 1) // 2
    )  # rows stay together
    with pytest.raises(ValueError, match="replay capacity must be a multiple of the 4 items"):
        replay.add(jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), item(0)))


def test_what_the_update_is_given(getkey):
    """Stored as they came, both observations standardised with the newest statistics when drawn."""
    zeros, no = jnp.zeros((12, 2)), jnp.zeros(12, bool)
    blank = Transition(zeros, zeros, zeros[:, 0], zeros, no, no)

    def stay(state, obs, key, mode):
        return jnp.zeros(2), {}

    recorder = Algorithm("recorder", "off_policy", lambda key, spec: blank, stay, lambda _, b, key: (b, {}))
    run = off_policy(
        recorder,
        MultiGoal(horizon=3),
        num_envs=2,
        batch_size=12,
        replay_size=12,
        warmup=4,
        evaluation_interval=16,
        evaluation_episodes=2,
        normalise_observations=True,
        reward_scale=0.5,
    )
    state, _ = jax.jit(run.step)(jax.jit(run.init)(getkey()))
    stored, batch, statistics = state.experience.replay.data, state.algorithm, state.normaliser
    np.testing.assert_array_equal(stored.next_obs, stored.obs)  # who stays where he is, also at a time limit
    assert np.any(stored.truncated) and statistics.count == 20
    np.testing.assert_array_equal(batch.next_obs, batch.obs)
    rewards = jax.vmap(MultiGoal().reward)(stored.obs, jnp.zeros((12, 2)))
    np.testing.assert_allclose(stored.reward, 0.5 * rewards, rtol=1e-6)
    rows = np.concatenate([statistics(stored.obs), stored.reward[:, None]], axis=1)
    drawn = np.concatenate([batch.obs, batch.reward[:, None]], axis=1)
    assert np.all(np.min(np.abs(drawn[:, None] - rows[None]).max(-1), axis=1) < 1e-5)


def bits(tree, seed):
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    as_data = lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)[seed]
    return [as_data(leaf) for leaf in jax.tree.leaves(tree)]


def test_a_diverged_seed_is_frozen_and_spoils_no_other(getkey):
    run = off_policy(
        sac(**TINY),
        MultiGoal(horizon=5),
        num_envs=2,
        batch_size=8,
        replay_size=64,
        warmup=15,
        updates_per_step=2,
        evaluation_interval=4,
        evaluation_episodes=2,
        normalise_observations=True,
    )
    state = jax.jit(jax.vmap(run.init))(jax.random.split(getkey(), 2))
    assert state.steps.tolist() == [16, 16]  # rounded up to whole steps of all environments
    assert run.steps_at_start == 16
    assert state.experience.replay.size.tolist() == [16, 16]
    step = jax.jit(jax.vmap(run.step))
    # One environment of seed 0 blows up.
    where = lambda s: (s.experience.envs.env, s.experience.envs.obs)
    broken = eqx.tree_at(where, state, replace_fn=lambda leaf: leaf.at[0, 1].set(jnp.nan))
    healthy, _ = step(state)
    broken, metrics = step(broken)
    assert broken.alive.tolist() == [False, True]
    assert broken.failed_at.tolist() == [18, -1]  # at once: the statistics no longer read
    assert broken.steps.tolist() == [20, 20]
    assert np.isfinite(metrics["evaluate/return"]).all()  # of the last finite policy, seed 0
    for left, right in zip(bits(healthy, 1), bits(broken, 1), strict=True):
        np.testing.assert_array_equal(left, right)
    frozen = lambda s: (s.algorithm, s.normaliser)
    for left, right in zip(bits(frozen(state), 0), bits(frozen(broken), 0), strict=True):
        np.testing.assert_array_equal(left, right)


def test_noise_is_cut_off_at_the_box(getkey):
    """Of an action, and of the samples of which the best is chosen."""
    beyond = jnp.asarray([-3.0, 0.5, 3.0])
    first, obs = lambda obs, action: action[0], jnp.zeros(SPEC.obs_size)
    action, log_prob = within_box(lambda *_: (beyond, jnp.asarray(0.25)))(None, first, obs, getkey())
    np.testing.assert_array_equal(action, [-1.0, 0.5, 1.0])
    assert log_prob == 0.25
    policy = field_policy(hidden=(4,), sampler_steps=2)
    field, act = policy.make(getkey(), SPEC), policy.best(8, noise=20.0)
    key = getkey()
    for side in (-1.0, 1.0):
        action, _ = act(field, lambda obs, action, side=side: side * first(obs, action), obs, key)
        assert action[0] == side
        assert jnp.max(jnp.abs(action)) <= 1
