"""Q-score matching."""

from dpolicy import _checks
from dpolicy._types import Number
from dpolicy.actor_critic import actor_critic, noisy
from dpolicy.algorithm import Algorithm
from dpolicy.field_policy import field_policy
from dpolicy.losses import chain, matching, perturb, q_score


def qsm(
    *,
    temperature: Number = 0.1,
    variant: str = "flowrl",
    exploration_noise: Number = 0.1,
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
    """Q-score matching: the field's score is regressed on the gradient of Q at the noised action (arXiv 2312.11752).

    Its samples follow exp(2 Q / lambda + |x|^2 / 2), not exp(Q / lambda): the target is the score of the density
    before smoothing, which is right only as t -> 0.

    Args:
        temperature: lambda; under `flowrl` relative to the mean absolute gradient of Q in the batch.
        variant: flowrl (gradient normalised by its batch mean), paper (the plain score grad Q / lambda) or
            official (the noise target is -grad Q / lambda at every t, without the factor sigma_t, and Q the mean of
            the online critics; the other two take that of the target critics).
        exploration_noise: Standard deviation of Gaussian noise added to the sampled action while exploring.
        evaluation_candidates: Evaluation acts by the best of this many samples under the critic.
        schedule: Noise schedule: rectified_flow, cosine, linear, variance_exploding or trigonometric.
        prediction: What the network predicts; noise or score (a velocity target is singular towards t = 1).
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
    _checks.non_negative("exploration_noise", exploration_noise)
    policy = field_policy(
        schedule=schedule,
        prediction=prediction,
        sampler=sampler,
        steps=sampler_steps,
        hidden=hidden,
        activation=activation,
    )
    return actor_critic(
        name="qsm",
        make_actor=policy.make,
        explore=noisy(policy.act, exploration_noise),
        backup=policy.act,
        evaluate=policy.best(evaluation_candidates),
        actor_loss=lambda q, _: matching(
            chain(perturb(policy.schedule), q_score(q, temperature, variant=variant))
        ),
        actor_critic_values="online_mean" if variant == "official" else "target_mean",
        learning_rate=learning_rate,
        critic_learning_rate=critic_learning_rate,
        critic_hidden=critic_hidden,
        discount=discount,
        target_rate=target_rate,
    )
