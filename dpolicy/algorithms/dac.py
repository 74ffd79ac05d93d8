"""Diffusion actor-critic: the noise of the data, shifted by the critic's gradient at the noised action."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import optax

from dpolicy import _checks
from dpolicy._settings import Count, NonNegative, Positive
from dpolicy._types import Key, Loss, Number
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
from dpolicy.learning import Seen, Stage, algorithm, trained
from dpolicy.losses import matching, noisy_q, perturb, sharing
from dpolicy.networks import mean_of
from dpolicy.recipe import composed

LEAST, MOST = 1e-3, 100.0  # of eta


def _check_budget(eta: Number, budget: Number | None, rate: Number | None) -> None:
    if budget is None and rate is not None:
        raise ValueError(f"eta_rate must be None without a behaviour_budget, which keeps eta, got {rate!r}.")
    if budget is not None:
        _checks.in_range("eta", eta, LEAST, MOST)


def _budgeted(start: Number, budget: Number | None, rate: Number) -> Stage:
    """eta, by projected gradient steps on the constraint that the fit to the data stays at the budget."""

    def step(eta: Any, seen: Seen, key: Key) -> Any:
        if budget is None:
            return eta, {}, {"": eta}
        excess = jnp.clip(seen.metrics["actor/fit/loss"] - budget, -1.0, 1.0)
        eta = jnp.clip(eta + rate * excess, LEAST, MOST)
        return eta, {}, {"": eta}

    return Stage(lambda key, spec, parts: jnp.asarray(start, float), step)


@composed(
    field_policy,
    actor_optimiser,
    q_critics,
    slow_actor,
    schedule="vp",
    sampler_steps=5,
    embedding="sinusoidal_mlp",
    critics=10,
    critic_hidden=(256, 256, 256),
    critic_activation="mish",
    max_grad_norm=1.0,
)
def dac(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    make_average: Callable[..., Stage],
    *,
    eta: Positive = 1.0,
    behaviour_budget: Positive | None = 1.0,
    eta_rate: NonNegative | None = None,
    pessimism: NonNegative = 1.0,
    backup_actions: Count = 10,
    backup: Literal["mean", "max"] = "mean",
    candidates: Count = 10,
    evaluation_candidates: Count = 10,
) -> Algorithm:
    r"""DAC: the data's noise shifted by the critic's gradient at the NOISED action (arXiv 2405.20555).

    $$ L = \eta\, \mathrm{mean} |\epsilon_\theta - \epsilon|^2 + \mathrm{mean}\, \sigma_t G(x_t) \epsilon_\theta,
       \qquad G = \nabla_a \bar Q(s, a)|_{a = x_t} / \mathrm{mean} |\bar Q(s, a)|, $$

    Q the mean of ten target critics, whose gradient is a constant for the actor: nothing is differentiated through the
    sampler, and the minimiser is E[eps | x_t] - sigma_t G / (2 eta). That field is not the noised law of any policy,
    so what it samples depends on the sampler: with unit variance and linear Q the shift is 2 c (1 - alpha_1) by the SDE
    and -c log alpha_1 by the ODE, c = G / (2 eta).

    eta follows the fit to the data: eta <- clip(eta + rate clip(fit - budget, -1, 1), .001, 100). It sees the fit
    before the step (the authors' code takes it again after the step). Targets are the mean over ten actions of the
    actor's slow copy within each critic, then the mean minus `pessimism` deviations over the critics. It acts by the
    best of ten samples under the mean of the target critics.

    The authors have, by data set, `pessimism` 0 (halfcheetah), 1.5 (hopper), 1 (walker2d), `behaviour_budget` .05 or .1
    for medium-expert; for antmaze `eta=0.1, behaviour_budget=None, backup="max"`; rates that fall by a cosine over two
    million updates.

    Args:
        eta: Weight of the fit to the data: its start, or its value where there is no budget.
        behaviour_budget: The fit at which eta stays, which then must be from .001 to 100; None keeps eta.
        eta_rate: Step size of eta, .001 unless given.
        pessimism: Deviations below the mean of the critics, in targets.
        backup_actions: Actions in a target.
        backup: Their mean, or the largest, within each critic.
        candidates: Samples of which the best is taken while exploring.
        evaluation_candidates: The same in evaluation.
    """
    _check_budget(eta, behaviour_budget, eta_rate)
    policy, critics = make_field(), make_critics()
    noise = perturb(policy.schedule, times=policy.times)

    def value(s: Seen) -> NextValue:
        return value_of_several(
            policy.act,
            s.before.average,
            critic_function(s.before.critic),
            s.before.target,
            actions=backup_actions,
            over=backup,
            how="lcb",
            pessimism=pessimism,
        )

    def improve(s: Seen) -> Loss:
        sizes = lambda obs, action: jnp.mean(jnp.abs(mean_of(s.before.target(obs, action))))
        push = noisy_q(noise, critic_function(s.before.target, "mean"), normaliser=sizes)
        return sharing(fit=(s.before.eta, matching(noise)), q=(1.0, push))

    best = lambda count: acts(policy.best(count), select="target_mean")
    return algorithm(
        "dac",
        "offline",
        explore=best(candidates),
        evaluate=best(evaluation_candidates),
        critic=critics.fitted(value),
        actor=trained(policy.make, improve, make_optimiser()),
        average=make_average(),
        eta=_budgeted(eta, behaviour_budget, 1e-3 if eta_rate is None else eta_rate),
        target=critics.averaged(),
    )
