"""DDiffPG: what is drawn, improved and learned for each group, how it acts, and what a new clustering hands down."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float
from transitions import experience

from dpolicy._types import Transition
from dpolicy.algorithm import Stored
from dpolicy.algorithms import ddiffpg, dipo
from dpolicy.envs import MultiGoal
from dpolicy.learning import Parts
from dpolicy.losses import categorical_loss, categorical_target, gradient_ascent
from dpolicy.modes import Episodes, per_group, shares
from dpolicy.optimisers import adam, learner
from dpolicy.train import Replay, off_policy

TINY = {
    "hidden": (8,),
    "critic_hidden": (8,),
    "novelty_hidden": (8,),
    "sampler_steps": 2,
    "ascent_steps": 3,
    "atoms": 5,
    "max_modes": 2,
    "path_points": 4,
    "remembered_episodes": 16,
    "clustered_episodes": 8,
    "discovery_interval": 2,
}


class Spec:
    obs_size = action_size = 2


class Peaks(eqx.Module):
    """Twin critics whose mean is -scale |a - peak|^2 / 2, as laws on the atoms -low and 0."""

    peak: Float[Array, "*groups a"]
    scale: float
    low: float

    def __call__(self, obs, action):
        value = -0.5 * self.scale * jnp.sum((action - jax.lax.stop_gradient(self.peak)) ** 2)
        law = jnp.log(jnp.stack([value / self.low, 1 - value / self.low]) + 1e-30)
        return jnp.stack([law, law])


class Fixed(eqx.Module):
    """Twin critics with one law each, whatever the state and action."""

    logits: Float[Array, "*groups 2 n"]

    def __call__(self, obs, action):
        return jax.nn.log_softmax(self.logits)


def given_critics(state, critics):
    """The state with other critics, which move by next to nothing."""
    still = per_group(adam(1e-20, max_grad_norm=1.0, weight_decay=0.0))
    return Parts(state, critic=learner(critics, still), target=critics)


def with_modes(state, live):
    return eqx.tree_at(lambda s: s.discovered.live, state, jnp.asarray(live))


def drawn(algorithm, batch):
    return dataclasses.replace(batch, extras=jax.vmap(algorithm.memory.start)(batch))


def test_with_one_group_it_learns_what_dipo_learns(x64, getkey):
    """Check (a): before anything is found, the improved actions are DIPO's; and so is the loss, but for z."""
    batch = experience(getkey(), 8)
    scale, peak = 1e7, jnp.asarray([0.4, -0.8])
    frame = {
        "hidden": (8,),
        "critic_hidden": (8,),
        "sampler_steps": 2,
        "ascent_steps": 15,
        "ascent_norm": None,
    }
    laws = {"value_low": -1e8, "value_high": 0.0, "atoms": 2}
    ours, theirs = ddiffpg(**TINY | frame | laws), dipo(**frame)
    q = lambda obs, action: -0.5 * scale * jnp.sum((action - peak) ** 2)

    class Twin(eqx.Module):
        def __call__(self, obs, action):
            return jnp.stack([q(obs, action), q(obs, action)])

    @jax.jit
    def revised(key):
        state = given_critics(
            ours.init(key, Spec), Peaks(jnp.broadcast_to(peak, (3, 2)), jnp.full(3, scale), jnp.full(3, -1e8))
        )
        mine = ours.memory.revise(state, drawn(ours, batch), key).extras["improved"]
        other = Parts(theirs.init(key, Spec), critic=Twin())
        return mine, theirs.memory.revise(other, drawn(theirs, batch), key).extras["improved"]

    mine, other = revised(getkey())
    np.testing.assert_allclose(mine[:, 0], other, rtol=1e-6)
    np.testing.assert_array_equal(mine[:, 1], batch.action)  # other groups' actions stay
    assert np.abs(other - batch.action).max() > 0.2


def test_improved_actions_stay_a_little_inside_the_box(x64, getkey):
    """Above a maximum outside the box they end 1e-5 inside its faces, where tanh and logarithms are finite."""
    batch = experience(getkey(), 8)
    frame = {
        "hidden": (8,),
        "critic_hidden": (8,),
        "sampler_steps": 2,
        "ascent_steps": 100,
        "ascent_norm": None,
    }
    algorithm = ddiffpg(**TINY | frame | {"value_low": -1e8, "value_high": 0.0, "atoms": 2})
    peaks = Peaks(jnp.broadcast_to(jnp.asarray([30.0, -40.0]), (3, 2)), jnp.full(3, 1e4), jnp.full(3, -1e8))

    @jax.jit
    def revised(key):
        state = given_critics(algorithm.init(key, Spec), peaks)
        return algorithm.memory.revise(state, drawn(algorithm, batch), key).extras["improved"]

    improved = np.asarray(revised(getkey()))[:, 0]
    np.testing.assert_allclose(improved, np.tile([1 - 1e-5, -1 + 1e-5], (8, 1)), rtol=0, atol=1e-9)


