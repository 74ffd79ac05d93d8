"""The contract of an algorithm: three pure functions, as in optax and blackjax."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

from dpolicy._types import Critic, Key, Loss, Metrics, Mode, Model, Transition

Family: TypeAlias = Literal["on_policy", "off_policy", "offline"]


class Memory(NamedTuple):
    """What an off-policy algorithm keeps beside each transition in the replay, and rewrites whenever it is drawn.

    The experience itself is never changed: only the `extras` of a transition can be.

    Attributes:
        start: `transition -> extras` for ONE new transition: a dict of arrays.
        revise: `(state, batch, key) -> batch`, before each update: the extras of what it returns, in the structure
            `start` gave them, replace the drawn ones in the replay, and the update sees the batch it returns. A
            transition that was drawn twice is written once.
    """

    start: Callable[[Transition], dict[str, Any]]
    revise: Callable[[Any, Transition, Key], Transition]


class Algorithm(NamedTuple):
    """A learning algorithm as pure functions over one state pytree.

    Attributes:
        name: The name it is registered under.
        family: The kind of experience it learns from: `on_policy` (the rollout of its own current policy),
            `off_policy` (a batch from a replay) or `offline` (a batch from a data set).
        init: `(key, spec) -> state`: models, targets, optimiser states and counters, one pytree of arrays. `spec`
            carries `obs_size` and `action_size`.
        act: `(state, obs, key, mode) -> (action, extras)` for ONE observation (`vmap` it); the action goes to the
            environment, the extras travel with the transition into `update`.
        update: `(state, batch, key) -> (state, metrics)`. The leaves of `batch` have leading axes
            `[time, environment]` on policy and `[batch]` otherwise.
        modes: The values of `mode` that `act` knows. "explore" and "evaluate" are always among them.
        objective: `(state, q) -> (actor, loss)`: the network that acts and the per-example loss it descends where `q`
            is the critic in every role (it guides, selects and backs up), which is what `dpolicy.audit` compares. None
            where no such loss is known (on policy it needs a rollout's advantages and likelihoods).
        memory: What it stores beside each transition of the replay and rewrites; None where there is no such thing.
        with_actor: `(state, actor) -> state`: the state with that network in the place of the one that acts and of
            every copy of it (averages, references); None where the objective reads no network of the state.
    """

    name: str
    family: Family
    init: Callable[[Key, Any], Any]
    act: Callable[[Any, Any, Key, Mode], tuple[Any, dict[str, Any]]]
    update: Callable[[Any, Transition, Key], tuple[Any, Metrics]]
    modes: tuple[str, ...] = ("explore", "evaluate")
    objective: Callable[[Any, Critic], tuple[Model, Loss]] | None = None
    memory: Memory | None = None
    with_actor: Callable[[Any, Model], Any] | None = None
