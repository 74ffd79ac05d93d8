"""Diffusion Policy Policy Optimisation: PPO over the steps of the denoising chain."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Metrics, Number, Observation, Scalar
from dpolicy.algorithm import Algorithm
from dpolicy.fields import AbstractField, AbstractSchedule, DiscreteVP, Projected, Sinusoidal, cosine_betas
from dpolicy.learning import FieldPolicy, Parts, acted, field_policy, frozen, proximal
from dpolicy.losses import (
    add,
    chain_log_likelihood,
    clip_schedule,
    clipped,
    denoising_discounts,
    log_ratio,
)
from dpolicy.losses.ratios import LogLikelihood
from dpolicy.recipe import composed, tunable
from dpolicy.samplers import Ancestral, ddim, ddpm

DENOISERS = ("ddpm", "ddim", "euler")


def _cloning(likelihood: LogLikelihood) -> Callable[..., tuple[Scalar, Metrics]]:
    """Minus the log-density of a chain of the frozen policy, stored at rollout as extras["frozen"]."""

    def loss(field: AbstractField, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        stored = acted(example.obs, example.action, {"chain": example.extras["frozen"]})
        value = -jnp.mean(likelihood(field, stored, key))
        return value, {"loss": value}

    return loss


def _check_fits(schedule: AbstractSchedule, steps: int) -> None:
    """Refuse a pretrained field whose schedule the chain cannot follow."""
    try:
        schedule.grid(steps)
    except ValueError as error:
        raise ValueError(f"sampler_steps must suit the schedule of the pretrained field: {error}") from error


def _check_observations(field: AbstractField, spec: Any) -> None:
    """Refuse a field that does not take the environment's observations."""
    inputs = (jnp.zeros(size) for size in ((field.action_size,), (), (spec.obs_size,)))
    try:
        jax.eval_shape(field, *inputs)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"pretrained must take observations of size {spec.obs_size}, those of {spec.name}."
        ) from error


class Denoising(NamedTuple):
    """The chain of denoising steps: how it acts, its likelihood, and the field that it asks for.

    Attributes:
        steps: Denoising steps K.
        trained: How many of the last are trained, K'.
        explorer: The chain while exploring.
        evaluator: The chain in evaluation.
        likelihood: Of its trained steps, `(field, example, key) -> log-densities [trained]`.
        betas: Betas of its schedule.
        network: What the field is, for `field_policy`.
    """

    steps: int
    trained: int
    explorer: Ancestral
    evaluator: Ancestral
    likelihood: LogLikelihood
    betas: Any
    network: dict[str, Any]


