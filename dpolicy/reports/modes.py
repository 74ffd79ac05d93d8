"""How many modes a cloud of samples has: a Gaussian mixture chosen by BIC, then the maxima of its density."""

from typing import NamedTuple

import numpy as np
from sklearn.mixture import GaussianMixture

from dpolicy import _checks


class Modes(NamedTuple):
    """Modes of a fitted mixture density.

    Attributes:
        positions: Where the density has its maxima, `[modes, d]`.
        shares: Share of the samples that belongs to each, `[modes]`.
        components: Components of the mixture that BIC chose.
        entropy: Monte-Carlo estimate of the mixture's entropy, in nats.
    """

    positions: np.ndarray
    shares: np.ndarray
    components: int
    entropy: float

    @property
    def count(self) -> int:
        """The number of modes."""
        return len(self.shares)


def _ascend(mixture: GaussianMixture, points: np.ndarray, steps: int = 500) -> np.ndarray:
    """Follow each point uphill on the mixture density by its fixed-point (mean-shift) iteration."""
    precisions = mixture.precisions_
    for _ in range(steps):
        share = mixture.predict_proba(points)
        matrix = np.einsum("nk,kij->nij", share, precisions)
        vector = np.einsum("nk,kij,kj->ni", share, precisions, mixture.means_)
        moved = np.linalg.solve(matrix, vector[..., None])[..., 0]
        if np.abs(moved - points).max() < 1e-8:
            return moved
        points = moved
    return points


def find_modes(
    samples: np.ndarray, *, max_components: int = 6, min_share: float = 0.05, floor: float = 0.02, seed: int = 0
) -> Modes:
    """Modes of the distribution behind `samples`.

    Mixtures with 1 to `max_components` full-covariance components are fitted; the one with the lowest Bayesian
    information criterion is kept. Components are no modes yet (a ring needs several, a skewed bump two), so its
    density's maxima are found by ascent from every component's mean, and the samples are counted by the component
    each belongs to. Maxima that hold less than `min_share` of the samples are not reported.

    Args:
        samples: `[n, d]`, at least `2 * max_components` of them.
        max_components: Largest mixture tried.
        min_share: Smallest share of the samples that counts as a mode.
        floor: Standard deviation of noise added to the samples before the fit: actions that pile up on a face of
            the box have no density otherwise. Also the distance within which maxima are one.
        seed: Of the fit and of that noise.

    Raises:
        ValueError: for samples that are not finite, not `[n, d]` or too few.
    """
    _checks.integer("max_components", max_components)
    _checks.in_range("min_share", min_share, 0.0, 1.0, open_high=True)
    _checks.positive("floor", floor)
    samples = np.asarray(samples, float)
    if samples.ndim != 2 or len(samples) < 2 * max_components or not np.isfinite(samples).all():
        raise ValueError(
            f"samples must be finite and of shape [n, d] with n at least {2 * max_components}, got {samples.shape}."
        )
    noise = np.random.default_rng(seed)
    data = samples + floor * noise.standard_normal(samples.shape)
    fits = [
        GaussianMixture(k, n_init=2, reg_covar=1e-6, random_state=seed).fit(data)
        for k in range(1, max_components + 1)
    ]
    mixture = min(fits, key=lambda fit: fit.bic(data))
    peaks = _ascend(mixture, mixture.means_)
    positions: list[np.ndarray] = []
    of_component = []
    for peak in peaks:
        distances = [np.linalg.norm(peak - other) for other in positions]
        if distances and min(distances) < 5 * floor:
            of_component.append(int(np.argmin(distances)))
        else:
            of_component.append(len(positions))
            positions.append(peak)
    owner = np.asarray(of_component)[mixture.predict(data)]
    shares = np.bincount(owner, minlength=len(positions)) / len(data)
    kept = shares >= min_share
    draws, _ = mixture.sample(4096)
    return Modes(
        np.asarray(positions)[kept],
        shares[kept],
        int(mixture.n_components),  # pyright: ignore[reportAttributeAccessIssue]
        float(-mixture.score_samples(draws).mean()),
    )
