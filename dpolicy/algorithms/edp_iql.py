"""Efficient diffusion policy by implicit Q-learning."""

from collections.abc import Callable

from dpolicy._settings import NonNegative, Positive
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import InSample, OneStepPolicy, critic_function, in_sample_critics, one_step_policy
from dpolicy.learning import Seen, algorithm
from dpolicy.losses import cloning, exponential_advantage, one_step_log_likelihood, weighted
from dpolicy.recipe import composed


@composed(
    one_step_policy,
    in_sample_critics,
    critic_hidden=(256, 256, 256),
    critic_activation="mish",
    critic_reduction="sum",
)
def edp_iql(
    make_actor: Callable[..., OneStepPolicy],
    make_critics: Callable[..., InSample],
    *,
    temperature: Positive = 1 / 3,
    largest_weight: Positive = 100.0,
    regression_weight: NonNegative = 1.0,
) -> Algorithm:
    r"""EDP with IQL: the denoising loss, and IQL's weighed regression by one step of the same action (2305.20081).

    $$ L = \mathrm{mean} |\epsilon_\theta - \epsilon|^2 + c\, \min(e^{(\bar Q - V) / \lambda}, 100)\,
       |a - \hat x_0|^2 / 2, $$

    x0_hat what one step makes of the noised action that the denoising loss sees, and |.|^2 a sum over the action's
    coordinates. Critics, their order and the weights are those of `iql`; sampling and the choice among samples, by the
    online critics, those of `edp`. Rewards of antmaze are r - 1; the authors scale those of locomotion
    (`--data-rewards iql_locomotion`).

    Args:
        temperature: lambda, in units of Q.
        largest_weight: Bound on the weight of an example.
        regression_weight: c.
    """
    actor, in_sample = make_actor(), make_critics()
    likelihood = one_step_log_likelihood(actor.policy.schedule)

    def regress(s: Seen) -> Loss:
        q = critic_function(s.before.target)
        weight = exponential_advantage(q, s.now.value, temperature, largest=largest_weight)
        return weighted(weight, cloning(likelihood))

    return algorithm(
        "edp_iql",
        "offline",
        explore=actor.explore,
        evaluate=actor.evaluate,
        value=in_sample.valued(),
        actor=in_sample.critics.of_some(actor.improved(regress, regression_weight)),
        critic=in_sample.fitted(),
        target=in_sample.critics.averaged(),
    )
