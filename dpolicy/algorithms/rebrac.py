"""TD3+BC revisited: the critics are charged for leaving the data, too."""

from collections.abc import Callable

from dpolicy._settings import NonNegative
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm, needing
from dpolicy.blocks import DeterministicPolicy, charged_for_leaving, critic_function, twin_delayed
from dpolicy.learning import Seen
from dpolicy.losses import add, bptt, imitating
from dpolicy.recipe import composed


@composed(
    twin_delayed,
    without=("n_step",),  # what is known of the next action is that of one step
    hidden=(256, 256, 256),
    critic_hidden=(256, 256, 256),
    critic_network="layer_norm",
    critic_reduction="sum",
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
)
def rebrac(
    make_algorithm: Callable[..., Algorithm],
    *,
    actor_penalty: NonNegative = 1.0,
    critic_penalty: NonNegative = 1.0,
    normalise_q: bool = True,
) -> Algorithm:
    r"""ReBRAC: TD3+BC with one weight for the actor's distance from the data and one in its targets (2305.09836).

    $$ L_\mu = \beta_1 |\mu(s) - a|^2 - \min_k Q_k(s, \mu(s)) / \mathrm{mean} |\min_k Q_k|, \qquad
       y = r + \gamma (1 - \mathrm{terminated}) (\min_k \bar Q_k(s', a') - \beta_2 |a' - a'_{data}|^2), $$

    a' the slow actor's smoothed action and a'_data the one that followed in the data, extras["next_action"], which a
    data set that is read brings along; where the data end without an end of the task nobody knows it, and nothing is
    charged. Distances are sums over the action's dimensions; critics have layer norms and three hidden layers. With
    linear Q the actor's optimum is a + g / (2 beta_1 mean |Q|), g the gradient of Q.

    Both weights are tuned by data set: the authors have .001 to .1 for the actor's and 0 to .5 for the critics', with
    batches of 1,024 and these rates in locomotion; of 256 and rates of 3e-4 in adroit, and in antmaze, where the
    critics have a rate of 5e-5 and `discount=0.999`. Their public code also holds targets above the Monte-Carlo return,
    which the paper does not have; FQL's version (2502.02538) has four layers of 512. In both, layers are normalised
    after the activation, here before it.

    Args:
        actor_penalty: beta_1.
        critic_penalty: beta_2, in units of Q.
        normalise_q: Whether the actor's Q is divided by its mean size over the batch.
    """

    def improve(policy: DeterministicPolicy) -> Callable[[Seen], Loss]:
        def loss(s: Seen) -> Loss:
            lower = critic_function(s.now.critic)
            climb = bptt(policy.sample, lower, normaliser=lower if normalise_q else None)
            return add(fit=(actor_penalty, imitating(policy.sample, reduction="sum")), q=(1.0, climb))

        return loss

    value = lambda policy: charged_for_leaving(policy, critic_penalty)
    made = make_algorithm(name="rebrac", family="offline", improve=improve, value=value)
    return needing(made, "next_action", "next_action_known")
