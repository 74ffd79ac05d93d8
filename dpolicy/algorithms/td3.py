"""Twin delayed deep deterministic policy gradients."""

from collections.abc import Callable
from typing import Literal

from dpolicy.algorithm import Algorithm
from dpolicy.blocks import critic_function, twin_delayed
from dpolicy.losses import bptt
from dpolicy.recipe import composed


@composed(twin_delayed, critic_reduction="sum")
def td3(
    make_algorithm: Callable[..., Algorithm], *, actor_value: Literal["first", "mean", "min"] = "first"
) -> Algorithm:
    r"""TD3: DDPG with the lower of two critics, a smoothed target policy, and an actor that waits (arXiv 1802.09477).

    $$ a' = \mathrm{clip}(\bar\mu(s') + \mathrm{clip}(0.2 z, -0.5, 0.5), -1, 1), \qquad
       y = r + \gamma (1 - \mathrm{terminated}) \min_j \bar Q_j(s', a'), \qquad L_\mu = -Q_1(s, \mu(s)). $$

    The critics step at every update; the actor, and the slow copies of it and of the critics, at every second.

    FlowRL's code lets the actor climb the mean of both critics (`actor_value="mean"`), and steps actor and copies at
    the first update rather than at the second; its DMC settings are `actor_interval=1, target_noise_clip=0.3,
    exploration_noise=0.2, hidden=(512, 512, 512), critic_hidden=(512, 512, 512)`. The authors' code acts at random for
    25,000 steps (`warmup` of the program).

    Args:
        actor_value: What the actor climbs: the first critic, or mean or min of all.
    """
    climbed = 0 if actor_value == "first" else actor_value
    return make_algorithm(
        name="td3",
        improve=lambda policy: lambda s: bptt(policy.sample, critic_function(s.now.critic, climbed)),
    )
