"""Implicit flow Q-learning: IDQL with a flow."""

from collections.abc import Callable

import optax

from dpolicy._settings import Count
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    FieldPolicy,
    InSample,
    actor_optimiser,
    acts,
    ends_in_box,
    field_policy,
    in_sample_critics,
)
from dpolicy.learning import algorithm, trained
from dpolicy.losses import matching, perturb
from dpolicy.recipe import composed


@composed(
    field_policy,
    actor_optimiser,
    in_sample_critics,
    schedule="rectified_flow",
    prediction="velocity",
    sampler="euler",
    sampler_steps=10,
    hidden=(512, 512, 512, 512),
    activation="gelu",
    embedding="raw",
    initialisation="xavier_uniform",
    expectile=0.9,
    value_layer_norm=True,
    critic_hidden=(512, 512, 512, 512),
    critic_activation="gelu",
    critic_network="layer_norm",
)
def ifql(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., InSample],
    *,
    candidates: Count = 32,
    evaluation_candidates: Count = 32,
) -> Algorithm:
    r"""IFQL: a flow fitted to the data's actions, IQL's critics, and the best of 32 samples (arXiv 2502.02538, code).

    As IDQL, with a rectified flow of ten Euler steps, whose current parameters draw the candidates, and the lower
    ONLINE critic, which selects among them. Samples are clipped to the box where they end, not on the way.

    Args:
        candidates: Samples of which the best is taken while exploring.
        evaluation_candidates: The same in evaluation.
    """
    policy, critics = ends_in_box(make_field(clip=None)), make_critics()
    fit = matching(perturb(policy.schedule))
    return algorithm(
        "ifql",
        "offline",
        explore=acts(policy.best(candidates)),
        evaluate=acts(policy.best(evaluation_candidates)),
        value=critics.valued(),
        critic=critics.fitted(),
        target=critics.critics.averaged(),
        actor=trained(policy.make, lambda s: fit, make_optimiser()),
    )
