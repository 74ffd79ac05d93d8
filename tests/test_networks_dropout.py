"""Units that are left out while a network learns, and only then."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallest import SPEC
from transitions import experience

from dpolicy.algorithms import iql
from dpolicy.learning import Seen
from dpolicy.losses import cloning, dropping, gaussian_log_likelihood
from dpolicy.networks import MLP, Dropped, TanhMeanGaussian

KEY = jax.random.key(0)


def test_units_are_left_out_by_their_rate_and_the_mean_stays():
    x = jnp.asarray([0.5, -1.0, 2.0])
    mlp = MLP((3,), 2, hidden=(64,), key=KEY)
    found = jax.vmap(lambda key: Dropped(mlp, 0.25, key=key)(x))(jax.random.split(KEY, 4000))
    error = np.std(found, axis=0) / np.sqrt(4000)
    assert np.all(np.abs(np.mean(found, axis=0) - mlp(x)) < 4 * error) and np.all(error > 0)
    np.testing.assert_array_equal(Dropped(mlp, 0.0, key=KEY)(x), mlp(x))
    # By hand: which units, and what becomes of the others; each layer has its own.
    deep = MLP((3,), 2, hidden=(8, 8), activation="tanh", layer_norm=True, key=KEY)
    h = x
    for i in range(2):
        kept = jax.random.bernoulli(jax.random.fold_in(KEY, i), 0.6, (8,))
        assert 0 < np.sum(kept) < 8
        h = jnp.where(kept, jnp.tanh(deep.norms[i](deep.layers[i](h))) / 0.6, 0)
    np.testing.assert_allclose(Dropped(deep, 0.4, key=KEY)(x), deep.layers[2](h), rtol=1e-5)


def test_each_example_leaves_out_others_and_the_gradient_is_of_the_whole():
    policy, fit = TanhMeanGaussian(2, 2, hidden=(16,), key=KEY), cloning(gaussian_log_likelihood)
    example = jax.tree.map(lambda leaf: leaf[0], experience(KEY, 1))
    loss = dropping(fit, 0.5)
    values = [float(loss(policy, example, jax.random.key(i))[0]) for i in range(4)]
    assert len(set(values)) == 4 and float(fit(policy, example, KEY)[0]) not in values
    slope = jax.grad(lambda policy: loss(policy, example, KEY)[0])(policy)
    assert np.sum(np.any(slope.mlp.layers[0].weights[0] == 0, axis=1)) > 0  # of the units that are left out
    assert np.any(slope.mlp.layers[0].weights[0] != 0)


def test_iql_learns_with_it_and_acts_without():
    algorithm = iql(hidden=(8,), critic_hidden=(4,), dropout=0.5)
    state = algorithm.init(KEY, SPEC)
    example = jax.tree.map(lambda leaf: leaf[0], experience(KEY, 1, obs_size=3))
    of = lambda algorithm: algorithm.stages["actor"].loss(Seen(state, state, None, jnp.asarray(1), {}))
    found = [float(of(algorithm)(state.actor, example, jax.random.key(i))[0]) for i in range(2)]
    whole = of(iql(hidden=(8,), critic_hidden=(4,)))
    assert found[0] != found[1] and whole(state.actor, example, KEY)[0] not in found
    acts = [algorithm.act(state, example.obs, jax.random.key(i), "evaluate")[0] for i in range(2)]
    np.testing.assert_array_equal(acts[0], acts[1])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="dropout must be"):
        iql(dropout=1.0)
    with pytest.raises(ValueError, match="rate must be"):
        Dropped(MLP((3,), 2, hidden=(4,), key=KEY), 1.0, key=KEY)
    shortcut = MLP((3,), 2, hidden=(4, 4, 4), residual=True, key=KEY)
    with pytest.raises(ValueError, match="after must be None"):
        Dropped(shortcut, 0.5, key=KEY)(jnp.ones(3))
