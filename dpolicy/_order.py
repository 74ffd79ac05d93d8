"""Whether the rows of a data set are in order of time."""

import numpy as np

from dpolicy import _checks
from dpolicy._parts import in_parts
from dpolicy._types import Transition

_ROUNDING = 1e-3  # what storing observations in half precision may change, relatively and absolutely


def check_order(data: Transition, name: str = "data") -> None:
    """Refuse a data set whose rows are seen not to be in order of time, one environment's, episode after episode.

    Windows of several steps are read from such rows. A row that neither terminates nor is truncated must be followed by
    the one that starts where it led to: obs[i + 1] is next_obs[i], but for rounding. Nothing is asked behind the last
    row, which ends the data. That rows are not in order cannot always be seen: an environment whose observations do not
    change, or episodes that are not marked as ended but begin where another led to, pass.

    Args:
        data: Transitions with one leading axis.
        name: What it is called, for messages.

    Raises:
        ValueError: With the first row that is not followed by what it led to.
    """
    _checks.instance(name, data, Transition, "a Transition")
    done = np.asarray(data.terminated) | np.asarray(data.truncated)
    check_follow(np.asarray(data.obs), np.asarray(data.next_obs), done, name)


def check_follow(obs: np.ndarray, next_obs: np.ndarray, done: np.ndarray, name: str) -> None:
    """As `check_order`, of arrays, which may be mapped from a file.

    Raises:
        ValueError: As `check_order`.
    """
    pairs = zip(in_parts(next_obs[:-1]), in_parts(obs[1:]), strict=True)
    near = [np.isclose(led_to, begins, _ROUNDING, _ROUNDING).all(axis=1) for led_to, begins in pairs]
    follows = np.concatenate([*near, np.zeros(0, bool)]) | done[:-1]
    if not follows.all():
        row = int(np.argmin(follows))
        raise ValueError(
            f"{name} must be in order of time, with every episode's last row terminated or truncated, to be learned "
            f"from over several steps; row {row} goes on, but row {row + 1} begins elsewhere than where it "
            f"led to ({int((~follows).sum())} of {len(follows)} rows do)."
        )
