"""Statistics of observations after more rows than single precision counts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.train import Normaliser

SEED = jnp.asarray([10.0, 0.0])  # a mean far from zero, and none


def after(count, variance=1.5):
    """As `count` rows of this variance have left them."""
    start = Normaliser.start(2)
    seen = (SEED, jnp.full(2, variance) * count, jnp.asarray(count, jnp.int32))
    return eqx.tree_at(lambda n: (n.mean, n.second, n.count), start, seen)


@jax.jit
def one_by_one(statistics, rows):
    """Single rows, as one environment gives them."""
    return jax.lax.scan(lambda state, row: (state.update(row[None]), None), statistics, rows)[0]


ROWS = 3 * 2**16
CYCLE = jnp.tile(jnp.asarray([-1.5, 0.0, 1.5]), ROWS // 3)[:, None] + SEED[None]


@pytest.mark.parametrize("count", [2**24 - 1000, 2**25, 2**30])
def test_the_deviation_stays_what_it_is(count):
    statistics = one_by_one(after(count), CYCLE)
    assert int(statistics.count) == count + ROWS
    np.testing.assert_allclose(statistics.mean, SEED, atol=1e-5)
    np.testing.assert_allclose(statistics.second / statistics.count, 1.5, rtol=1e-5)
    np.testing.assert_allclose(statistics(SEED + 1.5), np.sqrt([1.5, 1.5]), rtol=2e-5)


def test_rows_move_the_mean_though_each_is_less_than_its_rounding():
    count = 2**30
    statistics = one_by_one(after(count), jnp.broadcast_to(SEED + 4, (ROWS, 2)))
    share = ROWS / (count + ROWS)
    moved = np.asarray(statistics.mean, np.float64) - np.asarray(SEED, np.float64)
    np.testing.assert_allclose(moved, 4 * share, rtol=1e-3)
    variance = (1.5 * count + 16 * count * share) / (count + ROWS)
    np.testing.assert_allclose(statistics.second / statistics.count, variance, rtol=1e-6)


def test_after_the_most_rows_that_are_counted_they_stay():
    statistics = after(2**31 - 9)
    full = statistics.update(jnp.full((8, 2), 1e9))
    assert int(full.count) == 2**31 - 1 and not np.array_equal(full.mean, statistics.mean)
    assert eqx.tree_equal(full.update(jnp.full((1, 2), 1e9)), full)
