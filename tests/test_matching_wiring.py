"""Which copy of actor and critic each method of the matching family asks for what, and its options by hand."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.algorithms import ALGORITHMS, dpmd, fpmd, maxentdp, qvpo, sdac
from dpolicy.audit import objective, replaced
from dpolicy.blocks import critic_function, field_policy
from dpolicy.envs import MultiGoal
from dpolicy.fields import CosineVP, FunctionField
from dpolicy.learning import Parts, stage_key
from dpolicy.optimisers import ema

SPEC = MultiGoal().spec
SMALL = {"hidden": (8,), "critic_hidden": (8,), "target_rate": 0.5}
NETS = {**SMALL, "sampler_steps": 1, "embedding": "raw"}
RELAX = {"temperature": None, "proposal": "clipped", "source": "policy", "behaviour": "noisy_best"}
# What each method asks for what. "critic" and "target" are the lower of two members, "critic'" and "target'" the higher
# one, which a minimum never sees; "reward" is asked by whatever sees the critics after their step; "average" and the
# like are further parts of the state.
#   name: settings, what backs the critics up, what the actor's loss is made of, what explores, what is evaluated
CASES = {
    "sac": ({}, "target actor temperature", "actor critic reward temperature", "actor", "actor"),
    "sdac": ({"samples": 4}, "target actor", "actor critic", "actor", "actor critic"),
    "sdac relax": (
        {"samples": 4, **RELAX},
        "target actor critic noise",
        "actor critic noise",
        "average critic noise",
        "average critic",
    ),
    "maxentdp": ({"samples": 4, "soft": False}, "target actor", "actor target", "actor", "actor target"),
    "idem": ({"samples": 4}, "target actor", "actor target critic reward", "actor", "actor critic"),
    "dps": ({"samples": 4}, "target actor", "actor target critic reward updates", "actor", "actor critic"),
    "qsm": ({}, "target actor", "actor target target' critic critic' reward", "actor", "actor critic"),
    "qsm official": (
        {"variant": "official"},
        "target actor",
        "actor critic critic' reward",
        "actor",
        "actor critic",
    ),
    "qvpo": (
        {"candidates": 4, "uniform_candidates": 1},
        "target average",
        "actor critic critic' reward updates",
        "actor critic",
        "actor critic",
    ),
    "dpmd": (
        {"candidates": 4},
        "target actor critic noise",
        "actor critic reward noise statistics",
        "average critic noise",
        "average critic",
    ),
    "fpmd": (
        {"candidates": 4, "temperature": None, "q_clip": 100.0},
        "target actor critic noise",
        "actor critic reward noise statistics",
        "average critic noise",
        "average",
    ),
    "gempo": (
        {"candidates": 4, "target_kl": 1.0},
        "target actor",
        "actor critic critic' reference temperature",
        "actor",
        "actor critic",
    ),
    "dipo": ({}, "target average", "actor", "actor", "actor"),
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


def member(critic, index, obs=lambda w: w, action=lambda w: w, bias=lambda b: b):
    """The critics with the first weights of one of them changed, of observation and action, or its last bias."""
    layers = lambda critic: critic.members.mlp.layers
    where = lambda critic: (*layers(critic)[0].weights, layers(critic)[-1].bias)
    leaves = zip((obs, action, bias), where(critic), strict=True)
    return eqx.tree_at(where, critic, [leaf.at[index].set(change(leaf[index])) for change, leaf in leaves])


def elsewhere(weights):
    """Another critic where the first coordinate of the observation is not 0."""
    return weights.at[..., 0].multiply(-9.0).at[..., 0].add(3.0)


def apart(state):
    """The state after an update, no two copies of a network alike, and the second critic far above the first."""
    raised = lambda critic: member(critic, 1, lambda w: 1.1 * w, bias=lambda b: b + 1_000)
    target = raised(member(state.target, 0, lambda w: 1.3 * w))
    copies = {name: other(part, 0.8) for name, part in state.items() if name in COPIES}
    state = Parts(state, copies, target=target, updates=state.updates + 1)
    if "temperature" in state:
        state = eqx.tree_at(lambda s: s["temperature"].log.model, state, replace_fn=lambda log: log + 0.3)
    return eqx.tree_at(lambda s: s["critic"].model, state, raised(state.critic))


COPIES = ("average", "reference")


def variants(state):
    """The state, and with one of its parts exchanged."""
    changed = {"nothing": state}
    for name, where, change in (
        ("actor", lambda s: s["actor"].model, other),
        ("updates", lambda s: s["updates"], lambda count: count + 100_000),
    ):
        changed[name] = eqx.tree_at(where, state, replace_fn=change)
    for name, where in (("critic", lambda s: s["critic"].model), ("target", lambda s: s["target"])):
        for index, prime in enumerate(("", "'")):
            put = lambda *weights, where=where, i=index: eqx.tree_at(
                where, state, replace_fn=lambda critic: member(critic, i, *weights)
            )
            changed[name + prime] = put(*[lambda w: -0.7 * w] * 2)
            changed[f"{name}{prime} elsewhere"] = put(elsewhere)
    for name in [part for part in state if part not in ("actor", "critic", "target", "updates")]:
        where = lambda s, n=name: s[n] if n in COPIES else jax.tree.leaves(s[n])[0]
        change = other if name in COPIES else lambda number: number + 1
        changed[name] = eqx.tree_at(where, state, replace_fn=change)
    return changed


@pytest.mark.parametrize("name", CASES)
def test_which_copies_are_asked(x64, name):
    """In a state of which no two parts are alike: what each outcome of an update and each way to act depends on."""
    settings, *expected = CASES[name]
    recipe = ALGORITHMS[name.split()[0]].recipe
    nets = SMALL if name == "sac" else NETS
    if name not in ("fpmd", "dipo", "sac"):
        settings = {"evaluation_candidates": 4, **settings}
    key = jax.random.key(0)
    batch = experience(key)
    earned = dataclasses.replace(batch, reward=batch.reward + 1)

    def run(state, reward, discount):
        # No reward of the next step: what guides the actor is then not what backs the critics up.
        algorithm = recipe(**nets, **settings, discount=discount)
        given = jax.tree.map(lambda a, b: jnp.where(reward, a, b), earned, batch)
        new, metrics = algorithm.update(state, given, key)
        keys = jax.random.split(key, 8)
        obs = jnp.ones(SPEC.obs_size)
        act = lambda mode: jax.vmap(lambda key: algorithm.act(state, obs, key, mode)[0])(keys)
        return (metrics["critic/loss"], metrics["actor/loss"], act("explore"), act("evaluate")), new

    states = variants(apart(recipe(**nets, **settings).init(key, SPEC)))
    names = [*states, "reward"]

    @jax.jit
    def outcomes(states):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states, states[0])
        paid = jnp.arange(len(names)) == len(names) - 1
        over = lambda discount: jax.vmap(partial(run, discount=discount))(stacked, paid)
        return jax.lax.map(over, jnp.asarray([0.9, 0.0]))

    outcome, new = outcomes(list(states.values()))
    backup, loss, explore, evaluate = map(np.asarray, outcome)
    seen = backup[0], loss[1], explore[1], evaluate[1]
    for what, values, asked in zip(("backup", "loss", "explore", "evaluate"), seen, expected, strict=True):
        found = {n for i, n in enumerate(names) if np.abs(values[i] - values[0]).max() > 1e-9}
        if what == "backup":
            # The critics are also what learns: only where they are asked about next observations do they back up.
            found -= {n for n in ("critic", "critic'", "reward") if f"{n} elsewhere" not in found}
        assert {n for n in found if not n.endswith("elsewhere")} == set(asked.split()), what
    first = jax.tree.map(lambda leaf: leaf[0, 0], new)
    if "average" in first:  # of the actor after its step
        mixed = ema(states["nothing"].average, first.actor, 0.995)
        for ours, theirs in zip(jax.tree.leaves(first.average), jax.tree.leaves(mixed), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_the_soft_backup_by_hand(x64):
    """y = r + gamma (min_i Qbar_i(s', a') - lambda log pi(a'|s')), weights by min_i Qbar_i, of targets that differ."""
    settings = {**NETS, "density_steps": 2, "density_draws": 2, "samples": 4, "temperature": 0.5}
    policy = field_policy(hidden=(8,), sampler_steps=1, embedding="raw").with_density(2, 2)
    key = jax.random.key(3)
    batch = experience(key)
    td_key, actor_key = stage_key(key, "critic"), stage_key(key, "actor")

    def run(discount):
        algorithm = maxentdp(**settings, discount=discount)
        state = algorithm.init(key, SPEC)
        state = Parts(state, target=other(state.critic))
        _, metrics = algorithm.update(state, batch, key)
        values = lambda critic, obs, action: jax.vmap(critic)(obs, action)
        act = lambda obs, key: policy(state.actor, lambda obs, a: a[0], obs, key)
        action, log_prob = jax.vmap(act)(batch.next_obs, jax.random.split(td_key, 8))
        following = values(state.target, batch.next_obs, action)
        error = lambda value: jnp.mean(
            (values(state.critic, batch.obs, batch.action) - (batch.reward + discount * value)[:, None]) ** 2
        )
        low = jnp.min(following, axis=1)
        backups = [error(low - 0.5 * log_prob), error(low + 0.5 * log_prob), error(low)]
        mean = error(jnp.mean(following, axis=1) - 0.5 * log_prob)

        def actor(how):
            field, loss = objective(algorithm, state, critic_function(state.target, how))
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
        state = replaced(algorithm, algorithm.init(jax.random.key(0), SPEC), actor=field(0.0))
        _, loss = objective(algorithm, state, lambda obs, action: value)
        value_of, metrics = loss(field(0.5), example, jax.random.key(1))
        # The mean and the mean square of Q over the samples, where the weight follows them.
        moments = (metrics["q"], metrics["q_square"]) if weight == "qexpn" else (value, value**2)
        return 2 * 4 * value_of, jnp.stack(moments)

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
        loss, moments = found[weight]
        np.testing.assert_allclose(loss, expected[weight], rtol=0.1, atol=1e-12)
        np.testing.assert_allclose(moments, jnp.stack([values, values**2], axis=1), rtol=1e-12)


def test_ranking_of_qvpo(x64):
    """FlowRL's critics: the mean of the online ones, before their step."""
    key = jax.random.key(3)
    batch = dataclasses.replace(experience(key), extras={})
    actor_key = stage_key(key, "actor")

    @jax.jit
    def run():
        algorithm = qvpo(**NETS, candidates=4, ranking="online_mean", critic_first=False)
        state = algorithm.init(key, SPEC)
        new, metrics = algorithm.update(state, batch, key)

        def loss(critic, how):
            field, loss = objective(algorithm, state, critic_function(critic, how))
            one = lambda example, key: loss(field, example, key)[0]
            return jnp.mean(jax.vmap(one)(batch, jax.random.split(actor_key, 8)))

        before, after = state.critic, new.critic
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
        later = eqx.tree_at(lambda s: s["noise"].log.model, state, jnp.zeros(()))

        def loss(algorithm, state):
            field, loss = objective(algorithm, state, lambda obs, action: 3 * action[0])
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
    np.testing.assert_allclose(state.statistics.mean, 0.001 * mean, rtol=1e-10)
    deviation = 0.999 + 0.001 * np.sqrt(square - mean**2)
    np.testing.assert_allclose(state.statistics.std, deviation, rtol=1e-10)


