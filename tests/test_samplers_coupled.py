"""The invertible sampler: inverse, density, its constant determinant and entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.fields import Field, FunctionField, RectifiedFlow
from dpolicy.losses import clipped, compression, exact_log_likelihood, log_ratio
from dpolicy.samplers import coupled, tied_mixing

OBS, KEY = jnp.zeros(2), jax.random.key(0)


def network(key, size, obs_size=2):
    """A smooth random field of order one."""
    return Field(
        obs_size,
        size,
        schedule=RectifiedFlow(),
        prediction="velocity",
        hidden=(32, 32),
        activation="tanh",
        key=key,
    )


def function(fn, size=1):
    return FunctionField(fn, schedule=RectifiedFlow(), prediction="velocity", action_size=size)


def test_by_hand(x64):
    sampler, field = coupled(steps=1, mixing=0.9), function(lambda x, t, obs: -x)
    z = jnp.array([[1.0], [2.0]])
    pair = sampler.forward(field, z, OBS)
    np.testing.assert_allclose(pair[:, 0], [3.2, 4.82], rtol=1e-12)
    np.testing.assert_allclose(sampler(field, OBS, KEY, start=z), [4.01], rtol=1e-12)
    np.testing.assert_allclose(sampler.inverse(field, pair, OBS), z, rtol=1e-12)
    np.testing.assert_allclose(sampler.log_prob(field, pair, OBS), -4.127156, atol=1e-6)
    np.testing.assert_allclose(sampler.log_det(1), -0.210721, atol=1e-6)


@pytest.mark.parametrize(("steps", "mixing", "bound"), [(5, 0.9, 1e-5), (20, 0.9, 1e-4), (50, 0.95, 1e-3)])
def test_round_trips_in_single_precision(steps, mixing, bound):
    sampler = coupled(steps=steps, mixing=mixing)

    @jax.jit
    @jax.vmap
    def trips(key):
        net_key, z_key = jax.random.split(key)
        field, z = network(net_key, 8), jax.random.normal(z_key, (2, 8))
        pair = sampler.forward(field, z, OBS)
        back = sampler.inverse(field, pair, OBS)
        return jnp.max(jnp.abs(back - z)), jnp.max(jnp.abs(sampler.forward(field, back, OBS) - pair))

    there, again = trips(jax.random.split(KEY, 50))
    assert np.max(there) < bound
    assert np.max(again) < bound


def test_a_lossy_inverse_is_refused(x64):
    coupled(steps=50, mixing=0.9)  # in double precision there are digits to spare
    with pytest.raises(ValueError, match=r"mixing must be at least 0\.\d+ for 300 steps in float64"):
        coupled(steps=300, mixing=0.9)


def test_a_lossy_inverse_is_refused_in_single_precision():
    with pytest.raises(ValueError, match=r"at least 0\.9349 for 50 steps in float32 .*0\.9896 keeps"):
        coupled(steps=50, mixing=0.9)
    with pytest.raises(ValueError, match=r"mixing must be a finite number in \(0, 1\]"):
        coupled(mixing=1.5)
    assert coupled(steps=5, mixing=None).mixing == tied_mixing(5) == pytest.approx(0.9003, abs=1e-4)


def test_determinant_is_that_of_the_jacobian_for_a_hundred_networks(x64):
    size = 3
    sampler = coupled(steps=5, mixing=0.9)

    @jax.jit
    @jax.vmap
    def both(key):
        net_key, z_key, obs_key = jax.random.split(key, 3)
        field, z, obs = (
            network(net_key, size),
            jax.random.normal(z_key, (2, size)),
            jax.random.normal(obs_key, (2,)),
        )
        flat = lambda z: sampler.forward(field, z.reshape(2, size), obs).ravel()
        pair, jacobian = flat(z.ravel()), jax.jacfwd(flat)(z.ravel())
        base = jnp.sum(jax.scipy.stats.norm.logpdf(z))
        return sampler.log_prob(field, pair.reshape(2, size), obs), base - jnp.linalg.slogdet(jacobian)[1]

    ours, oracle = both(jax.random.split(KEY, 100))
    np.testing.assert_allclose(ours, oracle, atol=1e-8)
    np.testing.assert_allclose(sampler.log_det(8), -8.42884, atol=1e-5)
    np.testing.assert_allclose(coupled(steps=5, mixing=0.95).log_det(8), -4.10346, atol=1e-5)


def test_density_integrates_to_one_and_is_that_of_the_samples():
    sampler, field = coupled(steps=5, mixing=0.9), network(KEY, 1)
    axis = jnp.arange(-6, 6, 0.05) + 0.025
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    density = jnp.exp(jax.jit(jax.vmap(lambda pair: sampler.log_prob(field, pair, OBS)))(grid)).reshape(
        240, 240
    )
    np.testing.assert_allclose(jnp.sum(density) * 0.05**2, 1.0, atol=1e-4)

    count = 1_000_000
    draw = lambda key: sampler.forward(field, sampler.start(field, key), OBS)
    pairs = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), count)))[..., 0]
    edges = np.linspace(-6, 6, 25)
    seen = np.histogram2d(*pairs.T, bins=(edges, edges))[0] / count
    expected = np.asarray(density).reshape(24, 10, 24, 10).sum((1, 3)) * 0.05**2
    assert 0.5 * np.abs(seen - expected).sum() < 0.02
    # The entropy is a constant that no network can change.
    np.testing.assert_allclose(sampler.entropy(field), 1.78427, atol=1e-5)
    logs = jax.jit(jax.vmap(lambda pair: sampler.log_prob(field, pair[:, None], OBS)))(pairs[:100_000])
    np.testing.assert_allclose(-np.mean(logs), 1.78427, atol=0.01)


def test_without_a_velocity_the_map_is_linear(x64):
    """z -> M^K z: what the mixing alone does to both halves, the action and the gap."""
    p, sampler, field = 0.9, coupled(steps=5, mixing=0.9), function(lambda x, t, obs: 0 * x)
    matrix = np.linalg.matrix_power(np.array([[p, 1 - p], [p * (1 - p), p + (1 - p) ** 2]]), 5)
    columns = [sampler.forward(field, jnp.eye(2)[:, i : i + 1], OBS)[:, 0] for i in range(2)]
    np.testing.assert_allclose(np.stack(columns, axis=1), matrix, rtol=1e-12)
    covariance = matrix @ matrix.T
    np.testing.assert_allclose(covariance, [[0.549423, 0.439799], [0.439799, 0.573329]], atol=1e-6)
    mean, gap = np.array([0.5, 0.5]), np.array([1.0, -1.0])
    np.testing.assert_allclose(mean @ covariance @ mean, 0.500588, atol=1e-6)
    np.testing.assert_allclose(gap @ covariance @ gap, 0.243153, atol=1e-6)


def stored(pair, advantage=1.0, log_prob=0.0):
    zero, no = jnp.zeros(()), jnp.asarray(False)
    extras = {"pair": pair, "advantage": jnp.asarray(advantage), "log_prob": log_prob}
    return Transition(OBS, 0.5 * (pair[0] + pair[1]), zero, OBS, no, no, extras)


def test_ratio_and_its_gradient_identities():
    """E_old[ratio] = 1 after a change, and E[grad log density] = 0: the entropy bonus of the reference is noise."""
    sampler, field = coupled(steps=3, mixing=0.9), network(KEY, 1)
    moved = jax.tree.map(lambda a, b: a + 0.02 * b, field, network(jax.random.key(5), 1))
    likelihood = exact_log_likelihood(sampler)
    ratio = log_ratio(likelihood)

    @jax.jit
    @jax.vmap
    def one(key):
        pair = sampler.forward(field, sampler.start(field, key), OBS)
        example = stored(pair, log_prob=likelihood(field, stored(pair), key))
        score = jax.grad(lambda f: likelihood(f, example, key), allow_int=True)(field)
        return ratio(field, example, key), jnp.exp(ratio(moved, example, key)), score.mlp.layers[-1].bias

    same, changed, score = map(np.asarray, one(jax.random.split(KEY, 20_000)))
    np.testing.assert_array_equal(same, 0.0)
    error = lambda x: 4 * x.std(0) / np.sqrt(len(x))
    assert changed.std() > 0.01
    assert abs(changed.mean() - 1) < error(changed)
    assert np.all(np.abs(score.mean(0)) < error(score))
    assert np.all(error(score) > 0)


def test_compression(x64):
    """|x - y| of fresh pairs, and a gradient through the sampler."""
    field = function(lambda x, t, obs: 0 * x, size=2)
    sampler = coupled(steps=5, mixing=0.9)
    values = jax.vmap(
        lambda key: compression(sampler, gap="squared")(field, stored(jnp.zeros((2, 2))), key)[0]
    )
    squares = values(jax.random.split(KEY, 20_000))
    np.testing.assert_allclose(np.mean(squares), 2 * 0.243153, rtol=0.03)
    norm, metrics = compression(sampler)(field, stored(jnp.zeros((2, 2))), KEY)
    np.testing.assert_allclose(norm, metrics["gap"], rtol=1e-6)
    pulled = jax.grad(lambda f: compression(sampler)(f, stored(jnp.zeros((2, 1))), KEY)[0], allow_int=True)
    gradient = pulled(network(KEY, 1)).mlp.layers[0].weights[0]
    assert np.isfinite(gradient).all()
    assert np.any(gradient != 0)
    with pytest.raises(ValueError, match="gap must be one of norm, squared"):
        compression(sampler, gap="nrm")


def test_surrogate_gradient_is_the_policy_gradient(x64):
    sampler, field = coupled(steps=2, mixing=0.9), network(KEY, 1)
    pair = sampler.forward(field, sampler.start(field, KEY), OBS)
    likelihood = exact_log_likelihood(sampler)
    example = stored(pair, advantage=-1.7, log_prob=likelihood(field, stored(pair), KEY))
    grad = lambda fn: jax.grad(fn, allow_int=True)(field).mlp.layers[0].weights[0]
    ours = grad(lambda f: clipped(log_ratio(likelihood), eps=0.2)(f, example, KEY)[0])
    np.testing.assert_allclose(ours, grad(lambda f: 1.7 * likelihood(f, example, KEY)), rtol=1e-10)


def test_steps_that_are_computed_anew_have_the_same_gradients(x64, getkey):
    field, pair = network(getkey(), 3), jax.random.normal(getkey(), (2, 3))

    def gradients(rematerialise):
        sampler = coupled(steps=4, rematerialise=rematerialise)
        return jax.grad(lambda pair: sampler.log_prob(field, sampler.forward(field, pair, OBS) + pair, OBS))(
            pair
        )

    np.testing.assert_allclose(gradients(True), gradients(False), rtol=1e-12)
    assert [coupled(steps=steps).rematerialise for steps in (10, 11)] == [False, True]
