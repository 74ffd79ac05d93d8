"""Q-weighted variational policy optimisation."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dpolicy._settings import Count, Fraction, NonNegative, Positive, at_least
from dpolicy._spread import varies
from dpolicy._types import Critic, Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    CriticValues,
    FieldPolicy,
    actor_optimiser,
    acts,
    field_policy,
    guide,
    q_critics,
)
from dpolicy.learning import Seen, Statistics, algorithm, average, statistics, trained
from dpolicy.losses import (
    advantage,
    best,
    boltzmann,
    chain,
    matching,
    mix,
    perturb,
    report,
    uniform,
    weigh,
)
from dpolicy.losses import candidates as candidates_of
from dpolicy.losses.match import Transform
from dpolicy.optimisers import annealed
from dpolicy.recipe import composed


def _weights(weight: str, q: Critic, standard: Statistics | None) -> Transform:
    """The transform that a `weight` of `qvpo` stands for."""
    if weight == "qadv":
        return advantage(q)
    if standard is not None:
        moments = report(q=q, q_square=lambda obs, action: q(obs, action) ** 2)
        standardised = lambda obs, action: standard(q(obs, action))
        return chain(moments, boltzmann(standardised, 1.0, normalise=False, clip=8.0))
    floor = 1.0 if weight == "qcut" else 0.0
    return weigh(lambda obs, action: jnp.maximum(q(obs, action), floor))


def _spread(s: Seen) -> Float[Array, "2"]:
    """Two numbers with the mean and the standard deviation that Q has over all samples of the batch."""
    mean, square = s.metrics["actor/q"], s.metrics["actor/q_square"]
    variance = square - mean**2
    # The difference of two squares is rounded as they are.
    deviation = jnp.sqrt(jnp.where(varies(variance, square), variance, 0))
    return mean + deviation * jnp.asarray([-1.0, 1.0])


@composed(
    field_policy,
    actor_optimiser,
    q_critics,
    hidden=(256, 256),
    sampler="ddpm_posterior",
    learning_rate=1e-4,
    max_grad_norm=2.0,  # the weights, and so the gradient, have the scale of Q
)
def qvpo(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    candidates: Annotated[int, at_least(2)] = 64,
    weight: Literal["qadv", "qrelu", "qcut", "qexpn"] = "qadv",
    uniform_candidates: Count = 10,
    uniform_weight: NonNegative = 0.02,
    final_uniform_weight: NonNegative = 0.002,
    anneal_updates: Positive = 900_000,
    ranking: CriticValues = "online_min",
    critic_first: bool = True,
    average_rate: Fraction = 0.005,
    exploration_candidates: Count = 4,
    backup_candidates: Count = 4,
    evaluation_candidates: Count = 32,
) -> Algorithm:
    """Q-weighted variational policy optimisation: clone the best of many samples by its advantage (arXiv 2405.16173).

    Of several samples a_j of the current policy the best is kept, with weight g = max(Q - mean_j Q_j, 0), or another
    `weight`; uniform actions of weight omega g each stand for an entropy bonus. The optimum is the g-weighted law of
    the best sample, mixed with n omega / (1 + n omega) of the uniform law: no Boltzmann policy, and one that depends on
    the scale of Q through which states weigh more. The critic's next action is the best of a few samples of the
    averaged actor under the target critics.

    The official code decays omega over nine tenths of its run of 10^6 updates, has Adam's eps at 1e-5, and ends
    bootstraps at time limits; here omega decays over `anneal_updates`, and time limits do not cut. Its networks are
    three layers of 256 with mish, actor and critics, and `max_grad_norm` bounds the gradient of the sum of two critics'
    losses, that of their mean here. FlowRL holds omega at .01 and ranks by the mean of the critics before their step.

    Args:
        candidates: Samples of the policy per state, of which the best is cloned.
        weight: g of the best sample: qadv; qrelu, max(Q, 0); qcut, max(Q, 1); or qexpn, exp(clip(Z, -8, 8)) with
            Z = (Q - M) / R, M and R the running mean and standard deviation of the samples' Q (a share of 0.001 of
            each batch). Only qadv leaves the optimum where it is when a constant is added to Q.
        uniform_candidates: Uniform actions per state.
        uniform_weight: Weight omega of each uniform action, relative to the best one's, at the start.
        final_uniform_weight: omega at the end.
        anneal_updates: Updates of the critics over which omega changes linearly (see `annealed`).
        ranking: Which critics rank and weigh the samples: online_min, online_mean, target_min or target_mean.
        critic_first: Whether those are the critics after this update's step or before it.
        average_rate: Share of the actor that enters its average at each update.
        exploration_candidates: It explores by the best of this many samples.
        backup_candidates: The critic's next action is the best of this many samples.
        evaluation_candidates: Evaluation acts by the best of this many samples under the critic.
    """
    policy, critics = make_field(), make_critics()
    standardised = weight == "qexpn"

    def improve(s: Seen) -> Loss:
        q = guide(s.now if critic_first else s.before, ranking)
        omega = annealed(s.before.updates, uniform_weight, final_uniform_weight, anneal_updates)
        # The mean over the best sample and the uniform ones, which the bound of the gradient is about.
        share = 1 / (1 + uniform_candidates)
        return matching(
            chain(
                candidates_of(partial(policy.sample, s.before.actor), candidates),
                _weights(weight, q, s.before.statistics if standardised else None),
                best(q),
                mix((share, chain()), (share * uniform_candidates * omega, uniform(uniform_candidates))),
                perturb(policy.schedule),
            )
        )

    further: dict[str, Any] = {"statistics": statistics(_spread, 0.001)} if standardised else {}
    return algorithm(
        "qvpo",
        "off_policy",
        explore=acts(policy.best(exploration_candidates)),
        evaluate=acts(policy.best(evaluation_candidates)),
        critic=critics.backed_up(policy.best(backup_candidates), actor="average", select="target_min"),
        target=critics.averaged(),
        actor=trained(policy.make, improve, make_optimiser()),
        average=average("actor", average_rate),
        **further,
    )
