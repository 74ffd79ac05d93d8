"""Mean over seeds with a bootstrap interval: how every number of the library that summarises a sweep is reported."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dpolicy import _checks


class Interval(NamedTuple):
    """Mean over the last axis and the bounds of its interval; nan where too few values are finite."""

    mean: Float[np.ndarray, "*points"]
    low: Float[np.ndarray, "*points"]
    high: Float[np.ndarray, "*points"]


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> Interval:
    """Percentile-bootstrap interval of the mean over seeds (Efron & Tibshirani 1993, chapter 13).

    Seeds are drawn with replacement `resamples` times; the bounds are the (1 -+ level)/2 quantiles of the resampled
    means. With few seeds (fewer than about five) such an interval is too narrow, as every one of its kind is: say how
    many seeds there were. The draws come from `seed`, so a figure does not change when it is drawn again.

    Args:
        values: Numbers of shape `[*points, seeds]`; those that are not finite are left out, point by point.
        level: Coverage aimed at.
        resamples: Bootstrap samples.
        seed: Seed of the resampling.

    Returns:
        Mean, low and high, each of shape `[*points]`. The mean is nan without a finite value, the bounds are nan
        with fewer than two.

    Raises:
        ValueError: If `level` is not strictly between 0 and 1, `resamples` is below 1, `seed` is negative or
            `values` is a scalar.
    """
    _checks.in_range("level", level, 0.0, 1.0, open_low=True, open_high=True)
    _checks.integer("resamples", resamples)
    _checks.integer("seed", seed, 0)
    data = np.asarray(values, dtype=np.float64)
    if data.ndim == 0:
        raise ValueError(f"values must have a last axis of seeds, got the scalar {values!r}.")
    rows = data.reshape(-1, data.shape[-1])
    out = np.full((3, rows.shape[0]), np.nan)
    tails = [50.0 * (1.0 - level), 50.0 * (1.0 + level)]
    for i, row in enumerate(rows):
        finite = row[np.isfinite(row)]
        if finite.size:
            out[0, i] = finite.mean()
        if finite.size > 1:
            # One generator per point: the interval at a step does not depend on how many steps there are.
            index = np.random.default_rng(seed).integers(0, finite.size, (resamples, finite.size))
            out[1:, i] = np.percentile(finite[index].mean(axis=-1), tails)
    mean, low, high = out.reshape(3, *data.shape[:-1])
    return Interval(mean, low, high)


def interquartile_mean(values: Float[np.ndarray, "..."]) -> float:
    """Mean of what is left of all values when a quarter of them (rounded down) is dropped at either end.

    Between the mean, which one lucky run decides, and the median, which hardly reads most of them; the aggregate that
    Agarwal et al. (arXiv 2108.13264) recommend for few seeds on several tasks. With fewer than four values it is the
    mean.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    cut = ordered.size // 4
    return float(np.mean(ordered[cut : ordered.size - cut])) if ordered.size else float("nan")


def interquartile_interval(
    scores: Float[np.ndarray, "tasks seeds"], *, level: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> Interval:
    """Interquartile mean of scores over tasks and seeds, with a stratified bootstrap interval (arXiv 2108.13264).

    Seeds are drawn with replacement within each task, so every task weighs what it weighs in the mean.

    Args:
        scores: Of comparable scale on all tasks.
        level: Coverage aimed at.
        resamples: Bootstrap samples.
        seed: Seed of the resampling.

    Raises:
        ValueError: If `scores` has not two axes or is not finite, `level` is not strictly between 0 and 1, `resamples`
            is below 1, or `seed` is negative.
    """
    _checks.in_range("level", level, 0.0, 1.0, open_low=True, open_high=True)
    _checks.integer("resamples", resamples)
    _checks.integer("seed", seed, 0)
    data = np.asarray(scores, dtype=np.float64)
    if data.ndim != 2 or not data.size or not np.isfinite(data).all():
        raise ValueError(f"scores must be finite numbers of shape [tasks, seeds], got {scores!r}.")
    index = np.random.default_rng(seed).integers(0, data.shape[1], (resamples, *data.shape))
    drawn = np.sort(np.take_along_axis(data[None], index, axis=2).reshape(resamples, -1), axis=1)
    cut = data.size // 4
    means = drawn[:, cut : data.size - cut].mean(axis=1)
    low, high = np.percentile(means, [50.0 * (1.0 - level), 50.0 * (1.0 + level)])
    return Interval(np.asarray(interquartile_mean(data)), np.asarray(low), np.asarray(high))


def interval_text(values: np.ndarray, *, digits: int = 4) -> str:
    """One line: the mean over seeds and, for two seeds or more, its 95 % interval in brackets."""
    mean, low, high = (float(number) for number in bootstrap_interval(values))
    if not np.isfinite(mean):
        return "-"
    text = f"{mean:.{digits}g}"
    return text if np.isnan(low) else f"{text} [{low:.{digits}g}, {high:.{digits}g}]"
