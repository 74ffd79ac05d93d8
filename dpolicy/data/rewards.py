"""Reward treatments of the literature: one affine map for a whole data set."""

from typing import Literal, TypeAlias, get_args

import numpy as np

from dpolicy import _checks

RewardTreatment: TypeAlias = Literal[
    "none", "iql_locomotion", "iql_antmaze", "cql_antmaze", "antmaze100", "white", "minmax"
]
REWARD_TREATMENTS: tuple[RewardTreatment, ...] = get_args(RewardTreatment)
_FIXED = {
    "none": (1.0, 0.0),
    "iql_antmaze": (1.0, -1.0),
    "cql_antmaze": (4.0, -2.0),
    "antmaze100": (100.0, 0.0),
}


def treated(
    reward: np.ndarray, returns: np.ndarray, treatment: RewardTreatment, name: str = "data"
) -> tuple[np.ndarray, float, float]:
    """scale * r + shift, and the two.

    | treatment | |
    |---|---|
    | none | r |
    | iql_locomotion | 1000 r / (R_max - R_min), R the returns of the trajectories (IQL, arXiv 2110.06169) |
    | iql_antmaze | r - 1: 0 and -1 (IQL) |
    | cql_antmaze | 4 (r - 1/2): -2 and 2 (CQL's, in Diffusion-QL and EDP) |
    | antmaze100 | 100 r (BDPO) |
    | white | (r - mean) / std (Diffusion-QL on adroit) |
    | minmax | to [-1, 1] (EDP on adroit and kitchen) |

    Args:
        reward: Of all rows, `[n]`.
        returns: Of all trajectories.
        treatment: One of them.
        name: What the data are called, for messages.

    Raises:
        ValueError: For an unknown one; and where the spread that is divided by is zero.
    """
    _checks.one_of("data_rewards", treatment, REWARD_TREATMENTS)
    wide = reward.astype(np.float64)
    if treatment in _FIXED:
        scale, shift = _FIXED[treatment]
    elif treatment == "iql_locomotion":
        spread = float(returns.max() - returns.min())
        _check_spread(spread, f"returns of the {len(returns):,} trajectories", treatment, name)
        scale, shift = 1000 / spread, 0.0
    else:
        low, high, mean, std = (float(f(wide)) for f in (np.min, np.max, np.mean, np.std))
        _check_spread(high - low, "rewards", treatment, name)
        scale = 1 / std if treatment == "white" else 2 / (high - low)
        shift = -scale * (mean if treatment == "white" else (low + high) / 2)
    return (scale * wide + shift).astype(np.float32), scale, shift


def _check_spread(spread: float, what: str, treatment: str, name: str) -> None:
    if not spread > 0:
        raise ValueError(
            f"data_rewards must not be {treatment!r} for {name}: the {what} are all the same, and it divides by "
            "how much they differ."
        )
