"""Mode counting on clouds whose modes are known."""

import numpy as np
import pytest

from dpolicy.reports.modes import find_modes


def cloud(means, std, n=1000, seed=0):
    rng = np.random.default_rng(seed)
    means = np.asarray(means, float)
    return means[rng.integers(len(means), size=n)] + std * rng.standard_normal((n, means.shape[1]))


@pytest.mark.parametrize(
    ("means", "count"),
    [
        ([[0.0, 0.0]], 1),
        ([[1.0, 0.0], [-1.0, 0.0]], 2),
        ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], 4),
    ],
)
def test_counts_separated_gaussians(means, count):
    modes = find_modes(cloud(means, 0.15))
    assert modes.count == count
    nearest = np.linalg.norm(modes.positions[:, None] - np.asarray(means)[None], axis=-1).min(axis=1)
    assert nearest.max() < 0.1
    assert modes.shares.sum() > 0.99


def test_overlapping_components_are_one_mode():
    # Two unit Gaussians closer than two standard deviations have a unimodal sum.
    assert find_modes(cloud([[0.5, 0.0], [-0.5, 0.0]], 1.0, n=4000)).count == 1


def test_heavy_tails_are_one_mode():
    rng = np.random.default_rng(1)
    data = rng.standard_normal((3000, 2)) * np.where(rng.random((3000, 1)) < 0.5, 0.2, 1.0)
    assert find_modes(data).count == 1


def test_actions_on_a_face_of_the_box():
    data = np.clip(cloud([[1.2, 0.0], [-1.2, 0.0]], 0.1), -1, 1)
    assert find_modes(data).count == 2


def test_a_rare_cluster_is_no_mode():
    data = cloud([[0.0, 0.0]], 0.1)
    data[:20] += 3.0
    assert find_modes(data).count == 1


def test_entropy_of_a_gaussian():
    entropy = find_modes(cloud([[0.0, 0.0]], 0.5, n=4000), max_components=2).entropy
    assert abs(entropy - np.log(2 * np.pi * np.e * (0.5**2 + 0.1**2))) < 0.08


@pytest.mark.parametrize("bad", [np.zeros((3, 2)), np.zeros(100), np.full((100, 2), np.nan)])
def test_bad_samples(bad):
    with pytest.raises(ValueError, match="samples must be finite"):
        find_modes(bad)
