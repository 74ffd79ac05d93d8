"""Batch renormalisation by hand: outputs, gradients, running statistics, and passes that share a batch or do not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.networks import MLP, BatchRenorm, QNetwork, RenormMLP, TanhDeterministic, renormalised

KEY = jax.random.key(0)
EPS = 1e-3


def layer(warmup=0, calls=0):
    """Four features whose running statistics are near the batch's, or far: in deviation, in mean, in both."""
    made = BatchRenorm(4, warmup=warmup)
    values = (
        jnp.asarray([1.5, 0.5, -1.0, 2.0]),
        jnp.asarray([0.1, -0.2, 0.3, 0.0]),
        jnp.asarray([0.2, 0.1, 9.0, -40.0]),
        jnp.asarray([0.15, 0.01, 1.2, 90.0]),
        jnp.asarray(calls, jnp.int32),
    )
    return eqx.tree_at(lambda n: (n.scale, n.shift, n.mean, n.var, n.calls), made, values)


def batch(size=6):
    return jnp.asarray([[1.0, 1.3, 0.9, 1.1]]) * jax.random.normal(KEY, (size, 4)) + 0.1


@jax.jit
def over(norm, x):
    """The outputs and statistics on a batch; `x` is [b, n], or [b, k, n] of k examples that count together."""

    def one(x):
        live, statistics = norm.over(x)
        return (jax.vmap(live) if x.ndim > 1 else live)(x), statistics

    return jax.vmap(one, axis_name="batch", out_axes=(0, None))(x)


def by_hand(norm, x, r=None, d=None):
    """The formula on a batch [b, n], with what r and d are where they are not given."""
    mean, var = jnp.mean(x, 0), jnp.var(x, 0)
    std, running = jnp.sqrt(var + EPS), jnp.sqrt(norm.var + EPS)
    r = jnp.clip(std / running, 1 / 3, 3) if r is None else r
    d = jnp.clip((mean - norm.mean) / running, -5, 5) if d is None else d
    spread = lambda row: jnp.broadcast_to(row, x.shape)
    normal = (x - spread(mean)) / spread(std) * spread(r) + spread(d)
    return spread(norm.scale) * normal + spread(norm.shift), r, d


def test_outputs_and_gradients(x64):
    """Two of the four features are clipped in r, one in d; no gradient passes through either."""
    norm, x, weights = layer(), batch(), jax.random.normal(jax.random.key(1), (6, 4))

    @jax.jit
    def results():
        out, r, d = by_hand(norm, x)
        ours = lambda norm, x: jnp.sum(weights * over(norm, x)[0] ** 2)
        theirs = lambda norm, x: jnp.sum(weights * by_hand(norm, x, r, d)[0] ** 2)
        gradients = [jax.grad(f, argnums=(0, 1), allow_int=True)(norm, x) for f in (ours, theirs)]
        return over(norm, x)[0], out, r, d, gradients

    found, expected, r, d, (ours, theirs) = results()
    np.testing.assert_allclose([r[1], r[3]], [3, 1 / 3])
    np.testing.assert_allclose(d[2], -5)
    assert 1 / 3 < r[0] < 3 and abs(d[0]) < 5
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-8, atol=1e-12)
    for name in ("scale", "shift"):
        np.testing.assert_allclose(getattr(ours[0], name), getattr(theirs[0], name), rtol=1e-10)
    for name in ("mean", "var"):
        np.testing.assert_array_equal(getattr(ours[0], name), 0)


def test_unclipped_it_is_what_the_running_statistics_give(x64):
    """Whatever they are within the clips, those of the batch itself among them."""
    near = eqx.tree_at(lambda n: (n.mean, n.var), layer(), (jnp.full(4, 0.3), jnp.full(4, 0.7)))
    x = batch()
    same = eqx.tree_at(lambda n: (n.mean, n.var), near, (jnp.mean(x, 0), jnp.var(x, 0)))
    for norm in (near, same):
        np.testing.assert_allclose(over(norm, x)[0], jax.vmap(norm)(x), rtol=1e-10)
    assert np.abs(over(layer(), x)[0] - jax.vmap(layer())(x)).max() > 1


def test_the_warmup_is_plain_batch_normalisation(x64):
    x = batch()
    plain = by_hand(layer(), x, jnp.ones(4), jnp.zeros(4))[0]
    np.testing.assert_allclose(over(layer(warmup=3, calls=2), x)[0], plain, rtol=1e-10)
    np.testing.assert_allclose(over(layer(warmup=3, calls=3), x)[0], by_hand(layer(), x)[0], rtol=1e-10)
    assert BatchRenorm(4).warmup == 100_000


def test_running_statistics_follow_those_of_the_batch(x64):
    norm, x = layer(), batch()
    _, statistics = over(norm, x)
    moved = norm.moved(statistics, 0.01)
    np.testing.assert_allclose(moved.mean, 0.99 * norm.mean + 0.01 * np.mean(x, 0), rtol=1e-10)
    np.testing.assert_allclose(moved.var, 0.99 * norm.var + 0.01 * np.var(x, 0), rtol=1e-10)
    assert moved.calls == norm.calls + 1
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), norm).moved(jnp.stack([statistics] * 2), 0.01)
    np.testing.assert_allclose(two.var, np.stack([moved.var] * 2), rtol=1e-12)


