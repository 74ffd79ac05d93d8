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
        ValueError: if `level` is not strictly between 0 and 1, `resamples` is below 1, `seed` is negative or
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


def interval_text(values: np.ndarray, *, digits: int = 4) -> str:
    """One line: the mean over seeds and, for two seeds or more, its 95 % interval in brackets."""
    mean, low, high = (float(number) for number in bootstrap_interval(values))
    if not np.isfinite(mean):
        return "-"
    text = f"{mean:.{digits}g}"
    return text if np.isnan(low) else f"{text} [{low:.{digits}g}, {high:.{digits}g}]"
