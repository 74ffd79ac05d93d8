"""An algorithm as a chain of stages: each owns a named part of the state and says how an update moves it."""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from dpolicy import _checks
from dpolicy._batch import BATCH_AXIS
from dpolicy._types import Action, Key, Loss, Metrics, Mode, Observation, Transition
from dpolicy.algorithm import Algorithm, Family, Memory
from dpolicy.optimisers import Learner

# Names that a part cannot have: the counter's, those of a mapping's methods, and those that `algorithm` takes itself.
_RESERVED = ("updates", "keys", "values", "items", "get", "name", "family")


class UnknownPart(AttributeError, ValueError):
    """A part was asked for that the state does not have."""


class Parts(Mapping[str, Any]):
    """The parts of a state by name, a pytree: `parts.critic` is the model, `parts["critic"]` with its optimiser.

    A tuned number reads as the number, and `parts.updates` is the count of updates so far.
    """

    __slots__ = ("_of",)

    def __init__(self, *of: Mapping[str, Any], **more: Any):
        self._of = {name: part for each in (*of, more) for name, part in each.items()}

    def __getitem__(self, name: str) -> Any:
        return self._of[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._of:
            raise UnknownPart(f"there is no part {name!r}; the parts are {', '.join(self._of) or 'none'}.")
        part = self._of[name]
        if isinstance(part, Learner):
            return part.model
        return part.value if isinstance(part, Tuned) else part

    def __repr__(self) -> str:
        return f"Parts({', '.join(self._of)})"


jax.tree_util.register_pytree_with_keys(
    Parts,
    lambda parts: (tuple((jax.tree_util.DictKey(name), parts[name]) for name in parts), tuple(parts)),
    lambda names, leaves: Parts(dict(zip(names, leaves, strict=True))),
)


class Tuned(NamedTuple):
    """A positive number trained through its logarithm; a part of this kind reads as the number."""

    log: Learner

    @property
    def value(self) -> Array:
        """The number."""
        return jnp.exp(self.log.model)


class Seen(NamedTuple):
    """What a stage sees.

    Attributes:
        before: Every part as this update found it.
        now: Every part as the stages before this one have left it.
        batch: The transitions, with what earlier stages have added to their extras; leading axes `[time, environment]`
            on policy, `[batch]` otherwise and inside `passes`.
        updates: The count of updates, this one included; `before.updates` is without it.
        metrics: Those of the stages before this one, under their full names.
        stage: The name of the stage that sees this.
    """

    before: Parts
    now: Parts
    batch: Any
    updates: Int[Array, ""]
    metrics: Metrics
    stage: str = ""


# What is put into the extras of a batch, by name, and what a stage's step returns: its part, such entries, metrics.
Entries: TypeAlias = dict[str, Any]
Stepped: TypeAlias = tuple[Any, Entries, Metrics]


class Stage(NamedTuple):
    """One step of an update, and the part of the state that it moves.

    Attributes:
        start: `(key, spec, parts so far) -> part`.
        step: `(part, seen, key) -> (part, added, metrics)`: `added` are entries for the extras of the batch that later
            stages see (None removes one); the metrics are reported as "NAME/metric", and "" as "NAME".
        owns: The names of the parts it moves; None for the one of its own name, as which `start` and `step` then take
            and return it bare; otherwise they take and return mappings, where "" stands for its own name.
        loss: `seen -> loss`: the per-example loss it descends, if it does.
        label: `(seen, example, key) -> entries`: what it adds to one example, if it does.
        of: The part it is a copy or an average of.
        memory: What it stores beside transitions and rewrites when they are drawn: `(transition -> entries,
            seen -> ((example, key) -> entries))`.
        horizon: Steps that a transition of the batch must span for it; see `dpolicy.algorithm.Horizon`.
        bare: Whether its metrics keep their own names.
    """

    start: Callable[[Key, Any, Parts], Any]
    step: Callable[[Any, Seen, Key], Stepped]
    owns: tuple[str, ...] | None = None
    loss: Callable[[Seen], Loss] | None = None
    label: Callable[[Seen, Any, Key], Entries] | None = None
    of: str | None = None
    memory: tuple[Callable[..., Entries], Callable[[Seen], Callable[..., Entries]]] | None = None
    horizon: Any = None
    bare: bool = False


class Stages(dict[str, Stage]):
    """The stages of an algorithm by name; told apart as functions are, so that it may be a static argument of a jit."""

    __slots__ = ()
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]
    __eq__ = object.__eq__