@tunable(
    "denoiser",
    "sampler_steps",
    "schedule_steps",
    "trained_steps",
    "exploration_std",
    "likelihood_std",
    "noise_bound",
    "reduction",
    "log_prob_low",
    "log_prob_high",
)
def denoising(
    *,
    denoiser: str = "ddpm",
    sampler_steps: int = 10,
    schedule_steps: int | None = None,
    trained_steps: int | None = None,
    exploration_std: Number = 0.1,
    likelihood_std: Number | None = None,
    noise_bound: Number | None = 3.0,
    reduction: str = "mean",
    log_prob_low: Number | None = -5.0,
    log_prob_high: Number | None = 2.0,
) -> Denoising:
    """A chain of denoising steps that are Gaussian decisions.

    Args:
        denoiser: ddpm (posterior variance), ddim (eta 1 while exploring, 0 in evaluation) or euler (steps of a
            rectified flow, with noise of `exploration_std` added to each while exploring).
        sampler_steps: Denoising steps K.
        schedule_steps: Steps of the cosine schedule, a multiple of K (DDIM: 100 for 5 steps); None for K.
        trained_steps: How many of the last steps are trained, K'; None for all. Without a pretrained field the earlier
            ones are those of the field being trained.
        exploration_std: Floor of the standard deviation of every step while exploring.
        likelihood_std: The same in the likelihood; None for equal, without which the ratio is not the sampler's.
        noise_bound: Noise is clipped to this many standard deviations; None for none.
        reduction: Over the action, mean or sum of the log-densities.
        log_prob_low: Lower clamp of each coordinate's log-density; None for none.
        log_prob_high: Upper clamp; None for none.

    Raises:
        ValueError: for a value out of its range.
    """
    _checks.one_of("denoiser", denoiser, DENOISERS)
    _checks.integer("sampler_steps", sampler_steps)
    trained = sampler_steps if trained_steps is None else trained_steps
    _checks.integer("trained_steps", trained, 1, sampler_steps)
    _checks.positive("exploration_std", exploration_std)
    if likelihood_std is not None:
        _checks.positive("likelihood_std", likelihood_std)
    if denoiser == "euler" and schedule_steps is not None:
        raise ValueError(f"schedule_steps must be None for the denoiser euler, got {schedule_steps!r}.")
    if schedule_steps is not None:
        _checks.integer("schedule_steps", schedule_steps)
    for name, bound in (("log_prob_low", log_prob_low), ("log_prob_high", log_prob_high)):
        if bound is not None:
            _checks.in_range(name, bound)
    _checks.ordered("log_prob_low", log_prob_low, "log_prob_high", log_prob_high)

    def sampler(std: Number, *, explore: bool = True) -> Ancestral:
        shared: dict[str, Any] = {"steps": sampler_steps, "min_std": std, "final_noise": explore}
        if explore:
            shared["noise_bound"] = noise_bound
        if denoiser == "euler":  # DDIM without noise of its own is Euler's step in a rectified flow
            return ddim(eta=0.0, clip=None, **shared)
        if denoiser == "ddpm":
            return ddpm(variance="posterior", **shared)
        return ddim(eta=1.0 if explore else 0.0, recompute=True, **shared)

    betas = cosine_betas(sampler_steps if schedule_steps is None else schedule_steps)
    network: dict[str, Any] = {"schedule": "rectified_flow", "prediction": "velocity", "embedding": "cos_sin"}
    if denoiser != "euler":
        times = lambda key: Projected(Sinusoidal(16, scale=len(betas), shift=-1.0), 16, hidden=(32,), key=key)
        network = {"schedule": DiscreteVP(betas), "prediction": "noise", "embedding": times}
    return Denoising(
        steps=sampler_steps,
        trained=trained,
        explorer=sampler(exploration_std),
        evaluator=sampler(1e-3 if denoiser == "ddpm" else 0.0, explore=False),
        likelihood=chain_log_likelihood(
            sampler(exploration_std if likelihood_std is None else likelihood_std),
            trained=trained,
            bounds=(log_prob_low, log_prob_high),
            reduction=reduction,
        ),
        betas=betas,
        network={**network, "sampler": "ddpm", "sampler_steps": sampler_steps},
    )


def _beginning(begin: AbstractField) -> Callable[[Key, Any], AbstractField]:
    """`(key, spec) -> begin`, which refuses an environment that it does not suit."""

    def make(key: Key, spec: Any) -> AbstractField:
        if begin.action_size != spec.action_size:
            raise ValueError(
                f"pretrained must give actions of size {spec.action_size}, those of {spec.name}, got one of "
                f"{begin.action_size}."
            )
        _check_observations(begin, spec)
        if getattr(spec, "standardised", False):
            raise ValueError(
                "normalise_observations must be off (--no-normalise-observations) for dppo that starts from a "
                "pretrained policy, which was fitted to observations as they are."
            )
        return begin

    return make


