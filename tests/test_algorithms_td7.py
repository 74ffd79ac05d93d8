"""TD7: embeddings, prioritised replay with its loss, bounds of targets, checkpoints, and an update by hand."""

import dataclasses
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transitions import experience

from dpolicy._types import Transition
from dpolicy.algorithm import Stored
from dpolicy.algorithms import bc, ddiffpg, td3, td7
from dpolicy.blocks import draw_by_weight, policy_checkpoints, prioritised, value_range
from dpolicy.envs import Probe, Vector
from dpolicy.learning import Parts, Seen
from dpolicy.losses import batched, huber, next_embedding
from dpolicy.networks import Seeing, StateActionEncoder, avg_l1_norm
from dpolicy.train import OffPolicyLoop
from dpolicy.train.program import checked_parts

KEY = jax.random.key(0)
SIZE = 6
TINY = {"hidden": (4,), "critic_hidden": (4,), "encoder_hidden": (4,), "embedding_size": 3}


class Spec:
    obs_size = action_size = 2


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def test_avg_l1_norm():
    found = avg_l1_norm(jnp.asarray([[1.0, -3.0], [0.0, 0.0], [1e-9, 0.0]]))
    np.testing.assert_allclose(found, [[0.5, -1.5], [0, 0], [0.1, 0]], rtol=1e-6)


