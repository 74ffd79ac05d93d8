"""Soft Diffusion Actor-Critic: reverse-sampled weighted score matching."""

from collections.abc import Callable
from typing import Any

from dpolicy import _checks
from dpolicy._types import Action, Critic, Key, Loss, Number, Observation, Scalar
from dpolicy.actor_critic import ActorCritic, ActorLoss, actor_critic
from dpolicy.algorithm import Algorithm
from dpolicy.extras import FromState, resolve
from dpolicy.field_policy import FieldPolicy, field_policy
from dpolicy.losses import boltzmann, candidates, chain, matching, perturb, reverse_sample
from dpolicy.noisy_best import INITIAL_NOISE, noisy_best
from dpolicy.recipe import composed


@composed(field_policy, actor_critic)
def sdac(
    make_field: Callable[..., FieldPolicy],
    train: Callable[..., Algorithm],
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
    policy = make_field(initial_scale=initial_scale)
    evaluate = policy.best(evaluation_candidates)
    slots: dict[str, Any] = {"make_actor": policy.make, "explore": policy.act, "evaluate": evaluate}
    if behaviour == "noisy_best":
        slots = noisy_best(policy=policy, evaluate=evaluate)
    behave = slots.get("backup", policy.act)

    def actor_loss(state: ActorCritic) -> ActorLoss:
        scale = state.extra["noise"].value / INITIAL_NOISE if temperature is None else temperature
        act = resolve(behave, state)

        def improve(q: Critic, _: Scalar) -> Loss:
            def draw(obs: Observation, key: Key) -> Action:
                return act(state.actor.model, q, obs, key)[0]

            links = (
                perturb(policy.schedule),
                reverse_sample(policy.schedule, samples, proposal=proposal),
                boltzmann(q, scale),
            )
            return matching(chain(*links) if source == "replay" else chain(candidates(draw, 1), *links))

        return improve

    return train(name="sdac", actor_loss=FromState(actor_loss), critic_first=False, **slots)
