"""Efficient diffusion policy: cloning, and Q climbed through one denoising step of the same noised action."""

from collections.abc import Callable

from dpolicy._settings import Count, NonNegative
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import Critics, OneStepPolicy, one_step_policy, q_critics, slow_actor
from dpolicy.learning import Seen, Stage, algorithm
from dpolicy.losses import one_step_of_either
from dpolicy.networks import mean_of
from dpolicy.recipe import composed


@composed(
    one_step_policy,
    q_critics,
    slow_actor,
    critic_hidden=(256, 256, 256),
    critic_activation="mish",
    critic_reduction="sum",
)
def edp(
    make_actor: Callable[..., OneStepPolicy],
    make_critics: Callable[..., Critics],
    make_average: Callable[..., Stage],
    *,
    q_weight: NonNegative = 2.0,
    backup_actions: Count = 1,
) -> Algorithm:
    r"""EDP with TD3: the denoising loss, and Q climbed at what one step makes of the same noised action (2305.20081).

    $$ L = \mathrm{mean} |\epsilon_\theta - \epsilon|^2 - c_Q\, Q_j(s, \hat x_0) / \mathrm{mean} |Q_j(s, \hat x_0)|,
       \qquad \hat x_0 = \mathrm{clip}((x_t - \sigma_t \epsilon_\theta) / \alpha_t, -1, 1), $$

    j one of the two critics, drawn for each batch, before its step. Diffusion-QL without its chain: the actor's step
    costs the same however many steps a sample takes. At large t the critic sees an average of actions, and the slope
    sigma / alpha grows until the clip stops it. For linear Q and no clip the optimum is E[eps | x_t] - D c_Q sigma_t g
    / (2 alpha_t), g the normalised gradient of Q and D the action's dimension.

    Targets take one action of the actor's slow copy and the lower target critic; with `backup_actions=10` the largest
    of ten within each critic, then the lower critic. It acts by one of ten samples, drawn with probability softmax of
    the lower value. `edp_crr` and `edp_iql` improve the same diffusion by weighed likelihoods.

    The paper has a thousand levels of noise, sampled by 15 steps of DPM-Solver of order two; here the levels are those
    in the limit of many. The authors' code has 100 levels, each a step (`sampler="ddpm_posterior", sampler_steps=100`),
    chooses among 50 samples, and bounds gradients by data set as Diffusion-QL does. Rewards of antmaze are 4 (r - .5).
    The paper reports the best evaluation of a run.

    Args:
        q_weight: c_Q.
        backup_actions: Targets take the largest of so many actions.
    """
    actor, critics = make_actor(), make_critics()

    def climb(s: Seen) -> Loss:
        return one_step_of_either(
            actor.policy.schedule, lambda obs, action: mean_of(s.before.critic(obs, action))
        )

    return algorithm(
        "edp",
        "offline",
        explore=actor.explore,
        evaluate=actor.evaluate,
        critic=critics.fitted(actor.backed_up(backup_actions)),
        actor=actor.improved(climb, q_weight),
        average=make_average(),
        target=critics.averaged(),
    )
