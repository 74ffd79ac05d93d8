"""Every recipe through the same protocol: init, act, update; jit, seeds, every numeric hyperparameter, one trace."""

import dataclasses
import inspect
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy import _types
from dpolicy._types import Transition
from dpolicy.algorithm import Stored
from dpolicy.algorithms import ALGORITHMS


class Spec(NamedTuple):
    obs_size: int = 3
    action_size: int = 2


SPEC = Spec()
# Shapes only: what keeps a compilation short. Every number is left at its default.
_ON_POLICY = {"value_hidden": (8,), "epochs": 2, "minibatches": 2}
_DIFFUSION = {"hidden": (8,), "critic_hidden": (8,), "sampler_steps": 2}
TINY = {
    "bc": {"hidden": (8,), "sampler_steps": 2},
    "sac": {"hidden": (8,), "critic_hidden": (8,)},
    "sdac": {
        "hidden": (8,),
        "critic_hidden": (8,),
        "samples": 4,
        "sampler_steps": 2,
        "evaluation_candidates": 2,
    },
    "qsm": {"hidden": (8,), "critic_hidden": (8,), "sampler_steps": 2, "evaluation_candidates": 2},
    "idem": {**_DIFFUSION, "samples": 4, "evaluation_candidates": 2},
    "dps": {**_DIFFUSION, "samples": 4},
    "maxentdp": {
        **_DIFFUSION,
        "samples": 4,
        "density_steps": 2,
        "density_draws": 2,
        "evaluation_candidates": 2,
    },
    "qvpo": {
        **_DIFFUSION,
        "candidates": 4,
        "uniform_candidates": 2,
        "exploration_candidates": 2,
        "backup_candidates": 2,
        "evaluation_candidates": 2,
    },
    "dpmd": {**_DIFFUSION, "candidates": 2, "noise_interval": 1, "evaluation_candidates": 2},
    "fpmd": {**_DIFFUSION, "candidates": 2, "noise_interval": 1},
    "gempo": {
        **_DIFFUSION,
        "candidates": 8,
        "reference_interval": 1,
        "evaluation_candidates": 2,
    },
    "dipo": {"hidden": (8,), "critic_hidden": (8,), "sampler_steps": 2, "ascent_steps": 3},
    "ddiffpg": {
        **_DIFFUSION,
        "ascent_steps": 3,
        "atoms": 5,
        "novelty_hidden": (8,),
        "max_modes": 2,
        "path_points": 4,
        "clustered_episodes": 8,
        "remembered_episodes": 16,
        "discovery_interval": 1,
    },
    "ppo": {"hidden": (8,), **_ON_POLICY},
    "fpo": {"hidden": (8,), "draws": 2, "sampler_steps": 2, **_ON_POLICY},
    "fpopp": {"hidden": (8,), "draws": 3, "sampler_steps": 2, "ema_after": 0, **_ON_POLICY},
    # Its clip's rate matters only where the clip grows.
    "dppo": {"hidden": (8,), "sampler_steps": 4, "trained_steps": 3, "clip_low": 1e-5, **_ON_POLICY},
    "genpo": {"hidden": (8,), "sampler_steps": 2, "kl_estimator": "k3", **_ON_POLICY},
    "dp_cppo": {
        "hidden": (8,),
        "flow_hidden": (8,),
        "flow_steps": 2,
        "flow_epochs": 2,
        "flow_minibatches": 2,
        **_ON_POLICY,
    },
}
# A second value for each numeric hyperparameter: half the default, unless that is no change or not allowed.
SECOND = {
    "clip": 1e-5,
    "floor": -1.0,
    "noise_share": 0.5,
    "anneal_updates": 2.0,
    "value_clip": 0.01,
    "target_kl": 1e-4,
    "stop_kl": 1e-12,
    "max_grad_norm": 1e-3,
    "advantage_clip": 0.1,
    "loss_clip": 0.1,
    "log_ratio_clip": 1e-6,
    "noise_bound": 0.5,
    "clip_rate": 60.0,
    "log_prob_low": 1.0,
    "log_prob_high": 0.0,
    "value_low": -1.0,
    "ascent_norm": 1e-7,
    "exploration_updates": 0.0,
}


def build(name, **numbers):
    return ALGORITHMS[name].recipe(**TINY[name], **numbers)


def numeric(name):
    parameters = inspect.signature(ALGORITHMS[name].recipe).parameters.values()
    kinds = (_types.Number, _types.Number | None)
    return {p.name: p.default for p in parameters if p.annotation in kinds and p.default is not None}


def experience(algorithm, state, key, time=4, envs=4):
    """Random transitions whose extras come from the algorithm itself."""
    keys = jax.random.split(key, 5)
    lead = (time, envs) if algorithm.family == "on_policy" else (time * envs,)
    flat = time * envs
    obs = jax.random.normal(keys[0], (flat, SPEC.obs_size))
    action, extras = jax.vmap(algorithm.act, in_axes=(None, 0, 0, None))(
        state, obs, jax.random.split(keys[1], flat), "explore"
    )
    term = jax.random.bernoulli(keys[2], 0.2, (flat,))
    trunc = jax.random.bernoulli(keys[3], 0.2, (flat,)) & ~term
    reward = jax.random.normal(keys[4], (flat,))
    batch = Transition(obs, action, reward, obs[::-1], term, trunc, extras if len(lead) == 2 else {})
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), batch)


