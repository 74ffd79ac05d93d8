"""Iterated denoising energy matching as an actor."""

from collections.abc import Callable
from typing import Annotated, Literal

from dpolicy._settings import Count, Fraction, NonNegative, Positive, at_least
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, actor_critic, field_policy, noisy
from dpolicy.losses import chain, matching, perturb, reverse_sample, smoothed_score
from dpolicy.recipe import composed


@composed(field_policy, actor_critic)
def idem(
    make_field: Callable[..., FieldPolicy],
    make_algorithm: Callable[..., Algorithm],
    *,
    temperature: Positive = 0.05,
    normalise_temperature: bool = True,
    samples: Annotated[int, at_least(2)] = 500,
    proposal: Literal["truncated", "gaussian", "clipped"] = "truncated",
    noise_share: Fraction = 0.0,
    max_score: Positive | None = None,
    time_weight: Literal["uniform", "tamed"] = "tamed",
    exploration_noise: NonNegative = 0.1,
    evaluation_candidates: Count = 10,
) -> Algorithm:
    """Iterated denoising energy matching: the smoothed score, from gradients of Q around x_t (arXiv 2402.06121).

    Around a noised replay action, proposals a_i are drawn as in SDAC; the noise target is -(sigma / alpha) sum_i w_i
    grad_a Q(s, a_i) / lambda, w = softmax(Q(s, a_i) / lambda). Its error grows as sigma / alpha, which `time_weight`
    makes up for, and it misses the flux through the faces of the box: right where exp(Q / lambda) vanishes there. On
    the bandit `faces` at lambda = .5 it is not: P(a > .9) is .73 with 20 steps of DDPM (.87 with many sampler steps),
    where .385 is right and SDAC has .35; choose `sdac` there. Shares of unequal modes are off by O(1/samples), either
    way: with many sampler steps .100, .700, .200 become .054, .798, .147 with 64 proposals and .091, .719, .191 with
    500; 20 steps of DDPM draw them together, to .122, .654, .224 and .127, .645, .227.

    Predict noise or score. A velocity or data field takes the same targets, but its errors near t = 1 weigh so little
    that the shares of far modes are learned slowly.

    The defaults are those of FlowRL's code (arXiv 2603.27450) but for the time weight, which is uniform there.

    Args:
        temperature: lambda, in units of the batch's mean absolute gradient of Q, or of (scaled) reward.
        normalise_temperature: Whether lambda is in units of that gradient; False is the paper's energy -Q / lambda.
        samples: Reverse proposals per state.
        proposal: truncated to the action box, gaussian (the paper's) or clipped afterwards, which biases the target.
        noise_share: Share of the noise form of the estimate (SDAC's target), which needs no gradient; 0 is iDEM.
        max_score: Bound on the norm of the estimated score; None for none (the paper clips at 20 or 70).
        time_weight: uniform, or tamed: min(1, alpha^2 / sigma^2) for the noise.
        exploration_noise: Standard deviation of Gaussian noise added to the sampled action while exploring.
        evaluation_candidates: Evaluation acts by the best of this many samples under the critic.
    """
    policy = make_field()
    return make_algorithm(
        name="idem",
        make_actor=policy.make,
        explore=noisy(policy.act, exploration_noise),
        backup=policy.act,
        evaluate=policy.best(evaluation_candidates),
        actor_loss=lambda q, _: matching(
            chain(
                perturb(policy.schedule),
                reverse_sample(policy.schedule, samples, proposal=proposal),
                smoothed_score(
                    q,
                    temperature,
                    normalise=normalise_temperature,
                    noise_share=noise_share,
                    max_norm=max_score,
                ),
            ),
            time_weight=time_weight,
        ),
        actor_critic_values="target_min",
    )
