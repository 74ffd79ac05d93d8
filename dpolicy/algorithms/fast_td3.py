"""FastTD3: TD3 for thousands of environments at once."""

from collections.abc import Callable
from typing import Literal

import optax

from dpolicy._settings import Count, NonNegative
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    DeterministicPolicy,
    NextValue,
    actor_optimiser,
    acts,
    critic_function,
    deterministic_policy,
    explores_apart,
    next_value,
    q_critics,
)
from dpolicy.learning import Seen, algorithm, every, trained
from dpolicy.losses import bptt
from dpolicy.recipe import composed


@composed(
    deterministic_policy,
    actor_optimiser,
    q_critics,
    hidden=(512, 256, 128),
    final_scale=0.08,
    critic="c51",
    critic_low=-10.0,
    critic_high=10.0,
    critic_hidden=(1024, 512, 256),
    critic_reduction="sum",
    target_rate=0.1,
    discount=0.97,
    weight_decay=0.1,
)
def fast_td3(
    make_policy: Callable[..., DeterministicPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    exploration_low: NonNegative = 0.001,
    exploration_high: NonNegative = 0.4,
    target_noise: NonNegative = 0.001,
    target_noise_clip: NonNegative = 0.5,
    actor_value: Literal["min", "mean"] = "min",
    actor_interval: Count = 2,
) -> Algorithm:
    r"""FastTD3: TD3 with critics of laws over atoms, for thousands of environments and few updates (arXiv 2505.22642).

    The target is the law of the critic with the lower mean, at the smoothed action of the actor as it is (there is no
    slow copy of it), and each environment explores with a noise of its own:

    $$ a' = \mathrm{clip}(\mu(s') + \mathrm{clip}(\sigma z, -c, c), -1, 1), \qquad
       j^* = \arg\min_j \mathbb{E} \bar Z_j(s', a'), $$
    $$ Z = r + \gamma (1 - \mathrm{terminated}) \bar Z_{j^*}(s', a'), \qquad
       L_\mu = -\min_j \mathbb{E} Z_j(s, \mu(s)). $$

    Critics and their targets step at every update, the actor at every second. On Playground the method plays 1024
    environments with standardised observations, and makes 2 updates of 32,768 transitions for each step of them all
    (`dpolicy train fast_td3 --env playground/... --print-config`). The atoms must hold the discounted returns.

    Other than in the code, the noise is spread evenly over the environments, where it draws that of each anew with
    every episode, so that a single environment has `exploration_low`; the stored action is the one in the box; which
    law is the lower is told before they are projected; hidden layers start orthogonal, and the first steps are
    uniformly random.

    Args:
        exploration_low: Standard deviation of the noise on the first environment's actions, or on the only one's.
        exploration_high: The same of the last.
        target_noise: Standard deviation of the noise on the action of the target.
        target_noise_clip: That noise is clipped to plus or minus this.
        actor_value: min: targets and actor take the lower critic. mean (the code's `use_cdq=False`): the actor climbs
            the mean, and each critic is fitted to a target of its own.
        actor_interval: The actor moves at every so many updates.
    """
    policy, critics = make_policy(), make_critics()
    if critics.subset is not None and actor_value == "mean":
        raise ValueError(
            f"critic_subset needs actor_value min, got {critics.subset} where each has a target of its own."
        )
    smoothed = policy.noisy(target_noise, bound=target_noise_clip)
    backed_up = "min" if actor_value == "min" else "each"

    def bootstrap(s: Seen) -> NextValue:
        q = critic_function(s.before.critic)
        return next_value(smoothed, s.before.actor, q, critic_function(s.before.target, backed_up))

    return algorithm(
        "fast_td3",
        "off_policy",
        explore=explores_apart(policy.act, exploration_low, exploration_high),
        evaluate=acts(policy.act),
        critic=critics.fitted(bootstrap),
        target=critics.averaged(),
        actor=every(
            trained(
                policy.make,
                lambda s: bptt(policy.sample, critic_function(s.now.critic, actor_value)),
                make_optimiser(),
            ),
            actor_interval,
        ),
    )
