"""Normalised scores: returns between those of a random policy and of an expert."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpolicy import _checks

# D4RL's `infos.py` and registrations: undiscounted returns of its random policy and of its expert, by the beginning of
# the name of a set. They hold for all versions.
REFERENCE_SCORES: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "door": (-56.512833, 2880.5693087298737),
    "relocate": (-6.425911, 4233.877797728884),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482),
    "maze2d-medium-dense": (44.264742, 297.4552547777125),
    "maze2d-large-dense": (30.569041, 303.4857382709002),
}
# What D4RL's files are called beside their sets.
_FILES = {"ant-maze": "antmaze", "walker-": "walker2d-", "mini-kitchen": "kitchen"}


def reference_scores(name: str) -> tuple[float, float] | None:
    """The returns (R_min, R_max) of D4RL's reference policies for a set, by its name or that of its file.

    Returns:
        The pair; None for a name that D4RL does not have.

    Raises:
        ValueError: For something that is no text.
    """
    _checks.instance("name", name, str, "the name of a set")
    text = re.sub(r"[_\s]+", "-", name.lower())
    for written, meant in _FILES.items():
        if text.startswith(written):
            text = meant + text[len(written) :]
    known = [key for key in REFERENCE_SCORES if text == key or text.startswith(f"{key}-")]
    return REFERENCE_SCORES[max(known, key=len)] if known else None


def check_reference(reference: Any, name: str = "reference") -> tuple[float, float]:
    """A pair of returns, the lower one first; `name` is what messages call it.

    Raises:
        ValueError: For anything else.
    """
    if not isinstance(reference, (tuple, list)) or len(reference) != 2:
        raise ValueError(f"{name} must be two returns (R_min, R_max), got {reference!r}.")
    low, high = reference
    _checks.in_range(name, list(reference), ndim=(1,))
    if not low < high:
        raise ValueError(f"{name} must be two returns, the lower one first, got {tuple(reference)!r}.")
    return float(low), float(high)


def normalised_score(returns: Any, reference: Sequence[float], *, percent: bool = True) -> Any:
    """100 (R - R_min) / (R_max - R_min): 0 for the return of D4RL's random policy, 100 for that of its expert.

    R is the undiscounted return of an episode with the environment's own rewards, whatever the rewards were that a
    policy was trained with. The source is D4RL (arXiv 2004.07219); Minari's `get_normalized_score` gives the same
    without the factor of 100.

    Args:
        returns: Of episodes, of any shape.
        reference: (R_min, R_max), such as `reference_scores("hopper-medium-v2")`.
        percent: Whether the factor of 100 is there.

    Raises:
        ValueError: For a pair that is none, or whose first return is not the lower one.

    Examples:
        >>> round(float(normalised_score(3234.3, reference_scores("hopper-medium-v2"))), 3)
        100.0
    """
    _checks.boolean("percent", percent)
    low, high = check_reference(reference)
    scaled = (
        (returns - low) / (high - low)
        if hasattr(returns, "dtype")
        else np.subtract(returns, low) / (high - low)
    )
    return 100 * scaled if percent else scaled
