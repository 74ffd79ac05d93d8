"""Generative Policy Optimisation: PPO on the exact density of an invertible flow."""

from collections.abc import Callable
from typing import Annotated, Literal

from dpolicy._settings import NonNegative, Positive, one_of
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import CoupledFlow, coupled_flow, proximal, starting
from dpolicy.losses import add, clipped, compression, log_ratio
from dpolicy.losses.invertible import GAPS
from dpolicy.recipe import composed

# The estimates of the KL among the metrics of `clipped`.
KL = {"k1": "kl_k1", "k3": "kl"}


@composed(
    coupled_flow,
    proximal,
    hidden=(256, 256),
    initialisation="torch",
    target_kl=0.01,
    value_clip=0.2,
)
def genpo(
    make_flow: Callable[..., CoupledFlow],
    make_algorithm: Callable[..., Algorithm],
    *,
    clip: Positive = 0.2,
    compression_coefficient: NonNegative = 0.01,
    gap: Annotated[str, one_of(GAPS)] = "norm",
    start: Literal["random", "zero"] = "random",
    kl_estimator: Annotated[str, one_of(KL)] = "k1",
) -> Algorithm:
    """GenPO: PPO on the exact density of an invertible flow over a doubled action (arXiv 2505.18763).

    ratio = exp((|z_old|^2 - |z_new|^2) / 2) with z the inverse of the stored pair: the determinant of the map is a
    constant, so no Jacobian is ever formed. The environment receives the mean of the pair. The density's entropy is a
    constant too, so there is no entropy bonus: the reference's pushes the policy away from the old one.

    Args:
        clip: Clip range of the ratio.
        compression_coefficient: Weight of the gap between the halves of fresh actions.
        gap: norm (the reference code) or squared (the paper's text).
        start: Of evaluation: random, or zero for a deterministic action.
        kl_estimator: Of the KL that the adaptive rate reads: k1 (the reference's) or k3, which is never negative.
    """
    flow = make_flow()
    return make_algorithm(
        name="genpo",
        make_policy=flow.make,
        explore=flow.explore,
        evaluate=starting(flow.sampler, start),
        modes={how: starting(flow.sampler, how) for how in ("random", "zero")},
        policy_loss=add(
            ppo=(1.0, clipped(log_ratio(flow.likelihood), eps=clip)),
            compression=(compression_coefficient, compression(flow.sampler, gap=gap)),
        ),
        kl=f"ppo/{KL[kl_estimator]}",
        # The reference lets the rate rise where k1, which may be negative, is above this.
        kl_floor=-1e-4 if kl_estimator == "k1" else 0.0,
    )