def test_reward_of_the_exploring_group_is_intrinsic_and_targets_are_element_wise_minima(x64, getkey):
    logits = jax.random.normal(getkey(), (3, 2, 5))
    settings = {"value_low": -1.0, "value_high": 1.0, "discount": 0.5, "novelty_scale": 0.0}
    algorithm = ddiffpg(**TINY, **settings)
    batch = drawn(algorithm, experience(getkey(), 9))
    batch = dataclasses.replace(batch, terminated=jnp.arange(9) % 2 == 0)
    for live in ([True, False, False], [True, False, True]):
        state = with_modes(algorithm.init(getkey(), Spec), live)
        _, metrics = jax.jit(algorithm.update)(given_critics(state, Fixed(logits)), batch, getkey())
        group = np.asarray(shares(jnp.asarray(live), 9))
        losses = []
        for i, g in enumerate(group):
            reward = batch.reward[i] if g > 0 else jnp.zeros(())
            laws = jax.nn.softmax(logits[g])
            both = [categorical_target(p, reward, batch.terminated[i], 0.5, low=-1.0, high=1.0) for p in laws]
            losses.append(sum(categorical_loss(jnp.log(p), jnp.minimum(*both)) for p in laws))
        np.testing.assert_allclose(metrics["critic/loss"], np.mean(losses), rtol=1e-10)
        assert metrics["modes"] == sum(live) - 1


def test_the_policy_sees_z_of_every_group_and_none_on_every_other_row_of_a_mode(x64, getkey):
    """The actor's loss changes with z_0, with z_2 while mode 2 is in use, and with nothing else of the embedding."""
    algorithm = ddiffpg(**TINY)
    batch, key = drawn(algorithm, experience(getkey(), 12)), getkey()
    state = with_modes(algorithm.init(getkey(), Spec), [True, False, True])

    @jax.jit
    def loss(embedding):
        changed = eqx.tree_at(lambda s: s.discovered.embedding, state, embedding)
        return algorithm.update(changed, batch, key)[1]["actor/loss"]

    slope = jax.grad(loss)(state.discovered.embedding)
    np.testing.assert_array_equal(np.any(slope != 0, axis=1), [True, False, True])


def test_how_it_acts(getkey):
    algorithm = ddiffpg(**TINY, exploration_updates=3)
    assert algorithm.modes == ("explore", "evaluate", "mode_1", "mode_2")
    state = algorithm.init(getkey(), Spec)
    state = eqx.tree_at(lambda s: s.discovered.embedding, state, 10 * state.discovered.embedding)
    obs, keys = jnp.ones(2), jax.random.split(getkey(), 400)
    act = jax.jit(
        lambda s, mode: jax.vmap(lambda key: algorithm.act(s, obs, key, mode)[0])(keys), static_argnums=1
    )
    evaluate = act(state, "evaluate")
    np.testing.assert_array_equal(act(state, "mode_2"), evaluate)  # there is no such mode
    found = with_modes(state, [True, False, True])
    assert np.any(act(found, "mode_2") != evaluate)
    np.testing.assert_array_equal(act(found, "mode_1"), evaluate)
    # The share of draws under z_0: all, a half with one mode, none at the end. With no noise they are told apart.
    quiet = ddiffpg(**TINY, exploration_updates=3, exploration_low=0.0, exploration_high=0.0)

    # One program for both states: where the compiler knows the zeros it rounds differently.
    one = jax.jit(lambda s: jax.vmap(lambda key: quiet.act(s, obs, key, "explore", jnp.zeros(()))[0])(keys))

    def under_z(state):
        other = eqx.tree_at(
            lambda s: s.discovered.embedding, state, jnp.zeros_like(state.discovered.embedding)
        )
        return jnp.mean(jnp.any(one(state) != one(other), axis=1))

    late = Parts(found, updates=jnp.asarray(3))
    assert under_z(late) == 0
    told_apart = under_z(state)  # not where both are cut off at the box
    assert told_apart > 0.5
    assert under_z(found) / told_apart == pytest.approx(0.5, abs=0.12)
    # Noise grows from the first environment to the last; the same keys draw the same direction.
    at = jax.jit(
        lambda place: (
            jax.vmap(lambda key: algorithm.act(late, obs, key, "explore", place)[0])(keys) - evaluate_at
        )
    )
    evaluate_at = jax.jit(jax.vmap(lambda key: quiet.act(late, obs, key, "explore", jnp.zeros(()))[0]))(keys)
    inside = np.abs(evaluate_at) < 0.7
    first, last = at(jnp.zeros(())), at(jnp.ones(()))
    assert np.std(first[inside]) == pytest.approx(0.05, rel=0.15)
    assert np.std(last[inside]) > 5 * np.std(first[inside])
    np.testing.assert_allclose(
        [np.min(last + evaluate_at), np.max(last + evaluate_at)], [-1, 1], atol=1e-6
    )  # the box, of both sides


