import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.fields import (
    EMBEDDINGS,
    CosineVP,
    CosSin,
    LearnableFourier,
    LogSNR,
    Phased,
    Projected,
    RandomFourier,
    Raw,
    Sinusoidal,
    make_embedding,
)
from dpolicy.networks import mish

T = 0.3


def test_cos_sin(x64):
    expected = [math.cos(2**j * T) for j in range(4)] + [math.sin(2**j * T) for j in range(4)]
    np.testing.assert_allclose(CosSin(8)(jnp.array(T)), expected, rtol=1e-12)


def test_sinusoidal(x64):
    frequencies = [10000 ** (-j / 7) for j in range(8)]
    expected = [math.sin(T * w) for w in frequencies] + [math.cos(T * w) for w in frequencies]
    np.testing.assert_allclose(Sinusoidal(16)(jnp.array(T)), expected, rtol=1e-11)
    # t = k/K with K = 20, k = 6 feeds the index 5.
    index = Sinusoidal(16, scale=20, shift=-1)(jnp.array(0.3))
    np.testing.assert_allclose(index[:8], [math.sin(5 * w) for w in frequencies], rtol=1e-9)


def test_phased(x64):
    """The number of steps taken, 16 (1 - t), by frequencies from .1 to 100; the phases, which start at 0, learn."""
    embedding = Phased(8, steps=16)
    assert not jnp.any(embedding.phases)
    angles = 16 * (1 - T) * np.linspace(0.1, 100, 4) + [0.1, 0.2, 0.3, 0.4]
    moved = eqx.tree_at(lambda e: e.phases, embedding, jnp.asarray([0.1, 0.2, 0.3, 0.4]))
    np.testing.assert_allclose(moved(jnp.array(T)), [*np.sin(angles), *np.cos(angles)], rtol=1e-11)
    slope = jax.grad(lambda e: jnp.sum(e(jnp.array(T))))(moved).phases
    np.testing.assert_allclose(slope, np.cos(angles) - np.sin(angles), rtol=1e-9)


def test_raw_and_log_snr(x64):
    np.testing.assert_array_equal(Raw()(jnp.array(T)), [T])
    np.testing.assert_allclose(
        LogSNR(CosineVP())(jnp.array(0.5))[0], 2 * math.log(0.70274 / 0.71145), atol=3e-5
    )


@pytest.mark.parametrize("make", [RandomFourier, LearnableFourier])
def test_fourier(make, x64, getkey):
    embedding = make(6, key=getkey())
    w = np.asarray(embedding.frequencies)
    angles = 2 * math.pi * T * w
    np.testing.assert_allclose(
        embedding(jnp.array(T)), np.concatenate([np.cos(angles), np.sin(angles)]), rtol=1e-12
    )


def test_only_learnable_frequencies_have_a_gradient(getkey):
    def grad(embedding):
        return jax.grad(lambda e: jnp.sum(e(jnp.array(T))))(embedding).frequencies

    assert not jnp.any(grad(RandomFourier(6, key=getkey())))
    assert jnp.all(grad(LearnableFourier(6, key=getkey())) != 0)


def test_frequency_scale(getkey):
    frequencies = LearnableFourier(20_000, key=getkey()).frequencies
    assert abs(jnp.std(frequencies) - 0.2) < 0.2 * 4 / math.sqrt(2 * 10_000)


def test_flowrl_default_has_an_activation_on_every_layer(getkey):
    embedding = make_embedding("fourier_mlp", key=getkey())
    assert isinstance(embedding, Projected)
    first, last = embedding.mlp.layers
    hidden = mish(first(embedding.inner(jnp.array(T))))
    np.testing.assert_allclose(embedding(jnp.array(T)), mish(last(hidden)), rtol=1e-6)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_sizes_are_true(name, getkey):
    embedding = make_embedding(name, key=getkey())
    assert embedding(jnp.array(T)).shape == (embedding.size,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda key: CosSin(7), "size must be even"),
        (lambda key: Sinusoidal(2), "size must be an integer of at least 4, got 2"),
        (lambda key: RandomFourier(6, std=0.0, key=key), "std must be"),
        (lambda key: make_embedding("cossin", key=key), "embedding must be one of .* Did you mean cos_sin"),
    ],
)
def test_bad_arguments(make, message, getkey):
    with pytest.raises(ValueError, match=message):
        make(getkey())
