"""FPO++: FPO with a ratio per draw, an asymmetric trust region and zero-start evaluation."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax.numpy as jnp

from dpolicy._settings import Fraction, NonNegative, Positive, at_least
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, MatchedFlow, counted, flow_policy, matched_flow, proximal, starting
from dpolicy.learning import average
from dpolicy.losses import (
    add,
    clipped,
    matching,
    noise_predictions,
    perturb,
    power_times,
    predicted_entropy,
    prediction_change,
)
from dpolicy.recipe import composed


@composed(
    flow_policy,
    matched_flow,
    proximal,
    sampler_steps=64,
    draws=16,
    average="per_sample",
    loss_clip=20.0,
    log_ratio_clip=10.0,
    action_noise=0.02,
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
    make_flow: Callable[..., FieldPolicy],
    make_matched: Callable[..., MatchedFlow],
    make_algorithm: Callable[..., Algorithm],
    *,
    clip: Positive = 0.05,
    surrogate: Literal["ppo", "spo", "aspo"] = "aspo",
    time_exponent: Positive = 1.0,
    huber: Positive | None = None,
    entropy_coefficient: NonNegative | None = None,
    kl_measure: Literal["ratio", "prediction"] = "ratio",
    start: Literal["zero", "random"] = "zero",
    ema_decay: Fraction = 0.95,
    ema_after: Annotated[int, at_least(0)] = 500,
) -> Algorithm:
    """FPO++: a clipped ratio for each draw of the flow-matching loss, SPO where A < 0 (arXiv 2602.02481).

    ratio_i = exp(old loss_i - new loss_i) for each stored pair (t_i, eps_i), the loss summed over the action and
    divided by sqrt(d); the surrogate, averaged over pairs, is PPO's for A > 0 and SPO's otherwise, which pulls an
    overshoot back. Evaluation starts from x_1 = 0 with averaged weights.

    Actions are clipped to [-1, 1] by the environment (the reference: to [-2, 2]); the stored action is not.

    Args:
        clip: Clip range of each ratio.
        surrogate: aspo, ppo (for fine-tuning a pretrained policy) or spo.
        time_exponent: t = 1 - (1 - u)^(1/exponent), squeezed into [0.005, 0.995]; above 1 it favours small t.
        huber: Error beyond which a coordinate's loss grows linearly (its fine-tuning: 0.1 to 1); None for never.
        entropy_coefficient: Weight of the nearest-neighbour entropy of the actions predicted from `draws` pairs;
            None for none.
        kl_measure: What `target_kl` and `stop_kl` bound: ratio, the k3 estimate from the ratios, or prediction, the
            mean squared change of the predicted noise (with a target of 1e-4).
        action_noise: Standard deviation of Gaussian noise on x_0 while exploring, stored as well as executed (the
            reference's "storage noise" is more of the same: the variances add up); None for none.
        start: Of evaluation: zero or random.
        ema_decay: Decay of the averaged weights, per iteration.
        ema_after: Iterations at which the average starts; before, evaluation uses the current weights.
    """
    flow, times = make_flow(), power_times(time_exponent)
    pairs = perturb(flow.schedule, times=times)
    policy = make_matched(flow=flow, loss=matching(pairs, reduction="sqrt", huber=huber))
    several = perturb(flow.schedule, draws=policy.draws, times=times)
    by_ratio = kl_measure == "ratio"
    terms: dict[str, Any] = {"ppo": (1.0, clipped(policy.ratio, eps=clip, surrogate=surrogate))}
    if entropy_coefficient is not None:
        terms["entropy"] = (-entropy_coefficient, predicted_entropy(several))
    return make_algorithm(
        name="fpopp",
        make_policy=flow.make,
        explore=policy.explore(**({} if by_ratio else {"predictions": noise_predictions(several)})),
        evaluate=starting(flow.sample, start, part="deployed"),
        modes={how: starting(flow.sample, how, part="deployed") for how in ("zero", "random")},
        policy_loss=add(**terms),
        kl="ppo/kl" if by_ratio else prediction_change(several),
        stages={
            # A critic warm-up, in which the policy does not move, delays the average too.
            "moves": counted(),
            "deployed": average("policy", lambda s: jnp.where(s.now.moves > ema_after, 1 - ema_decay, 1.0)),
        },
    )