def test_every_mode_has_its_share_of_the_policy_whatever_its_share_of_the_replay(getkey):
    """Check (c): Q_g = -(a -+ .5)^2; the policy under z = 0 has both modes, a half each, and z_g picks one.

    A stateless problem, 600 episodes of one uniform action, of which 95 or 50 in a hundred are mode 1. The learning
    rate falls to zero: at a constant one the shares fluctuate by some hundredths.
    """

    class One:
        obs_size = action_size = 1

    def at(rate):
        nets = {"hidden": (48, 48), "critic_hidden": (4,), "novelty_hidden": (4,), "embedding": "cos_sin"}
        sizes = {"max_modes": 2, "atoms": 2, "remembered_episodes": 600, "clustered_episodes": 4}
        return ddiffpg(**nets, **sizes, value_low=-4.5, value_high=0.0, learning_rate=rate)

    critics = Peaks(jnp.asarray([[0.0], [0.5], [-0.5]]), jnp.full(3, 2.0), jnp.full(3, -4.5))
    size, updates, none, yes = 600, 1500, jnp.zeros((600, 1)), jnp.ones(600, bool)
    rates = 0.005 * (1 + jnp.cos(jnp.pi * jnp.arange(updates) / updates)) + 1e-9

    @jax.jit
    def train(label, key):
        keys, algorithm = jax.random.split(key, 4), at(1e-2)
        action = jax.random.uniform(keys[0], (size, 1), minval=-1.0, maxval=1.0)
        batch = drawn(algorithm, Transition(none, action, none[:, 0], none, yes, ~yes))
        replay = Replay(batch, jnp.asarray(0), jnp.asarray(size), size)
        rows = jnp.arange(size, dtype=jnp.int32)
        episodes = Episodes(rows, rows, jnp.ones_like(rows), jnp.zeros(size), yes)
        state = given_critics(algorithm.init(keys[1], One), critics)
        where = lambda s: (s.discovered.live, s.discovered.episodes, s.discovered.label)
        state = eqx.tree_at(where, state, (jnp.ones(3, bool), episodes, label))

        def one(carry, inputs):
            (state, replay), (key, rate) = carry, inputs
            draw_key, revise_key, key = jax.random.split(key, 3)
            stored = Stored(replay.data, replay.cursor, replay.size, 1)
            rows = algorithm.memory.draw(state, stored, draw_key, 96)
            batch = algorithm.memory.revise(state, replay[rows], revise_key)
            replay = replay.rewrite(rows, lambda item: item.extras, batch.extras)
            return (at(rate).update(state, batch, key)[0], replay), None

        (state, _), _ = jax.lax.scan(one, (state, replay), (jax.random.split(keys[2], updates), rates))
        sample = lambda mode: jax.vmap(lambda key: algorithm.act(state, jnp.zeros(1), key, mode)[0][0])(
            jax.random.split(keys[3], 4000)
        )
        return {mode: sample(mode) for mode in ("evaluate", "mode_1", "mode_2")}

    for first in (570, 300):
        label = jnp.where(jnp.arange(size) < first, 1, 2).astype(jnp.int32)
        actions = jax.tree.map(np.asarray, train(label, getkey()))
        free = actions["evaluate"]
        assert np.mean(free > 0) == pytest.approx(0.5, abs=0.03)
        assert np.mean(np.abs(free) < 0.25) < 0.35  # what lies between is the blur of a chain of five steps
        assert np.mean(np.abs(actions["mode_1"] - 0.5) < 0.1) > 0.9
        assert np.mean(np.abs(actions["mode_2"] + 0.5) < 0.1) > 0.9


def tagged(state):
    """The state with critics, optimiser state and targets that carry the number of their group."""
    count = state.discovered.live.shape[0]

    def tag(leaf):
        if not eqx.is_array(leaf):
            return leaf
        return jnp.broadcast_to(jnp.arange(count).reshape(-1, *[1] * (leaf.ndim - 1)), leaf.shape).astype(
            leaf.dtype
        )

    where = lambda s: (s["critic"], s["target"])
    return eqx.tree_at(where, state, jax.tree.map(tag, where(state)))


