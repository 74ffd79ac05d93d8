"""TD3 on data: the actor is held to the data's actions by their distance."""

from collections.abc import Callable

from dpolicy._settings import Positive
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import DeterministicPolicy, critic_function, twin_delayed
from dpolicy.learning import Seen
from dpolicy.losses import add, bptt, imitating
from dpolicy.recipe import composed


@composed(twin_delayed, critic_reduction="sum")
def td3_bc(make_algorithm: Callable[..., Algorithm], *, q_weight: Positive = 2.5) -> Algorithm:
    r"""TD3+BC: TD3 whose actor also imitates the data, its Q divided by the mean size of Q (arXiv 2106.06860).

    $$ L_\mu = \mathrm{mean}_a (\mu(s) - a)^2 - \alpha\, Q_1(s, \mu(s)) / \mathrm{mean} |Q_1(s, \mu(s))|. $$

    All else is TD3: critics by the lower target value of the slow actor's smoothed action, the actor and the slow
    copies at every second update. With linear Q the optimum is a + alpha D g / (2 mean |Q|), g the gradient of Q and D
    the action's dimension: the objective does not change with the scale of rewards, but does with a constant added to
    Q. The paper standardises observations by the data's mean and deviation plus .001, which `normalise_observations` of
    the program does, and takes the mean over a million updates on batches of 256.

    Args:
        q_weight: alpha.
    """

    def improve(policy: DeterministicPolicy) -> Callable[[Seen], Loss]:
        def loss(s: Seen) -> Loss:
            first = critic_function(s.now.critic, 0)
            climb = bptt(policy.sample, first, normaliser=first)
            return add(fit=(1.0, imitating(policy.sample)), q=(q_weight, climb))

        return loss

    return make_algorithm(name="td3_bc", family="offline", improve=improve)
