"""The contract of an algorithm: three pure functions, as in optax and blackjax."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxtyping import Array, Int

from dpolicy import _checks
from dpolicy._types import Key, Metrics, Number, Transition

Family: TypeAlias = Literal["on_policy", "off_policy", "offline"]


class Stored(NamedTuple):
    """A replay ring as an algorithm sees it: `num_envs` transitions were written at a time, the oldest go first.

    Row r + num_envs (modulo the capacity) therefore holds what the environment of row r showed next.

    Attributes:
        items: The transitions, every leaf `[capacity, ...]`.
        cursor: The row written next.
        size: Transitions stored so far, at most the capacity.
        num_envs: Environments stepped together; divides the capacity.
    """

    items: Transition
    cursor: Int[Array, ""]
    size: Int[Array, ""]
    num_envs: int


class Memory(NamedTuple):
    """What an off-policy algorithm keeps beside each transition in the replay, and rewrites whenever it is drawn.

    The experience itself is never changed: only the `extras` of a transition can be.

    Attributes:
        start: `transition -> extras` for ONE new transition: a dict of arrays.
        revise: `(state, batch, key) -> batch`, before each update: the extras of what it returns, in the structure
            `start` gave them, replace the drawn ones in the replay, and the update sees the batch it returns. A
            transition that was drawn twice is written once.
        draw: `(state, stored, key, batch_size) -> rows`: rows of the next batch; None for uniform draws.
        organise: `(state, stored, key) -> (state, extras)`: a look at everything that is stored, for methods that need
            whole episodes: after the warmup, and then at every `interval`-th step of the environments. The extras
            replace those of the whole replay. None where nothing is done.
            Offline before every update, of the whole data set; the state stays as it is.
        interval: Environment steps (of all environments at once) between two calls of `organise`, off policy.
        enter: `(state, stored, new) -> (state, new)`: a look at what one step of all environments has shown, `[n]`
            transitions with the extras that `start` gave them, before they are stored; it may change these and the
            state. Not asked during the warmup. None where nothing is done.
    """

    start: Callable[[Transition], dict[str, Any]]
    revise: Callable[[Any, Transition, Key], Transition]
    draw: Callable[[Any, Stored, Key, int], Int[Array, " batch"]] | None = None
    organise: Callable[[Any, Stored, Key], tuple[Any, dict[str, Any]]] | None = None
    interval: int = 1
    enter: Callable[[Any, Stored, Transition], tuple[Any, Transition]] | None = None


class Horizon(NamedTuple):
    """What a draw from a replay or a data set has to give: transitions of several steps (see `dpolicy.train.n_step`).

    Attributes:
        steps: Steps of each, fewer where an episode ends, or the newest transition is, before.
        discount: gamma, of one step: each transition brings the `discount` of all its steps.
        chunk: Whether the extras hold the actions of all the steps, "actions", and where they count, "actions_valid".
    """

    steps: int
    discount: Number
    chunk: bool = False


class Algorithm(NamedTuple):
    """A learning algorithm as pure functions over one state pytree.

    Attributes:
        name: The name it is registered under.
        family: The kind of experience it learns from: `on_policy` (the rollout of its own current policy),
            `off_policy` (a batch from a replay) or `offline` (a batch from a data set).
        init: `(key, spec) -> state`: models, targets, optimiser states and counters, one pytree of arrays. `spec`
            carries `obs_size` and `action_size`.
        act: `(state, obs, key, mode) -> (action, extras)` for ONE observation (`vmap` it); the action goes to the
            environment, the extras travel with the transition into `update`. A fifth argument `place`, from 0 to 1,
            says which of several environments it is for: methods may explore differently in the first and in the
            last.
        update: `(state, batch, key) -> (state, metrics)`. The leaves of `batch` have leading axes
            `[time, environment]` on policy and `[batch]` otherwise.
        modes: The values of `mode` that `act` knows. "explore" and "evaluate" are always among them.
        memory: What it stores beside each transition of the replay and rewrites; None where there is no such thing.
        horizon: Of how many steps the transitions are that it learns from off policy or offline; None for one, with a
            discount of its own.
        stages: The stages its update runs, by name, where it is made of such: `stages["actor"].loss(seen)` is the loss
            that the actor descends.
        extras: Entries that the extras of every transition must hold for it, which somebody else puts there: of a data
            set "next_action" and "mc_return".
        phases: Updates after which the last of its phases begins, where an offline method fits one network after
            another: a run must be longer.
        discount: gamma, where it is also that of the returns that the `extras` must hold; None where none are held
            to it.
    """

    name: str
    family: Family
    init: Callable[[Key, Any], Any]
    act: Callable[..., tuple[Any, dict[str, Any]]]
    update: Callable[[Any, Transition, Key], tuple[Any, Metrics]]
    modes: tuple[str, ...] = ("explore", "evaluate")
    memory: Memory | None = None
    horizon: Horizon | None = None
    stages: Mapping[str, Any] | None = None
    extras: tuple[str, ...] = ()
    phases: int = 0
    discount: Number | None = None


def check_algorithm(algorithm: Any, name: str = "algorithm") -> None:
    """Raise `ValueError` unless the argument `name` is an `Algorithm`; a recipe that was not called is told so."""
    called = f", as {algorithm.__name__}() is: call the recipe" if hasattr(algorithm, "__name__") else ""
    _checks.instance(name, algorithm, Algorithm, f"an Algorithm{called}")


def check_extras(name: str, needed: tuple[str, ...], extras: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless the extras of transitions hold what the algorithm of that name needs there."""
    for entry in needed:
        if entry not in extras:
            raise ValueError(
                f"{name} learns from extras[{entry!r}] of the transitions, which have "
                f"{', '.join(extras) or 'none'}: data_extras={entry.removesuffix('_known')!r} puts it there where a "
                "data set is read."
            )


def needing(algorithm: Algorithm, *extras: str) -> Algorithm:
    """The algorithm, whose transitions must hold these `extras`; a data set that is read brings them along.

    An update on transitions without them raises `ValueError`.
    """

    def update(state: Any, batch: Transition, key: Key) -> tuple[Any, Metrics]:
        check_extras(algorithm.name, extras, batch.extras)
        return algorithm.update(state, batch, key)

    return algorithm._replace(update=update, extras=(*algorithm.extras, *extras))


def check_horizon(algorithm: Algorithm) -> None:
    """Raise `ValueError` unless the horizon of an algorithm is None, or one that a draw from a replay can give."""
    horizon, name = algorithm.horizon, f"the horizon of {algorithm.name}"
    if horizon is None:
        return
    _checks.instance(name, horizon, Horizon, "a Horizon or None")
    if algorithm.family == "on_policy":
        raise ValueError(
            f"{name} must be None, as a rollout holds every step that it needs, got {horizon!r}."
        )
    _checks.integer(f"steps of {name}", horizon.steps)
    _checks.fraction(f"discount of {name}", horizon.discount)
    _checks.boolean(f"chunk of {name}", horizon.chunk)
