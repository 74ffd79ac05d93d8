"""DIPO: diffusion policies fitted to actions that climb the critic."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import optax

from dpolicy import _checks
from dpolicy._types import Key, Number, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    FieldPolicy,
    actor_optimiser,
    acts,
    critic_function,
    field_policy,
    q_critics,
    within_box,
)
from dpolicy.learning import Seen, algorithm, average, remembered, trained
from dpolicy.losses import given, gradient_ascent, matching, perturb
from dpolicy.recipe import composed


def improved(example: Transition) -> Transition:
    """The transition with its improved action in place of the executed one."""
    return dataclasses.replace(example, action=example.extras["improved"])


@composed(
    field_policy,
    actor_optimiser,
    q_critics,
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
    *,
    ascent_steps: int = 20,
    ascent_rate: Number = 0.03,
    ascent_norm: Number | None = 0.1,
    average_rate: Number = 0.005,
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
        ascent_steps: Adam steps on the improved actions per update; 0 clones the executed ones (40 in HalfCheetah).
        ascent_rate: Adam's rate there; a coordinate moves by at most about steps times rate.
        ascent_norm: Bound on the norm of all action gradients of the batch together, per action dimension; None for
            none (0.3 in Hopper, 0.08 in Walker2d and HalfCheetah, 0.1 in Ant and Humanoid).
        average_rate: Share of the actor that enters its average at each update.
    """
    _checks.integer("ascent_steps", ascent_steps, 0)
    _checks.positive("ascent_rate", ascent_rate)
    if ascent_norm is not None:
        _checks.positive("ascent_norm", ascent_norm)
    _checks.fraction("average_rate", average_rate)
    policy, critics = make_field(), make_critics()
    sample = within_box(policy.act)

    def climb(s: Seen) -> Callable[[Transition, Key], dict[str, Any]]:
        q = critic_function(s.before.critic)

        def one(example: Transition, key: Key) -> dict[str, Any]:
            start = example.extras["improved"]
            bound = None if ascent_norm is None else ascent_norm * start.size
            ascend = partial(gradient_ascent, steps=ascent_steps, rate=ascent_rate, max_grad_norm=bound)
            return {"improved": ascend(partial(q, example.obs), start)}

        return one

    return algorithm(
        "dipo",
        "off_policy",
        explore=acts(sample),
        evaluate=acts(within_box(policy.quiet)),
        improved=remembered(lambda transition: {"improved": transition.action}, climb),
        critic=critics.backed_up(sample, actor="average"),
        target=critics.averaged(),
        actor=trained(
            policy.make, lambda s: given(improved, matching(perturb(policy.schedule))), make_optimiser()
        ),
        average=average("actor", average_rate),
    )
