"""Diffusion Q-Sampling."""

from collections.abc import Callable
from typing import Annotated, Literal

from dpolicy._settings import Count, Positive, at_least
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, actor_critic, field_policy
from dpolicy.losses import chain, matching, perturb, reverse_sample, smoothed_score
from dpolicy.optimisers import annealed
from dpolicy.recipe import composed


@composed(field_policy, actor_critic, schedule="variance_exploding", sampler="sde")
def dps(
    make_field: Callable[..., FieldPolicy],
    make_algorithm: Callable[..., Algorithm],
    *,
    initial_temperature: Positive = 10.0,
    final_temperature: Positive = 1.0,
    anneal_updates: Positive = 250_000,
    samples: Annotated[int, at_least(2)] = 500,
    proposal: Literal["gaussian", "truncated"] = "truncated",
    max_score: Positive | None = None,
    time_weight: Literal["uniform", "tamed"] = "tamed",
    soft: bool = False,
    density_steps: Count = 20,
    density_draws: Count = 50,
    evaluation_candidates: Count = 1,
) -> Algorithm:
    """Diffusion Q-Sampling, FlowRL's "DPS": sample exp(Q / lambda), with lambda annealed (arXiv 2410.01312).

    The target is iDEM's estimate of the smoothed score at the energy -Q / lambda, in the variance-exploding frame:
    sum_i w_i grad_a Q(s, a_i) / lambda, a_i = x + sigma e_i around a noised replay action. It is no diffusion
    posterior sampling. The temperature is the exploration; a method without an entropy in its critic improves
    such policies only approximately, which `soft` mends.

    The paper's proposals are Gaussian: they ask the critic about actions that nobody has taken, outside the box, and
    sample exp(Q / lambda) there, which the sampler's clip moves onto the faces. Where Q is largest at a face that is no
    Boltzmann policy of the box: on the bandit `faces` at lambda = .5, with the exact mean target and 100 sampler steps,
    P(a < -.5) is .282 where .020 is right, and .005 with truncated proposals, which are the default here. What `idem`
    says about faces and shares holds for both: .55 and .75 of their samples are above .9, where .385 is right.

    The paper's code has not been seen; what it leaves open is iDEM's (samples, Q of the target critics).

    Args:
        initial_temperature: lambda at the start, in units of (scaled) reward.
        final_temperature: lambda at the end.
        anneal_updates: Updates of the critics over which it changes linearly (see `annealed`).
        samples: Reverse proposals per state.
        proposal: truncated to the action box, or gaussian (the paper's).
        max_score: Bound on the norm of the estimated score; None for none.
        time_weight: uniform (the paper's, on the noise), or tamed: min(1, alpha^2 / sigma^2) for the noise.
        soft: Whether the critic's target holds the policy's entropy, -lambda log pi, as in MaxEntDP.
        density_steps: Noise levels of the estimate of log pi, where `soft`.
        density_draws: Noises per level of that estimate.
        evaluation_candidates: Evaluation acts by the best of this many samples under the critic.
    """
    policy = make_field()
    return make_algorithm(
        name="dps",
        make_actor=policy.make,
        explore=policy.act,
        backup=policy.with_density(density_steps, density_draws) if soft else policy.act,
        evaluate=policy.best(evaluation_candidates),
        temperature=lambda s: annealed(
            s.before.updates, initial_temperature, final_temperature, anneal_updates
        ),
        actor_loss=lambda q, temperature: matching(
            chain(
                perturb(policy.schedule),
                reverse_sample(policy.schedule, samples, proposal=proposal),
                smoothed_score(q, temperature, max_norm=max_score),
            ),
            time_weight=time_weight,
        ),
        actor_critic_values="target_min",
    )
