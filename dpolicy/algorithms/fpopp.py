"""FPO++: FPO with a ratio per draw, an asymmetric trust region and zero-start evaluation."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Observation
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    PLAIN_FLOW,
    FieldPolicy,
    acted,
    explore_matched,
    field_policy,
    matched_ratio,
    proximal,
)
from dpolicy.learning import Acting, Parts, Stage
from dpolicy.learning import average as average_of
from dpolicy.losses import (
    add,
    clipped,
    flow_matching_log_ratio,
    matching,
    noise_predictions,
    perturb,
    power_times,
    predicted_entropy,
    prediction_change,
)
from dpolicy.recipe import composed
from dpolicy.samplers import ode

STARTS = ("zero", "random")
MEASURES = ("ratio", "prediction")


def _exploring(explore: Callable[..., Any], predictions: Callable[..., Any] | None) -> Acting:
    """What is stored with an action, and the noise that was predicted there where that measures a step."""

    def acting(parts: Parts) -> Callable[[Observation, Key], tuple[Action, dict[str, Any]]]:
        def act(obs: Observation, key: Key) -> tuple[Action, dict[str, Any]]:
            action, extras = explore(parts.policy, obs, key)
            if predictions is not None:
                extras["predictions"] = predictions(parts.policy, acted(obs, action, extras), key)
            return action, extras

        return act

    return acting


def _starting(sampler: Callable[..., Action], how: str) -> Acting:
    """The averaged policy from x_1 = 0, or from a random start."""
    x_1 = lambda field: jnp.zeros(field.action_size) if how == "zero" else None
    return lambda parts: lambda obs, key: sampler(parts.deployed, obs, key, start=x_1(parts.deployed))


@composed(
    field_policy,
    proximal,
    without=("schedule", "prediction", "sampler", "embedding"),
    hidden=(256, 256, 256),
    value_hidden=(768, 768, 768),
    activation="elu",
    initialisation="torch",
    learning_rate=1e-4,
    weight_decay=1e-4,
    advantage_clip=100.0,
    epochs=16,
)
def fpopp(
    make_field: Callable[..., FieldPolicy],
    train: Callable[..., Algorithm],
    *,
    clip: Number = 0.05,
    draws: int = 16,
    surrogate: str = "aspo",
    average: str = "per_sample",
    time_exponent: Number = 1.0,
    huber: Number | None = None,
    loss_clip: Number | None = 20.0,
    old_loss_clip: Number | None = None,
    log_ratio_clip: Number | None = 10.0,
    entropy_coefficient: Number | None = None,
    kl_measure: str = "ratio",
    action_noise: Number | None = 0.02,
    start: str = "zero",
    ema_decay: Number = 0.95,
    ema_after: int = 500,
    sampler_steps: int = 64,
) -> Algorithm:
    """FPO++: a clipped ratio for each draw of the flow-matching loss, SPO where A < 0 (arXiv 2602.02481).

    ratio_i = exp(old loss_i - new loss_i) for each stored pair (t_i, eps_i), the loss summed over the action and
    divided by sqrt(d); the surrogate, averaged over pairs, is PPO's for A > 0 and SPO's otherwise, which pulls an
    overshoot back. Evaluation starts from x_1 = 0 with averaged weights.

    Actions are clipped to [-1, 1] by the environment (the reference: to [-2, 2]); the stored action is not.

    Args:
        clip: Clip range of each ratio.
        draws: Pairs (t, eps) per action.
        surrogate: aspo, ppo (for fine-tuning a pretrained policy) or spo.
        average: A clipped ratio for each draw (per_sample), or one for all, as FPO has it: of their mean loss
            (mean_then_exp), or the mean of their ratios (exp_then_mean).
        time_exponent: t = 1 - (1 - u)^(1/exponent), squeezed into [0.005, 0.995]; above 1 it favours small t.
        huber: Error beyond which a coordinate's loss grows linearly (its fine-tuning: 0.1 to 1); None for never.
        loss_clip: Bound of each loss, beyond which it has no gradient; None for none.
        old_loss_clip: Bound of each stored loss alone (its fine-tuning: 4); None for none.
        log_ratio_clip: Upper bound of each log-ratio, its gradient kept; None for none.
        entropy_coefficient: Weight of the nearest-neighbour entropy of the actions predicted from `draws` pairs;
            None for none.
        kl_measure: What `target_kl` and `stop_kl` bound: ratio, the k3 estimate from the ratios, or prediction, the
            mean squared change of the predicted noise (with a target of 1e-4).
        action_noise: Standard deviation of Gaussian noise on x_0 while exploring, stored as well as executed (the
            reference's "storage noise" is more of the same: the variances add up); None for none.
        start: Of evaluation: zero or random.
        ema_decay: Decay of the averaged weights, per iteration.
        ema_after: Iterations at which the average starts; before, evaluation uses the current weights.
        sampler_steps: Euler steps of the sampler.
    """
    _checks.positive("clip", clip)
    if log_ratio_clip is not None:
        _checks.positive("log_ratio_clip", log_ratio_clip)
    _checks.positive("time_exponent", time_exponent)
    _checks.one_of("start", start, STARTS)
    _checks.one_of("kl_measure", kl_measure, MEASURES)
    _checks.fraction("ema_decay", ema_decay)
    _checks.integer("ema_after", ema_after, 0)
    if action_noise is not None:
        _checks.positive("action_noise", action_noise)
    policy = make_field(**PLAIN_FLOW, sampler_steps=sampler_steps)
    sampler = ode(steps=sampler_steps)
    pairs = perturb(policy.schedule, times=power_times(time_exponent))
    ratio = matched_ratio(
        flow_matching_log_ratio(
            matching(pairs, reduction="sqrt", huber=huber),
            draws=draws,
            mode=average,
            loss_clip=loss_clip,
            old_loss_clip=old_loss_clip,
            clip=log_ratio_clip,
        )
    )
    several = perturb(policy.schedule, draws=draws, times=power_times(time_exponent))
    explore = explore_matched(sampler, ratio, squash=lambda x: x, noise=action_noise)

    terms: dict[str, Any] = {"ppo": (1.0, clipped(ratio, eps=clip, surrogate=surrogate))}
    if entropy_coefficient is not None:
        _checks.non_negative("entropy_coefficient", entropy_coefficient)
        terms["entropy"] = (-entropy_coefficient, predicted_entropy(several))
    return train(
        name="fpopp",
        make_policy=policy.make,
        explore=_exploring(explore, noise_predictions(several) if kl_measure == "prediction" else None),
        evaluate=_starting(sampler, start),
        modes={how: _starting(sampler, how) for how in STARTS},
        policy_loss=add(**terms),
        kl="ppo/kl" if kl_measure == "ratio" else prediction_change(several),
        stages={
            # Iterations that have moved the policy: a critic warm-up delays the average too.
            "moves": Stage(
                lambda key, spec, parts: jnp.zeros((), jnp.int32),
                lambda count, seen, key: (count + 1, {}, {}),
            ),
            "deployed": average_of(
                "policy", lambda s: jnp.where(s.now.moves > ema_after, 1 - ema_decay, 1.0)
            ),
        },
    )
