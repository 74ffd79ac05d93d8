"""Prioritised replay: transitions drawn by the size of their errors, for any method with a memory of uniform draws."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._batch import BATCH_AXIS
from dpolicy._settings import Fraction, Positive
from dpolicy._types import Key, Metrics, Transition
from dpolicy.algorithm import Algorithm, Memory, Stored, check_algorithm
from dpolicy.learning import Parts, Seen
from dpolicy.recipe import tunable

_WIDTH = 32  # numbers that a level of sums adds up

# `(state, batch, key) -> (batch, errors [b])`, of the state before an update, which sees what is added to the batch.
Errors: TypeAlias = Callable[[Any, Transition, Key], tuple[Transition, Float[Array, " b"]]]


def draw_by_weight(weights: Float[Array, " n"], key: Key, count: int) -> Int[Array, " count"]:
    """`count` indices, drawn with replacement in proportion to the weights.

    The weights are added up in blocks of 32, these in blocks of 32 again, and so on; a draw chooses a block of the
    highest level, and then one within it, each time by a number of its own. So one pass over the weights serves all
    draws, nothing is kept from one call to the next, and a weight's share is not rounded as in one cumulative sum: a
    million items of a sum in float32 would differ by an eighth.

    Args:
        weights: Not negative; not all of them zero. What weighs nothing is never drawn.
        key: Random key.
        count: How many.
    """
    _checks.vector("weights", weights)
    _checks.integer("count", count)
    blocks, level = [], weights
    while True:
        width = min(_WIDTH, level.shape[0])
        rows = jnp.pad(level, (0, -level.shape[0] % width)).reshape(-1, width)
        blocks.append(rows)
        if rows.shape[0] == 1:
            break
        level = jnp.sum(rows, axis=1)
    index = jnp.zeros(count, jnp.int32)
    for rows, level_key in zip(
        reversed(blocks), jax.random.split(_checks.one_key(key), len(blocks)), strict=True
    ):
        chosen, width = rows[index], rows.shape[1]
        sums = jnp.cumsum(chosen, axis=1)
        goal = jax.random.uniform(level_key, (count, 1), sums.dtype) * sums[:, -1:]
        # By rounding the goal may be the whole sum: then it is the last that weighs something.
        over, last = (sums > goal) & (chosen > 0), width - 1 - jnp.argmax(chosen[:, ::-1] > 0, axis=1)
        within = jnp.where(jnp.any(over, axis=1), jnp.argmax(over, axis=1), last)
        index = index * width + within.astype(jnp.int32)
    return jnp.minimum(index, weights.shape[0] - 1)


class Priorities(eqx.Module):
    """What new transitions weigh.

    Attributes:
        highest: The highest priority given so far, and what a new transition is given.
        stale: Whether it is to be found anew among those that are stored, before the next transition is.
    """

    highest: Float[Array, "*seeds"]
    stale: Bool[Array, "*seeds"]


def _of_critic(algorithm: Algorithm) -> Errors:
    """The distance of the value of the critics, on average over them, from a target drawn for the purpose."""
    stage = (algorithm.stages or {}).get("critic")
    if stage is None or stage.loss is None:
        raise ValueError(
            f"errors must be given for {algorithm.name}, which has no stage called critic with a loss of its own."
        )
    of, names = stage.loss, list(algorithm.stages or {})
    labels = [(algorithm.stages or {})[name].label for name in names[: names.index("critic")]]

    def errors(state: Any, batch: Transition, key: Key) -> tuple[Transition, Float[Array, " b"]]:
        # The axis is named for critics that are normalised over the batch.
        each = lambda one, given, key: jax.vmap(one, axis_name=BATCH_AXIS)(
            given, jax.random.split(key, batch.reward.shape[0])
        )
        seen = Seen(state, state, batch, state.updates + 1, {}, "critic")
        for label in labels:
            if label is not None:
                label_key, key = jax.random.split(key)
                added = each(
                    lambda example, key, s=seen, label=label: label(s, example, key), seen.batch, label_key
                )
                extras = {**seen.batch.extras, **added}
                seen = seen._replace(batch=dataclasses.replace(seen.batch, extras=extras))
        loss = of(seen)
        metrics = each(lambda example, key: loss(state.critic, example, key)[1], seen.batch, key)
        if not {"value", "target"} <= set(metrics):
            raise ValueError(
                f"errors must be given for {algorithm.name}, whose critic's loss does not report value and target."
            )
        return batch, metrics["target"] - metrics["value"]

    return errors


@tunable("priority_exponent", "priority_floor")
def prioritised(
    *,
    algorithm: Algorithm,
    errors: Errors | None = None,
    interval: int = 250,
    priority_exponent: Fraction = 0.4,
    priority_floor: Positive = 1.0,
) -> Algorithm:
    r"""`algorithm`, whose batches are drawn in proportion to max(|error|, floor)^exponent (LAP, arXiv 2007.06049).

    A priority is stored beside each transition and rewritten whenever that is drawn; a new transition is given the
    highest priority there has been. `interval` updates later, and so on, the highest is found anew among those that are
    stored, when the next transition is. Of several steps (`n_step`) the priority is stored beside the first.

    Errors are weighed by no importance: with critics fitted by Huber's loss what is descended in expectation is what
    `dpolicy.losses.huber_error` says; with another loss large errors count the more.

        prioritised(algorithm=dpolicy.algorithms.td3(critic="huber"), interval=1_000)

    Args:
        algorithm: One made of stages, off policy, with uniform draws.
        errors: `(state, batch, key) -> (batch, errors [b])`, of the state before the update; None for the difference
            between target and value that the loss of the stage "critic" reports, for a target drawn for the purpose, as
            are the labels of stages before it.
        interval: Updates after which the highest priority is found anew.
        priority_exponent: How much the size of an error matters to how often its transition is drawn; 0 for not at all.
        priority_floor: Errors below this are taken as this, so that every transition is drawn now and then; where the
            loss is to turn linear, which `critic="huber"` does at 1.

    Raises:
        ValueError: For an algorithm of another kind, one that draws its batches itself, or one whose critic's errors
            are not known.
    """
    check_algorithm(algorithm)
    _checks.integer("interval", interval)
    if algorithm.stages is None or algorithm.family != "off_policy":
        raise ValueError(f"algorithm must be made of stages and learn off policy, got {algorithm.name}.")
    inner = algorithm.memory
    if inner is not None and (inner.draw is not None or inner.organise is not None):
        raise ValueError(f"algorithm must leave it to the replay what is drawn, got {algorithm.name}.")
    measure = _of_critic(algorithm) if errors is None else errors
    # A power of a traced number, whose base is a traced number, too.
    weigh = lambda size: jnp.maximum(size, priority_floor) ** jnp.asarray(priority_exponent, float)
    least = lambda: weigh(jnp.zeros(()))

    def init(key: Key, spec: Any) -> Parts:
        return Parts(algorithm.init(key, spec), priorities=Priorities(least(), jnp.asarray(False)))

    def update(state: Parts, batch: Transition, key: Key) -> tuple[Parts, Metrics]:
        given, old = batch.extras["priority"], state.priorities
        new, metrics = algorithm.update(state, batch, key)
        kept = Priorities(jnp.maximum(old.highest, jnp.max(given)), old.stale | (new.updates % interval == 0))
        metrics |= {"priority": jnp.mean(given), "priority_max": jnp.max(given)}
        return Parts(new, priorities=kept), metrics

    def start(transition: Transition) -> dict[str, Any]:
        return {**({} if inner is None else inner.start(transition)), "priority": least()}

    def revise(state: Parts, batch: Transition, key: Key) -> Transition:
        inner_key, key = jax.random.split(key)
        batch = batch if inner is None else inner.revise(state, batch, inner_key)
        batch, sizes = measure(state, batch, key)
        extras = {**batch.extras, "priority": weigh(jnp.abs(jax.lax.stop_gradient(sizes)))}
        return dataclasses.replace(batch, extras=extras)

    def draw(state: Parts, stored: Stored, key: Key, batch_size: int) -> Int[Array, " batch"]:
        return draw_by_weight(_of_stored(stored), key, batch_size)

    def enter(state: Parts, stored: Stored, new: Transition) -> tuple[Parts, Transition]:
        if inner is not None and inner.enter is not None:
            state, new = inner.enter(state, stored, new)
        old = state.priorities
        highest = jnp.where(old.stale, jnp.max(_of_stored(stored)), old.highest)
        extras = {**new.extras, "priority": jnp.full_like(new.extras["priority"], highest)}
        state = Parts(state, priorities=Priorities(highest, jnp.zeros_like(old.stale)))
        return state, dataclasses.replace(new, extras=extras)

    return algorithm._replace(init=init, update=update, memory=Memory(start, revise, draw, enter=enter))


def _of_stored(stored: Stored) -> Float[Array, " capacity"]:
    """The priorities of what is stored; zero where nothing is yet."""
    priority = stored.items.extras["priority"]
    return jnp.where(jnp.arange(priority.shape[0]) < stored.size, priority, 0)
