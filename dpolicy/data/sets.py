"""A data set as it was read: rows of single steps, where trajectories end, and what is known about it."""

from typing import Any, Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from dpolicy import _checks
from dpolicy._parts import in_parts
from dpolicy._types import Transition
from dpolicy.data.rewards import RewardTreatment, treated
from dpolicy.data.sources import check_actions, checked, columns, flags

Extra: TypeAlias = Literal["next_action", "mc_return", "trajectory"]
EXTRAS: tuple[Extra, ...] = ("next_action", "mc_return", "trajectory")


class DataStatistics(NamedTuple):
    """What is measured of a data set when it is made, once: nothing here follows a batch.

    Attributes:
        obs_mean: Of every observed number, `[o]`.
        obs_std: Its standard deviation; 1 where it is zero, so that dividing by it leaves a constant alone.
        reward_scale: The factor that the stored rewards have of those that were read.
        reward_shift: What was added to them then.
        return_low: The lowest undiscounted return of a trajectory, with the rewards as they were read.
        return_high: The highest.
        action_low: The least value of each coordinate of the actions, `[a]`.
        action_high: The largest.
    """

    obs_mean: np.ndarray
    obs_std: np.ndarray
    reward_scale: float
    reward_shift: float
    return_low: float
    return_high: float
    action_low: np.ndarray
    action_high: np.ndarray


def is_mapped(array: Any) -> bool:
    """Whether an array is a file's that may not be written, mapped into memory."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap) and array.mode == "r"


def _frozen(array: Any, kind: Any = None) -> np.ndarray:
    if kind is None and is_mapped(array):
        return array
    copy = np.array(array, kind)
    copy.flags.writeable = False
    return copy


def _moments(obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the columns, in double precision."""
    total = np.zeros(obs.shape[1])
    for part in in_parts(obs):
        total += part.sum(axis=0, dtype=np.float64)
    mean, squares = total / len(obs), np.zeros(obs.shape[1])
    for part in in_parts(obs):
        squares += ((part.astype(np.float64) - mean) ** 2).sum(axis=0)
    return mean, np.sqrt(squares / len(obs))


