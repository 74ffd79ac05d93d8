"""Combinators of stages: cadence, several steps, one gradient for several parts, passes over a rollout."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from dpolicy import _checks
from dpolicy._metrics import reduce_metrics
from dpolicy._rarely import rarely
from dpolicy._types import Key, Loss, Metrics, Model, Number
from dpolicy.learning._makers import flat
from dpolicy.learning._minibatches import in_segments, over_minibatches
from dpolicy.learning._stages import (
    Entries,
    Parts,
    Seen,
    Stage,
    Stepped,
    check_stages,
    owned,
    run_stages,
    start_stages,
)
from dpolicy.losses import add, batched, on
from dpolicy.optimisers import Learner, Rate, adam, descend, learner


def every(stage: Stage, updates: int, *, after: Number = 0, until: int | None = None) -> Stage:
    """The stage at every `updates`-th update, once `after` of them are over and until `until` of them are.

    In between it costs nothing, in a sweep in one program (`vmap`) neither: it runs when it is due for any of them. Its
    metrics are averaged over the updates at which it ran; "NAME/due" is their share.

    Args:
        stage: Any but one that adds entries to the batch, which the stages after it could not do without.
        updates: At least 1, the interval.
        after: Updates at the start through which it waits.
        until: The last update at which it may run, more than `after`; None for no last one.
    """
    _checks.instance("stage", stage, Stage, "a Stage")
    _checks.integer("updates", updates)
    _checks.non_negative("after", after)
    if until is not None:
        _checks.integer("until", until, after + 1 if isinstance(after, int) else 1)
    if updates == 1 and isinstance(after, int) and after == 0 and until is None:
        return stage

    def step(part: Any, seen: Seen, key: Key) -> Stepped:
        # A conditional takes arrays alone; activations and the like are the same in what went in and comes out.
        arrays, rest = eqx.partition(part, eqx.is_array)

        def run(arrays: Any) -> tuple[Any, Metrics]:
            new, added, metrics = stage.step(eqx.combine(arrays, rest), seen, key)
            if added:
                raise ValueError(
                    f"stage {seen.stage!r} adds {', '.join(added)} to the batch: it must run at every update."
                )
            return eqx.filter(new, eqx.is_array), metrics

        def wait(arrays: Any, shapes: Any) -> tuple[Any, Metrics]:
            return arrays, {name: jnp.full(x.shape, _idle(name), x.dtype) for name, x in shapes[1].items()}

        due = (
            (seen.updates % updates == 0) & (seen.updates > after) & (until is None or seen.updates <= until)
        )
        arrays, metrics = rarely(due, run, wait, arrays)
        metrics[f"{seen.stage}/due" if stage.bare else "due"] = due.astype(float)
        return eqx.combine(arrays, rest), {}, metrics

    return stage._replace(step=step)


def _idle(metric: str) -> float:
    """What a metric is where its stage does not run: nothing that enters its mean, or its extreme."""
    return {"min": jnp.inf, "max": -jnp.inf}.get(metric.rpartition("_")[2], 0.0)


def times(stage: Stage, steps: int) -> Stage:
    """Several steps of the stage in each update, on the same batch with new randomness; metrics are their means.

    Args:
        stage: Any; entries that it adds to the batch are those of its last step.
        steps: At least 1.
    """
    _checks.instance("stage", stage, Stage, "a Stage")
    _checks.integer("steps", steps)

    def step(part: Any, seen: Seen, key: Key) -> Stepped:
        arrays, rest = eqx.partition(part, eqx.is_array)

        def one(arrays: Any, key: Key) -> tuple[Any, tuple[Entries, Metrics]]:
            new, added, metrics = stage.step(eqx.combine(arrays, rest), seen, key)
            return eqx.filter(new, eqx.is_array), (added, metrics)

        arrays, (added, metrics) = jax.lax.scan(one, arrays, jax.random.split(key, steps))
        last = jax.tree.map(lambda leaf: leaf[-1], added)
        return eqx.combine(arrays, rest), last, reduce_metrics(metrics, axis=0)

    return stage if steps == 1 else stage._replace(step=step)


class Term(NamedTuple):
    """One part of a common gradient.

    Attributes:
        make: `(key, spec) -> model`.
        loss: `seen -> loss`, a per-example loss on the model.
        coefficient: Weight of the loss, or `seen -> weight`; at 0 nothing of it enters, not even the gradient's norm.
    """

    make: Callable[[Key, Any], Model]
    loss: Callable[[Seen], Loss]
    coefficient: Number | Callable[[Seen], Number] = 1.0


def together(optimiser: optax.GradientTransformation | None = None, **terms: Term) -> Stage:
    """Several parts moved by ONE gradient step, that of the sum of their losses: PPO's policy and value network.

    So the bound of the gradient's norm is that of all of them, and one rate serves all; with `optax.partition` by part
    (`labelled_by_part`) each may have its own. The metrics are "loss", "grad_norm" and those of each term, "NAME/loss".

    Args:
        optimiser: Adam with a rate of 3e-4 unless given.
        **terms: The parts by name, each a `Term`.
    """
    optimiser = adam(3e-4) if optimiser is None else optimiser
    if not terms:
        raise ValueError("together must be given at least one part name=Term(make, loss), got none.")
    for name, term in terms.items():
        _checks.instance(name, term, Term, "a Term(make, loss)")
        _checks.function(f"make of {name}", term.make, "(key, spec) -> model")
        _checks.slot(f"loss of {name}", term.loss, 1, "seen -> loss")

    def start(key: Key, spec: Any, parts: Parts) -> dict[str, Any]:
        keys = jax.random.split(key, len(terms))
        models = {name: term.make(key, spec) for key, (name, term) in zip(keys, terms.items(), strict=True)}
        all_of = learner(Parts(models), optimiser)
        return {**all_of.model, "": all_of.opt_state}

    def step(part: Any, seen: Seen, key: Key) -> Stepped:
        def weighted(name: str, term: Term) -> tuple[Number, Loss]:
            weight = term.coefficient(seen) if callable(term.coefficient) else term.coefficient
            return weight, on(lambda models: models[name], term.loss(seen._replace(stage=name)))

        losses = {name: weighted(name, term) for name, term in terms.items()}
        mean, batch = batched(add(**losses)), flat(seen.batch)
        state = Learner(Parts({name: part[name] for name in terms}), part[""])
        new, metrics = descend(
            state, lambda models: mean(models, batch, key), optimiser, updates=seen.before.updates
        )
        return {**new.model, "": new.opt_state}, {}, metrics

    return Stage(start, step, owns=(*terms, ""), bare=True)


def labelled_by_part(models: Any) -> Any:
    """Which part of `together` each parameter belongs to: the labels that `optax.partition` asks for."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, models)


