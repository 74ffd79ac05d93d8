"""Deep deterministic policy gradients."""

from collections.abc import Callable

import optax

from dpolicy._settings import NonNegative
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
from dpolicy.learning import algorithm, average, trained
from dpolicy.losses import bptt
from dpolicy.recipe import composed


@composed(deterministic_policy, actor_optimiser, q_critics, critics=1)
def ddpg(
    make_policy: Callable[..., DeterministicPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    exploration_noise: NonNegative = 0.1,
) -> Algorithm:
    r"""DDPG: a deterministic actor climbs one critic; slow copies of both back it up (arXiv 1509.02971).

    $$ y = r + \gamma (1 - \mathrm{terminated})\, \bar Q(s', \bar\mu(s')), \qquad
       L_\mu = -Q(s, \mu(s)), \qquad a = \mu(s) + 0.1 z \text{ while exploring.} $$

    The limit of every pathwise method in one step without noise; there is no reference and no temperature. It
    over-estimates, and its tanh saturates: `td3` is the remedy.

    The defaults are those of "our DDPG" in TD3's code. The first paper has `hidden=(400, 300), critic_hidden=(400,
    300), learning_rate=1e-4, critic_learning_rate=1e-3, target_rate=1e-3, critic_weight_decay=1e-2` and batches of 64;
    its decay is in the loss, the one here in the step. Both codes act at random for 25,000 steps (`warmup` of the
    program).

    Args:
        exploration_noise: Standard deviation of Gaussian noise added to the action while exploring, which is clipped
            to the box.
    """
    policy, critics = make_policy(), make_critics()
    return algorithm(
        "ddpg",
        "off_policy",
        explore=acts(policy.noisy(exploration_noise)),
        evaluate=acts(policy.act),
        critic=critics.backed_up(policy.act, actor="target_actor"),
        actor=trained(
            policy.make,
            lambda s: bptt(policy.sample, critic_function(s.now.critic, 0)),
            make_optimiser(),
        ),
        target_actor=average("actor", critics.target_rate),
        target=critics.averaged(),
    )
