"""DIPO: diffusion policies fitted to actions that climb the critic."""

from collections.abc import Callable

import optax

from dpolicy._settings import Fraction
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    FieldPolicy,
    actor_optimiser,
    acts,
    ascended,
    field_policy,
    improved,
    q_critics,
    within_box,
)
from dpolicy.learning import Stage, algorithm, average, trained
from dpolicy.losses import given, matching, perturb
from dpolicy.recipe import composed


@composed(
    field_policy,
    actor_optimiser,
    q_critics,
    ascended,
    sampler="ddpm_posterior",
    sampler_steps=100,
    critic_hidden=(256, 256, 256),
    critic_activation="mish",
    max_grad_norm=2.0,
)
def dipo(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    make_ascent: Callable[..., Stage],
    *,
    average_rate: Fraction = 0.005,
) -> Algorithm:
    r"""DIPO: move replay actions up the gradient of Q, keep them there, and clone them (arXiv 2305.13122).

    Beside the executed action a, which the critics learn from, the replay holds an improved action b, at first a.
    Whenever a transition is drawn, b climbs min_i Q_i(s, b) by projected Adam, starting where it was left:

    $$ b \leftarrow \mathrm{clip}(b + \mathrm{Adam}(\nabla_b Q_{\min}(s, b)), -1, 1), \qquad
       L = \| \epsilon_\theta(\alpha_t b + \sigma_t \epsilon, t, s) - \epsilon \|^2. $$

    There is no temperature: its fixed points are local maxima of the current Q, and several modes live on only because
    different actions started in different basins. Actions are clipped to the box; the critics' next action is a sample
    of the averaged actor; in evaluation only x_1 is random, the chain adds no noise.

    Other than the published code: one batch serves critic, ascent and actor, where it draws two; the ascent sees the
    critics after the previous update's step, so that the order of the three is the same but for the first; t is
    continuous; running out of time does not cut the bootstrap; the critics' loss is their mean, not their sum (which
    under Adam matters to the norm bound only); the averaged actor follows every update (there every second in
    HalfCheetah).

    Args:
        average_rate: Share of the actor that enters its average at each update.
    """
    policy, critics = make_field(), make_critics()
    sample = within_box(policy.act)

    return algorithm(
        "dipo",
        "off_policy",
        explore=acts(sample),
        evaluate=acts(within_box(policy.quiet)),
        improved=make_ascent(),
        critic=critics.backed_up(sample, actor="average"),
        target=critics.averaged(),
        actor=trained(
            policy.make, lambda s: given(improved, matching(perturb(policy.schedule))), make_optimiser()
        ),
        average=average("actor", average_rate),
    )