def _undone(going: Bool[Array, ""], before: Any, after: Any) -> Any:
    """`after` while it goes on, else `before` with the rates of `after`, which fall where a step goes too far."""
    is_rate = lambda node: isinstance(node, Rate)
    keep = lambda old, new: new if is_rate(new) else jnp.where(going, new, old)
    return jax.tree.map(keep, before, after, is_leaf=is_rate)


def passes(
    *,
    epochs: int,
    minibatches: int,
    segment: int | None = None,
    stop: Callable[[Metrics], Bool[Array, ""]] | None = None,
    name: str = "minibatches",
    **stages: Stage,
) -> Stage:
    """Epochs of shuffled minibatches over a rollout or batch; the stages see each minibatch as their batch.

    Inside, `now` is what the minibatches before have left, and `before` what the update found. Metrics keep their names
    and are averaged over all minibatches.

    Args:
        epochs: Passes.
        minibatches: Minibatches of each pass; must divide the examples.
        segment: Minibatches are made of stretches of this many steps of one environment and keep the axis of time,
            `[time, segment]`, so that a stage in here can compute advantages anew; None for single transitions.
        stop: `metrics -> bool` of a minibatch's step: once true, that step and all later ones of this update are
            undone, except that rates adapt (`by_kl`); the share undone is the metric "stopped".
        name: What `minibatches` is called in an error.
        **stages: What is done on each minibatch, in order.
    """
    _checks.integer("epochs", epochs)
    _checks.integer(name, minibatches)
    if segment is not None:
        _checks.integer("segment", segment)
    check_stages("passes", {called: stage._replace(of=None) for called, stage in stages.items()})
    parts = [part for called, stage in stages.items() for part in owned(called, stage)]

    def step(part: Any, seen: Seen, key: Key) -> Stepped:
        examples = flat(seen.batch) if segment is None else in_segments(seen.batch, segment)
        # In an order of its own: a conditional or a loop around this stage sorts the names of a mapping.
        arrays, rest = eqx.partition(Parts({name: part[name] for name in parts}), eqx.is_array)

        def body(carry: Any, inputs: Any) -> tuple[Any, Metrics]:
            before, going = carry
            minibatch, key = inputs
            if segment is not None:
                minibatch = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), minibatch)
            now = Parts(seen.now, eqx.combine(before, rest))
            left = run_stages(stages, seen._replace(now=now, batch=minibatch, metrics={}), key)
            after = eqx.filter(Parts({name: left.now[name] for name in parts}), eqx.is_array)
            metrics = left.metrics
            if stop is not None:
                going = going & ~stop(metrics)
                after = _undone(going, before, after)
                metrics = {**metrics, "stopped": 1.0 - going.astype(float)}
            return (after, going), metrics

        (arrays, _), metrics = over_minibatches(
            body,
            (arrays, jnp.asarray(True)),
            examples,
            key,
            epochs=epochs,
            count=minibatches,
            name=name,
            of="samples" if segment is None else "segments",
        )
        return dict(eqx.combine(arrays, rest)), {}, metrics

    return Stage(partial(start_stages, stages), step, owns=tuple(parts), bare=True)
