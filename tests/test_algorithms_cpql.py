"""CPQL against its specification: what backs it up, what it descends, by what it acts, and when slow copies move."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transitions import experience

from dpolicy.algorithms import cpql
from dpolicy.blocks import field_policy
from dpolicy.cli import main
from dpolicy.fields import FunctionField, Karras
from dpolicy.learning import Parts, Seen
from dpolicy.losses import batched, chain, grid_times, perturb, start
from dpolicy.optimisers import ema

KEY, SIZE = jax.random.key(0), 6
SETTINGS = {
    **{
        "hidden": (8,),
        "critic_hidden": (8,),
        "discount": 0.9,
        "target_rate": 0.25,
        "embedding": "sinusoidal",
    },
    **{"reconstruction_weight": 0.3, "q_weight": 0.7, "levels": 5, "data_std": 0.7, "max_grad_norm": None},
}


class Spec:
    obs_size = action_size = 2


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: factor * leaf if eqx.is_inexact_array(leaf) else leaf, tree)


def apart(state):
    """The state with slow copies that are not what they follow."""
    slow = {name: scaled(state[name], 1.3) for name in ("target", "average") if name in state}
    return Parts(state, slow)


def one_step(actor, obs, key):
    start = 80 * jax.random.normal(jax.random.split(key)[0], (2,))
    return actor(start, jnp.asarray(1.0), obs)


def fit_by_hand(state, e, key):
    """The consistency form for one example, from the draws that the loss makes."""
    sigma = Karras().sigma
    noise_key, level_key = jax.random.split(key)
    z, row = jax.random.normal(noise_key, (2,)), jnp.floor(4 * jax.random.uniform(level_key))
    early, late = row / 4, (row + 1) / 4
    goal = state.average(e.action + sigma(early) * z, early, e.obs)
    found = state.actor(e.action + sigma(late) * z, late, e.obs)
    return (sigma(late) ** -2 + 0.7**-2) * jnp.mean((found - goal) ** 2)


@pytest.mark.parametrize("normalise", [False, True])
def test_what_the_actor_descends(normalise, x64):
    """c_RC times the weighed error of the consistency form, c_Q times -min Q or -Q_j / mean |Q_k|."""
    method = cpql(**SETTINGS, reconstruction="consistency", normalise_q=normalise)

    def both():
        state = apart(method.init(KEY, Spec()))
        batch = experience(KEY, SIZE)
        loss = batched(method.stages["actor"].loss(Seen(state, state, batch, jnp.asarray(1), {})))
        keys = jax.random.split(KEY, SIZE)
        folded = [jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys) for i in range(2)]
        fit = jax.vmap(lambda e, key: fit_by_hand(state, e, key))(batch, folded[0])
        sample = jax.vmap(jax.random.split)(folded[1]) if normalise else folded[1][:, None]
        actions = jax.vmap(lambda obs, key: one_step(state.actor, obs, key))(batch.obs, sample[:, 0])
        values = jax.vmap(state.critic)(batch.obs, actions)
        climb = [jnp.mean(jnp.min(values, axis=1))]
        if normalise:
            size = jnp.mean(jnp.abs(values), axis=0)
            climb = [jnp.mean(values[:, j]) / size[1 - j] for j in range(2)]
        return loss(state.actor, batch, KEY)[0], [0.3 * jnp.mean(fit) - 0.7 * term for term in climb]

    found, allowed = jax.jit(both)()
    assert min(abs(found - value) for value in allowed) < 1e-9
    assert len(set(map(float, allowed))) == 1 + normalise


def test_reconstruction_is_of_the_replay_at_all_levels_with_noise(x64):
    """The weighed mean square of f(a + h z) - a, at levels above the least, as likely each."""
    method, schedule = cpql(**SETTINGS | {"q_weight": 0.0}), Karras()
    example = jax.tree.map(lambda leaf: leaf[0], experience(KEY, SIZE))

    def one(state, key):
        at = Seen(state, state, None, jnp.asarray(1), {})
        value, _ = method.stages["actor"].loss(at)(state.actor, example, key)
        noised = chain(perturb(schedule, times=grid_times(4)))
        match = noised(example, start(example), jax.random.fold_in(key, 0))
        error = jnp.mean((state.actor(match.x[0], match.t[0], example.obs) - example.action) ** 2)
        return value, 0.3 * (schedule.sigma(match.t[0]) ** -2 + 0.7**-2) * error, match.t[0]

    @jax.jit
    def all_of(keys):
        state = method.init(KEY, Spec())
        return jax.vmap(lambda key: one(state, key))(keys)

    found, expected, times = all_of(jax.random.split(KEY, 400))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    levels, count = np.unique(np.round(times * 4), return_counts=True)
    assert levels.tolist() == [1, 2, 3, 4] and np.all(count > 70)


def test_who_moves_when_and_towards_what():
    """Critics backed up by one sample of the current actor; slow copies at every second update, after two."""
    method = cpql(**SETTINGS, reconstruction="consistency", target_interval=2, target_after=2)
    batch = experience(KEY, SIZE)
    state = apart(eqx.filter_jit(method.init)(KEY, Spec()))
    update = eqx.filter_jit(method.update)
    seen = [state]
    for step in range(4):
        state, metrics = update(state, batch, jax.random.key(step))
        seen.append(state)
        assert metrics["target/due"] == metrics["average/due"] == (step == 3)
    of = lambda state, name: eqx.filter(getattr(state, name), eqx.is_array)
    same = lambda one, other, name: eqx.tree_equal(of(one, name), of(other, name))
    for name in ("target", "average"):
        assert all(same(seen[0], later, name) for later in seen[1:4]) and not same(seen[3], seen[4], name)
    for name, followed in (("target", "critic"), ("average", "actor")):
        expected = ema(of(seen[3], name), of(seen[4], followed), 0.75)
        for one, other in zip(*map(jax.tree.leaves, (of(seen[4], name), expected)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert all(not same(one, other, "actor") for one, other in itertools.pairwise(seen))
    assert "average" not in cpql(**SETTINGS).stages


def test_what_backs_the_critics_up(x64):
    """r + gamma m min target(s', f(80 z)) of the current actor; squares added up over the critics."""
    method = cpql(**SETTINGS)

    def both():
        state = apart(method.init(KEY, Spec()))
        batch = experience(KEY, SIZE)
        loss = method.stages["critic"].loss(Seen(state, state, batch, jnp.asarray(1), {}))

        def by_hand(e, key):
            value = jnp.min(state.target(e.next_obs, one_step(state.actor, e.next_obs, key)))
            y = e.reward + jnp.where(e.terminated, 0, 0.9 * value)
            return jnp.sum((state.critic(e.obs, e.action) - y) ** 2)

        keys = jax.random.split(KEY, SIZE)
        return (
            jax.vmap(lambda e, key: loss(state.critic, e, key)[0])(batch, keys),
            jax.vmap(by_hand)(batch, keys),
        )

    found, expected = jax.jit(both)()
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("values", "share"), [((0.0, 1.5), np.exp(1.5) / (1 + np.exp(1.5))), ((2.0, 2.0), 0.5)]
)
def test_an_action_is_drawn_by_the_softmax_of_its_value(values, share):
    """Of fifty candidates, half of them of each kind; of equal values each is as likely."""
    policy = field_policy(sampler_steps=1)
    policy = policy._replace(
        sample=lambda field, obs, key: jax.random.bernoulli(key, 0.5, (1,)).astype(float)
    )
    q = lambda obs, action: jnp.where(action[0] > 0, values[1], values[0])
    act = policy.best(50, temperature=1.0)
    field = FunctionField(lambda x, t, obs: x, schedule=Karras(), prediction="data", action_size=1)
    draw = jax.jit(jax.vmap(lambda key: act(field, q, jnp.zeros(1), key)[0]))
    np.testing.assert_allclose(np.mean(draw(jax.random.split(KEY, 4_000))), share, atol=0.025)


def test_the_form_for_data_sets(capsys):
    """By Python alone: of the command line's settings none are for it."""
    assert main(["train", "cpql", "--env", "multigoal", "--offline", "--print-config"]) == 2
    assert capsys.readouterr().err == (
        "dpolicy train cpql: cpql is offline with these hyperparameters, while the program's settings are of "
        "off_policy training: call dpolicy.train.offline from Python.\n"
    )
    assert cpql(**SETTINGS, offline=True, normalise_q=True).family == "offline"
    with pytest.raises(ValueError, match="sampler_steps must be below levels, 5, got 5"):
        cpql(**SETTINGS, sampler_steps=5)
