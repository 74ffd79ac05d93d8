"""Diffusion Policy Policy Optimisation: PPO over the steps of the denoising chain."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Metrics, Number, Observation, Scalar
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import Denoising, FieldPolicy, acted, denoising, field_policy, proximal
from dpolicy.fields import AbstractField, AbstractSchedule
from dpolicy.learning import Parts, frozen
from dpolicy.losses import (
    add,
    clip_schedule,
    clipped,
    denoising_discounts,
    log_ratio,
)
from dpolicy.losses.ratios import LogLikelihood
from dpolicy.recipe import composed


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
