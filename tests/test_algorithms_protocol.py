"""Every recipe through the same protocol: init, act, update; jit, seeds, every numeric hyperparameter, one trace."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallest import SECOND, SPEC, TINY, build, experience, numeric, updated

from dpolicy.algorithms import ALGORITHMS


def parameters_of(state):
    leaves = [leaf for leaf in jax.tree.leaves(state) if eqx.is_inexact_array(leaf)]
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def test_the_table_covers_the_tests():
    assert set(TINY) == set(ALGORITHMS)


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
