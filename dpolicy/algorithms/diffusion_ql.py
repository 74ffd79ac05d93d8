"""Diffusion Q-learning: cloning, and Q climbed through the whole chain."""

from collections.abc import Callable

import optax

from dpolicy._settings import Count, NonNegative, Positive
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    FieldPolicy,
    NextValue,
    actor_optimiser,
    acts,
    critic_function,
    field_policy,
    q_critics,
    slow_actor,
    value_of_several,
)
from dpolicy.learning import Acting, Seen, Stage, algorithm, trained
from dpolicy.losses import add, bptt_of_either, matching, perturb
from dpolicy.networks import mean_of
from dpolicy.recipe import composed


@composed(
    field_policy,
    actor_optimiser,
    q_critics,
    slow_actor,
    schedule="vp",
    sampler="ddpm_posterior",
    sampler_steps=5,
    embedding="sinusoidal_mlp",
    critic_hidden=(256, 256, 256),
    critic_activation="mish",
    critic_reduction="sum",
)
def diffusion_ql(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    make_average: Callable[..., Stage],
    *,
    q_weight: NonNegative = 1.0,
    max_backup: bool = False,
    backup_actions: Count = 10,
    candidates: Count = 50,
    evaluation_candidates: Count = 50,
    selection_temperature: Positive = 1.0,
) -> Algorithm:
    r"""Diffusion-QL: the denoising loss on the data, and Q climbed through the five steps of the chain (2208.06193).

    $$ L = E |\epsilon_\theta - \epsilon|^2 - c_Q\, Q_j(s, a_\theta) / \mathrm{mean} |Q_k(s, a_\theta)|, $$

    j and k the two critics in an order drawn for each batch, already stepped in this update. Targets take one action of
    the actor's slow copy and the lower target critic; with `max_backup` the largest of ten within each critic, then the
    lower critic. It acts by one of 50 samples of the current actor, drawn with probability softmax of the lower target
    value: the returns' scale is a temperature, near the best where values are hundreds, near a single sample where they
    are small.

    The objective does not change with the scale of rewards, but does with a constant added to Q. The authors choose
    `q_weight`, `max_backup` and `max_grad_norm` by data set (antmaze: .5 to 4.5, True, 1 to 10; locomotion: 1, False, 1
    to 9; adroit .1 to .15; kitchen .005), and report the best evaluation of a run, not the last. The paper divides by
    |Q| over the data; this is the code.

    Args:
        q_weight: c_Q.
        max_backup: Whether targets take the largest of several actions.
        backup_actions: So many, where it does.
        candidates: Samples among which its action is chosen while exploring.
        evaluation_candidates: The same in evaluation.
        selection_temperature: Of the softmax over them.
    """
    policy, critics = make_field(), make_critics()
    fit = matching(perturb(policy.schedule, times=policy.times))

    def value(s: Seen) -> NextValue:
        count, over = (backup_actions, "max") if max_backup else (1, "mean")
        q = critic_function(s.before.critic)
        return value_of_several(policy.act, s.before.average, q, s.before.target, actions=count, over=over)

    def improve(s: Seen) -> Loss:
        either = bptt_of_either(policy.sample, lambda obs, action: mean_of(s.now.critic(obs, action)))
        return add(fit=(1.0, fit), q=(q_weight, either))

    def select(count: int) -> Acting:
        return acts(policy.best(count, temperature=selection_temperature), select="target_min")

    return algorithm(
        "diffusion_ql",
        "offline",
        explore=select(candidates),
        evaluate=select(evaluation_candidates),
        critic=critics.fitted(value),
        actor=trained(policy.make, improve, make_optimiser()),
        average=make_average(),
        target=critics.averaged(),
    )