def test_an_example_depends_on_its_batch_only_where_it_learns(x64):
    x, norm = batch(), layer(warmup=1)
    other = x.at[1:].multiply(2.0)
    assert np.all(np.abs(over(norm, x)[0][0] - over(norm, other)[0][0]) > 1e-3)
    np.testing.assert_array_equal(jax.vmap(norm)(x)[0], jax.vmap(norm)(other)[0])


def test_a_joint_pass_differs_from_two_by_the_statistics(x64):
    """Both halves by the moments of all; where these are equal, so are the passes."""
    x, norm = batch(8), layer(warmup=1)
    halves = jnp.stack([x[:4], 3.0 * x[4:] - 1.0], 1)
    joint, statistics = over(norm, halves)
    everything = by_hand(norm, halves.reshape(8, 4), jnp.ones(4), jnp.zeros(4))[0]
    np.testing.assert_allclose(joint.reshape(8, 4), everything, rtol=1e-10)
    np.testing.assert_allclose(statistics[1], np.var(halves.reshape(8, 4), 0), rtol=1e-10)
    apart = jnp.stack([over(norm, halves[:, i])[0] for i in (0, 1)], 1)
    assert np.abs(apart - joint).max() > 0.1
    alike = jnp.stack([x, x[::-1]], 1)
    apart = jnp.stack([over(norm, alike[:, i])[0] for i in (0, 1)], 1)
    np.testing.assert_allclose(over(norm, alike)[0], apart, rtol=1e-10)


@eqx.filter_jit
def network(make=QNetwork):
    """A small critic whose layers have statistics of their own."""
    module = renormalised(make, warmup=1)(3, 2, hidden=(5, 4), key=KEY)
    numbers = iter(jax.random.uniform(jax.random.key(2), (40, 5), minval=0.5, maxval=1.5))
    new = lambda leaf: next(numbers)[: leaf.size] if eqx.is_inexact_array(leaf) else leaf
    return eqx.tree_at(
        lambda m: (m.mlp.inputs, m.mlp.norms), module, replace_fn=lambda n: jax.tree.map(new, n)
    )


def test_the_order_of_the_layers(x64):
    """Inputs are normalised, and what comes out of each activation; the last layer is linear."""
    mlp = network().mlp
    obs, action = jax.random.normal(KEY, (3,)), jnp.asarray([0.4, -0.3])
    normal = lambda n, x: n.scale * (x - n.mean) / jnp.sqrt(n.var + EPS) + n.shift
    first, second, last = mlp.layers
    parts = [normal(n, part) for n, part in zip(mlp.inputs, (obs, action), strict=True)]
    x = normal(
        mlp.norms[0], jax.nn.relu(sum(w @ p for w, p in zip(first.weights, parts, strict=True)) + first.bias)
    )
    x = normal(mlp.norms[1], jax.nn.relu(second.weights[0] @ x + second.bias))
    np.testing.assert_allclose(mlp(obs, action), last.weights[0] @ x + last.bias, rtol=1e-10)
    assert network()(obs, action) == mlp(obs, action)[0]
    assert [n.scale.size for n in (*mlp.inputs, *mlp.norms)] == [3, 2, 5, 4]


def test_the_network_of_a_batch_gives_the_outputs_of_the_pass(x64):
    mlp = network().mlp
    obs, action = jax.random.normal(KEY, (6, 3)), jax.random.normal(jax.random.key(1), (6, 2))

    def one(obs, action):
        out, live, statistics = mlp.over(obs, action)
        return out, live(obs, action), statistics

    run = jax.jit(jax.vmap(one, axis_name="batch", out_axes=(0, 0, None)))
    out, again, statistics = run(obs, action)
    np.testing.assert_allclose(out, again, rtol=1e-12)
    assert np.abs(out - jax.vmap(mlp)(obs, action)).max() > 0.1
    moved = mlp.moved(statistics, 1.0)
    for norm, (mean, var) in zip((*moved.inputs, *moved.norms), statistics, strict=True):
        np.testing.assert_allclose(norm.mean, mean, rtol=1e-9)
        np.testing.assert_allclose(norm.var, var, rtol=1e-9)
        assert norm.calls == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchRenorm(0), "size must be an integer of at least 1, got 0"),
        (lambda: BatchRenorm(2, warmup=-1), "warmup must be an integer of at least 0, got -1"),
        (
            lambda: RenormMLP(MLP((2,), 1, hidden=(3,), layer_norm=True, key=KEY)),
            "mlp must have neither norms nor",
        ),
        (lambda: RenormMLP(QNetwork(2, 1, hidden=(3,), key=KEY)), "mlp must be an MLP, got"),
        (lambda: renormalised(3), r"make must be a function \(...\) -> module"),
        (lambda: network()(jnp.ones(2), jnp.ones(2)), r"obs must have the shape \(3,\), got \(2,\)"),
    ],
)
def test_bad_arguments(make, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_network_with_a_perceptron_may_have_it():
    actor = renormalised(TanhDeterministic)(3, 2, hidden=(4,), key=KEY)
    assert isinstance(actor.mlp, RenormMLP) and actor(jnp.ones(3)).shape == (2,)
