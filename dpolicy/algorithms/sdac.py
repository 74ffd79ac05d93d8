"""Soft Diffusion Actor-Critic: reverse-sampled weighted score matching."""

from collections.abc import Callable
from typing import Any

import optax

from dpolicy import _checks
from dpolicy._types import Loss, Number
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    INITIAL_NOISE,
    Critics,
    FieldPolicy,
    NextValue,
    Policy,
    acting,
    actor_optimiser,
    critic_function,
    field_policy,
    next_value,
    noisy_best,
    q_critics,
)
from dpolicy.learning import Parts, Seen, Stage, algorithm, trained
from dpolicy.losses import boltzmann, candidates, chain, matching, perturb, reverse_sample
from dpolicy.recipe import composed


@composed(field_policy, actor_optimiser, q_critics)
def sdac(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    temperature: Number | None = 0.05,
    samples: int = 500,
    proposal: str = "truncated",
    source: str = "replay",
    behaviour: str = "sample",
    initial_scale: Number = 1.0,
    evaluation_candidates: int = 10,
) -> Algorithm:
    """Soft Diffusion Actor-Critic: fit the noise field of exp(Q/lambda) from reverse proposals (arXiv 2502.00361).

    Around a noised action x_t proposals a_i for the clean action are drawn, truncated to the action box; the field
    regresses their noise with weights softmax(Q(s, a_i) / lambda). No gradient of Q is used. Where x_t comes from
    decides where the field is accurate, not what it is.

    Maxima on the faces of the box are no exception: on the bandit `faces` at lambda = .5, P(a > .9) is .387 for the
    mean target and many sampler steps, where .385 is right, and .352 with 20 steps of DDPM. Shares of unequal modes
    are drawn together, by O(1/samples) and by few sampler steps: .100, .700, .200 become .115, .670, .215 with 64
    proposals and .103, .694, .203 with 500, and with 20 steps of DDPM .144, .615, .241 and .131, .640, .229.

    The defaults are FlowRL's (arXiv 2603.27450). The paper's own code (relax) is `temperature=None, samples=64,
    proposal="clipped", source="policy", behaviour="noisy_best", initial_scale=0.5, sampler="ddpm_posterior",
    schedule="discrete_linear", evaluation_candidates=32, critic_hidden=(256, 256, 256), critic_activation="mish",
    decay_updates=100_000, decay_start=50_000, decay_share=0.1`, with rewards times 0.2 (`reward_scale` of the training
    program); it trains at the sampler's 20 times, t is continuous here.

    Args:
        temperature: Temperature lambda, in units of (scaled) reward; None for the learned factor of the noise over its
            start, for noisy_best only: it falls from 1 towards .2.
        samples: Reverse proposals per state; at least 2.
        proposal: truncated to the action box, gaussian, or clipped afterwards, which biases the target.
        source: Which action is noised into x_t: of the replay, or a new one of the policy's behaviour.
        behaviour: sample (one), or noisy_best: the best of 32 samples plus noise of a learned deviation for
            exploration and the critic's next action, an averaged actor that explores and is evaluated, and an actor
            that moves at every second update; see `noisy_best`.
        initial_scale: Standard deviation of the sampler's start, in units of the schedule's.
        evaluation_candidates: Evaluation acts by the best of this many samples under the critic.
    """
    if temperature is not None:
        _checks.positive("temperature", temperature)
    _checks.integer("samples", samples, 2)
    _checks.one_of("proposal", proposal, ("truncated", "gaussian", "clipped"))
    _checks.one_of("source", source, ("replay", "policy"))
    _checks.one_of("behaviour", behaviour, ("sample", "noisy_best"))
    if temperature is None and behaviour == "sample":
        raise ValueError("temperature must be a number unless behaviour is noisy_best, got None.")
    _checks.integer("evaluation_candidates", evaluation_candidates)
    policy, critics = make_field(initial_scale=initial_scale), make_critics()
    evaluate = policy.best(evaluation_candidates)
    noisy = noisy_best(policy=policy) if behaviour == "noisy_best" else None
    after: dict[str, Any] = {} if noisy is None else {"average": noisy.average, "noise": noisy.noise}

    def behave(parts: Parts) -> Policy:
        return policy.act if noisy is None else noisy.behaviour(parts)

    def moving(stage: Stage) -> Stage:
        return stage if noisy is None else noisy.delayed(stage)

    def bootstrap(s: Seen) -> NextValue:
        q, target = critic_function(s.before.critic), critic_function(s.before.target)
        return next_value(behave(s.before), s.before.actor, q, target)

    def improve(s: Seen) -> Loss:
        q = critic_function(s.before.critic)
        scale = s.before.noise / INITIAL_NOISE if temperature is None else temperature
        links = (
            perturb(policy.schedule),
            reverse_sample(policy.schedule, samples, proposal=proposal),
            boltzmann(q, scale),
        )
        draw = acting(behave(s.before), s.before.actor, q)
        return matching(chain(*links) if source == "replay" else chain(candidates(draw, 1), *links))

    slow = lambda s: s.actor if noisy is None else s.average
    return algorithm(
        "sdac",
        "off_policy",
        explore=lambda s: acting(behave(s), slow(s), critic_function(s.critic)),
        evaluate=lambda s: acting(evaluate, slow(s), critic_function(s.critic)),
        critic=critics.fitted(bootstrap),
        target=moving(critics.averaged()),
        actor=moving(trained(policy.make, improve, make_optimiser())),
        **after,
    )
