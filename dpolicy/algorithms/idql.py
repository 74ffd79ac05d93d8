"""Implicit diffusion Q-learning: a cloned diffusion policy, and critics that choose among its samples."""

from collections.abc import Callable

import optax

from dpolicy._settings import Count, Fraction
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, InSample, actor_optimiser, acts, field_policy, in_sample_critics
from dpolicy.learning import algorithm, average, trained
from dpolicy.losses import matching, perturb
from dpolicy.recipe import composed


@composed(
    field_policy,
    actor_optimiser,
    in_sample_critics,
    schedule="vp",
    sampler_steps=5,
    activation="swish",
    value_layer_norm=True,
)
def idql(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., InSample],
    *,
    actor_rate: Fraction = 0.001,
    candidates: Count = 64,
    evaluation_candidates: Count = 64,
) -> Algorithm:
    r"""IDQL: a diffusion model of the data's actions, IQL's critics, and the best of many samples (arXiv 2304.10573).

    $$ L = E | \epsilon_\theta(x_t, t, s) - \epsilon |^2, \qquad
       a = \arg\max_j \min_k \bar Q_k(s, a_j), \quad a_j \sim \bar\pi_\theta(. | s). $$

    The actor is cloned, whatever the critics say, so it can be fitted once and used with any of them; its slow copy
    draws the candidates. With one candidate the policy is the data's; with many it finds the maximum of Q where the
    data is, and its errors: the KL to the data grows like log n - (n - 1) / n. The paper tunes `evaluation_candidates`
    among 16, 64 and 256 by domain, has `expectile` .7 for locomotion and .9 for antmaze, batches of 512 and three
    million updates over which rates fall by a cosine. Its network is a residual one with layer norm and dropout, and
    its Adam decays weights; the field's `residual` has shortcuts without either. Its sampler clips the action after
    every step, ours what it predicts the action to be.

    Args:
        actor_rate: Share of the actor that enters its slow copy at each update.
        candidates: Samples of which the best is taken while exploring.
        evaluation_candidates: The same in evaluation.
    """
    policy, critics = make_field(), make_critics()
    fit = matching(perturb(policy.schedule, times=policy.times), reduction="sum")
    best = lambda count: acts(policy.best(count), actor="average", select="target_min")
    return algorithm(
        "idql",
        "offline",
        explore=best(candidates),
        evaluate=best(evaluation_candidates),
        actor=trained(policy.make, lambda s: fit, make_optimiser()),
        average=average("actor", actor_rate),
        value=critics.valued(),
        critic=critics.fitted(),
        target=critics.critics.averaged(),
    )
