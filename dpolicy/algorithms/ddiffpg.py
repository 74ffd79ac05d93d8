"""DDiffPG: a diffusion policy that keeps every mode of behaviour it has discovered."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from dpolicy._settings import NonNegative, Positive
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, field_policy
from dpolicy.learning import algorithm, frozen, reported, trained
from dpolicy.losses import given, matching, perturb
from dpolicy.modes import (
    Discovery,
    GroupedCritics,
    GroupedImprovement,
    ModalPolicy,
    Novelty,
    grouped_critics,
    grouped_improvement,
    modal_policy,
    mode_discovery,
    novelty_reward,
)
from dpolicy.optimisers import adam
from dpolicy.recipe import composed


@composed(
    field_policy,
    mode_discovery,
    novelty_reward,
    grouped_critics,
    modal_policy,
    grouped_improvement,
    schedule="discrete_cosine",
    sampler="ddpm_posterior",
    sampler_steps=5,
    hidden=(1024, 512, 256),
)
def ddiffpg(
    make_field: Callable[..., FieldPolicy],
    make_discovery: Callable[..., Discovery],
    make_novelty: Callable[..., Novelty],
    make_critics: Callable[..., GroupedCritics],
    make_policy: Callable[..., ModalPolicy],
    make_improvement: Callable[..., GroupedImprovement],
    *,
    learning_rate: Positive = 3e-4,
    max_grad_norm: Positive | None = 1.0,
    weight_decay: NonNegative = 0.01,
) -> Algorithm:
    r"""DDiffPG: cluster episodes into modes, and improve each mode by a critic of its own (arXiv 2406.00681).

    Group 0 explores and holds everything; a group g >= 1 holds the episodes of one cluster. A batch is split evenly
    among the groups. Each has twin critics, an improved action b_g beside every stored action a (at first a itself)
    and a random embedding z_g; one diffusion policy, conditioned on it, is fitted to all of them:

    $$ r_0 = r_{int}, \qquad r_g = r + r_{int}, \qquad
       b_g \leftarrow \mathrm{clip}(b_g + \mathrm{Adam}(\nabla Q_g(s, b_g)), -1, 1), $$
    $$ L = \| \epsilon_\theta(\alpha_t b_g + \sigma_t \epsilon, t, [s, z_g]) - \epsilon \|^2, $$

    where r_int is `dpolicy.modes.novelty_reward`, Q_g the smaller mean of two categorical critics, and z_g zero on
    every other row of a mode, in the critics' next actions too, so that z = 0 samples all modes alike. The critics'
    target is the element-wise minimum of the two projected laws at a noised action of the current policy (no averaged
    actor); it need not sum to one, which their loss allows for. It acts under z_0, or with a probability of one minus
    the exploring share under z = 0 (always, after `exploration_updates`), with noise that grows from the first
    environment to the last. "evaluate" acts under z = 0, and "mode_1", ... under z_1, ... (under z = 0 while there is
    no such mode).

    Modes come from `dpolicy.modes.mode_discovery`, which says how it differs from a clustering on the host. A new
    mode continues critics, optimiser state and improved actions of the one with which it shares most successes, or of
    group 0. Further differences from the published code: group 0 draws from all that the replay, a ring, holds (there
    from the episodes that modes are made of, and running ones); the ascent sees the critics after the previous update's
    step; where two groups draw one transition at once, the improved action of the first is kept; every heir of a mode
    inherits the optimiser's state (there only the first). Published runs take 8 updates of 4096
    transitions per step of 256 environments, and leave z_g = 0 for all modes by default.

    Args:
        sampler_steps: Sampler steps; training times are those at which the sampler evaluates the field.
        learning_rate: Adam's rate for the actor.
        max_grad_norm: Bound on the norm of each gradient: the actor's, one group's critics', the novelty predictor's;
            None for none.
        weight_decay: Decoupled weight decay of all networks.
    """
    field, discovery = make_field(), make_discovery()
    policy = make_policy(policy=field, discovery=discovery)
    bounds: dict[str, Any] = {"max_grad_norm": max_grad_norm, "weight_decay": weight_decay}
    novelty, critics = make_novelty(**bounds), make_critics(groups=discovery.groups, **bounds)
    improvement = make_improvement(critics=critics, discovery=discovery)
    fit = given(policy.improved, matching(perturb(field.schedule, times=field.times)))
    return algorithm(
        "ddiffpg",
        "off_policy",
        explore=policy.explore,
        evaluate=policy.as_mode(0),
        modes={f"mode_{group}": policy.as_mode(group) for group in range(1, discovery.groups)},
        memory=improvement.memory(),
        discovered=frozen(lambda key, spec: discovery.start(key)),
        groups=policy.grouped(),
        rewards=novelty.rewarded(),
        next_action=policy.next_action(),
        critic=critics.fitted(),
        actor=trained(policy.make, lambda s: fit, adam(learning_rate, **bounds)),
        target=critics.averaged(),
        novelty=novelty.stage(),
        report=reported(lambda s: {"modes": jnp.sum(s.now.discovered.live) - 1.0}),
    )