# How an algorithm acts: `parts -> ((obs, key) -> action)`, or `-> (action, extras)`; a function with an argument
# `place` gets the environment's place in the batch, from 0 (the first) to 1 (the last).
Acting: TypeAlias = Callable[[Parts], Callable[..., Any]]


def stage_key(key: Key, name: str) -> Key:
    """The key of the stage `name`: adding a stage changes the randomness of no other."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _stage_keys(key: Key, stages: Mapping[str, Stage]) -> dict[str, Key]:
    """`stage_key` of every stage in one operation: each is a kernel on a device, and a loop on a CPU."""
    hashes = np.array([zlib.crc32(name.encode()) for name in stages], np.uint32)
    return dict(zip(stages, jax.vmap(jax.random.fold_in, (None, 0))(key, hashes), strict=True))


def owned(name: str, stage: Stage) -> tuple[str, ...]:
    """The names of the parts that the stage called `name` moves."""
    return (name,) if stage.owns is None else tuple(part or name for part in stage.owns)


def _by_name(name: str, stage: Stage, part: Any) -> dict[str, Any]:
    """What `start` or `step` of the stage called `name` has returned, by the names of the parts."""
    return {name: part} if stage.owns is None else {own or name: part[own] for own in stage.owns}


def start_stages(stages: Mapping[str, Stage], key: Key, spec: Any, parts: Parts) -> Parts:
    """The parts as the stages, in order, start them."""
    keys = _stage_keys(key, stages)
    for name, stage in stages.items():
        parts = Parts(parts, _by_name(name, stage, stage.start(keys[name], spec, parts)))
    return parts


def run_stages(stages: Mapping[str, Stage], seen: Seen, key: Key) -> Seen:
    """What is seen after the stages, in order, have made their steps."""
    keys = _stage_keys(key, stages)
    for name, stage in stages.items():
        if stage.owns is None:
            part: Any = seen.now[name]
        else:
            part = {own: seen.now[own or name] for own in stage.owns}
        result = stage.step(part, seen._replace(stage=name), keys[name])
        if not isinstance(result, tuple) or len(result) != 3:
            raise ValueError(
                f"the step of stage {name!r} must return (part, added, metrics), got {result!r}."
            )
        part, added, metrics = result
        named = metrics if stage.bare else {f"{name}/{key}" if key else name: v for key, v in metrics.items()}
        if twice := named.keys() & seen.metrics.keys():
            raise ValueError(
                f"stage {name!r} reports {sorted(twice)[0]!r}, which a stage before it reports too."
            )
        seen = seen._replace(
            now=Parts(seen.now, _by_name(name, stage, part)),
            batch=with_entries(seen.batch, added),
            metrics={**seen.metrics, **named},
        )
    return seen


def with_entries(batch: Transition, entries: Entries) -> Transition:
    """The batch with these among its extras; None removes one."""
    if not entries:
        return batch
    extras = {name: value for name, value in {**batch.extras, **entries}.items() if value is not None}
    return dataclasses.replace(batch, extras=extras)


def on_each(entries: Callable[[Transition, Key], Entries], batch: Transition, key: Key) -> Entries:
    """`(example, key) -> entries` of every example, each with a key of its own; the axis is named, as in a loss."""
    keys = jax.random.split(key, batch.reward.shape[0])
    return jax.vmap(entries, axis_name=BATCH_AXIS)(batch, keys)


def algorithm(
    name: str,
    family: Family,
    *,
    explore: Acting,
    evaluate: Acting,
    modes: Mapping[str, Acting] | None = None,
    memory: Memory | None = None,
    **stages: Stage,
) -> Algorithm:
    """An algorithm whose update runs the stages in the order in which they are written.

    The state is `Parts`, one for each name of a stage, and the count `updates`. A stage sees the parts as the update
    found them (`before`) and as the stages before it have left them (`now`), so the order is the specification: SAC is
    critic, target, actor, temperature; IQL is value, actor, critic, target. The randomness of a stage is made from its
    name, so that one more stage changes that of no other.

    Args:
        name: The name it is registered under.
        family: `on_policy`, `off_policy` or `offline`; see `Algorithm`.
        explore: `parts -> ((obs, key) -> action)`, or `-> (action, extras)` where something travels with the
            transition.
        evaluate: The same in evaluation.
        modes: Further ways of acting, by name.
        memory: What it stores beside each transition of the replay, where that takes more than `remembered` stages.
        **stages: The stages, by the names of their parts.

    Raises:
        ValueError: For a slot that is no function, for what is no stage, for a name that is taken, or for an average
            of a part that no stage before it has.
    """
    slots = "parts -> ((obs, key) -> action)"
    acting = {"explore": explore, "evaluate": evaluate, **({} if modes is None else modes)}
    for mode, slot in acting.items():
        _checks.slot(f"{mode} of {name}", slot, 1, slots)
    check_stages(name, stages)
    horizons = [stage.horizon for stage in stages.values() if stage.horizon is not None]
    if len({(horizon.steps, horizon.chunk) for horizon in horizons}) > 1:
        spans = " and ".join(str(horizon.steps) for horizon in horizons)
        raise ValueError(f"the stages of {name} must ask for transitions of one horizon, got {spans} steps.")

    def init(key: Key, spec: Any) -> Parts:
        parts = start_stages(stages, _checks.one_key(key), spec, Parts())
        return Parts(parts, updates=jnp.zeros((), jnp.int32))

    def act(
        state: Parts, obs: Observation, key: Key, mode: Mode, place: Any = None
    ) -> tuple[Action, Entries]:
        _checks.one_of("mode", mode, acting)
        policy, key = acting[mode](state), _checks.one_key(key)
        allowed = f"(obs, key) -> action, as in {slots}"
        placed = _checks.slot(f"what {mode} of {name} returns", policy, 2, allowed, "place")
        if placed and place is None:
            key, place_key = jax.random.split(key)
            place = jax.random.uniform(place_key)
        result = policy(obs, key, place=place) if placed else policy(obs, key)
        return result if isinstance(result, tuple) else (result, {})

    def update(state: Parts, batch: Transition, key: Key) -> tuple[Parts, Metrics]:
        key = _checks.one_key(key)
        seen = run_stages(stages, Seen(state, state, batch, state.updates + 1, {}), key)
        return Parts(seen.now, updates=seen.updates), seen.metrics

    return Algorithm(
        name,
        family,
        init,
        act,
        update,
        modes=tuple(acting),
        memory=_memory(stages) if memory is None else memory,
        horizon=horizons[0] if horizons else None,
        stages=Stages(stages),
    )


def check_stages(name: str, stages: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless these are stages with names of their own, each following parts that are there."""
    if not stages:
        raise ValueError(f"{name} must have at least one stage, got none.")
    parts: dict[str, str] = {}
    for called, stage in stages.items():
        _checks.instance(
            f"{called} of {name}", stage, Stage, "a Stage, as trained(...) or average(...) makes one"
        )
        if stage.of is not None and stage.of not in parts:
            _checks.one_of(f"the part that {called} of {name} follows", stage.of, parts)
        for part in owned(called, stage):
            if part in parts:
                raise ValueError(f"{name} must have one stage for each part, got {part!r} in two.")
            if part in _RESERVED or part.startswith("_"):
                raise ValueError(f"a part of {name} cannot be called {part!r}: that name is taken.")
            parts[part] = called


def _memory(stages: Mapping[str, Stage]) -> Memory | None:
    """What the stages that remember store together, and how they rewrite it, in their order."""
    remembering = {name: stage.memory for name, stage in stages.items() if stage.memory is not None}
    if not remembering:
        return None

    def start(transition: Transition) -> Entries:
        entries = (first(transition) for first, _ in remembering.values())
        return {name: value for each in entries for name, value in each.items()}

    def revise(state: Parts, batch: Transition, key: Key) -> Transition:
        for name, (_, rewrite) in remembering.items():
            seen = Seen(state, state, batch, state.updates + 1, {}, name)
            batch = with_entries(batch, on_each(rewrite(seen), batch, stage_key(key, name)))
        return batch

    return Memory(start, revise)
