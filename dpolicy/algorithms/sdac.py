"""Soft Diffusion Actor-Critic: reverse-sampled weighted score matching."""

from collections.abc import Callable

from dpolicy import _checks
from dpolicy._types import Number
from dpolicy.actor_critic import actor_critic
from dpolicy.algorithm import Algorithm
from dpolicy.field_policy import FieldPolicy, field_policy
from dpolicy.losses import boltzmann, chain, matching, perturb, reverse_sample
from dpolicy.recipe import composed


@composed(field_policy, actor_critic)
def sdac(
    make_field: Callable[..., FieldPolicy],
    train: Callable[..., Algorithm],
    *,
    temperature: Number = 0.05,
    samples: int = 500,
    evaluation_candidates: int = 10,
) -> Algorithm:
    """Soft Diffusion Actor-Critic: fit the noise field of exp(Q/lambda) from reverse proposals (arXiv 2502.00361).

    x_t is a noised replay action; proposals a_i for the clean action are drawn around it, truncated to the action
    box; the field regresses their noise with weights softmax(Q(s, a_i) / lambda). No gradient of Q is used.

    Args:
        temperature: Temperature lambda, in units of (scaled) reward.
        samples: Reverse proposals per state; at least 2.
        evaluation_candidates: Evaluation acts by the best of this many samples under the critic.
    """
    _checks.positive("temperature", temperature)
    _checks.integer("samples", samples, 2)
    _checks.integer("evaluation_candidates", evaluation_candidates)
    policy = make_field()
    return train(
        name="sdac",
        make_actor=policy.make,
        explore=policy.act,
        evaluate=policy.best(evaluation_candidates),
        actor_loss=lambda q, _: matching(
            chain(
                perturb(policy.schedule),
                reverse_sample(policy.schedule, samples),
                boltzmann(q, temperature),
            )
        ),
        critic_first=False,
    )
