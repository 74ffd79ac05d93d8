"""Actors that ascend the critic through their sampler: the gradient, and the composition of DACER and its heirs."""

from collections.abc import Callable
from typing import Any

import optax

from dpolicy import _checks
from dpolicy._settings import Count, Positive
from dpolicy._types import Critic, Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks._actor_optimiser import actor_optimiser
from dpolicy.blocks._critic_function import critic_function
from dpolicy.blocks._critics import Critics, acts, q_critics
from dpolicy.blocks._entropic_noise import entropic_noise
from dpolicy.blocks._field_policy import FieldPolicy, field_policy
from dpolicy.blocks._noisy_best import Behaviour
from dpolicy.learning import Seen, algorithm, trained
from dpolicy.losses import add, bptt
from dpolicy.recipe import composed, tunable
from dpolicy.samplers import differentiated


@tunable("gradient_steps", "gradient_norm")
def backpropagated(
    *, policy: FieldPolicy, gradient_steps: Count | None = None, gradient_norm: Positive | None = None
) -> FieldPolicy:
    """The policy with the same samples and a gradient that is held in check; see `dpolicy.samplers.differentiated`.

    Args:
        policy: The field policy.
        gradient_steps: Sampler steps, those nearest the action, that carry gradient; None for all.
        gradient_norm: Bound on the norm of an action's gradient after every sampler step; None for none.
    """
    if gradient_steps is None and gradient_norm is None:
        return policy
    return policy._replace(
        sample=differentiated(policy.sample, truncate=gradient_steps, max_norm=gradient_norm)
    )


@composed(
    field_policy,
    backpropagated,
    actor_optimiser,
    q_critics,
    entropic_noise,
    schedule="vp",
    sampler="ddpm_posterior",
    learning_rate=1e-4,
    critic_learning_rate=1e-4,
    critic_hidden=(256, 256, 256),
    critic_activation="gelu",
    critic="gaussian",
    critic_reduction="sum",
)
def pathwise(
    make_field: Callable[..., FieldPolicy],
    make_gradient: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    make_behaviour: Callable[..., Behaviour],
    *,
    name: str,
    noise_in_loss: bool = True,
    terms: Callable[[FieldPolicy, Critic], dict[str, Any]] | None = None,
) -> Algorithm:
    """An actor that ascends the lower of Gaussian critics through its sampler, and noise that holds an entropy.

    One update: the critics, on the law at the next action; at every `actor_interval`-th the actor,
    by the critics as they were before, and the critics' targets; now and then the noise (`entropic_noise`).

    Args:
        name: The algorithm's name.
        noise_in_loss: Whether Q is ascended at the noisy action, or at the end of the chain.
        terms: `(policy, q) -> {name: (weight, loss)}`, what the actor descends besides -Q; nothing unless given.
    """
    if terms is not None:
        _checks.slot("terms", terms, 2, "(policy, q) -> {name: (weight, loss)}")
    policy, critics = make_field(), make_critics()
    quiet = make_gradient(policy=policy)
    behave = make_behaviour(policy=quiet)

    def improve(s: Seen) -> Loss:
        q, act = critic_function(s.before.critic), behave.policy(s.before) if noise_in_loss else quiet.act
        ascend = bptt(lambda field, obs, key: act(field, q, obs, key)[0], q)
        return ascend if terms is None else add(q=(1.0, ascend), **terms(policy, q))

    return algorithm(
        name,
        "off_policy",
        explore=behave.explore,
        evaluate=acts(policy.act),
        critic=critics.fitted(behave.next_value),
        actor=behave.delayed(trained(policy.make, improve, make_optimiser())),
        target=behave.delayed(critics.averaged()),
        **behave.stages,
    )