class DataSet:
    """Rows of single steps, in order of time, trajectory after trajectory. What is made is never changed.

    Termination and end are apart: `terminated` cuts the bootstrap, `end` is the last row of a trajectory, for whatever
    reason; `next_obs` is the true successor at an end, too. A row may be terminated where its trajectory goes on (at a
    goal that is stayed at).

    Args:
        obs: Observations, `[n, o]`.
        action: Actions, `[n, a]`. Those outside [-1, 1] are kept, and refused by `transitions`.
        reward: Rewards, `[n]`; zeros by default.
        next_obs: Where the rows led to, `[n, o]`; `obs` by default.
        terminated: Which rows cut the bootstrap, `[n]`; none by default.
        end: Which rows end a trajectory, `[n]`; those that are terminated by default. The last row always does.
        name: What it is called.
        source: In whose form it was stored.
        remarks: What was found and what was done about it, in sentences.
        reference: Returns (R_min, R_max) that scores are normalised by; None where there are none.

    Raises:
        ValueError: For arrays that are missing, misshapen, empty, or not finite in single precision.
    """

    def __init__(
        self,
        obs: Any,
        action: Any,
        reward: Any = None,
        next_obs: Any = None,
        terminated: Any = None,
        end: Any = None,
        *,
        name: str = "data",
        source: str = "arrays",
        remarks: tuple[str, ...] = (),
        reference: tuple[float, float] | None = None,
    ):
        given = {
            "obs": obs,
            "action": action,
            "reward": reward,
            "next_obs": next_obs,
            "terminated": terminated,
        }
        arrays = checked(
            {key: value for key, value in given.items() if value is not None}, name, bounded=False
        )
        size = len(arrays["action"])
        self.obs = _frozen(arrays["obs"])
        self.action = _frozen(arrays["action"])
        self.reward = _frozen(arrays.get("reward", np.zeros(size, np.float32)))
        self.next_obs = self.obs if next_obs is None else _frozen(arrays["next_obs"])
        self.terminated = _frozen(arrays.get("terminated", np.zeros(size, bool)))
        ends = np.array(self.terminated) if end is None else flags("end", end, name)
        if ends.shape != (size,):
            raise ValueError(
                f"'end' in {name} must be as long as 'action', of shape {(size,)}, got {ends.shape}."
            )
        ends[-1] = True
        self.end = _frozen(ends)
        self.name, self.source, self.remarks, self.reference = name, source, tuple(remarks), reference
        self.treatment: RewardTreatment = "none"
        self.statistics = self._measured(1.0, 0.0, self.trajectory_returns())

    def __len__(self) -> int:
        return len(self.reward)

    def __setattr__(self, name: str, value: Any) -> None:
        if "statistics" in self.__dict__:
            raise AttributeError(f"{name} of a data set is not changed: make another (rewarded, clipped).")
        super().__setattr__(name, value)

    def _measured(self, scale: float, shift: float, returns: np.ndarray) -> DataStatistics:
        mean, std = _moments(self.obs)
        return DataStatistics(
            _frozen(mean, np.float32),
            _frozen(np.where(std > 0, std, 1.0), np.float32),
            scale,
            shift,
            float(returns.min()),
            float(returns.max()),
            _frozen(self.action.min(axis=0)),
            _frozen(self.action.max(axis=0)),
        )

    def _with(self, **parts: Any) -> "DataSet":
        made = object.__new__(DataSet)
        made.__dict__.update(self.__dict__ | parts)
        return made

    @property
    def trajectory(self) -> np.ndarray:
        """The number of each row's trajectory, from 0, `[n]`."""
        return np.concatenate([[0], np.cumsum(self.end)[:-1]]).astype(np.int32)

    def trajectory_returns(self) -> np.ndarray:
        """The undiscounted return of every trajectory, `[trajectories]`; one that the data cut off counts as it is."""
        return np.diff(np.cumsum(self.reward, dtype=np.float64)[self.end], prepend=0.0)

    def rewarded(self, treatment: RewardTreatment) -> "DataSet":
        """The set with its rewards treated: once, for the whole of it.

        Args:
            treatment: One of `REWARD_TREATMENTS`.

        Raises:
            ValueError: For an unknown treatment, for one that cannot be (trajectories of one return, say), and for a
                set whose rewards have been treated.
        """
        if self.treatment != "none":
            raise ValueError(f"the rewards of {self.name} have been treated by {self.treatment!r} already.")
        reward, scale, shift = treated(self.reward, self.trajectory_returns(), treatment, self.name)
        statistics = self.statistics._replace(reward_scale=scale, reward_shift=shift)
        return self._with(reward=_frozen(reward), treatment=treatment, statistics=statistics)

    def clipped(self, limit: float) -> "DataSet":
        """The set with its actions clipped to [-limit, limit], which is remarked upon with how many numbers it moved.

        Raises:
            ValueError: For a limit outside (0, 1].
        """
        _checks.in_range("limit", limit, 0.0, 1.0, open_low=True)
        bound = np.float32(limit)
        action = np.clip(self.action, -bound, bound)
        moved = int((action != self.action).sum())
        sentence = f"{moved:,} of {action.size:,} numbers of the actions were clipped to [-{limit}, {limit}]."
        low, high = _frozen(action.min(axis=0)), _frozen(action.max(axis=0))
        statistics = self.statistics._replace(action_low=low, action_high=high)
        return self._with(action=_frozen(action), statistics=statistics, remarks=(*self.remarks, sentence))

    def mc_returns(self, discount: float) -> np.ndarray:
        """Discounted sum of the rewards to the end of the row's trajectory, `[n]`, nothing being added at a cut.

        G_i = r_i + gamma G_{i+1}, but G_i = r_i where the row is terminated or ends its trajectory.

        Raises:
            ValueError: For a discount outside [0, 1].
        """
        _checks.fraction("discount", discount)
        total, found = 0.0, np.empty(len(self), np.float64)
        stops = (self.end | self.terminated).tolist()
        for i, reward in zip(range(len(self) - 1, -1, -1), self.reward[::-1].tolist(), strict=True):
            total = reward if stops[i] else reward + discount * total
            found[i] = total
        return found.astype(np.float32)

    def next_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """The action that followed each row in its trajectory, `[n, a]`, and where there was one, `[n]`.

        At an end nobody knows it: the row's own action stands there.
        """
        known = ~self.end
        following = np.concatenate([self.action[1:], self.action[-1:]])
        return np.where(known[:, None], following, self.action), known

    def transitions(self, extras: tuple[Extra, ...] = (), *, discount: float = 0.99) -> Transition:
        """The rows as `Transition`s: what ends a trajectory without terminating is truncated.

        Args:
            extras: What goes into their extras: "next_action" (with "next_action_known"), "mc_return", "trajectory".
            discount: That of the Monte-Carlo returns.

        Raises:
            ValueError: For actions outside [-1, 1], and an extra that there is not.
        """
        check_actions(self.action, self.name)
        found: dict[str, Any] = {}
        for extra in extras:
            _checks.one_of("extras", extra, EXTRAS)
        if "next_action" in extras:
            actions, known = self.next_actions()
            found |= {"next_action": jnp.asarray(actions, float), "next_action_known": jnp.asarray(known)}
        if "mc_return" in extras:
            found["mc_return"] = jnp.asarray(self.mc_returns(discount), float)
        if "trajectory" in extras:
            found["trajectory"] = jnp.asarray(self.trajectory)
        obs, action = jnp.asarray(self.obs, float), jnp.asarray(self.action, float)
        return Transition(
            obs,
            action,
            jnp.asarray(self.reward, float),
            obs if self.next_obs is self.obs else jnp.asarray(self.next_obs, float),
            jnp.asarray(self.terminated),
            jnp.asarray(self.end & ~self.terminated),
            found,
        )


def as_data_set(
    data: Transition,
    name: str = "data",
    source: str = "transitions",
    reference: tuple[float, float] | None = None,
) -> DataSet:
    """Transitions with one leading axis as a `DataSet`; extras are left out.

    Raises:
        ValueError: As `DataSet`, and for something that is no `Transition`.
    """
    _checks.instance("data", data, Transition, "a Transition")
    arrays: dict[str, Any] = dict(checked(columns(data), name, bounded=False))
    ends = arrays.pop("truncated") | arrays["terminated"]
    return DataSet(**arrays, end=ends, name=name, source=source, reference=reference)
