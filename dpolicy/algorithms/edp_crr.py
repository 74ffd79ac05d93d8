"""Efficient diffusion policy by critic-regularised regression."""

from collections.abc import Callable

from dpolicy._settings import Count, NonNegative, Positive
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import Critics, OneStepPolicy, critic_function, one_step_policy, q_critics, slow_actor
from dpolicy.learning import Seen, Stage, algorithm
from dpolicy.losses import critic_regularised, one_step_draws, one_step_log_likelihood
from dpolicy.recipe import composed


@composed(
    one_step_policy,
    q_critics,
    slow_actor,
    critic_hidden=(256, 256, 256),
    critic_activation="mish",
    critic_reduction="sum",
)
def edp_crr(
    make_actor: Callable[..., OneStepPolicy],
    make_critics: Callable[..., Critics],
    make_average: Callable[..., Stage],
    *,
    temperature: Positive = 1.0,
    largest_weight: Positive = 20.0,
    advantage_actions: Count = 10,
    regression_weight: NonNegative = 1.0,
    backup_actions: Count = 1,
) -> Algorithm:
    r"""EDP with CRR: the denoising loss, and the data's better actions weighed more, by one step (arXiv 2305.20081).

    $$ L = \mathrm{mean} |\epsilon_\theta - \epsilon|^2 + c\, \min(e^{A / \lambda}, 20)\, |a - \hat x_0|^2 / 2, \qquad
       A = Q(s, a) - \mathrm{mean}_j Q(s, a_j), \quad a_j \sim N(\hat x_0, I), $$

    x0_hat what one step makes of the noised action that the denoising loss sees, and |.|^2 a sum over the action's
    coordinates. Q is the lower of the two critics before their step; the ten a_j leave the box, as they do in the
    authors' code. Critics, targets, sampling and the choice among samples are those of `edp`.

    Args:
        temperature: lambda, in units of Q.
        largest_weight: Bound on the weight of an example.
        advantage_actions: The a_j.
        regression_weight: c.
        backup_actions: Targets take the largest of so many actions.
    """
    actor, critics = make_actor(), make_critics()
    schedule = actor.policy.schedule
    likelihood, draw = one_step_log_likelihood(schedule), one_step_draws(schedule, advantage_actions)

    def regress(s: Seen) -> Loss:
        q = critic_function(s.before.critic)
        return critic_regularised(likelihood, draw, q, temperature, largest=largest_weight)

    return algorithm(
        "edp_crr",
        "offline",
        explore=actor.explore,
        evaluate=actor.evaluate,
        critic=critics.fitted(actor.backed_up(backup_actions)),
        actor=actor.improved(regress, regression_weight),
        average=make_average(),
        target=critics.averaged(),
    )
