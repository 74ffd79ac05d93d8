"""Metrics of many calls become one number each on the way, as they would of the stack of them all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._metrics import accumulated, reduce_metrics

ROWS = {
    "loss": jnp.asarray([3.0, -1.0, 0.5, 7.0]),
    "hits": jnp.asarray([True, False, True, True]),
    "ratio_min": jnp.asarray([3.0, -1.0, 0.5, 7.0]),
    "ratio_max": jnp.asarray([-3.0, -1.0, -0.5, -7.0]),
    "count": jnp.asarray([2**24 + 1, 0, 1, 1]),
    "total": jnp.asarray([0.5, 0.25, 1.0, 2.0]),
}


def walk(carry, row):
    return carry + row["loss"], row


@pytest.mark.parametrize("length", [1, 2, 4])
def test_one_number_each(length):
    rows = {name: values[:length] for name, values in ROWS.items()}
    carry, found = jax.jit(lambda rows: accumulated(walk, 10.0, rows, sums=("count", "total")))(rows)
    stacked = {name: values.astype(float) for name, values in rows.items()}
    expected = {**reduce_metrics(stacked), "count": rows["count"].sum(), "total": rows["total"].sum()}
    assert list(found) == sorted(rows) and float(carry) == 10 + rows["loss"].sum()
    assert found["count"].dtype == jnp.int32 and found["hits"].dtype == jnp.float32
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
    assert int(found["count"]) == int(rows["count"].sum())


def test_loops_within_loops_with_what_is_closed_over_and_mapped():
    """Seeds and a hyperparameter are mapped over from outside; the body is traced once."""
    traces = []

    def run(scale, key):
        def inner(carry, key):
            traces.append(1)
            draw = scale * jax.random.uniform(key)
            return carry + draw, {"draw": draw, "draw_max": draw, "n": 1}

        def outer(carry, key):
            return accumulated(inner, carry, jax.random.split(key, 3), sums=("n",))

        return accumulated(outer, 0.0, jax.random.split(key, 2), sums=("n",))

    keys = jax.random.split(jax.random.key(0), 4)
    total, found = jax.jit(jax.vmap(run))(jnp.arange(1.0, 5.0), keys)
    assert traces == [1]
    for i in range(4):
        draws = [
            (i + 1) * jax.random.uniform(k)
            for one in jax.random.split(keys[i], 2)
            for k in jax.random.split(one, 3)
        ]
        np.testing.assert_allclose(total[i], np.sum(draws), rtol=1e-6)
        np.testing.assert_allclose(found["draw"][i], np.mean(draws), rtol=1e-6)
        np.testing.assert_allclose(found["draw_max"][i], np.max(draws), rtol=1e-6)
    np.testing.assert_array_equal(found["n"], 6)


def test_without_metrics_it_is_a_scan():
    count, found = accumulated(lambda carry, _: (carry + 1, {}), 0, length=5)
    assert (int(count), found) == (5, {})


def test_what_is_not_finite_shows():
    rows = {"loss": jnp.asarray([1.0, jnp.nan]), "kl_min": jnp.asarray([jnp.inf, 2.0])}
    _, found = accumulated(lambda carry, row: (carry, row), (), rows)
    assert jnp.isnan(found["loss"]) and found["kl_min"] == 2