def parameters_of(state):
    leaves = [leaf for leaf in jax.tree.leaves(state) if eqx.is_inexact_array(leaf)]
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def test_the_table_covers_the_tests():
    assert set(TINY) == set(ALGORITHMS)


def updated(algorithm, state, batch, key):
    """One update, on drawn transitions that have been revised where the algorithm does that.

    An algorithm that looks at the replay sees one that is half full of them.
    """
    memory = algorithm.memory
    if memory is not None:
        batch = dataclasses.replace(batch, extras=jax.vmap(memory.start)(batch))
        if memory.organise is not None and memory.draw is not None:
            size = batch.reward.shape[0]
            items = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.zeros_like(leaf)]), batch)
            stored = Stored(items, jnp.asarray(size), jnp.asarray(size), 4)
            state, extras = memory.organise(state, stored, jax.random.fold_in(key, 1))
            stored = stored._replace(items=dataclasses.replace(items, extras=extras))
            rows = memory.draw(state, stored, jax.random.fold_in(key, 2), size)
            batch = jax.tree.map(lambda leaf: leaf[rows], stored.items)
        batch = memory.revise(state, batch, jax.random.fold_in(key, 0))
    return algorithm.update(state, batch, key)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_protocol(name, getkey, tmp_path):
    """Three seeds with the defaults, and one with every numeric hyperparameter changed in turn: one program."""
    defaults = numeric(name)
    names = list(defaults)
    assert names
    algorithm = build(name)
    assert algorithm.name == name
    assert algorithm.family == ALGORITHMS[name].family
    assert {"explore", "evaluate"} <= set(algorithm.modes)
    table = np.tile(np.asarray([float(defaults[n]) for n in names], np.float32), (3 + len(names), 1))
    for i, n in enumerate(names):
        table[3 + i, i] = SECOND.get(n, table[3 + i, i] / 2)
    # The seed of each row; from the fifth on DDiffPG's random episodes are of more than two kinds.
    rows = np.asarray([0, 1, 2] + [0] * len(names)) + 5 * (name == "ddiffpg")
    traces = []

    def outcome(row, key, batch_key, act_key):
        traces.append(name)
        algorithm = build(name, **dict(zip(names, row, strict=True)))
        start = algorithm.init(key, SPEC)
        batch = experience(algorithm, start, batch_key)

        def one(state, key):
            state, metrics = updated(algorithm, state, batch, key)
            action, _ = algorithm.act(state, batch.obs.reshape(-1, SPEC.obs_size)[0], key, "explore")
            return state, (action, metrics)

        state, (actions, metrics) = jax.lax.scan(one, start, jax.random.split(key, 3))
        acts = {m: algorithm.act(state, jnp.ones(SPEC.obs_size), act_key, m) for m in algorithm.modes}
        return start, state, actions, jax.tree.map(lambda values: values[-1], metrics), acts

    run = jax.jit(jax.vmap(outcome, in_axes=(0, 0, 0, None)))
    keys = [jax.random.split(getkey(), 8)[rows] for _ in range(2)]
    arguments = (jnp.asarray(table), *keys, getkey())
    start, state, actions, metrics, acts = run(*arguments)
    _, again, *_ = run(*arguments)
    assert traces == [name]  # the second call, every seed and every value share one trace
    np.testing.assert_array_equal(parameters_of(state), parameters_of(again))
    for metric, values in metrics.items():
        assert values.shape == rows.shape, metric
        assert np.isfinite(values).all(), metric
    for action, extras in acts.values():
        assert action.shape == (*rows.shape, SPEC.action_size)
        assert np.isfinite(action).all()
        assert isinstance(extras, dict)

    at = lambda i: jax.tree.map(lambda leaf: leaf[i], (state, actions))
    default = parameters_of(at(0))
    assert not np.array_equal(default, parameters_of(at(1)))
    for i, n in enumerate(names):
        ours = parameters_of(at(3 + i))
        assert np.isfinite(ours).all(), n
        assert not np.array_equal(ours, default), f"{name} ignores {n}"

    first, begun = (jax.tree.map(lambda leaf: leaf[0], tree) for tree in (state, start))
    with pytest.raises(ValueError, match="mode must be one of"):
        algorithm.act(first, jnp.ones(SPEC.obs_size), getkey(), "exploit")
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert shapes(begun) == shapes(first)  # an update keeps shapes and dtypes, so it can be scanned
    assert not np.array_equal(parameters_of(begun), parameters_of(first))
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    assert not any(is_key(leaf) for leaf in jax.tree.leaves(first))  # never stored in an algorithm's state
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", first)
    loaded = eqx.tree_deserialise_leaves(tmp_path / "state.eqx", begun)
    np.testing.assert_array_equal(parameters_of(loaded), parameters_of(first))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_numbers_out_of_range_are_refused(name):
    for hyperparameter in numeric(name):
        with pytest.raises(ValueError, match=r"must be a finite number"):
            build(name, **{hyperparameter: float("nan")})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_hyperparameter_is_documented(name):
    recipe = ALGORITHMS[name].recipe
    arguments = (inspect.getdoc(recipe) or "").split("Args:")[1]
    for parameter in inspect.signature(recipe).parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty
        assert f"\n    {parameter.name}: " in arguments, parameter.name
