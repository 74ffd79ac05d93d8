"""Maximum-entropy diffusion policy."""

from collections.abc import Callable
from typing import Annotated

import optax

from dpolicy._settings import Count, Positive, at_least
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    FieldPolicy,
    actor_optimiser,
    acts,
    critic_function,
    field_policy,
    q_critics,
)
from dpolicy.learning import Seen, algorithm, trained
from dpolicy.losses import boltzmann, chain, matching, perturb, posterior_mean, reverse_sample
from dpolicy.recipe import composed


@composed(field_policy, actor_optimiser, q_critics, hidden=(256, 256))
def maxentdp(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    temperature: Positive = 0.05,
    samples: Annotated[int, at_least(2)] = 500,
    soft: bool = True,
    density_steps: Count = 20,
    density_draws: Count = 50,
    evaluation_candidates: Count = 10,
) -> Algorithm:
    """Maximum-entropy diffusion policy: Q-weighted noise estimation and a soft backup (arXiv 2502.11612).

    The field regresses the weighted mean noise sum_i w_i e_i of reverse proposals, w = softmax(Q(s, a_i) / lambda):
    draw by draw the gradient of SDAC's loss, so that what `sdac` says of faces and of shares holds. The critic's
    target holds the entropy, -lambda log pi(a'|s'), with log pi estimated from how well the field denoises a'. That
    costs density_steps * density_draws evaluations of the field per transition, and is biased for narrow policies
    (`mmse_log_likelihood`).

    Args:
        temperature: lambda, in units of (scaled) reward; per task in the paper, .01 to .2.
        samples: Reverse proposals per state.
        soft: Whether the critic's target holds the entropy.
        density_steps: Noise levels of the estimate of log pi.
        density_draws: Noises per level.
        evaluation_candidates: Evaluation acts by the best of this many samples under the target critics.
    """
    policy, critics = make_field(), make_critics()
    backup = policy.with_density(density_steps, density_draws) if soft else policy.act

    def improve(s: Seen) -> Loss:
        q = critic_function(s.before.target)
        links = perturb(policy.schedule), reverse_sample(policy.schedule, samples)
        return matching(chain(*links, boltzmann(q, temperature), posterior_mean()))

    return algorithm(
        "maxentdp",
        "off_policy",
        explore=acts(policy.act),
        evaluate=acts(policy.best(evaluation_candidates), select="target_min"),
        critic=critics.backed_up(backup, temperature=temperature if soft else None),
        target=critics.averaged(),
        actor=trained(policy.make, improve, make_optimiser()),
    )