def test_the_embedding_that_is_predicted_is_not_moved(x64):
    """The gradient is that of |g(f(s), a) - c|^2 with c a constant, which f(s') happens to be."""
    encoder = StateActionEncoder(2, 2, embedding_size=3, hidden=(4,), key=KEY)
    example = jax.tree.map(lambda leaf: leaf[0], experience(KEY, 2))
    constant = encoder.state(example.next_obs)
    by_hand = lambda e: jnp.mean((e(example.obs, example.action)[1] - constant) ** 2)
    (value, found), expected = jax.jit(
        lambda: (
            eqx.filter_value_and_grad(lambda e: next_embedding()(e, example, KEY)[0])(encoder),
            eqx.filter_value_and_grad(by_hand)(encoder),
        )
    )()
    np.testing.assert_allclose(value, expected[0], rtol=1e-9)
    for x, y in zip(leaves(found), leaves(expected[1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jnp.mean(jnp.abs(constant)), 1, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_prioritised_draws_of_hubers_loss_have_the_gradient_of_pal(alpha, x64):
    """sum_i p_i H'(u_i) = sum_i PAL'(u_i), PAL = u^2 / 2 up to 1, |u|^(1 + alpha) / (1 + alpha) beyond; / sum of p."""
    u = jnp.asarray([-7.0, -1.5, -0.4, 0.1, 0.9, 2.0, 30.0])
    priority = jnp.maximum(jnp.abs(u), 1) ** alpha
    found = jnp.sum(priority / jnp.sum(priority) * jax.vmap(jax.grad(huber))(u))
    pal = lambda u: jnp.where(jnp.abs(u) <= 1, u**2 / 2, jnp.abs(u) ** (1 + alpha) / (1 + alpha))
    np.testing.assert_allclose(found, jnp.sum(jax.vmap(jax.grad(pal))(u)) / jnp.sum(priority), rtol=1e-9)


def test_draws_in_proportion_to_weights():
    """Over three levels of blocks, whatever order the weights have; what weighs nothing is never drawn."""
    size = 32 * 33 + 5
    weights = jnp.asarray(np.random.default_rng(0).uniform(0, 1, size) ** 4).at[jnp.arange(0, size, 3)].set(0)
    weights = weights.at[700].set(float(jnp.sum(weights)))  # half of all draws
    draws = 20_000
    rows = jax.jit(lambda: draw_by_weight(weights, KEY, draws))()
    counts, share = np.bincount(rows, minlength=size), np.asarray(weights / jnp.sum(weights))
    assert counts.shape == (size,) and np.all(counts[share == 0] == 0)
    deviation = np.sqrt(draws * share * (1 - share))
    z = (counts - draws * share)[share > 0] / deviation[share > 0]
    assert np.abs(z).max() < 5 and 0.85 < np.mean(z**2) < 1.15
    one = jnp.zeros(40).at[37].set(2.0)
    np.testing.assert_array_equal(draw_by_weight(one, KEY, 50), 37)


def test_targets_bound_values_from_the_next_copy_on():
    stage = value_range(2)
    part = stage.start(KEY, Spec, Parts())
    assert (part(jnp.asarray(5.0)), part(jnp.asarray(-5.0))) == (0, 0)
    found = []
    for updates, targets in enumerate(([1.0, 4.0], [-2.0, 3.0], [9.0, 9.0], [0.0, 0.0]), 1):
        batch = dataclasses.replace(experience(KEY, 2), extras={"target": jnp.asarray(targets)})
        part, _, _ = stage.step(part, Seen(Parts(), Parts(), batch, jnp.asarray(updates), {}, "bounds"), KEY)
        found.append((float(part(jnp.asarray(100.0))), float(part(jnp.asarray(-100.0)))))
    assert found == [(0, 0), (4, -2), (4, -2), (9, -2)]


class Played:
    """Episodes of one step or two in n environments; the actor is the number of the step, so that it can be told."""

    def __init__(self, n, **settings):
        self.kept = policy_checkpoints(policy=lambda parts: {"actor": parts.actor}, **settings)
        parts = Parts(actor=jnp.zeros(()), updates=jnp.asarray(0))
        for name in ("behaviour", "checkpoint", "assessment"):
            parts = Parts(parts, {name: self.kept.stages[name].start(KEY, Spec, parts)})
        self.state, zero, enter = parts, jnp.zeros(n), self.kept.memory.enter
        assert enter is not None
        # A ring of one step, which is the last one.
        ring = lambda items: Stored(items, jnp.asarray(0), jnp.asarray(n), n)
        self.enter = jax.jit(lambda state, items, new: enter(state, ring(items), new))
        blank = Transition(zero[:, None], zero[:, None], zero, zero[:, None], zero > 1, zero > 1)
        self.items = dataclasses.replace(blank, extras=jax.vmap(self.kept.memory.start)(blank))
        self.time = 0

    def step(self, rewards, done, updates=0):
        """The checkpoint, the behaviour and the number of the assessment after a step."""
        self.time += 1
        self.state = Parts(self.state, actor=jnp.asarray(float(self.time)), updates=jnp.asarray(updates))
        new = dataclasses.replace(self.items, reward=jnp.asarray(rewards), truncated=jnp.asarray(done))
        new = dataclasses.replace(new, extras=jax.vmap(self.kept.memory.start)(new))
        self.state, self.items = self.enter(self.state, self.items, new)
        now = self.state.assessment
        return float(self.state.checkpoint["actor"]), float(self.state.behaviour["actor"]), int(now.number)


def test_the_rule_of_checkpoints_by_hand():
    """One environment, assessments of two episodes, of three from the tenth update on; the first episode is random."""
    play = Played(1, first_episodes=2, later_episodes=3, later_after=10, best_weight=0.5)
    step = lambda reward, done=True, updates=0: play.step([reward], [done], updates)
    assert step(1e9) == (0, 0, 0)  # began before the first assessment
    assert step(3.0) == (0, 0, 0)
    assert step(2.0, done=False) == (0, 0, 0)
    assert step(2.0) == (0, 4, 1)  # two episodes of 3 and 4: what acted is kept, what is trained acts
    assert play.state.assessment.best == 3
    assert step(2.9) == (0, 5, 2)  # below 3: at once another policy
    assert step(3.0) == (0, 5, 2)
    assert step(8.0, updates=10) == (5, 7, 3)  # equal is enough; and now it is late
    assert play.state.assessment.best == 1.5 and play.state.assessment.several
    assert step(1.5, updates=11) == (5, 7, 3)
    assert step(6.0, updates=12) == (5, 7, 3)
    assert step(2.0, updates=13) == (7, 10, 4)  # three of them
    assert play.state.assessment.best == 1.5 and play.state.assessment.passed == 3


def test_checkpoints_of_several_environments():
    """Three episodes of two environments: two of the first, one of the second, whose others do not count."""
    play = Played(2, first_episodes=3)
    assert play.step([0.0, 0.0], [True, False]) == (0, 0, 0)
    assert play.step([5.0, -9.0], [True, True]) == (0, 0, 0)  # the second's began before
    assert play.step([1.0, 7.0], [False, True]) == (0, 0, 0)
    assert play.step([1.0, -9.0], [False, True]) == (0, 0, 0)  # it has played its share
    assert play.step([2.0, 1.0], [True, False]) == (0, 5, 1)  # 5, 4 and 7
    assert play.state.assessment.best == 4
    # The second's episode is of two policies.
    assert play.step([4.0, -9.0], [True, True]) == (0, 5, 1)
    assert play.step([4.0, 3.0], [False, True]) == (0, 7, 2)  # 3: the end


SETTINGS = {**TINY, "discount": 0.9, "target_interval": 2, "priority_floor": 0.3, "target_noise": 0.0}


def test_an_update_by_hand_and_what_is_frozen(x64):
    """Target, priority and loss of a transition; copies at the second update, each of where the one before it was."""

    @jax.jit
    def run():
        made, batch = td7(**SETTINGS), experience(KEY, SIZE)
        batch = dataclasses.replace(batch, terminated=jnp.arange(SIZE) % 3 == 1)
        memory = made.memory
        assert memory is not None and made.stages is not None
        start = made.init(KEY, Spec)
        # No two networks alike, and bounds that some of the values exceed.
        names = ("encoder", "fixed_encoder", "target_encoder", "actor", "target_actor", "target")
        for i, name in enumerate(names):
            where = lambda s, name=name: s[name].model if hasattr(s[name], "model") else s[name]
            scaled = jax.tree.map(
                lambda x, i=i: (1 + 0.2 * i) * x if eqx.is_inexact_array(x) else x, where(start)
            )
            start = eqx.tree_at(where, start, scaled)
        bounds = dataclasses.replace(start.bounds, low=jnp.asarray(-0.05), high=jnp.asarray(0.02))
        start = Parts(start, bounds=bounds)
        batch = dataclasses.replace(batch, extras=jax.vmap(memory.start)(batch))

        def step(state, key):
            revised = memory.revise(state, batch, key)
            new, metrics = made.update(state, revised, key)
            return new, (new, metrics, revised.extras)

        _, results = jax.lax.scan(step, start, jax.random.split(KEY, 3))

        def by_hand(e):
            z = start.target_encoder.state(e.next_obs)
            action = start.target_actor(e.next_obs, z)
            following = start.target(e.next_obs, action, z, start.target_encoder.pair(z, action))
            y = e.reward + jnp.where(e.terminated, 0, 0.9 * jnp.clip(jnp.min(following), -0.05, 0.02))
            z = start.fixed_encoder.state(e.obs)
            difference = start.critic(e.obs, e.action, z, start.fixed_encoder.pair(z, e.action)) - y
            size = jnp.abs(difference)
            # The kink at .3; its own code's loss is larger there by a constant.
            loss = jnp.where(size < 0.3, size**2 / 2, 0.3 * size - 0.045)
            return y, jnp.maximum(jnp.max(size), 0.3) ** 0.4, jnp.sum(loss), jnp.min(following)

        actor = made.stages["actor"].loss
        assert actor is not None
        after = jax.tree.map(lambda leaf: leaf[0], results[0])
        seen = Seen(start, after, batch, start.updates + 1, {}, "actor")

        def climbed(e):
            z = start.fixed_encoder.state(e.obs)
            action = start.actor(e.obs, z)
            values = after.critic(e.obs, action, z, start.fixed_encoder.pair(z, action))
            return actor(seen)(start.actor, e, KEY)[0], -jnp.mean(values)

        return start, results, jax.vmap(by_hand)(batch), jax.vmap(climbed)(batch)

    start, (states, metrics, extras), (y, priority, loss, following), climbed = run()
    assert np.any(following < -0.05) or np.any(following > 0.02)
    np.testing.assert_allclose(extras["target"][0], y, rtol=1e-9)
    np.testing.assert_allclose(extras["priority"][0], priority, rtol=1e-9)
    np.testing.assert_allclose(metrics["critic/loss"][0], np.mean(loss), rtol=1e-9)
    np.testing.assert_allclose(*climbed, rtol=1e-9)
    np.testing.assert_allclose(states.priorities.highest[0], max(0.3**0.4, priority.max()), rtol=1e-9)
    np.testing.assert_array_equal(states.priorities.stale, [False, True, True])
    begun, first, second, third = start, *(jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(3))
    for name in ("fixed_encoder", "target_encoder", "target_actor", "target"):
        assert same(begun[name], first[name]) and same(second[name], third[name]), name
    assert same(second.target_encoder, begun.fixed_encoder)
    for copy, of in (("fixed_encoder", "encoder"), ("target_actor", "actor"), ("target", "critic")):
        assert same(second[copy], second[of].model) and not same(begun[copy], second[copy]), copy
    np.testing.assert_allclose(second.bounds.low, extras["target"][:2].min(), rtol=1e-9)
    assert same(begun.actor, first.actor) and not same(first.actor, second.actor)
    for name in ("behaviour", "checkpoint", "assessment"):
        assert same(begun[name], third[name])


def test_what_is_new_has_the_highest_priority():
    """The highest of all until a copy, and then that of what is stored: rows beyond its size count for nothing."""
    made, batch = (
        prioritised(algorithm=td3(**{"hidden": (4,), "critic_hidden": (4,)}), interval=3),
        experience(KEY, 4),
    )
    memory = made.memory
    assert memory is not None and memory.enter is not None and memory.draw is not None
    items = dataclasses.replace(batch, extras={"priority": jnp.asarray([2.0, 1.0, 5.0, 7.0])})
    stored = Stored(items, jnp.asarray(2), jnp.asarray(2), 2)
    new = dataclasses.replace(batch, extras=jax.vmap(memory.start)(batch))
    new = jax.tree.map(lambda leaf: leaf[:2], new)
    state = jax.jit(lambda: made.init(KEY, Spec))()
    assert state.priorities.highest == 1
    for stale, expected in ((False, 6.0), (True, 2.0)):
        now = dataclasses.replace(state.priorities, highest=jnp.asarray(6.0), stale=jnp.asarray(stale))
        after, given = memory.enter(Parts(state, priorities=now), stored, new)
        np.testing.assert_array_equal(given.extras["priority"], expected)
        assert after.priorities.highest == expected and not after.priorities.stale
    assert np.asarray(memory.draw(state, stored, KEY, 30)).max() == 1


def test_another_method_with_prioritised_replay(x64):
    """The error of TD3's critics, of a target drawn for the purpose, on average over them; other exponent and floor."""
    made = prioritised(
        algorithm=td3(hidden=(4,), critic_hidden=(4,), target_noise=0.0, discount=0.9, critic="huber"),
        priority_exponent=1.0,
        priority_floor=1e-3,
    )
    memory = made.memory
    assert memory is not None

    @jax.jit
    def run():
        batch, state = experience(KEY, SIZE), made.init(KEY, Spec)
        batch = dataclasses.replace(batch, reward=4 * batch.reward)  # some errors on either side of 1
        batch = dataclasses.replace(batch, extras=jax.vmap(memory.start)(batch))
        revised = memory.revise(state, batch, KEY)
        following = jax.vmap(lambda o: jnp.min(state.target(o, state.target_actor(o))))(batch.next_obs)
        values = jax.vmap(state.critic)(batch.obs, batch.action)
        errors = batch.reward + 0.9 * following - jnp.mean(values, axis=1)
        loss = jnp.mean(jnp.sum(huber(batch.reward[:, None] + 0.9 * following[:, None] - values), axis=1))
        found = made.update(state, revised, KEY)[1]
        return (revised.extras["priority"], jnp.abs(errors)), (found["critic/loss"], loss), jnp.abs(errors)

    *pairs, sizes = run()
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert sizes.max() > 1 > sizes.min()


def test_the_trainer_shows_each_step():
    """Returns beside transitions are those that the environments count; what is new has the highest priority."""
    made = checked_parts(td7(**TINY, first_episodes=3), Probe("time_limit"), "off_policy")
    sizes = {"batch_size": 4, "replay_size": 40, "warmup": 2, "updates_per_step": 1, "interval": 50}
    loop = OffPolicyLoop(
        made, Vector(Probe("time_limit"), 2), **sizes, reward_scale=0.5, normalise_observations=False
    )

    @jax.jit
    def run():
        def step(carry, key):
            experience, learned = carry
            action = jnp.zeros((2, 1))
            experience, _, _, learned = loop.observe(experience, None, action, key, learned)
            return (experience, learned), learned.assessment.number

        state = loop.start(KEY)
        learned = Parts(
            state.algorithm,
            priorities=dataclasses.replace(state.algorithm.priorities, highest=jnp.asarray(3.0)),
        )
        return jax.lax.scan(step, (state.experience, learned), jax.random.split(KEY, 16))

    (experience, learned), numbers = run()
    last = jax.tree.map(lambda leaf: leaf[32:34], experience.replay.data)
    assert not np.any(last.done)
    np.testing.assert_allclose(last.extras["episode"][:, 0], 0.5 * experience.envs.returns, rtol=1e-6)
    np.testing.assert_array_equal(experience.replay.data.extras["priority"][:34], [1.0] * 2 + [3.0] * 32)
    # Episodes of two steps, of which the first began in the warmup; the first environment plays two.
    assert (numbers[3], numbers[4], numbers[-1] >= 3) == (0, 1, True)
    assert learned.assessment.passed >= 1


def test_the_distance_from_actions_of_the_replay_by_hand(x64):
    """.5 mean |Q| times the mean square of what is between them, of whose size the actor's gradient knows nothing."""
    made, batch = td7(**TINY, imitation_weight=0.5, checkpoints=False), experience(KEY, SIZE)

    @jax.jit
    def run():
        state, stages = made.init(KEY, Spec), made.stages
        assert stages is not None
        loss = stages["actor"].loss
        assert loss is not None
        per_example = loss(Seen(state, state, batch, state.updates + 1, {}, "actor"))
        mean = lambda actor: batched(per_example)(actor, batch, KEY)[0]
        q = lambda actor, e: jnp.mean(Seeing(state.critic, state.fixed_encoder)(e.obs, actor(e.obs)))
        values = jax.vmap(lambda e: q(Seeing(state.actor, state.fixed_encoder), e))(batch)

        def by_hand(actor):
            seeing = Seeing(actor, state.fixed_encoder)
            apart = jnp.mean((jax.vmap(seeing)(batch.obs) - batch.action) ** 2)
            return 0.5 * jnp.mean(jnp.abs(values)) * apart - jnp.mean(jax.vmap(lambda e: q(seeing, e))(batch))

        return [eqx.filter_value_and_grad(of)(state.actor) for of in (mean, by_hand)]

    (value, gradient), (expected, expected_gradient) = run()
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    for x, y in zip(leaves(gradient), leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)
    parts = jax.eval_shape(lambda: made.init(KEY, Spec))
    assert {"behaviour", "checkpoint", "assessment"}.isdisjoint(parts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: prioritised(algorithm=bc()),
            "algorithm must be made of stages and learn off policy, got bc.",
        ),
        (
            lambda: prioritised(algorithm=ddiffpg()),
            "algorithm must leave it to the replay what is drawn, got ddiffpg.",
        ),
        (
            lambda: prioritised(algorithm=td7()),
            "algorithm must leave it to the replay what is drawn, got td7.",
        ),
        (lambda: prioritised(algorithm=td3(), interval=0), "interval must be an integer"),
        (lambda: td7(priority_exponent=1.5), "priority_exponent must be a finite number in [0, 1]"),
        (lambda: td7(critic_hidden=()), "hidden must have one width or more"),
        (lambda: td7(first_episodes=0), "first_episodes must be an integer"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(lambda: make().init(KEY, Spec))
