"""Diffusion-DICE: a diffusion of the data, guided towards the actions that the best policy has more often."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from dpolicy._settings import Count, Positive
from dpolicy._types import Action, Critic, Loss, Observation, Scalar
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    GuidedPolicy,
    InSample,
    actor_optimiser,
    critic_function,
    guide,
    guided_policy,
    implicit_critics,
)
from dpolicy.learning import Acting, Parts, Seen, Stage, algorithm, every, trained
from dpolicy.losses import (
    chain,
    f_dice_conjugate,
    f_dice_weight,
    in_sample_guidance,
    matching,
    perturb,
    regularised_value,
    weigh,
)
from dpolicy.recipe import composed


@composed(
    guided_policy,
    actor_optimiser,
    implicit_critics,
    learning_rate=1e-4,
    value_layer_norm=True,
    critic_reduction="sum",
    weight_decay=1e-4,
)
def diffusion_dice(
    make_policy: Callable[..., GuidedPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., InSample],
    *,
    temperature: Positive = 0.5,
    largest_weight: Positive = 100.0,
    draws: Count = 16,
    scaled_loss: bool = False,
    energy_learning_rate: Positive = 3e-4,
    behaviour_updates: Count = 600_000,
    candidates: Count = 10,
    evaluation_candidates: Count = 10,
    selection_critics: Count | None = None,
    selection_temperature: Positive | None = None,
) -> Algorithm:
    r"""Diffusion-DICE: the data's diffusion, guided by the noised ratio of the best policy to it (arXiv 2407.20109).

    $$ L_V = f^*(u) + V / \alpha, \quad u = (\bar Q - V) / \alpha, \quad w = \min(f^{*\prime}(u), 100), \qquad
       L_g = w\, e^{-g(x_t, t, s)} + g(x_t, t, s), $$

    f* being u^2 / 4 + u above 0 and e^u - 1 below, so that nu w is a policy and g* = log E[w | x_t] what guides nu to
    it. Nothing is asked about an action that the data does not hold until one among the guided samples is chosen by the
    critic. First the diffusion is fitted, then frozen; after it V (of the lower target critic), the critics
    towards r + gamma V(s'), and g step together, in that order, each seeing what those before have left.

    The authors choose `temperature` and the number of candidates by data set and do not tell them. Their
    `guidance_scale` is 4 in locomotion (2 for medium-expert), where they have `selection_critics=10`, and 1, 2 and 4 in
    antmaze's sizes, where they have 32 draws and `selection_temperature=1` with the first target critic. Their code has
    `scaled_loss=True`; one time for all draws of a state, where here each has its own; and for the diffusion batches of
    4,096 (512 after it), no decay of weights, and a residual network.

    Args:
        temperature: alpha, in units of Q: towards 0 all weight is on the best actions of the data.
        largest_weight: Bound on w.
        draws: Noised copies of each action in the loss of g.
        scaled_loss: Whether that loss is divided by its largest e^-g in a batch; see `in_sample_guidance`.
        energy_learning_rate: Adam's rate for g.
        behaviour_updates: Updates in which the diffusion alone is fitted; all others follow.
        candidates: Guided samples of which the best is taken while exploring.
        evaluation_candidates: The same in evaluation.
        selection_critics: So many further critics of the same targets, of which the mean chooses; None for the
            lower of the target critics.
        selection_temperature: The choice is a draw of softmax(Q / temperature); None for the largest.
    """
    if max(candidates, evaluation_candidates) == 1:
        for name, value in (("critics", selection_critics), ("temperature", selection_temperature)):
            if value is not None:
                raise ValueError(f"selection_{name} must be None for one candidate, got {value!r}.")
    policy = make_policy()
    value_of = lambda q: regularised_value(q, f_dice_conjugate, temperature)
    critics = make_critics(fit=value_of)
    noise = perturb(policy.behaviour.schedule, draws=draws)
    fit = matching(perturb(policy.behaviour.schedule), reduction="sum")

    def guidance(s: Seen) -> Loss:
        q = critic_function(s.now.target)

        def ratio(obs: Observation, action: Action) -> Scalar:
            return jnp.minimum(
                f_dice_weight((q(obs, action) - s.now.value(obs)) / temperature), largest_weight
            )

        return in_sample_guidance(chain(weigh(ratio), noise), scaled=scaled_loss)

    def chooses(parts: Parts) -> Critic:
        if selection_critics is None:
            return guide(parts, "target_min")
        return critic_function(parts.selection, "mean")

    def acting(count: int) -> Acting:
        return policy.acts(count, select=chooses, temperature=selection_temperature)

    def later(stage: Stage) -> Stage:
        return every(stage, 1, after=behaviour_updates)

    further: dict[str, Any] = {}
    if selection_critics is not None:
        if critics.critics.deviations is not None:
            raise ValueError(
                "selection_critics must be None for gaussian critics, which share one measure of their deviations, "
                f"got {selection_critics}."
            )
        chosen_by = make_critics(fit=value_of, critics=selection_critics, critic_subset=None)
        further = {"selection": later(chosen_by.fitted())}
    method = algorithm(
        "diffusion_dice",
        "offline",
        explore=acting(candidates),
        evaluate=acting(evaluation_candidates),
        behaviour=every(
            trained(policy.behaviour.make, lambda s: fit, make_optimiser()), 1, until=behaviour_updates
        ),
        value=later(critics.valued()),
        critic=later(critics.fitted()),
        **further,
        target=later(critics.critics.averaged()),
        energy=later(trained(policy.make, guidance, make_optimiser(learning_rate=energy_learning_rate))),
    )
    return method._replace(phases=behaviour_updates)
