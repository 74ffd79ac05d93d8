"""Which copy of actor and critic each method of the matching family asks for what, and its options by hand."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.actor_critic import critic_function
from dpolicy.algorithms import ALGORITHMS, maxentdp, qvpo, sdac
from dpolicy.envs import MultiGoal
from dpolicy.field_policy import field_policy
from dpolicy.fields import FunctionField
from dpolicy.schedules import CosineVP

SPEC = MultiGoal().spec
NETS = {"hidden": (8,), "critic_hidden": (8,), "sampler_steps": 1, "target_rate": 0.0, "embedding": "raw"}
RELAX = {"temperature": None, "proposal": "clipped", "source": "policy", "behaviour": "noisy_best"}
# What backs the critic up, gives the proposals and weights of the actor's loss, explores, and is evaluated.
CASES = {
    "sdac": ({"samples": 4}, "target actor", "critic", "actor", "actor critic"),
    "sdac relax": (
        {"samples": 4, **RELAX},
        "target actor critic",
        "critic actor",
        "average critic",
        "average critic",
    ),
    "maxentdp": ({"samples": 4, "soft": False}, "target actor", "target", "actor", "actor target"),
    "idem": ({"samples": 4}, "target actor", "target", "actor", "actor critic"),
    "dps": ({"samples": 4}, "target actor", "target", "actor", "actor critic"),
    "qsm": ({}, "target actor", "target", "actor", "actor critic"),
    "qvpo": (
        {"candidates": 4, "uniform_candidates": 1},
        "target average",
        "critic actor",
        "actor critic",
        "actor critic",
    ),
    "dpmd": ({"candidates": 4}, "target actor critic", "critic actor", "average critic", "average critic"),
    "fpmd": ({"candidates": 4}, "target actor critic", "critic actor", "average critic", "average"),
    "gempo": (
        {"candidates": 4, "target_kl": 1.0},
        "target actor",
        "critic reference",
        "actor",
        "actor critic",
    ),
    "dipo": ({}, "target average", "", "actor", "actor"),
}


def experience(key, size=8):
    """The first coordinate of an observation is 0 and of the next one 1."""
    keys = jax.random.split(key, 4)
    first = lambda value, key: jax.random.normal(key, (size, SPEC.obs_size)).at[:, 0].set(value)
    no = jnp.zeros(size, bool)
    action = jax.random.uniform(keys[1], (size, SPEC.action_size), minval=-1.0, maxval=1.0)
    return Transition(
        first(0.0, keys[0]),
        action,
        jax.random.normal(keys[2], (size,)),
        first(1.0, keys[3]),
        no,
        no,
        {"improved": action},
    )


def other(tree, factor=-0.7):
    return jax.tree.map(lambda leaf: factor * leaf if eqx.is_inexact_array(leaf) else leaf, tree)


def elsewhere(critic):
    """Another critic where the first coordinate of the observation is not 0."""
    where = lambda critic: critic.members.mlp.layers[0].weights[0]
    return eqx.tree_at(where, critic, where(critic).at[..., 0].multiply(-9.0).at[..., 0].add(3.0))


def variants(state):
    """The state, and with one of its networks exchanged."""
    changed = {
        "nothing": state,
        "actor": eqx.tree_at(lambda s: s.actor.model, state, other(state.actor.model)),
        "critic": eqx.tree_at(lambda s: s.critic.model, state, other(state.critic.model)),
        "critic elsewhere": eqx.tree_at(lambda s: s.critic.model, state, elsewhere(state.critic.model)),
        "target": eqx.tree_at(lambda s: s.target_critic, state, other(state.target_critic)),
    }
    for name in {"average", "reference"} & set(state.extra):
        changed[name] = eqx.tree_at(lambda s, n=name: s.extra[n], state, other(state.extra[name]))
    return changed


@pytest.mark.parametrize("name", CASES)
def test_which_copies_are_asked(x64, name):
    settings, *expected = CASES[name]
    recipe = ALGORITHMS[name.split()[0]].recipe
    if name not in ("fpmd", "dipo"):
        settings = {**settings, "evaluation_candidates": 4}
    key = jax.random.key(0)

    def run(state, discount):
        # No reward of the next step, no moving target: what guides the actor is then what it was.
        algorithm = recipe(**NETS, **settings, discount=discount)
        _, metrics = algorithm.update(state, experience(key), key)
        keys = jax.random.split(key, 8)
        obs = jnp.ones(SPEC.obs_size)
        act = lambda mode: jax.vmap(lambda key: algorithm.act(state, obs, key, mode)[0])(keys)
        weights = [metrics[f"actor/{m}"] for m in ("target", "ess", "batch_ess") if f"actor/{m}" in metrics]
        return metrics["critic/loss"], jnp.stack(weights), act("explore"), act("evaluate")

    states = variants(recipe(**NETS, **settings).init(key, SPEC))

    @jax.jit
    def outcomes(states):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        over = lambda discount: jax.vmap(partial(run, discount=discount))(stacked)
        return jax.lax.map(over, jnp.asarray([0.9, 0.0]))

    names = list(states)
    backup, weights, explore, evaluate = map(np.asarray, outcomes(list(states.values())))
    seen = backup[0], weights[1], explore[1], evaluate[1]
    for what, values, asked in zip(("backup", "weights", "explore", "evaluate"), seen, expected, strict=True):
        apart = {n: np.abs(values[i] - values[0]).max() > 1e-9 for i, n in enumerate(names)}
        # The critic is also what learns: only where it is asked about next observations does it back itself up.
        apart["critic"] = apart["critic elsewhere" if what == "backup" else "critic"]
        found = {n for n in names if apart[n]} - {"critic elsewhere"}
        assert found == set(asked.split()), what


def test_the_soft_backup_by_hand(x64):
    """y = r + gamma (min_i Qbar_i(s', a') - lambda log pi(a'|s')), weights by min_i Qbar_i, of targets that differ."""
    settings = {**NETS, "density_steps": 2, "density_draws": 2, "samples": 4, "temperature": 0.5}
    policy = field_policy(hidden=(8,), sampler_steps=1, embedding="raw").with_density(2, 2)
    key = jax.random.key(3)
    batch = experience(key)
    td_key, actor_key = jax.random.split(key)

    def run(discount):
        algorithm = maxentdp(**settings, discount=discount)
        state = algorithm.init(key, SPEC)
        state = eqx.tree_at(lambda s: s.target_critic, state, other(state.critic.model))
        _, metrics = algorithm.update(state, batch, key)
        values = lambda critic, obs, action: jax.vmap(critic)(obs, action)
        act = lambda obs, key: policy(state.actor.model, lambda obs, a: a[0], obs, key)
        action, log_prob = jax.vmap(act)(batch.next_obs, jax.random.split(td_key, 8))
        following = values(state.target_critic, batch.next_obs, action)
        error = lambda value: jnp.mean(
            (values(state.critic.model, batch.obs, batch.action) - (batch.reward + discount * value)[:, None])
            ** 2
        )
        low = jnp.min(following, axis=1)
        backups = [error(low - 0.5 * log_prob), error(low + 0.5 * log_prob), error(low)]
        mean = error(jnp.mean(following, axis=1) - 0.5 * log_prob)

        def actor(how):
            field, loss = algorithm.objective(state, critic_function(state.target_critic, how))
            one = lambda example, key: loss(field, example, key)[0]
            return jnp.mean(jax.vmap(one)(batch, jax.random.split(actor_key, 8)))

        return metrics, jnp.stack([*backups, mean]), actor("min"), actor("mean")

    metrics, backups, low, mean = jax.jit(jax.vmap(run))(jnp.asarray([0.9, 0.0]))
    np.testing.assert_allclose(metrics["critic/loss"], backups[:, 0], rtol=1e-10)
    assert np.all(np.abs(backups[0, 1:] - backups[0, 0]) > 1e-3)
    np.testing.assert_allclose(backups[1], backups[1, 0], rtol=1e-12)  # without a discount y = r
    np.testing.assert_allclose(metrics["actor/loss"], low, rtol=1e-10)
    assert np.all(np.abs(mean - low) > 1e-6)


def test_weights_of_qvpo(x64):
    """g(Q) of the one action that the policy has, seen as the loss of a field that misses it by 1/2 everywhere."""
    values = jnp.asarray([-3.0, 0.5, 2.0, 20.0])
    field = lambda at: FunctionField(
        lambda x, t, obs: jnp.full_like(x, at), schedule=CosineVP(), prediction="data", action_size=2
    )
    example = jax.tree.map(lambda leaf: leaf[0], experience(jax.random.key(0)))

    def run(value, weight):
        algorithm = qvpo(
            **NETS, prediction="data", candidates=2, uniform_candidates=1, uniform_weight=0.0, weight=weight
        )
        state = algorithm.with_actor(algorithm.init(jax.random.key(0), SPEC), field(0.0))
        _, loss = algorithm.objective(state, lambda obs, action: value)
        return 2 * 4 * loss(field(0.5), example, jax.random.key(1))[0]

    names = ("qadv", "qrelu", "qcut", "qexpn")
    found = jax.jit(lambda: {weight: jax.vmap(partial(run, weight=weight))(values) for weight in names})()
    expected = {
        "qadv": jnp.zeros(4),
        "qrelu": jnp.maximum(values, 0),
        "qcut": jnp.maximum(values, 1),
        "qexpn": jnp.exp(jnp.minimum(values, 8)),
    }
    for weight in names:
        # The last level of noise leaves the samples a little apart from what the field says.
        np.testing.assert_allclose(found[weight], expected[weight], rtol=0.1, atol=1e-12)


def test_ranking_of_qvpo(x64):
    """FlowRL's critics: the mean of the online ones, before their step."""
    key = jax.random.key(3)
    batch = dataclasses.replace(experience(key), extras={})
    actor_key = jax.random.split(key)[1]

    @jax.jit
    def run():
        algorithm = qvpo(**NETS, candidates=4, ranking="online_mean", critic_first=False)
        state = algorithm.init(key, SPEC)
        new, metrics = algorithm.update(state, batch, key)

        def loss(critic, how):
            field, loss = algorithm.objective(state, critic_function(critic, how))
            one = lambda example, key: loss(field, example, key)[0]
            return jnp.mean(jax.vmap(one)(batch, jax.random.split(actor_key, 8)))

        before, after = state.critic.model, new.critic.model
        return metrics["actor/loss"], loss(before, "mean"), loss(before, "min"), loss(after, "mean")

    found, expected, *others = run()
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert np.all(np.abs(np.asarray(others) - expected) > 1e-6 * expected)


