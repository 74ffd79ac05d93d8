"""The record of a matching loss, chains of transforms on it, and the regression at the end.

A matching method says, for one state, what the field should be at some noised actions: candidates `action`,
the noised points `x` at times `t`, the `target` there, and a `weight` for each. Every transform takes
`(example, Match, key)` and returns a `Match`; `matching` turns a chain of them into a loss.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._batch import batch_max, batch_sum
from dpolicy._checks import one_key, one_of, positive, returned
from dpolicy._select import sound, weighed
from dpolicy._types import Key, Loss, Metrics, Number, Prediction, Scalar
from dpolicy.fields import AbstractSchedule, convert, express
from dpolicy.fields._predictions import evaluate


class Target(eqx.Module):
    """What the field should say at `x`: the pair (clean action, noise) with x = alpha data + sigma noise.

    The pair determines all four kinds of prediction. A target that is a score alone has
    `noise = -sigma score`, `data = (x - sigma noise) / alpha`.

    Examples:
        >>> match = perturb(schedule)(example, start(example), key)
        >>> t, data, noise = match.t[:, None], match.target.data, match.target.noise
        >>> print(bool(jnp.allclose(match.x, (1 - t) * data + t * noise)))
        True
    """

    data: Float[Array, "k a"]
    noise: Float[Array, "k a"]


class Match(eqx.Module):
    """What the field is asked to fit for one state.

    `k` candidates and `p` noised points; either `p == k`, or `p` divides `k` and candidate `i` belongs to
    point `i // (k / p)` (a reverse proposal: many clean actions around one `x`, where the field is evaluated
    once). Weights are a measure over the candidates of the state: they sum to 1 until a transform weighs them
    otherwise.

    Examples:
        >>> print(two.action.shape, two.weight, two.candidates)
        (2, 2) [0.5 0.5] 2
        >>> print(perturb(schedule, draws=3)(example, two, key).x.shape)
        (6, 2)
    """

    action: Float[Array, "k a"]
    x: Float[Array, "p a"]
    t: Float[Array, " p"]
    target: Target
    weight: Float[Array, " k"]
    schedule: AbstractSchedule | None = None  # None until noise has been added
    candidates: int = eqx.field(static=True, default=1)  # distinct actions that compete for a weight
    normalised: bool = eqx.field(static=True, default=True)  # whether the weights of every state have one sum
    report: Metrics = eqx.field(default_factory=dict)  # what links leave for the metrics of the loss
    estimate: bool = eqx.field(static=True, default=False)  # whether the target is one estimate at each point

    @property
    def groups(self) -> int:
        """Number of groups inside which weights are normalised: one for each shared `x`, else one."""
        points, size = self.x.shape[0], self.action.shape[0]
        return points if points < size else 1

    def over(self, action: Float[Array, "k a"], weight: Float[Array, " k"], candidates: int) -> "Match":
        """Other clean actions of those weights in the place of these, with what was reported so far."""
        clean = of_actions(action, weight, candidates)
        return dataclasses.replace(clean, normalised=self.normalised, report=self.report)


Transform: TypeAlias = Callable[[Any, Match, Key], Match]


def start(example: Any) -> Match:
    """The record every chain begins with: the example's own action, no noise, weight 1.

    Examples:
        >>> match = start(example)
        >>> print(match.action, match.weight)
        [[ 0.2 -0.4]] [1.]
    """
    return of_actions(example.action[None])


def of_actions(
    action: Float[Array, "k a"], weight: Float[Array, " k"] | None = None, candidates: int = 1
) -> Match:
    """A record of clean actions, of equal weight unless told otherwise."""
    size = action.shape[0]
    weight = jnp.full((size,), 1 / size, action.dtype) if weight is None else weight
    time = jnp.zeros((size,), action.dtype)
    return Match(action, action, time, Target(action, jnp.zeros_like(action)), weight, None, candidates)


class Chain(eqx.Module):
    """Transforms applied in order; see `chain`.

    Examples:
        >>> proposals = chain(uniform(8), best(q))
        >>> print(len(proposals.transforms), proposals(example, start(example), key).action.shape)
        2 (1, 2)
    """

    transforms: tuple[Transform, ...]

    def __call__(self, example: Any, match: Match, key: Key) -> Match:
        one_key(key)
        for index, transform in enumerate(self.transforms):
            match = transform(example, match, jax.random.fold_in(key, index))
        return match


def chain(*transforms: Transform) -> Chain:
    """Apply `transforms` from left to right; link `i` draws from `fold_in(key, i)`.

    Appending a link therefore changes the draws of no other. `chain()` is the identity.

    Examples:
        >>> links = chain(uniform(8), boltzmann(q, 0.1), perturb(schedule))
        >>> print(links(example, start(example), key).x.shape)
        (8, 2)
        >>> print(chain()(example, two, key) is two)
        True
    """
    for transform in transforms:
        if not callable(transform):
            raise ValueError(f"chain takes transforms (example, match, key) -> match, got {transform!r}.")
    return Chain(tuple(transforms))


def _time_weight(rule: str | Callable, schedule: AbstractSchedule, t: Float[Array, " p"], kind: str) -> Array:
    if callable(rule):
        return returned("time_weight", rule(schedule, t), t.shape)
    if rule in ("capped_snr", "tamed"):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        # min(1, alpha^2 / sigma^2) without dividing by sigma = 0
        capped = alpha**2 / jnp.maximum(alpha**2, sigma**2)
        return capped**2 if rule == "tamed" and kind in ("velocity", "data") else capped
    if rule == "noise_variance":
        return schedule.sigma(t) ** 2
    return jnp.ones_like(t)


def _error(difference: Array, huber: Number | None) -> Array:
    if huber is None:
        return difference**2
    # d^2 where |d| is within the bound, huber (2 |d| - huber) beyond it, without a branch.
    inside = jnp.clip(difference, -huber, huber)
    return inside * (2 * difference - inside)


def same_schedule(match: Match, field: Any) -> AbstractSchedule:
    if not (hasattr(field, "schedule") and hasattr(field, "prediction")):
        raise ValueError(
            f"the model of a matching loss must be a field (of a part of a model: on(...)), got {field!r}."
        )
    if match.schedule is None:
        raise ValueError(
            "matching needs a chain that adds noise, such as chain(..., perturb(schedule)); got one without."
        )
    # Constants of a schedule are static, so equal structures are equal schedules.
    if jax.tree.structure(match.schedule) != jax.tree.structure(field.schedule):
        raise ValueError(f"the chain's schedule must be the field's, {field.schedule}; got {match.schedule}.")
    return match.schedule


def sound_match(match: Match, obs: Array) -> tuple[Match, Array]:
    """The record and the observation without numbers that are not finite where nothing weighs anything."""
    counts = match.weight != 0
    points = jnp.any(counts.reshape(match.x.shape[0], -1), axis=1)
    action, target = sound(counts, (match.action, match.target))
    x, t = sound(points, (match.x, match.t))
    match = dataclasses.replace(match, action=action, target=target, x=x, t=t)
    return match, sound(jnp.any(counts), obs)


def refuse_infinite_scores(schedule: AbstractSchedule, prediction: str) -> None:
    """A score target is -eps / sigma: without a bound of sigma from below its square has no mean."""
    low = schedule.span("score")[0]
    if prediction == "score" and schedule.t_min < low:
        raise ValueError(
            f"prediction must not be score for a schedule whose t_min is {schedule.t_min:g}, where a score is "
            f"infinite: give it a t_min of {low:g} or more, or predict noise."
        )


def matching(
    transform: Transform,
    *,
    reduction: str = "mean",
    time_weight: str | Callable[[AbstractSchedule, Float[Array, " p"]], Array] = "uniform",
    compare: Prediction | None = None,
    cap: Number | None = None,
    huber: Number | None = None,
    held: bool = True,
) -> Loss:
    r"""Weighted matching: a chain of transforms, then one regression of the field.

    $$ L = \sum_k w_k\, c(t_k)\, \mathrm{reduce}_a\, ( f(x_k, t_k, s) - y_k )^2 $$

    with target `y` expressed in what the field predicts. The minimiser is the field of the density
    proportional to (law of the candidates) x (weight), for any `c(t) > 0`. Nothing in the chain is
    differentiated, unless it is not `held`.

    Args:
        transform: A chain, or a single transform such as `perturb(schedule)`.
        reduction: Over the action's coordinates: `mean`; `sum`; or `sqrt`, the sum divided by sqrt(d) (FPO++).
        time_weight: `c(t)`: `uniform`; `capped_snr` = min(1, alpha^2 / sigma^2), which tames targets that are
            gradients of Q; `tamed`, the same for noise or score and its square for velocity or data, in whose units
            such targets grow as sigma^2 / alpha^2; `noise_variance` = sigma^2; or a function of (schedule, t).
        compare: Measure the error as this kind of prediction instead of the field's own. `noise` with a
            rectified-flow velocity field is FPO's weight (1 - t)^2; `data` is the weight t^2.
        cap: Bound on each coordinate's squared error, beyond which its gradient is lost. It biases the optimum;
            only to reproduce published code (3 in one implementation of DPMD).
        huber: An error e costs huber (2 |e| - huber) where |e| exceeds it, instead of e^2: its pull is bounded, not
            lost (FPO++ when fine-tuning: 0.1 to 1).
        held: Whether points and targets are constants; else the action has a gradient, too (`trust_region`).

    Returns:
        A loss whose metrics are `loss`, `target` (the mean of |y|), and those of `weight_metrics`.

    Raises:
        ValueError: For an unknown option, a chain that adds no noise, another schedule than the field's, or scores
            on a schedule that reaches sigma = 0.

    Examples:
        >>> value, metrics = matching(perturb(schedule))(field, example, key)
        >>> print(value.shape, sorted(metrics))
        () ['loss', 'target']
        >>> sdac = matching(chain(perturb(schedule), reverse_sample(schedule, 8), boltzmann(q, 0.05)))
        >>> print(sorted(sdac(field, example, key)[1]))
        ['ess', 'face', 'loss', 'target', 'weight_kl']
    """
    one_of("reduction", reduction, ("mean", "sum", "sqrt"))
    if not callable(time_weight):
        one_of("time_weight", time_weight, ("uniform", "capped_snr", "tamed", "noise_variance"))
    if compare is not None:
        one_of("compare", compare, ("noise", "score", "velocity", "data"))
    if cap is not None:
        positive("cap", cap)
    if huber is not None:
        positive("huber", huber)
    links = transform if isinstance(transform, Chain) else chain(transform)

    def loss(field: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        match = links(example, start(example), key)
        match = jax.lax.stop_gradient(match) if held else match
        schedule = same_schedule(match, field)
        kind = field.prediction if compare is None else compare
        refuse_infinite_scores(schedule, kind)
        match, obs = sound_match(match, example.obs)
        (size, dim), points = match.action.shape, match.x.shape[0]
        value = jax.vmap(partial(evaluate, field), in_axes=(0, 0, None))(match.x, match.t, obs)
        if kind != field.prediction:
            to_kind = partial(convert, schedule=schedule, source=field.prediction, target=kind)
            value = jax.vmap(to_kind)(value, match.x, match.t)
        # Candidates of one point share its time, and one evaluation of the field.
        time = jnp.repeat(match.t, size // points)
        as_kind = partial(express, schedule=schedule, prediction=kind)
        target = jax.vmap(as_kind)(match.target.data, match.target.noise, time)

        weight = match.weight.reshape(points, -1)
        scale = _time_weight(time_weight, schedule, match.t, kind)[:, None]
        target = sound(weight * scale != 0, target.reshape(points, -1, dim))
        squared = _error(value[:, None] - target, huber)
        squared = squared if cap is None else jnp.minimum(squared, cap)
        squared = jnp.sum(squared, axis=-1) / {"mean": dim, "sum": 1, "sqrt": dim**0.5}[reduction]
        result = jnp.sum(weighed(scale, weighed(weight, squared)))
        return result, {"loss": result, "target": jnp.mean(jnp.abs(target)), **weight_metrics(match)}

    return loss


WEIGHT_METRICS = ("ess", "weight_kl", "batch_ess", "zero_weight", "face")


def weight_metrics(match: Match) -> Metrics:
    """What explains most failures of weighted matching.

    - `ess`: the effective sample size (sum w)^2 / sum w^2 among the candidates of a noised point, where there are
      several; among those that weights were given to, where a link kept one of them or their mean.
    - `weight_kl`: KL(weights || equal weights) there.
    - `batch_ess`, `zero_weight`: for weights with no common sum (exp(Q / temperature), an advantage) the effective
      number of examples in the batch, each with its total weight, and the share of those that weigh nothing.
    - `face`: the share of reverse proposals on a face of the box.

    Examples:
        >>> print({name: float(value) for name, value in weight_metrics(two).items()})
        {'ess': 2.0, 'weight_kl': 0.0}
    """
    metrics = {**compared(match), **match.report}
    if not match.normalised:
        total = jnp.sum(match.weight)
        # In units of the largest, whose square may be out of range.
        largest = batch_max(total)
        share = total / jnp.where(largest > 0, largest, 1)
        square = batch_sum(share**2)
        metrics["batch_ess"] = batch_sum(share) ** 2 / jnp.where(square > 0, square, 1)
        metrics["zero_weight"] = (total <= 0).astype(total.dtype)
    return metrics


def compared(match: Match) -> Metrics:
    """`ess` and `weight_kl` of candidates that compete; nothing for a single one."""
    if match.candidates < 2:
        return {}
    return {"ess": effective_sample_size(match), "weight_kl": weight_kl(match)}


def effective_sample_size(match: Match) -> Scalar:
    """(sum w)^2 / sum w^2 among the candidates of each noised point, averaged over the points.

    Draws of the same action (`perturb(schedule, draws=n)`) count once.

    Examples:
        >>> print(effective_sample_size(two), effective_sample_size(boltzmann(q, 0.01)(example, two, key)))
        2.0 1.0
    """
    share, copies = _shares(match)
    squares = jnp.sum(share**2, axis=1)
    return jnp.mean(jnp.where(squares > 0, 1 / jnp.where(squares > 0, squares, 1), 0)) / copies


def weight_kl(match: Match) -> Scalar:
    """sum w log(n w), the divergence of the normalised weights from equal ones, averaged over the noised points.

    Between 0 (equal weights) and log n (one candidate carries all).

    Examples:
        >>> uneven = boltzmann(q, 0.01)(example, two, key)
        >>> print(weight_kl(two), f"{weight_kl(uneven):.3f}")
        0.0 0.693
    """
    share, _ = _shares(match)
    logs = jnp.log(jnp.where(share > 0, share * share.shape[1], 1))
    return jnp.mean(jnp.sum(share * logs, axis=1))


def _shares(match: Match) -> tuple[Float[Array, "g n"], float]:
    """Weights normalised in each group, and the copies of each candidate in it.

    They are zero where a group weighs nothing, or a candidate less.
    """
    weight = jnp.maximum(match.weight, 0).reshape(match.groups, -1)
    total = jnp.sum(weight, axis=1, keepdims=True)
    copies = weight.shape[1] / match.candidates if match.groups == 1 else 1.0
    return weight / jnp.where(total > 0, total, 1), copies
