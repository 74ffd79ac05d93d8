"""Generalised measure matching for policy optimisation."""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated

import optax

from dpolicy import _checks
from dpolicy._settings import Count, NonNegative, Positive, at_least, one_of, within
from dpolicy._types import Loss, Number
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import Critics, FieldPolicy, actor_optimiser, acts, field_policy, guide, q_critics
from dpolicy.learning import Seen, algorithm, average, every, trained, tuned
from dpolicy.losses import candidates as candidates_of
from dpolicy.losses import chain, jitter, matching, perturb, tilt
from dpolicy.losses._tilt import SHAPES
from dpolicy.optimisers import adam
from dpolicy.recipe import composed


@composed(field_policy, actor_optimiser, q_critics, learning_rate=1e-4)
def gempo(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    weight: Annotated[str, one_of(SHAPES)] = "linear",
    candidates: Annotated[int, at_least(2)] = 64,
    reference_interval: Count = 1000,
    reference_noise: NonNegative = 0.2,
    target_kl: Number = 2.0,
    initial_temperature: Positive = 1.0,
    temperature_learning_rate: Positive = 3e-4,
    floor: Annotated[Number, within(high=1, open_high=True)] = 0.0,
    cap: Positive | None = None,
    evaluation_candidates: Count = 10,
) -> Algorithm:
    """Generalised measure matching: weigh samples of a frozen policy by a monotone function of Q (arXiv 2603.10250).

    Samples a_i of a copy of the actor, plus noise, weigh w_i = g((Q_i - nu) / lambda) with nu such that they sum to 1:
    g the exponential (then it is FlowRL's DPMD, arXiv 2603.27450), linear max(u, floor / n) or square max(u, 0)^2. The
    optimum of one step is the tilted measure, exactly. lambda is tuned so that KL(w || equal weights) = target_kl.
    A negative floor pushes the policy away from its worst samples.

    Args:
        weight: exponential, linear or square.
        candidates: Samples of the frozen policy per state.
        reference_interval: Updates between two copies of the actor.
        reference_noise: Standard deviation of Gaussian noise added to those samples (not clipped).
        target_kl: Divergence of the weights from equal ones that the temperature holds, in nats; below
            log(candidates). FlowRL: 2.5 to 3 for Hopper, 1 to 1.5 for Ant.
        initial_temperature: Start of the temperature lambda, in units of (scaled) reward.
        temperature_learning_rate: Adam's rate for log lambda.
        floor: Smallest weight of `linear`, in units of an equal share; below zero for signed measures.
        cap: Bound on each coordinate's squared error; None for none. It biases the fit (3 or 5 in FlowRL's code).
        evaluation_candidates: Evaluation acts by the best of this many samples under the critic.
    """
    if weight != "linear" and not (isinstance(floor, float | int) and floor == 0):
        raise ValueError(f"floor needs weight linear, got {floor!r} for {weight}.")
    # The largest divergence there is: beyond it the temperature would fall for ever.
    _checks.in_range("target_kl", target_kl, 0.0, math.log(candidates), open_low=True, open_high=True)
    policy, critics = make_field(), make_critics()

    def improve(s: Seen) -> Loss:
        return matching(
            chain(
                candidates_of(partial(policy.sample, s.before.reference), candidates),
                jitter(reference_noise),
                tilt(guide(s.before, "online_mean"), s.before.temperature, shape=weight, floor=floor),
                perturb(policy.schedule),
            ),
            cap=cap,
        )

    return algorithm(
        "gempo",
        "off_policy",
        explore=acts(policy.act),
        evaluate=acts(policy.best(evaluation_candidates)),
        critic=critics.backed_up(policy.act),
        target=critics.averaged(),
        actor=trained(policy.make, improve, make_optimiser()),
        reference=every(average("actor", 1), reference_interval),
        temperature=tuned(
            initial_temperature,
            lambda s: target_kl - s.metrics["actor/weight_kl"],
            adam(temperature_learning_rate),
            multiplier="value",
        ),
    )
