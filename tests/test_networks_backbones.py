"""SimBa and BroNet: their layers by hand, what makes a block the identity, and as critics."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.fields import RandomFourier
from dpolicy.networks import (
    MLP,
    AtomicQ,
    BatchRenorm,
    BroNet,
    CategoricalQ,
    QNetwork,
    QuantileQ,
    SimBa,
    ensemble,
    on_backbone,
    unit_rows,
)
from dpolicy.optimisers import adam, descend, learner

KEY = jax.random.key(0)
PARTS = (jnp.asarray([0.3, -1.2]), jnp.asarray([0.7]))


def normed(x, norm):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * np.asarray(norm.scale) + np.asarray(norm.shift)


def linear(layer, *parts):
    return sum(np.asarray(w) @ np.asarray(p) for w, p in zip(layer.weights, parts, strict=True)) + np.asarray(
        layer.bias
    )


def stirred(network, key=KEY):
    """Every parameter moved off its start: norms of scale 1 would hide that they are used."""
    arrays, rest = eqx.partition(network, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    keys = jax.random.split(key, len(leaves))
    moved = [leaf + 0.3 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return eqx.combine(jax.tree.unflatten(structure, moved), rest)


def test_simba_by_hand(x64):
    network = stirred(SimBa((2, 1), 3, hidden=(8, 8), key=KEY))
    y = linear(network.layers[0], *PARTS)
    for norm, (up, down) in zip(network.norms[:2], network.inner, strict=True):
        assert up.bias.shape == (32,)
        y = y + linear(down, np.maximum(linear(up, normed(y, norm)), 0))
    expected = linear(network.layers[1], normed(y, network.norms[2]))
    np.testing.assert_allclose(network(*PARTS), expected, rtol=1e-10)


def test_bronet_by_hand(x64):
    network = stirred(BroNet((2, 1), 3, hidden=(8, 8), key=KEY))
    y = np.maximum(normed(linear(network.layers[0], *PARTS), network.norms[0]), 0)
    for i in (1, 3):
        inner = np.maximum(normed(linear(network.layers[i], y), network.norms[i]), 0)
        y = y + normed(linear(network.layers[i + 1], inner), network.norms[i + 1])
    np.testing.assert_allclose(network(*PARTS), linear(network.layers[-1], y), rtol=1e-10)


def test_a_block_that_is_the_identity(x64):
    """SimBa's with a second layer of zero, BroNet's with a second norm of zero: a linear map of what went in."""
    zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)
    simba = eqx.tree_at(lambda n: n.inner[0][1], SimBa((2, 1), 3, hidden=(8,), key=KEY), replace_fn=zero)
    y = linear(simba.layers[0], *PARTS)
    np.testing.assert_allclose(simba(*PARTS), linear(simba.layers[1], normed(y, simba.norms[1])), rtol=1e-10)
    # What leaves the body has mean zero and variance one.
    np.testing.assert_allclose(
        [normed(y, simba.norms[1]).mean(), normed(y, simba.norms[1]).var()], [0, 1], atol=1e-4
    )
    bro = eqx.tree_at(lambda n: n.norms[2], BroNet((2, 1), 3, hidden=(8,), key=KEY), replace_fn=zero)
    y = np.maximum(normed(linear(bro.layers[0], *PARTS), bro.norms[0]), 0)
    np.testing.assert_allclose(bro(*PARTS), linear(bro.layers[-1], y), rtol=1e-10)


@pytest.mark.parametrize("kind", [SimBa, BroNet])
def test_a_constant_input_has_a_gradient(kind):
    network = kind((2, 1), 1, hidden=(4,), key=KEY)
    slopes = jax.grad(lambda x: network(x, jnp.zeros(1))[0])(jnp.zeros(2))
    assert np.isfinite(slopes).all()


def test_how_they_start(x64):
    simba = SimBa((16, 4), 8, hidden=(32,), key=KEY)
    bro = BroNet((16, 4), 8, hidden=(32,), key=KEY)
    gram = lambda layer: np.linalg.svd(np.concatenate(layer.weights, axis=1), compute_uv=False)
    np.testing.assert_allclose(gram(simba.layers[0]), 1.0, rtol=1e-6)
    np.testing.assert_allclose(gram(simba.layers[1]), 1.0, rtol=1e-6)
    for layer in bro.layers:
        np.testing.assert_allclose(gram(layer), np.sqrt(2), rtol=1e-6)
    for fan_in, layer in zip((32, 128), simba.inner[0], strict=True):
        assert np.std(layer.weights[0]) == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)


@pytest.mark.parametrize("backbone", ["simba", "bronet"])
def test_a_critic_on_a_backbone(backbone):
    make = on_backbone(QNetwork, backbone)
    critic = ensemble(lambda key: make(2, 1, hidden=(8, 8), activation="elu", key=key), 2, key=KEY)
    values = critic(*PARTS)
    assert values.shape == (2,) and values[0] != values[1]
    assert type(critic.members.mlp).__name__.lower() == backbone and critic.members.mlp.activation == "elu"
    assert on_backbone(QNetwork, "mlp") is QNetwork
    law = on_backbone(CategoricalQ, backbone)(2, 1, hidden=(8,), atoms=7, key=KEY)(*PARTS)
    np.testing.assert_allclose(jnp.sum(jnp.exp(law)), 1.0, rtol=1e-6)


def test_critics_of_laws():
    found = AtomicQ(CategoricalQ(2, 1, atoms=5, hidden=(8,), key=KEY), -2.0, 6.0)(*PARTS)
    np.testing.assert_allclose(found.atoms, [-2, 0, 2, 4, 6])
    np.testing.assert_allclose(found.mean, np.sum(np.exp(found.log_probabilities) * found.atoms), rtol=1e-6)
    quantiles = QuantileQ(2, 1, quantiles=7, hidden=(8,), key=KEY)(*PARTS)
    np.testing.assert_allclose(quantiles.mean, np.mean(quantiles.quantiles), rtol=1e-6)
    np.testing.assert_allclose(quantiles.points.weight, np.full(7, 1 / 7), rtol=1e-6)
    # The bounds are arrays that no gradient reaches.
    critic = AtomicQ(CategoricalQ(2, 1, atoms=5, hidden=(8,), key=KEY), -2.0, 6.0)
    slopes = eqx.filter_grad(lambda c: c(*PARTS).mean)(critic)
    assert (slopes.low.array, slopes.high.array) == (0.0, 0.0)
    # Nor does the decay of the weights.
    started = learner(critic, adam(0.1, weight_decay=0.5))
    moved = descend(started, lambda c: (c(*PARTS).mean, {}), adam(0.1, weight_decay=0.5))[0].model
    assert (moved.low.array, moved.high.array) == (-2.0, 6.0)
    assert not np.array_equal(moved.q.mlp.layers[0].weights[0], critic.q.mlp.layers[0].weights[0])


def test_what_does_not_decay():
    """Running statistics and fixed frequencies stay, whatever module they are in; all else decays."""
    tree = {"norms": [BatchRenorm(3)], "times": RandomFourier(4, key=KEY), "layer": jnp.ones(2)}
    optimiser = adam(1.0, weight_decay=0.5)
    still = lambda t: (jnp.zeros(()), {})
    after = descend(learner(tree, optimiser), still, optimiser)[0].model
    np.testing.assert_array_equal(after["times"].frequencies, tree["times"].frequencies)
    np.testing.assert_array_equal(after["norms"][0].var, 1.0)
    np.testing.assert_array_equal(after["norms"][0].scale, 0.5)
    np.testing.assert_array_equal(after["layer"], 0.5)


@pytest.mark.parametrize("backbone", ["mlp", "simba", "bronet"])
def test_rows_on_the_unit_sphere(backbone):
    """Of every hidden layer, at the start and after steps; the directions, the output layer and the biases stay."""
    make = on_backbone(QNetwork, backbone)
    critic = ensemble(lambda key: make(2, 1, hidden=(8, 8), key=key), 2, key=KEY)
    norms = lambda layer: np.linalg.norm(np.concatenate(layer.weights, axis=-1), axis=-1)

    def layers(model):
        mlp = model.members.mlp
        return [*mlp.layers[:-1], *(layer for pair in getattr(mlp, "inner", ()) for layer in pair)]

    moved = unit_rows(critic)
    for old, new in zip(layers(critic), layers(moved), strict=True):
        np.testing.assert_allclose(norms(new), 1.0, rtol=1e-5)
        for before, after in zip(old.weights, new.weights, strict=True):
            np.testing.assert_allclose(before / norms(old)[..., None], after, rtol=1e-4)
        np.testing.assert_array_equal(old.bias, new.bias)
    for old, new in zip(
        critic.members.mlp.layers[-1].weights, moved.members.mlp.layers[-1].weights, strict=True
    ):
        np.testing.assert_array_equal(old, new)
    assert np.isfinite(unit_rows(jax.tree.map(jnp.zeros_like, critic))(*PARTS)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimBa((2,), 1, hidden=(8, 4), key=KEY), "hidden must be equal widths, one for each block"),
        (lambda: BroNet((2,), 1, hidden=(), key=KEY), "hidden must be equal widths, one for each block"),
        (lambda: SimBa((-1,), 1, hidden=(8,), key=KEY), "in_sizes must be an integer"),
        (lambda: BroNet((2,), 0, hidden=(8,), key=KEY), "out_size must be an integer"),
        (lambda: SimBa((2,), 1, hidden=(8,), activation="square", key=KEY), "activation must be one of"),
        (lambda: BroNet((2,), 1, hidden=(8,), final_scale=-1.0, key=KEY), "final_scale must be"),
        (lambda: SimBa((2,), 1, hidden=(8,), key=KEY)(jnp.zeros(3)), "parts[0] must"),
        (lambda: on_backbone(QNetwork, "resnet"), "backbone must be one of mlp, layer_norm, simba, bronet"),
        (
            lambda: on_backbone(QNetwork, "simba")(2, 1, hidden=(8,), layer_norm=True, key=KEY),
            "layer_norm is of an mlp, got it for simba",
        ),
        (lambda: AtomicQ(CategoricalQ(2, 1, key=KEY), 1.0, 0.0), "high - low must be"),
        (lambda: QuantileQ(2, 1, quantiles=0, key=KEY), "quantiles must be an integer"),
        (lambda: MLP((2,), 1, hidden=(0,), key=KEY), "hidden must be"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