def test_learned_temperature_of_sdac(x64):
    """The published code divides Q by alpha / 5, 5 the start of alpha: 1 at first, a fifth when alpha is 1."""
    example = jax.tree.map(lambda leaf: leaf[0], experience(jax.random.key(0)))

    @jax.jit
    def run():
        key = jax.random.key(1)
        learned = sdac(**NETS, **RELAX, samples=8)
        state = learned.init(key, SPEC)
        later = eqx.tree_at(lambda s: s.extra["noise"].log.model, state, jnp.zeros(()))

        def loss(algorithm, state):
            field, loss = algorithm.objective(state, lambda obs, action: 3 * action[0])
            return loss(field, example, key)[0]

        fixed = lambda at: sdac(**NETS, **RELAX | {"temperature": at}, samples=8)
        found = [loss(learned, state), loss(learned, later)]
        return found, [loss(fixed(1.0), state), loss(fixed(0.2), later)], loss(fixed(1.0), later)

    found, expected, hot = run()
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert abs(found[1] - hot) > 1e-4


def test_statistics_of_qvpo(x64):
    """Running mean and deviation of Q over all samples of the batch."""
    algorithm = qvpo(**NETS, candidates=4, uniform_candidates=1, weight="qexpn")
    key = jax.random.key(0)
    state, metrics = jax.jit(
        lambda: algorithm.update(
            algorithm.init(key, SPEC), dataclasses.replace(experience(key), extras={}), key
        )
    )()
    mean, square = metrics["actor/q"], metrics["actor/q_square"]
    np.testing.assert_allclose(state.extra["statistics"].mean, 0.001 * mean, rtol=1e-10)
    deviation = 0.999 + 0.001 * np.sqrt(square - mean**2)
    np.testing.assert_allclose(state.extra["statistics"].std, deviation, rtol=1e-10)


def test_bad_options():
    for make, message in (
        (lambda: sdac(temperature=None), "temperature must be a number unless behaviour is noisy_best"),
        (lambda: sdac(source="buffer"), "source must be one of replay, policy"),
        (lambda: sdac(behaviour="best"), "behaviour must be one of sample, noisy_best"),
        (lambda: sdac(proposal="uniform"), "proposal must be one of truncated, gaussian, clipped"),
        (lambda: qvpo(weight="qcut0n"), "weight must be one of qadv, qrelu, qcut, qexpn"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
