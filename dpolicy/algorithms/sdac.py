"""Soft Diffusion Actor-Critic: reverse-sampled weighted score matching."""

from dpolicy import _checks
from dpolicy._types import Number
from dpolicy.actor_critic import actor_critic
from dpolicy.algorithm import Algorithm
from dpolicy.field_policy import field_policy
from dpolicy.losses import boltzmann, chain, matching, perturb, reverse_sample


def sdac(
    *,
    temperature: Number = 0.05,
    samples: int = 500,
    evaluation_candidates: int = 10,
    schedule: str = "cosine",
    prediction: str = "noise",
    sampler: str = "ddpm",
    sampler_steps: int = 20,
    learning_rate: Number = 3e-4,
    critic_learning_rate: Number = 3e-4,
    discount: Number = 0.99,
    target_rate: Number = 0.005,
    hidden: tuple[int, ...] = (256, 256, 256),
    critic_hidden: tuple[int, ...] = (256, 256),
    activation: str = "mish",
) -> Algorithm:
    """Soft Diffusion Actor-Critic: fit the noise field of exp(Q/lambda) from reverse proposals (arXiv 2502.00361).

    x_t is a noised replay action; proposals a_i for the clean action are drawn around it, truncated to the action
    box; the field regresses their noise with weights softmax(Q(s, a_i) / lambda). No gradient of Q is used.

    Args:
        temperature: Temperature lambda, in units of (scaled) reward.
        samples: Reverse proposals per state; at least 2.
        evaluation_candidates: Evaluation acts by the best of this many samples under the critic.
        schedule: Noise schedule: rectified_flow, cosine, linear, variance_exploding or trigonometric.
        prediction: What the network predicts: noise, score, velocity or data.
        sampler: euler, heun, sde, ddpm, ddpm_posterior or ddim.
        sampler_steps: Sampler steps.
        learning_rate: Adam's rate for the actor.
        critic_learning_rate: Adam's rate for the critics.
        discount: Discount gamma.
        target_rate: Share of the online critics that enters the targets at each update.
        hidden: Widths of the field's network.
        critic_hidden: Widths of each critic's network.
        activation: Activation of the field's network.
    """
    _checks.positive("temperature", temperature)
    _checks.integer("samples", samples, 2)
    policy = field_policy(
        schedule=schedule,
        prediction=prediction,
        sampler=sampler,
        steps=sampler_steps,
        hidden=hidden,
        activation=activation,
    )
    return actor_critic(
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
        learning_rate=learning_rate,
        critic_learning_rate=critic_learning_rate,
        critic_hidden=critic_hidden,
        discount=discount,
        target_rate=target_rate,
    )
