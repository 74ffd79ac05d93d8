"""State of an actor-critic beyond actor and critics: reference actors, tuned temperatures, statistics of Q.

Each part is an `Extra`, a start and a rule that follows every update; `actor_critic(extras={"name": part})` carries it
as `state.extra["name"]`, and slots read it by `FromState(lambda state: ... state.extra["name"] ...)`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._spread import spread, varies
from dpolicy._types import Critic, Key, Metrics, Model, Number, Scalar, Transition
from dpolicy.ema import ema
from dpolicy.learner import Learner, adam, descend, learner

ANNEALS = ("linear", "cosine")


class FromState(NamedTuple):
    """A slot of a combinator that depends on the algorithm's state.

    Attributes:
        build: `state -> what would else be given directly`.
    """

    build: Callable[[Any], Any]


def resolve(slot: Any, state: Any) -> Any:
    """The slot itself, or what it is in this state."""
    return slot.build(state) if isinstance(slot, FromState) else slot


class Updated(NamedTuple):
    """What an update leaves for the parts that follow it.

    Attributes:
        actor: The actor after its step.
        q: The critic that guided it.
        batch: The batch, with "next_action" in its extras.
        metrics: Those of the actor's loss, means over the batch.
        updates: Updates so far, this one included.
        moved: Whether the actor stepped (see `actor_interval`).
    """

    actor: Model
    q: Critic
    batch: Transition
    metrics: Metrics
    updates: Int[Array, ""]
    moved: Bool[Array, ""]


class Extra(NamedTuple):
    """A part of the state that belongs to the method.

    Attributes:
        start: `(key, spec, actor) -> state`, a pytree of arrays.
        follow: `(state, updated) -> (state, metrics)`, after every update.
        is_actor: Whether the part is a copy of the actor, which takes another network in when the actor does.
    """

    start: Callable[[Key, Any, Model], Any]
    follow: Callable[[Any, Updated], tuple[Any, Metrics]]
    is_actor: bool = False


def _choose(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o) if eqx.is_array(n) else n, new, old)


def copied(every: int) -> Extra:
    """A frozen actor, replaced by the current one at every `every`-th update: mirror descent's reference policy.

    Raises:
        ValueError: unless `every` is an int of at least 1.
    """
    _checks.integer("reference_interval", every)

    def follow(old: Model, updated: Updated) -> tuple[Model, Metrics]:
        return _choose(updated.updates % every == 0, updated.actor, old), {}

    return Extra(lambda key, spec, actor: actor, follow, is_actor=True)


def averaged_actor(rate: Number) -> Extra:
    """average <- (1 - rate) average + rate actor, whenever the actor steps.

    Raises:
        ValueError: for a rate outside [0, 1].
    """
    _checks.fraction("average_rate", rate)

    def follow(old: Model, updated: Updated) -> tuple[Model, Metrics]:
        return _choose(updated.moved, ema(old, updated.actor, 1 - rate), old), {}

    return Extra(lambda key, spec, actor: actor, follow, is_actor=True)


class TunedScalar(eqx.Module):
    """A positive number trained through its logarithm."""

    log: Learner[Float[Array, "..."]]

    @property
    def value(self) -> Float[Array, "..."]:
        """The number."""
        return jnp.exp(self.log.model)


def dual_temperature(start: Number, *, target_kl: Number, learning_rate: Number = 3e-4) -> Extra:
    """The temperature lambda that holds the divergence of the weights from equal ones at `target_kl`.

    Adam on log lambda descends lambda (target_kl - KL(w || 1/N)), with KL the metric "weight_kl" of the actor's loss:
    lambda falls while the weights are too even. Its fixed point exists for target_kl < log N.

    Source: FlowRL (arXiv 2603.27450), DPMD's controller.

    Raises:
        ValueError: for a number that is not above zero.
    """
    _checks.positive("initial_temperature", start)
    _checks.positive("target_kl", target_kl)
    _checks.positive("learning_rate", learning_rate)
    optimiser = adam(learning_rate)

    def follow(state: TunedScalar, updated: Updated) -> tuple[TunedScalar, Metrics]:
        slack = target_kl - updated.metrics["weight_kl"]
        log, _ = descend(state.log, lambda log: (jnp.exp(log) * slack, {}), optimiser)
        new = TunedScalar(log)
        return new, {"temperature": new.value}

    return Extra(lambda key, spec, actor: TunedScalar(learner(_log(start), optimiser)), follow)


def tuned_noise(
    start: Number,
    *,
    std: Number,
    target_entropy_scale: Number,
    learning_rate: Number = 7e-3,
    interval: int = 250,
) -> Extra:
    """The factor alpha of additive noise std alpha N(0, I) whose entropy approaches -target_entropy_scale d.

    H(alpha) = d/2 log(2 pi e (std alpha)^2). Adam on log alpha descends -log alpha (H_target - H), at every
    `interval`-th update. Neither policy nor critic enters: it is an anneal from `start` to
    exp(-target_entropy_scale) / (std sqrt(2 pi e)). Source: DPMD (arXiv 2502.00361), code.

    Raises:
        ValueError: for a number out of its range.
    """
    _checks.positive("initial_noise", start)
    _checks.positive("exploration_noise", std)
    _checks.in_range("target_entropy_scale", target_entropy_scale)
    _checks.integer("noise_interval", interval)
    _checks.positive("learning_rate", learning_rate)
    optimiser = adam(learning_rate)

    def follow(state: TunedScalar, updated: Updated) -> tuple[TunedScalar, Metrics]:
        size = updated.batch.action.shape[-1]
        entropy = size * (0.5 * math.log(2 * math.pi * math.e) + jnp.log(std) + state.log.model)
        gap = jax.lax.stop_gradient(-target_entropy_scale * size - entropy)
        log, _ = descend(state.log, lambda log: (-log * gap, {}), optimiser)
        new = TunedScalar(_choose(updated.updates % interval == 0, log, state.log))
        return new, {"noise": std * new.value}

    return Extra(lambda key, spec, actor: TunedScalar(learner(_log(start), optimiser)), follow)


class Statistics(eqx.Module):
    """Running mean and standard deviation."""

    mean: Float[Array, "..."]
    std: Float[Array, "..."]

    def __call__(self, value: Scalar) -> Scalar:
        """(value - mean) / std: first the difference, then the quotient; 0 where the deviation is only rounding."""
        some = varies(self.std, self.mean)
        return jnp.where(some, (value - self.mean) / jnp.maximum(self.std, 1e-6), 0)


def running_statistics(values: Callable[[Updated], Float[Array, " b"]], rate: Number) -> Extra:
    """mean <- (1 - rate) mean + rate mean_batch(values), and the standard deviation likewise; they start at 0 and 1.

    Source: DPMD (arXiv 2502.00361) and QVPO's `qexpn` (arXiv 2405.16173), code.

    Raises:
        ValueError: for a rate outside [0, 1].
    """
    _checks.fraction("statistics_rate", rate)

    def follow(state: Statistics, updated: Updated) -> tuple[Statistics, Metrics]:
        mean, _, std = spread(values(updated))
        fresh = Statistics(mean, std)
        new = jax.tree.map(lambda old, now: ((1 - rate) * old + rate * now).astype(old.dtype), state, fresh)
        return new, {"q_mean": new.mean, "q_std": new.std}

    return Extra(lambda key, spec, actor: Statistics(jnp.zeros(()), jnp.ones(())), follow)


def annealed(
    updates: Int[Array, "..."],
    start: Number,
    end: Number,
    over: Number,
    *,
    begin: Number = 0.0,
    shape: str = "linear",
) -> Scalar:
    """start + (end - start) p with p = clip((updates - begin) / over, 0, 1), or (1 - cos(pi p)) / 2 for cosine.

    `updates` are those before the present one, of the critics (`ActorCritic.updates`), whatever the number of
    environments or of updates per step: the first update sees `start`, and `end` comes after begin + over of them.
    Every schedule of an off-policy method is this one: DPS' temperature, QVPO's uniform weight, rates that decay.

    Raises:
        ValueError: for an unknown shape.
    """
    _checks.one_of("shape", shape, ANNEALS)
    progress = jnp.clip((updates - begin) / over, 0.0, 1.0)
    if shape == "cosine":
        progress = (1 - jnp.cos(jnp.pi * progress)) / 2
    return start + (end - start) * progress


def _log(value: Number) -> Float[Array, "..."]:
    return jnp.log(jnp.asarray(value, float))
