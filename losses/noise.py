"""Transforms that add noise: forward from the candidates, or backward from one noised point to many of them."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import integer, one_of, positive, returned
from dpolicy._select import weighed
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.fields import AbstractSchedule
from dpolicy.fields._schedule import check_schedule
from dpolicy.losses.match import Match, Target, Transform
from dpolicy.losses.times import TimeLaw, time_law
from dpolicy.losses.truncated import truncated_proposal

Proposal: TypeAlias = Callable[[Observation, Key], tuple[Action, Scalar]]


def perturb(schedule: AbstractSchedule, *, draws: int = 1, times: str | TimeLaw = "uniform") -> Transform:
    """Forward noise: x = alpha_t action + sigma_t eps, eps ~ N(0, I), t from the law `times`.

    Every candidate gets `draws` independent pairs (t, eps) and its weight is shared among them, so the loss
    is an average over draws, not a sum. The target is (action, eps).

    Args:
        schedule: The field's.
        draws: Pairs per candidate.
        times: `uniform` on the schedule's range, `grid`, `power`, `logit_normal` (see `dpolicy.losses.times`), or a
            function (schedule, key) -> t.

    Raises:
        ValueError: For an unknown law, and when the chain has already added noise.

    Examples:
        >>> match = perturb(schedule, draws=3)(example, start(example), key)
        >>> print(match.x.shape, match.t.shape, match.weight)
        (3, 2) (3,) [0.333 0.333 0.333]
    """
    check_schedule(schedule)
    integer("draws", draws)
    law = time_law(times)

    def transform(example: Any, match: Match, key: Key) -> Match:
        if match.schedule is not None:
            raise ValueError(
                "perturb must be the only link of a chain that adds forward noise; noise was added before."
            )
        action = jnp.repeat(match.action, draws, axis=0)
        # The draws share the weight of their action: they are an average, no further candidates.
        weight = jnp.repeat(match.weight, draws) / draws
        time_key, noise_key = jax.random.split(key)
        draw = jax.vmap(lambda key: returned("times", law(schedule, key)))
        t = draw(jax.random.split(time_key, action.shape[0])).astype(action.dtype)
        noise = jax.random.normal(noise_key, action.shape, action.dtype)
        x = schedule.alpha(t)[:, None] * action + schedule.sigma(t)[:, None] * noise
        noised = Match(action, x, t, Target(action, noise), weight, schedule, match.candidates)
        return dataclasses.replace(noised, normalised=match.normalised, report=match.report)

    return transform


def _around(
    x: Float[Array, " a"],
    alpha: Scalar,
    sigma: Scalar,
    n: int,
    proposal: str | Proposal,
    bound: float,
    obs: Observation,
    key: Key,
) -> tuple[Float[Array, "n a"], Float[Array, "n a"], Float[Array, "n a"], Float[Array, " n"]]:
    """`n` clean actions around one noised point, the pairs (data, noise) of their targets, and their shares of 1."""
    if callable(proposal):
        draw = lambda key: _tractable(proposal, obs, key, x.shape)
        action, log_density = jax.vmap(draw)(jax.random.split(key, n))
    elif proposal == "uniform":
        action, log_density = jax.random.uniform(key, (n, *x.shape), x.dtype, -bound, bound), 0.0
    else:
        share = jnp.full((n,), 1 / n, x.dtype)
        if proposal == "truncated":
            action, noise = truncated_proposal(key, n, x, alpha, sigma, bound)
            return action, action, noise, share
        noise = jax.random.normal(key, (n, *x.shape), x.dtype)
        data = (x[None] - sigma * noise) / alpha
        return jnp.clip(data, -bound, bound) if proposal == "clipped" else data, data, noise, share
    noise = (x[None] - alpha * action) / sigma
    # Importance weights N(x; alpha a, sigma^2 I) / g(a), but for factors that all of them share.
    return action, action, noise, jax.nn.softmax(-jnp.sum(noise**2, axis=1) / 2 - log_density)


def _tractable(
    proposal: Proposal, obs: Observation, key: Key, shape: tuple[int, ...]
) -> tuple[Action, Scalar]:
    """A draw of the user's proposal and its log-density.

    Raises:
        ValueError: Unless they are of their shapes.
    """
    pair = proposal(obs, key)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(f"proposal must return (action, log-density), got {type(pair).__name__}.")
    action, log_density = pair
    returned("proposal's log-density", log_density)
    return returned("proposal's action", action, shape), log_density


def reverse_sample(
    schedule: AbstractSchedule,
    n: int,
    *,
    proposal: str | Proposal = "truncated",
    bound: float = 1.0,
) -> Transform:
    """Reverse proposals: `n` clean actions a_i = (x - sigma e_i) / alpha around each noised x, of targets (a_i, e_i).

    With weights softmax(Q(a_i) / temperature) the regression fits the field of exp(Q / temperature) times the
    base measure of the proposal (arXiv 2502.00361). The law of x only decides where the field is accurate.

    Weights over their own sum are biased by O(1/n). It draws the shares of unequal modes together in fields of weighted
    noises; in those of weighted gradients (`smoothed_score`) it is larger and goes either way. On the bandit
    `unequal_modes` .100, .700, .200 become .115, .670, .215 and .054, .798, .147 for n = 64, and .103, .694, .203 and
    .091, .719, .191 for 500 (fields equal to the mean target, 60 steps of Euler). Few sampler steps do more than 64
    proposals: 20 of DDPM take the exact field to .129, .644, .227.

    Args:
        schedule: That of `perturb`, and the field's.
        n: Proposals per noised point, at least 2: with one, weights carry no information.
        proposal: `truncated`, e ~ N(0, I) given that every action lies in [-bound, bound] (base measure: uniform on
            the box); `gaussian`, unrestricted (Lebesgue measure), which asks Q outside the box and, where Q is
            largest at a face, is far from its law on the box (see `dps`); `clipped`, Gaussian e and actions clipped
            afterwards while the target keeps e, as one published code does: target and weight then disagree, kept
            to reproduce it; `uniform`, actions uniform on the box with importance weights N(x; alpha a, sigma^2 I),
            the same optimum as `truncated`; or any tractable density g as a function (obs, key) -> (action, log
            g(action)), such as a Gaussian policy's `sample`, with importance weights N(x; alpha a, sigma^2 I) /
            g(a). Its support is the base measure's: where few truncated proposals matter (t -> 1, narrow Q, many
            dimensions), one close to the target keeps the effective sample size up.
        bound: Half-width of the box.

    Raises:
        ValueError: Unless forward noise with the same kind of schedule was added before, and only once.

    Examples:
        >>> match = chain(perturb(schedule), reverse_sample(schedule, 8))(example, start(example), key)
        >>> print(match.x.shape, match.action.shape, bool(jnp.abs(match.action).max() <= 1))
        (1, 2) (8, 2) True
    """
    check_schedule(schedule)
    integer("n", n, 2)
    if not callable(proposal):
        one_of("proposal", proposal, ("truncated", "gaussian", "clipped", "uniform"))
    positive("bound", bound)

    def transform(example: Any, match: Match, key: Key) -> Match:
        if match.schedule is None:
            raise ValueError(
                "reverse_sample must come after perturb: there is no noised point to go back from."
            )
        if match.groups > 1 or match.x.shape[0] != match.action.shape[0]:
            raise ValueError("reverse_sample can appear only once in a chain.")
        if match.estimate:
            raise ValueError(
                "reverse_sample must come before the link that estimates one target at each point."
            )
        if jax.tree.structure(match.schedule) != jax.tree.structure(schedule):
            raise ValueError(
                f"reverse_sample's schedule must be the one of perturb, {match.schedule}; got {schedule}."
            )

        def propose(x: Array, t: Array, key: Key) -> tuple[Array, Array, Array, Array]:
            return _around(x, schedule.alpha(t), schedule.sigma(t), n, proposal, bound, example.obs, key)

        points, dim = match.x.shape
        keys = jax.random.split(key, points)
        action, data, noise, share = jax.vmap(propose)(match.x, match.t, keys)
        action, data, noise = (value.reshape(points * n, dim) for value in (action, data, noise))
        weight = weighed(match.weight[:, None], share).reshape(points * n)
        report = match.report
        if proposal in ("truncated", "clipped", "uniform"):
            outside = jnp.any(jnp.abs(action) >= bound, axis=1)
            report = {**report, "face": jnp.mean(outside.astype(action.dtype))}
        return Match(
            action,
            match.x,
            match.t,
            Target(data, noise),
            weight,
            match.schedule,
            match.candidates * n,
            match.normalised,
            report,
        )

    return transform