@composed(
    field_policy,
    denoising,
    proximal,
    without=("schedule", "prediction", "sampler", "embedding"),
    sampler_steps=10,
    initialisation="torch",
    hidden=(256, 256, 256),
    value_hidden=(256, 256, 256),
    activation="mish",
    learning_rate=1e-4,
    value_learning_rate=1e-3,
    stop_kl=1.0,
    normalise_advantages="minibatch",
    value_coefficient=0.25,
    epochs=10,
    max_grad_norm=1e6,
)
def dppo(
    make_field: Callable[..., FieldPolicy],
    make_chain: Callable[..., Denoising],
    train: Callable[..., Algorithm],
    *,
    clip: Number = 0.1,
    clip_low: Number | None = None,
    clip_rate: Number = 3.0,
    denoising_discount: Number = 1.0,
    squash: bool = False,
    pretrained: AbstractField | None = None,
    cloning_coefficient: Number | None = None,
) -> Algorithm:
    """DPPO: every denoising step is a Gaussian decision with a clipped ratio of its own (arXiv 2409.00588).

    ratio_j = exp(mean over the action of log N(x_{k-1}; mean_k, std_k^2), new minus old), j = 0 the noisiest trained
    step; its advantage is denoising_discount^(K'-1-j) A(s, a), its clip grows from `clip_low` to `clip`. The value
    network knows the environment's state only. All ratios of a transition share a minibatch (the reference shuffles
    transition and step together, the same in expectation).

    Defaults are the reference's for training from scratch, with plain networks (its own are in the presets). It
    fine-tunes a cloned policy with 20 steps, the last 10 of them trained, clip 0.01, denoising discount 0.99 and chunks
    of 4 actions.

    With `denoiser="euler"` it is the baseline that FPO's paper calls DPPO, in its code a "denoising MDP" (table 1: clip
    0.2, exploration_std 0.05): one ratio for each step of a flow, the same advantage for all.

    Args:
        clip: Clip range of the ratio at the last step.
        clip_low: Clip range at the noisiest trained step; None for the same.
        clip_rate: How sharply the clip range grows in between.
        denoising_discount: Discount of the advantage per step away from the last one.
        squash: Whether the environment receives tanh of the chain's last point.
        pretrained: A field to start from, with its schedule, prediction and network; its weights serve the steps that
            are not trained. It must have been fitted to observations as they are, and is given them so
            (`normalise_observations=False`). A configuration, as the command line, names the directory of the run of bc
            that fitted it (`dpolicy.train.pretrained_field`: its average, of the first seed that has not failed).
        cloning_coefficient: Weight of staying likely to produce the pretrained policy's actions; None for none.
    """
    _checks.positive("clip", clip)
    _checks.positive("clip_rate", clip_rate)
    _checks.fraction("denoising_discount", denoising_discount)
    _checks.boolean("squash", squash)
    if pretrained is not None and not isinstance(pretrained, AbstractField):
        named = isinstance(pretrained, (str, os.PathLike, Mapping))
        hint = f": pass dpolicy.train.pretrained_field({pretrained!r}), the field of a run" if named else ""
        raise ValueError(f"pretrained must be a field or None, got {pretrained!r}{hint}.")
    chain, begin = make_chain(), pretrained
    if begin is not None:
        _check_fits(begin.schedule, chain.steps)
    elif len(chain.betas) % chain.steps:
        raise ValueError(
            f"schedule_steps must be a multiple of the sampler_steps of {chain.steps}, got {len(chain.betas)}."
        )
    if clip_low is not None:
        _checks.positive("clip_low", clip_low)
        _checks.ordered("clip_low", clip_low, "clip", clip)
    clips = clip_schedule(chain.trained, clip if clip_low is None else clip_low, clip, clip_rate)
    # Without frozen steps or cloning the pretrained weights are a start and no more.
    keeps = begin is not None and (chain.trained < chain.steps or cloning_coefficient is not None)

    def executed(points: Float[Array, "points a"]) -> Action:
        return jnp.tanh(points[-1]) if squash else points[-1]

    def explore(parts: Parts) -> Callable[[Observation, Key], tuple[Action, dict[str, Any]]]:
        field, early = parts.policy, parts.pretrained if keeps else None

        def act(obs: Observation, key: Key) -> tuple[Action, dict[str, Any]]:
            key, frozen_key = jax.random.split(key)
            points = chain.explorer.chain(field, obs, key, early=early, last=chain.trained)
            stored = acted(obs, points[-1], {"chain": points})
            extras = {"chain": points, "log_prob": chain.likelihood(field, stored, key)}
            if early is not None and cloning_coefficient is not None:
                extras["frozen"] = chain.explorer.chain(early, obs, frozen_key, last=chain.trained)
            return executed(points), extras

        return act

    def evaluate(parts: Parts) -> Callable[[Observation, Key], Action]:
        early = parts.pretrained if keeps else None
        follow = partial(chain.evaluator.chain, parts.policy, early=early, last=chain.trained)
        return lambda obs, key: executed(follow(obs, key))

    discounts = denoising_discounts(chain.trained, denoising_discount)
    terms: dict[str, Any] = {"ppo": (1.0, clipped(log_ratio(chain.likelihood), eps=clips, weights=discounts))}
    if cloning_coefficient is not None:
        _checks.non_negative("cloning_coefficient", cloning_coefficient)
        if begin is None:
            raise ValueError(f"cloning_coefficient needs a pretrained field, got {cloning_coefficient!r}.")
        terms["cloning"] = (cloning_coefficient, _cloning(chain.likelihood))
    return train(
        name="dppo",
        make_policy=make_field(**chain.network).make if begin is None else _beginning(begin),
        explore=explore,
        evaluate=evaluate,
        policy_loss=add(**terms),
        kl="ppo/kl",
        stages={"pretrained": frozen(lambda key, spec: begin)} if keeps else None,
    )
