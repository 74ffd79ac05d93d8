"""How many modes a cloud of samples has: a Gaussian mixture chosen by BIC, then the maxima of its density."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

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


def _ascend(mixture: Any, points: np.ndarray, steps: int = 500) -> np.ndarray:
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


def _merge(mixture: Any, peaks: np.ndarray, dip: float) -> list[int]:
    """For each peak the index of the mode it belongs to: peaks without a real valley between them are one mode."""
    owner = list(range(len(peaks)))
    along = np.linspace(0.0, 1.0, 51)[:, None]
    for i in range(len(peaks)):
        for j in range(i):
            density = mixture.score_samples(peaks[i] + along * (peaks[j] - peaks[i]))
            if density.min() > min(density[0], density[-1]) + np.log(dip):
                old, new = owner[i], owner[j]
                owner = [new if o == old else o for o in owner]
    return owner


def find_modes(
    samples: np.ndarray,
    *,
    max_components: int = 6,
    min_share: float = 0.05,
    dip: float = 0.7,
    floor: float = 0.1,
    seed: int = 0,
) -> Modes:
    """Modes of the distribution behind `samples`.

    Mixtures with 1 to `max_components` full-covariance components are fitted; the one with the lowest Bayesian
    information criterion is kept. Components are no modes yet (a ring needs several, a skewed bump two), so its
    density's maxima are found by ascent from every component's mean, those without a valley between them are merged,
    and the samples are counted by the component each belongs to. Modes that hold less than `min_share` of the
    samples are not reported.

    Args:
        samples: `[n, d]`, at least `2 * max_components` of them.
        max_components: Largest mixture tried.
        min_share: Smallest share of the samples that counts as a mode.
        dip: Two maxima are two modes only if the density between them falls below this share of the lower one.
        floor: Standard deviation of noise added to the samples before the fit: actions that pile up on a face of
            the box have no density otherwise.
        seed: Of the fit and of that noise.

    Raises:
        ValueError: For samples that are not finite, not `[n, d]` or too few.
    """
    _checks.integer("max_components", max_components)
    _checks.in_range("min_share", min_share, 0.0, 1.0, open_high=True)
    _checks.in_range("dip", dip, 0.0, 1.0, open_low=True, open_high=True)
    _checks.positive("floor", floor)
    samples = np.asarray(samples, float)
    if samples.ndim != 2 or len(samples) < 2 * max_components or not np.isfinite(samples).all():
        raise ValueError(
            f"samples must be finite and of shape [n, d] with n at least {2 * max_components}, got {samples.shape}."
        )
    # A stream of its own: samples drawn from default_rng(seed) must not meet their own numbers again.
    noise = np.random.default_rng([seed, 0x6D6F6465])
    data = samples + floor * noise.standard_normal(samples.shape)
    # One thread: for matrices this small more of them only wait for each other.
    with threadpool_limits(1):
        return _modes_of(data, max_components, min_share, dip, seed)


def _modes_of(data: np.ndarray, max_components: int, min_share: float, dip: float, seed: int) -> Modes:
    fits = [
        GaussianMixture(k, reg_covar=1e-6, random_state=seed).fit(data) for k in range(1, max_components + 1)
    ]
    mixture: Any = min(fits, key=lambda fit: fit.bic(data))
    peaks = _ascend(mixture, mixture.means_)
    owner = np.asarray(_merge(mixture, peaks, dip))
    share = np.bincount(owner[mixture.predict(data)], minlength=len(peaks)) / len(data)
    height = mixture.score_samples(peaks)
    kept = [k for k in np.unique(owner) if share[k] >= min_share]
    highest = [max(np.flatnonzero(owner == k), key=lambda i: height[i]) for k in kept]
    draws, _ = mixture.sample(4096)
    return Modes(
        peaks[highest],
        share[kept],
        int(mixture.n_components),
        float(-mixture.score_samples(draws).mean()),
    )
