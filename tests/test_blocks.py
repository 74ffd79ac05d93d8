"""Evaluations in blocks are those of one vmap."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy import _blocks
from dpolicy._blocks import in_blocks


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


@pytest.mark.parametrize("size", [1, 6, 7, 500, 503])
def test_equal_to_vmap_whatever_divides(size, backend, monkeypatch):
    monkeypatch.setattr(_blocks, "_ROWS", 12)
    keys, scales = jax.random.split(jax.random.key(0), size), jnp.linspace(0.5, 1.0, size)

    def one(key, scale):
        draw = scale * jax.random.normal(key, (3,))
        return draw, {"sum": jnp.sum(draw)}

    expected = jax.vmap(one)(keys, scales)
    alone = in_blocks(one, keys, scales)
    (batched,) = jax.tree.leaves(
        jax.vmap(lambda *rows: in_blocks(one, *rows)[0], axis_name="batch")(keys[None], scales[None])
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), alone, expected)
    np.testing.assert_allclose(batched[0], expected[0], rtol=1e-5, atol=1e-6)


def test_a_larger_batch_takes_fewer_of_each_example(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")

    def lengths(batch, size):
        program = jax.make_jaxpr(jax.vmap(lambda rows: in_blocks(jnp.sin, rows), axis_name="batch"))(
            jnp.zeros((batch, size))
        )
        return [e.params["length"] for e in program.eqns if e.primitive.name == "scan"]

    assert lengths(256, 500) == [250]
    assert lengths(64, 500) == [100]  # five at once: the largest divisor of 500 up to eight
    assert lengths(64, 503) == [62]  # a prime: eight at once, and the last seven after them
    assert lengths(64, 8) == []
    assert lengths(1024, 500) == [500]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert lengths(256, 500) == []


def test_gradients_pass():
    blocked = jax.grad(lambda w: jnp.sum(in_blocks(lambda x: jnp.sin(w * x), jnp.arange(1_000.0)) ** 2))
    straight = jax.grad(lambda w: jnp.sum(jnp.sin(w * jnp.arange(1_000.0)) ** 2))
    np.testing.assert_allclose(blocked(0.3), straight(0.3), rtol=1e-4)
