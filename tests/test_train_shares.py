"""Batches of exact shares of several sources."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rings import data, ring

from dpolicy.algorithm import Horizon
from dpolicy.train import draw_shares, from_data, from_replay, share_sizes

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("shares", "size", "expected"),
    [
        ((0.5, 0.5), 256, (128, 128)),
        ((1, 1), 5, (3, 2)),  # equal rests: the first
        ((0.25, 0.75), 256, (64, 192)),
        ((0.1, 0.2, 0.7), 10, (1, 2, 7)),  # as they are written: of floats, 0.1 + 0.2 + 0.7 is not 1
        ((1 / 3, 1 / 3, 1 / 3), 256, (86, 85, 85)),
        ((1, 2), 256, (85, 171)),
        ((0.47, 0.29, 0.24), 10, (5, 3, 2)),  # rests .7, .9, .4
        ((0.0, 2.0), 7, (0, 7)),
        ((3,), 4, (4,)),
    ],
)
def test_sizes_by_largest_remainders(shares, size, expected):
    assert share_sizes(shares, size) == expected


def numbered(number):
    """A source that says with which key and how much it was asked."""
    asked = []

    def draw(key, size):
        asked.append((key, size))
        return jax.tree.map(lambda leaf: jnp.full((size, *leaf.shape[1:]), number, leaf.dtype), data())

    return draw, asked


def test_a_batch_holds_each_source_in_its_share():
    sources, asked = zip(*[numbered(number) for number in (1, 2, 3)], strict=True)
    batch = draw_shares(sources, (0.5, 0.3, 0.2), KEY, 10)
    np.testing.assert_array_equal(batch.reward, [1] * 5 + [2] * 3 + [3] * 2)
    assert batch.obs.shape == (10, 2) and batch.extras["mark"].shape == (10,)
    keys = [jax.random.key_data(calls[0][0]).tolist() for calls in asked]
    assert len({str(key) for key in keys}) == 3


def test_a_source_without_a_share_is_not_asked():
    (first, _), (second, asked) = numbered(1), numbered(2)
    batch = draw_shares([first, second], (1.0, 0.01), KEY, 8)
    assert batch.reward.shape == (8,) and asked == []


def test_draws_of_a_data_set_and_a_replay_are_uniform_over_each():
    """The ring holds times 1 to 8 in its 8 rows, the data times 0 to 5."""
    half = draw_shares([from_data(data()), from_replay(ring(9, 8, {}))], (1, 1), KEY, 24_000)
    for part, times in ((half.obs[:12_000, 0], range(6)), (half.obs[12_000:, 0], range(1, 9))):
        found, counts = np.unique(np.asarray(part), return_counts=True)
        np.testing.assert_array_equal(found, times)
        expected = 12_000 / len(times)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    fresh = from_replay(ring(3, 8, {}))(KEY, 1_000)  # only what was written
    np.testing.assert_array_equal(np.unique(np.asarray(fresh.obs[:, 0])), [0, 1, 2])


def test_shares_of_windows():
    horizon = Horizon(steps=2, discount=0.5)
    sources = [from_data(data(), horizon), from_replay(ring(9, 8, {}), horizon)]
    batch = draw_shares(sources, (1, 1), KEY, 64)
    time, two = batch.obs[:, 0], batch.discount == 0.25
    np.testing.assert_array_equal(batch.reward, 2**time + np.where(two, 2 ** (time + 1) / 2, 0))
    np.testing.assert_array_equal(~two, (time == 5) & (jnp.arange(64) < 32) | (time == 8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: share_sizes((), 4), r"shares must be a tuple of one number for each source, got \(\)"),
        (lambda: share_sizes(0.5, 4), "shares must be a tuple of one number for each source, got 0.5"),
        (lambda: share_sizes((0.5, -0.5), 4), "each of shares must be .*, got -0.5"),
        (lambda: share_sizes((0.0, 0.0), 4), "shares must not all be zero"),
        (lambda: share_sizes((1.0,), 0), "batch_size must be an integer of at least 1, got 0"),
        (lambda: draw_shares([from_data(data())], (1, 1), KEY, 4), "each of the 1 sources, got 2"),
        (
            lambda: draw_shares([from_data(data()), from_data(data(), Horizon(1, 0.5))], (1, 1), KEY, 4),
            r"sources must draw transitions of one kind, got obs: .* and .*, discount: float32\[\]",
        ),
        (lambda: from_data(3), "data must be a Transition, got 3"),
        (lambda: from_replay(data()), "stored must be a Stored, got"),
    ],
)
def test_bad_arguments(unchecked_types, call, message):
    with pytest.raises(ValueError, match=message):
        call()
