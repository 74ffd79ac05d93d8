"""Twin delayed deep deterministic policy gradients."""

from collections.abc import Callable
from typing import Literal

import optax

from dpolicy._settings import Count, NonNegative
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    DeterministicPolicy,
    actor_optimiser,
    acts,
    critic_function,
    deterministic_policy,
    q_critics,
)
from dpolicy.learning import algorithm, average, every, trained
from dpolicy.losses import bptt
from dpolicy.recipe import composed


@composed(deterministic_policy, actor_optimiser, q_critics, critic_reduction="sum")
def td3(
    make_policy: Callable[..., DeterministicPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    exploration_noise: NonNegative = 0.1,
    target_noise: NonNegative = 0.2,
    target_noise_clip: NonNegative = 0.5,
    actor_value: Literal["first", "mean", "min"] = "first",
    actor_interval: Count = 2,
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
        exploration_noise: Standard deviation of Gaussian noise added to the action while exploring, which is clipped
            to the box.
        target_noise: Standard deviation of the noise on the target policy's action.
        target_noise_clip: That noise is clipped to plus or minus this.
        actor_value: What the actor climbs: the first critic, or mean or min of all.
        actor_interval: The actor and all slow copies move at every so many updates.
    """
    policy, critics = make_policy(), make_critics()
    smoothed = policy.noisy(target_noise, bound=target_noise_clip)
    climbed = 0 if actor_value == "first" else actor_value
    delayed = lambda stage: every(stage, actor_interval)
    return algorithm(
        "td3",
        "off_policy",
        explore=acts(policy.noisy(exploration_noise)),
        evaluate=acts(policy.act),
        critic=critics.backed_up(smoothed, actor="target_actor"),
        actor=delayed(
            trained(
                policy.make,
                lambda s: bptt(policy.sample, critic_function(s.now.critic, climbed)),
                make_optimiser(),
            )
        ),
        target_actor=delayed(average("actor", critics.target_rate)),
        target=delayed(critics.averaged()),
    )