def test_new_modes_inherit_critics_optimisers_and_improved_actions(getkey):
    """Two clusters, of which the first shares most with mode 2 and the other is new."""
    algorithm = ddiffpg(**TINY)
    obs = jnp.asarray([[0.0, 0.0], [5.0, 0.0], [0.1, 0.0], [5.1, 0.0]])
    yes = jnp.ones(4, bool)
    batch = drawn(algorithm, Transition(obs, obs, obs[:, 0], obs, yes, ~yes))
    improved = jnp.broadcast_to(jnp.arange(3.0)[None, :, None], (4, 3, 2))
    batch = dataclasses.replace(batch, extras={"improved": improved, "seen": jnp.arange(4) % 2 == 0})
    pad = lambda leaf: jnp.concatenate([leaf, leaf])
    stored = (jax.tree.map(pad, batch), jnp.asarray(4), jnp.asarray(4))
    state = tagged(with_modes(algorithm.init(getkey(), Spec), [True, False, True]))
    row, one = jnp.asarray([2, 0], jnp.int32), jnp.ones(2, jnp.int32)
    fill = lambda some, all: all.at[: some.shape[0]].set(some)
    known = Episodes(row, row, one, jnp.zeros(2), one > 0)
    where = lambda s: (s.discovered.episodes, s.discovered.label)
    known = jax.tree.map(fill, (known, 2 * one), where(state))
    state = eqx.tree_at(where, state, known)
    organise = jax.jit(lambda s, stored, key: algorithm.memory.organise(s, Stored(*stored, 1), key))
    new, extras = organise(state, stored, getkey())
    np.testing.assert_array_equal(new.discovered.live, True)
    mode_of = dict(
        zip(np.asarray(new.discovered.episodes.last)[:4], np.asarray(new.discovered.label)[:4], strict=True)
    )
    assert mode_of == {0: 2, 1: 1, 2: 2, 3: 1}
    assert extras["seen"].all()
    source = [0, 0, 2]  # mode 1 is new: from the exploring group
    np.testing.assert_array_equal(extras["improved"][0, :, 0], source)
    for part in (new.critic, new["critic"].opt_state, new.target):
        for leaf in jax.tree.leaves(eqx.filter(part, eqx.is_array)):
            np.testing.assert_array_equal(leaf.reshape(3, -1)[:, 0], source)
    np.testing.assert_array_equal(new.discovered.embedding[2], state.discovered.embedding[2])
    assert np.all(new.discovered.embedding[1] != state.discovered.embedding[1])


PROGRAM = {
    "num_envs": 2,
    "batch_size": 9,
    "replay_size": 256,
    "warmup": 200,
    "evaluation_interval": 8,
    "evaluation_episodes": 1,
}


def test_the_program_draws_by_mode_and_looks_at_the_replay_now_and_then(getkey):
    env = MultiGoal(start_std=0.1, goal_radius=2.5)
    program = off_policy(ddiffpg(**TINY), env, **PROGRAM, evaluation_modes=("evaluate", "mode_1"))
    before = jax.jit(program.init)(getkey())
    state = before.algorithm
    assert state.discovered.live[:2].all()  # the warmup was looked at
    assert state.updates == 0
    step = jax.jit(program.step)
    after, metrics = step(before)
    assert after.algorithm.updates == 4
    assert metrics["modes"] >= 1
    assert np.isfinite(metrics["evaluate/mode_1/return"])
    old, new = before.experience.replay.data, after.experience.replay.data
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(old, name)[:200], getattr(new, name)[:200])
    again, _ = step(before)
    for ours, theirs in zip(jax.tree.leaves(after), jax.tree.leaves(again), strict=True):
        if not jax.dtypes.issubdtype(ours.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(ours, theirs)


def test_what_is_refused():
    with pytest.raises(
        ValueError, match=r"evaluation_interval must be a multiple of num_envs \* 3 = 6 for ddiffpg"
    ):
        off_policy(ddiffpg(**TINY | {"discovery_interval": 3}), MultiGoal(), **PROGRAM)
    with pytest.raises(ValueError, match="value_high - value_low must be a finite number in"):
        ddiffpg(**TINY, value_low=1.0, value_high=1.0)
    with pytest.raises(ValueError, match="clustered_episodes must be an integer from 1 to 16, got 17"):
        ddiffpg(**TINY | {"clustered_episodes": 17})
    with pytest.raises(ValueError, match="an entry of position must be an integer from 0 to 1, got 2"):
        ddiffpg(**TINY, position=(0, 2)).init(jax.random.key(0), Spec)


def test_ascent_is_bounded_by_group(x64):
    """`limit` sees the gradient of every step; here it turns the ascent into a descent."""
    climbed = lambda limit: gradient_ascent(
        lambda a: jnp.sum(a), jnp.zeros((2, 1)), steps=3, rate=0.1, limit=limit
    )
    np.testing.assert_allclose(
        climbed(lambda g: g * jnp.asarray([[1.0], [-1.0]])), [[0.3], [-0.3]], rtol=1e-4
    )
