"""Makers of stages: networks that descend a loss, their averages and copies, tuned numbers, statistics, entries."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._spread import spread, varies
from dpolicy._types import Key, Loss, Metrics, Model, Number, Scalar, Transition
from dpolicy.learning._stages import Entries, Parts, Seen, Stage, Stepped, Tuned, on_each
from dpolicy.losses import batched, dual
from dpolicy.optimisers import Learner, adam, descend, ema, learner

_MULTIPLIERS = {"log": lambda log: log, "value": jnp.exp}


def flat(batch: Transition) -> Transition:
    """The batch with one leading axis: a rollout `[time, environment]` as `[time * environment]`."""
    if batch.reward.ndim == 1:
        return batch
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)


def loss_of(seen: Seen, loss: Callable[[Seen], Loss]) -> Callable[[Model, Transition, Key], Any]:
    """The loss of the stage that sees this, as the mean over a batch."""
    per_example = loss(seen)
    _checks.function(
        f"the loss of stage {seen.stage!r}", per_example, "(model, example, key) -> (scalar, metrics)"
    )

    def named(model: Model, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
        return _checks.loss_value(f"the loss of stage {seen.stage!r}", per_example(model, example, key))

    return batched(named)


def trained(
    make: Callable[[Key, Any], Model],
    loss: Callable[[Seen], Loss],
    optimiser: optax.GradientTransformation | None = None,
    *,
    whole: bool = False,
    horizon: Any = None,
    project: Callable[[Model], Model] | None = None,
) -> Stage:
    """A network that descends a loss on the batch, one gradient step an update.

    Args:
        make: `(key, spec) -> model`; every inexact array in it is a parameter.
        loss: `seen -> loss`, a per-example loss `(model, example, key) -> (scalar, metrics)` over whatever parts it
            needs: only the model is differentiated.
        optimiser: Any of optax's; Adam with a rate of 3e-4 unless given. A transformation that takes them is given the
            `metrics` of the loss and the count of `updates` (see `descend`).
        whole: Whether the loss takes the whole batch at once, `(model, batch, key) -> (scalar, metrics)`: joint passes,
            batches that are split among several models.
        horizon: What its transitions must span (`dpolicy.algorithm.Horizon`); None for single steps.
        project: Applied to the model at the start and after every step, such as `dpolicy.networks.unit_rows`.
    """
    _checks.function("make", make, "(key, spec) -> model")
    _checks.slot("loss", loss, 1, "seen -> loss")
    optimiser = adam(3e-4) if optimiser is None else optimiser

    def start(key: Key, spec: Any, parts: Parts) -> Learner:
        model = make(key, spec)
        return learner(model if project is None else project(model), optimiser)

    def step(part: Learner, seen: Seen, key: Key) -> Stepped:
        batch = flat(seen.batch)
        mean = loss(seen) if whole else loss_of(seen, loss)
        part, metrics = descend(
            part, lambda model: mean(model, batch, key), optimiser, updates=seen.before.updates
        )
        if project is not None:
            part = Learner(project(part.model), part.opt_state)
        return part, {}, metrics

    return Stage(start, step, loss=None if whole else loss, horizon=horizon)


def average(of: str, rate: Number | Callable[[Seen], Number] = 1.0, *, found: bool = False) -> Stage:
    """part <- (1 - rate) part + rate `of`: target networks, averaged actors; with a rate of 1 a copy.

    It starts as `of` is, and follows what that is when it is this stage's turn: `of` before it stands for its step of
    this update, after it for that of the last.

    Args:
        of: The name of a part that stands before this one.
        rate: In [0, 1], or `seen -> rate`.
        found: Whether it follows what this update found, whatever the stages before it have done.
    """
    if not callable(rate):
        _checks.fraction("rate", rate)

    def step(part: Model, seen: Seen, key: Key) -> Stepped:
        new = getattr(seen.before if found else seen.now, of)
        if not callable(rate) and isinstance(rate, (int, float)) and rate == 1:
            return new, {}, {}
        share = rate(seen) if callable(rate) else rate
        return ema(part, new, 1 - share), {}, {}

    return Stage(lambda key, spec, parts: getattr(parts, of), step, of=of)


def frozen(make: Callable[[Key, Any], Model]) -> Stage:
    """A part that never moves: a behaviour policy fitted before, a random network."""
    _checks.function("make", make, "(key, spec) -> model")
    return Stage(lambda key, spec, parts: make(key, spec), lambda part, seen, key: (part, {}, {}))


def tuned(
    start: Number,
    slack: Callable[[Seen], Scalar],
    optimiser: optax.GradientTransformation | None = None,
    *,
    multiplier: str = "log",
) -> Stage:
    """A positive number lambda that holds a constraint: `dual`, multiplier times slack, descended on its log.

    It rises while the slack is negative. SAC's temperature has the slack H - H_target with H = `actor/entropy` among
    the metrics; one that keeps KL(weights || equal) at delta has delta - KL. The part reads as lambda, and so does
    its metric.

    Args:
        start: lambda at first; above 0.
        slack: `seen -> scalar`, what is not differentiated.
        optimiser: Adam with a rate of 3e-4 unless given.
        multiplier: "log": log lambda times the slack; "value": lambda times it.
    """
    _checks.positive("start", start)
    _checks.slot("slack", slack, 1, "seen -> scalar")
    _checks.one_of("multiplier", multiplier, _MULTIPLIERS)
    optimiser = adam(3e-4) if optimiser is None else optimiser

    def begin(key: Key, spec: Any, parts: Parts) -> Tuned:
        return Tuned(learner(jnp.log(jnp.asarray(start, float)), optimiser))

    def step(part: Tuned, seen: Seen, key: Key) -> Stepped:
        gap = _checks.returned(f"the slack of {seen.stage}", slack(seen))
        loss = dual(_MULTIPLIERS[multiplier], lambda _: gap)
        log, _ = descend(part.log, lambda log: loss(log, None, key), optimiser, updates=seen.before.updates)
        part = Tuned(log)
        return part, {}, {"": part.value}

    return Stage(begin, step)


class Statistics(eqx.Module):
    """Running mean and standard deviation."""

    mean: Float[Array, "..."]
    std: Float[Array, "..."]

    def __call__(self, value: Scalar) -> Scalar:
        """(value - mean) / std: first the difference, then the quotient; 0 where the deviation is only rounding."""
        some = varies(self.std, self.mean)
        return jnp.where(some, (value - self.mean) / jnp.maximum(self.std, 1e-6), 0)


def statistics(values: Callable[[Seen], Float[Array, " b"]], rate: Number) -> Stage:
    """mean <- (1 - rate) mean + rate mean_batch(values), and the standard deviation likewise; they start at 0 and 1.

    Source: DPMD (arXiv 2502.00361) and QVPO's `qexpn` (arXiv 2405.16173), code.

    Args:
        values: `seen -> values`, of the batch.
        rate: Share of the batch that enters at each update.
    """
    _checks.slot("values", values, 1, "seen -> values")
    _checks.fraction("statistics_rate", rate)

    def step(part: Statistics, seen: Seen, key: Key) -> Stepped:
        mean, _, std = spread(values(seen))
        fresh = Statistics(mean, std)
        new = jax.tree.map(lambda old, now: ((1 - rate) * old + rate * now).astype(old.dtype), part, fresh)
        return new, {}, {"mean": new.mean, "std": new.std}

    return Stage(lambda key, spec, parts: Statistics(jnp.zeros(()), jnp.ones(())), step)


def labelled(label: Callable[[Seen, Transition, Key], Entries]) -> Stage:
    """No part, but entries for the extras of every transition, which the stages after this one see.

    Args:
        label: `(seen, example, key) -> entries`, for ONE example; statistics of the batch are at hand, as in a loss.
    """
    _checks.slot("label", label, 3, "(seen, example, key) -> entries")

    def step(part: Any, seen: Seen, key: Key) -> Stepped:
        def one(example: Transition, key: Key) -> Entries:
            return _entries(seen.stage, label(seen, example, key))

        axes, batch = seen.batch.reward.shape, flat(seen.batch)
        shaped = lambda leaf: leaf.reshape(*axes, *leaf.shape[1:])
        return {}, jax.tree.map(shaped, on_each(one, batch, key)), {}

    return Stage(_nothing, step, owns=(), label=label)


def labelled_batch(label: Callable[[Seen, Key], Entries]) -> Stage:
    """The same of a whole batch or rollout at once: advantages along time, standardisation.

    Args:
        label: `(seen, key) -> entries`, arrays with the leading axes of the batch; None removes an entry.
    """
    _checks.slot("label", label, 2, "(seen, key) -> entries")

    def step(part: Any, seen: Seen, key: Key) -> Stepped:
        return {}, _entries(seen.stage, label(seen, key)), {}

    return Stage(_nothing, step, owns=())


def reported(metrics: Callable[[Seen], Metrics]) -> Stage:
    """No part, but metrics under names of their own, of what the stages before this one have done."""
    _checks.slot("metrics", metrics, 1, "seen -> metrics")
    return Stage(_nothing, lambda part, seen, key: ({}, {}, metrics(seen)), owns=(), bare=True)


def remembered(
    start: Callable[[Transition], Entries],
    revise: Callable[[Seen], Callable[[Transition, Key], Entries]],
) -> Stage:
    """No part, but entries that are stored beside each transition in the replay, and rewritten whenever it is drawn.

    They are rewritten before the update, of the parts as it finds them, and every stage sees the new ones.

    Args:
        start: `transition -> entries`, of ONE new transition.
        revise: `seen -> ((example, key) -> entries)`: new values of all of them, for ONE drawn transition; statistics
            of the batch are at hand, as in a loss.
    """
    _checks.slot("start", start, 1, "transition -> entries")
    _checks.slot("revise", revise, 1, "seen -> ((example, key) -> entries)")
    return Stage(_nothing, lambda part, seen, key: ({}, {}, {}), owns=(), memory=(start, revise))


def _nothing(key: Key, spec: Any, parts: Parts) -> dict[str, Any]:
    return {}


def _entries(stage: str, given: Any) -> Entries:
    if not isinstance(given, dict):
        raise ValueError(f"stage {stage!r} must return a dict of entries for the extras, got {given!r}.")
    return given
