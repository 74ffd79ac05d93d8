"""Behaviour cloning with a flow or diffusion policy."""

from collections.abc import Callable
from functools import partial

from dpolicy._settings import Fraction, Positive
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, field_policy
from dpolicy.learning import algorithm, average, trained
from dpolicy.losses import matching, perturb
from dpolicy.optimisers import adam
from dpolicy.recipe import composed


@composed(field_policy, schedule="rectified_flow", prediction="velocity", sampler="euler", sampler_steps=10)
def bc(
    make_field: Callable[..., FieldPolicy], *, learning_rate: Positive = 3e-4, ema_decay: Fraction = 0.995
) -> Algorithm:
    """Behaviour cloning: fit the field to the data's actions, act by sampling it.

    loss = E_{t, eps} || field(x_t, t, s) - target ||^2,  x_t = alpha_t a + sigma_t eps.

    With the defaults this is conditional flow matching (Lipman et al. 2023); `--schedule cosine --prediction noise
    --sampler ddpm` makes it Diffusion Policy's denoising loss (Ho et al. 2020; Chi et al. 2023).

    Args:
        learning_rate: Adam's rate.
        ema_decay: Decay of the averaged parameters, which act.
    """
    policy = make_field()
    loss = matching(perturb(policy.schedule))
    return algorithm(
        "bc",
        "offline",
        explore=lambda s: partial(policy.sample, s.average),
        evaluate=lambda s: partial(policy.sample, s.average),
        actor=trained(policy.make, lambda s: loss, adam(learning_rate)),
        average=average("actor", 1 - ema_decay),
    )
