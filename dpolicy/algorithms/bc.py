"""Behaviour cloning with a flow or diffusion policy."""

from collections.abc import Callable
from typing import Any

from dpolicy import _checks
from dpolicy._types import Action, Key, Metrics, Mode, Number, Observation, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.cloning import Cloned, clone_step, cloned
from dpolicy.field_policy import FieldPolicy, field_policy
from dpolicy.learner import adam
from dpolicy.losses import matching, perturb
from dpolicy.recipe import composed


@composed(field_policy, schedule="rectified_flow", prediction="velocity", sampler="euler", sampler_steps=10)
def bc(
    make_field: Callable[..., FieldPolicy], *, learning_rate: Number = 3e-4, ema_decay: Number = 0.995
) -> Algorithm:
    """Behaviour cloning: fit the field to the data's actions, act by sampling it.

    loss = E_{t, eps} || field(x_t, t, s) - target ||^2,  x_t = alpha_t a + sigma_t eps.

    With the defaults this is conditional flow matching (Lipman et al. 2023); `--schedule cosine --prediction noise
    --sampler ddpm` makes it Diffusion Policy's denoising loss (Ho et al. 2020; Chi et al. 2023).

    Args:
        learning_rate: Adam's rate.
        ema_decay: Decay of the averaged parameters, which act.
    """
    _checks.positive("learning_rate", learning_rate)
    _checks.fraction("ema_decay", ema_decay)
    policy = make_field()
    loss = matching(perturb(policy.schedule))
    optimiser = adam(learning_rate)

    def init(key: Key, spec: Any) -> Cloned:
        return cloned(policy.make(key, spec), optimiser)

    def act(state: Cloned, obs: Observation, key: Key, mode: Mode) -> tuple[Action, dict[str, Any]]:
        _checks.one_of("mode", mode, ("explore", "evaluate"))
        return policy.sample(state.average, obs, key), {}

    def update(state: Cloned, batch: Transition, key: Key) -> tuple[Cloned, Metrics]:
        return clone_step(state, loss, batch, key, optimiser, ema_decay)

    return Algorithm(
        "bc", "offline", init, act, update, objective=lambda state, q: (state.learner.model, loss)
    )
