"""DSAC-D: DACER whose critics are diffusions over the return."""

from collections.abc import Callable

import optax

from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Behaviour,
    DiffusionCritics,
    FieldPolicy,
    actor_optimiser,
    acts,
    backpropagated,
    diffusion_critics,
    entropic_noise,
    field_policy,
)
from dpolicy.learning import algorithm, trained
from dpolicy.recipe import composed


@composed(
    field_policy,
    backpropagated,
    actor_optimiser,
    diffusion_critics,
    entropic_noise,
    schedule="vp",
    sampler="ddpm_posterior",
    learning_rate=1e-4,
)
def dsac_d(
    make_field: Callable[..., FieldPolicy],
    make_gradient: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., DiffusionCritics],
    make_behaviour: Callable[..., Behaviour],
) -> Algorithm:
    r"""DSAC-D: a diffusion policy that climbs the mean of returns which a diffusion draws (arXiv 2507.01381).

    $$ a = \mathrm{clip}(x_0 + c\, \omega z, -1, 1), \qquad
       L = -\min_j \frac1M \sum_m Z_{jm}(s, a), \qquad L_\omega = \log\omega\, (\hat H - \bar H), $$

    Z_jm the ends of M chains of critic j (`diffusion_critics`), through which, and then through the policy's, the
    gradient passes; all else is `dacer`, which see. Returns with several peaks keep them.

    There is no public code, and the paper leaves the critics' loss, steps and samples open: what is said of them is a
    reconstruction. The entropy is in none of the targets, as in DACER. An update calls the critics' networks
    `value_steps` times `value_samples` for each transition at s', as often at s for `value_bound`, and once more, with
    gradient, for the actor: by default some 2,000 times where DACER has a few.

    Args:
        sampler_steps: Sampler steps, through all of which the gradient passes.
    """
    policy, critics = make_field(), make_critics()
    quiet = make_gradient(policy=policy)
    behave = make_behaviour(policy=quiet)
    improve = lambda s: critics.ascent(behave.policy(s.before), s.before.critic, s.before.returns)

    return algorithm(
        "dsac_d",
        "off_policy",
        explore=behave.explore,
        evaluate=acts(policy.act),
        **critics.fitted(behave.policy),
        actor=behave.delayed(trained(policy.make, improve, make_optimiser())),
        target=behave.delayed(critics.averaged()),
        **behave.stages,
    )
