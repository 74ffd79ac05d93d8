"""Q-score matching."""

from collections.abc import Callable
from typing import Literal

from dpolicy._settings import Count, NonNegative, Positive
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, actor_critic, field_policy, noisy
from dpolicy.losses import chain, matching, perturb, q_score
from dpolicy.recipe import composed


@composed(field_policy, actor_critic)
def qsm(
    make_field: Callable[..., FieldPolicy],
    make_algorithm: Callable[..., Algorithm],
    *,
    temperature: Positive = 0.1,
    variant: Literal["flowrl", "paper", "official"] = "flowrl",
    exploration_noise: NonNegative = 0.1,
    evaluation_candidates: Count = 10,
) -> Algorithm:
    """Q-score matching: the field's score is regressed on the gradient of Q at the noised action (arXiv 2312.11752).

    Its samples do not follow exp(Q / lambda): the target is the score of the density before smoothing, which is right
    only as t -> 0. With the plain score, ideal steps and no clipping they follow exp(2 Q / lambda + |x|^2 / 2).

    Target and guiding critic of the official code are a `variant`; its next action of the critic (noisy and clipped),
    its clip of x at every step and its 5 sampler steps are not. It has temperature 1/50, evaluates single samples, and
    lowers its rate along a cosine (`decay_updates=2e6, decay_shape="cosine"`).

    Args:
        temperature: lambda; under `flowrl` relative to the mean absolute gradient of Q in the batch.
        variant: flowrl (gradient normalised by its batch mean), paper (the plain score grad Q / lambda) or
            official (the noise target is -grad Q / lambda at every t, without the factor sigma_t, and Q the mean of
            the online critics; the other two take that of the target critics).
        exploration_noise: Standard deviation of Gaussian noise added to the sampled action while exploring.
        evaluation_candidates: Evaluation acts by the best of this many samples under the critic.
        prediction: What the network predicts; noise or score (a velocity target is singular towards t = 1).
    """
    policy = make_field()
    return make_algorithm(
        name="qsm",
        make_actor=policy.make,
        explore=noisy(policy.act, exploration_noise),
        backup=policy.act,
        evaluate=policy.best(evaluation_candidates),
        actor_loss=lambda q, _: matching(
            chain(perturb(policy.schedule), q_score(q, temperature, variant=variant))
        ),
        actor_critic_values="online_mean" if variant == "official" else "target_mean",
    )