def test_a_tenth_of_the_times_of_a_mean_flow_are_equal(x64):
    """Unless it is told otherwise."""
    keys = jax.random.split(jax.random.key(1), 40)
    example = jax.tree.map(lambda leaf: leaf[0], experience(jax.random.key(0)))

    def losses(**settings):
        algorithm = fpmd(**SMALL, embedding="raw", variant="mean_flow", candidates=2, **settings)
        state = algorithm.init(jax.random.key(0), SPEC)
        field, loss = objective(algorithm, state, lambda obs, action: action[0])
        return jax.vmap(lambda key: loss(field, example, key)[0])(keys)

    ours, *others = jax.jit(lambda: [losses(), *(losses(equal_share=share) for share in (0.1, 0.0, 1.0))])()
    same, apart, equal = (np.isclose(ours, other, rtol=1e-10) for other in others)
    assert same.all()
    assert 0 < np.sum(~apart) == np.sum(equal) < 10


def test_a_backup_that_is_given_is_the_one_that_is_fitted(x64):
    """The critic's next action, to whatever is told it beside the example; another one is drawn where there is none."""
    bare = jax.tree.map(lambda leaf: leaf[0], dataclasses.replace(experience(jax.random.key(0)), extras={}))
    told = [
        dataclasses.replace(bare, extras={"next_action": jnp.full(SPEC.action_size, at)}) for at in (0.1, 0.9)
    ]

    @jax.jit
    def losses():
        algorithm = dpmd(**NETS, candidates=2)
        field, loss = objective(
            algorithm, algorithm.init(jax.random.key(0), SPEC), lambda obs, action: action[0]
        )
        return [loss(field, example, jax.random.key(1))[0] for example in (*told, bare)]

    assert len({float(value) for value in losses()}) == 3


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
