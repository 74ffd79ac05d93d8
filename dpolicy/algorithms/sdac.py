"""Soft Diffusion Actor-Critic: reverse-sampled weighted score matching."""

from collections.abc import Callable
from typing import Annotated, Literal

import optax

from dpolicy._settings import Count, Positive, at_least
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    INITIAL_NOISE,
    Behaviour,
    Critics,
    FieldPolicy,
    actor_optimiser,
    acts,
    critic_function,
    field_policy,
    noisy_best,
    q_critics,
)
from dpolicy.learning import Seen, algorithm, trained
from dpolicy.losses import boltzmann, candidates, chain, matching, perturb, reverse_sample
from dpolicy.recipe import composed


@composed(field_policy, actor_optimiser, q_critics)
def sdac(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    temperature: Positive | None = 0.05,
    samples: Annotated[int, at_least(2)] = 500,
    proposal: Literal["truncated", "gaussian", "clipped"] = "truncated",
    source: Literal["replay", "policy"] = "replay",
    behaviour: Literal["sample", "noisy_best"] = "sample",
    initial_scale: Positive = 1.0,
    evaluation_candidates: Count = 10,
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
        samples: Reverse proposals per state.
        proposal: truncated to the action box, gaussian, or clipped afterwards, which biases the target.
        source: Which action is noised into x_t: of the replay, or a new one of the policy's behaviour.
        behaviour: sample (one), or noisy_best: the best of 32 samples plus noise of a learned deviation for
            exploration and the critic's next action, an averaged actor that explores and is evaluated, and an actor
            that moves at every second update; see `noisy_best`.
        initial_scale: Standard deviation of the sampler's start, in units of the schedule's.
        evaluation_candidates: Evaluation acts by the best of this many samples under the critic.
    """
    if temperature is None and behaviour == "sample":
        raise ValueError("temperature must be a number unless behaviour is noisy_best, got None.")
    policy, critics = make_field(initial_scale=initial_scale), make_critics()
    behave = noisy_best(policy=policy) if behaviour == "noisy_best" else Behaviour(lambda parts: policy.act)

    def improve(s: Seen) -> Loss:
        fresh = (candidates(behave.acting(s.before), 1),) if source == "policy" else ()
        return matching(
            chain(
                *fresh,
                perturb(policy.schedule),
                reverse_sample(policy.schedule, samples, proposal=proposal),
                boltzmann(
                    critic_function(s.before.critic),
                    s.before.noise / INITIAL_NOISE if temperature is None else temperature,
                ),
            )
        )

    return algorithm(
        "sdac",
        "off_policy",
        explore=behave.explore,
        evaluate=acts(policy.best(evaluation_candidates), actor=behave.explorer),
        critic=critics.fitted(behave.next_value),
        target=behave.delayed(critics.averaged()),
        actor=behave.delayed(trained(policy.make, improve, make_optimiser())),
        **behave.stages,
    )
