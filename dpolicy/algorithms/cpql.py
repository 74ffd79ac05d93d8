"""CPQL: a consistency policy of one step, between the critic's gradient and the replay's actions."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import optax

from dpolicy._settings import Count, NonNegative, Positive, at_least, within
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    FieldPolicy,
    actor_optimiser,
    acts,
    consistency_policy,
    critic_function,
    grid_levels,
    q_critics,
)
from dpolicy.learning import Seen, algorithm, average, every, trained
from dpolicy.losses import (
    add,
    bptt,
    bptt_of_either,
    consistency_matching,
    denoiser_weight,
    grid_times,
    matching,
    perturb,
)
from dpolicy.networks import mean_of
from dpolicy.recipe import composed


@composed(
    consistency_policy,
    actor_optimiser,
    q_critics,
    critic_hidden=(256, 256, 256),
    critic_activation="mish",
    critic_reduction="sum",
    max_grad_norm=2.0,
)
def cpql(
    make_policy: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    reconstruction: Literal["mean", "consistency"] = "mean",
    reconstruction_weight: NonNegative = 0.05,
    q_weight: NonNegative = 1.0,
    normalise_q: bool = False,
    levels: Annotated[int, at_least(2)] = 40,
    data_std: Annotated[float, within(0, open_low=True)] = 0.5,
    candidates: Count = 50,
    evaluation_candidates: Count = 50,
    selection_temperature: Positive = 1.0,
    target_interval: Count = 5,
    target_after: Annotated[int, at_least(0)] = 1_000,
    offline: bool = False,
) -> Algorithm:
    r"""CPQL: one step of a consistency function climbs Q, and is held to the actions of the replay (arXiv 2310.06343).

    $$ L = c_{RC}\, (h^{-2} + \sigma_d^{-2})\, | f(a + h z, h, s) - a |^2
       - c_Q \min_j Q_j(s, f(h_{max} z', h_{max}, s)), $$

    a the replay's, h uniform over the levels of a grid but the least. The critics' next action is one sample of the
    current actor. It acts, in training and in evaluation, by one of 50 samples, drawn with probability softmax of the
    lower target value.

    The reconstruction is a regression, whose minimiser is not a consistency function but the mean of the replay's
    actions: by itself one step from h = 80 has a deviation of .003 where actions have .5, and lies between two modes.
    Diversity comes from Q, from the selection and from a replay that drifts. `reconstruction="consistency"` fits the
    function that keeps the law (`consistency_matching` against a slow copy of the actor, with the same weight), which
    the code computes and does not use. The selection improves the policy by itself: `candidates=1,
    evaluation_candidates=1` is without.

    Samples are clipped to the box, beyond which they have no gradient: once all those of a state are there, the policy
    stays on a face, whatever the critic says. With `inward=True` it finds back.

    As in the code squares are averaged over the coordinates of the action. The form for data sets is `offline=True,
    normalise_q=True`, Q_j / mean |Q_k| with j by a coin, `reconstruction_weight=1` and, by task, `q_weight` .15 to 4.5
    and `max_grad_norm` 1 to 10; the code's critics then have layer norms (`critic_network="layer_norm"`).
    For antmaze it samples in several steps, of which two have an effect, at h = 80 and 2.24: `sampler_steps=2`. Its
    values by expectiles (CPIQL) are not here. It acts at random for 10,000 steps (`warmup` of the program).

    Args:
        reconstruction: What the function is fitted to: mean, the replay's actions; or consistency.
        reconstruction_weight: c_RC.
        q_weight: c_Q.
        normalise_q: Whether one critic is climbed, in units of the other's mean absolute value, in place of the lower.
        levels: Levels of noise that it is fitted at.
        data_std: Deviation of actions that the function is scaled for, sigma_d.
        candidates: Samples among which its action is chosen while exploring.
        evaluation_candidates: The same in evaluation.
        selection_temperature: Of the softmax over them.
        target_interval: The slow copies move at every so many updates.
        target_after: Updates at the start through which they wait.
        offline: Whether it learns from a data set, by `dpolicy.train.offline` from Python.
        sampler_steps: Calls of the function for an action.
    """
    policy = make_policy(data_std=data_std, later=lambda _, steps: grid_levels(steps, levels))
    critics = make_critics()
    weight = denoiser_weight(data_std)
    slow = lambda stage: every(stage, target_interval, after=target_after)

    def improve(s: Seen) -> Loss:
        if reconstruction == "mean":
            fit = matching(perturb(policy.schedule, times=grid_times(levels - 1)), time_weight=weight)
        else:
            fit = consistency_matching(s.before.average, levels=levels, time_weight=weight)
        if normalise_q:
            climb = bptt_of_either(policy.sample, lambda obs, action: mean_of(s.now.critic(obs, action)))
        else:
            climb = bptt(policy.sample, critic_function(s.now.critic))
        return add(fit=(reconstruction_weight, fit), q=(q_weight, climb))

    def select(candidates: int) -> Any:
        return acts(policy.best(candidates, temperature=selection_temperature), select="target_min")

    stages: dict[str, Any] = {}
    if reconstruction == "consistency":
        stages["average"] = slow(average("actor", critics.target_rate))
    stages["target"] = slow(critics.averaged())
    return algorithm(
        "cpql",
        "offline" if offline else "off_policy",
        explore=select(candidates),
        evaluate=select(evaluation_candidates),
        critic=critics.backed_up(policy.act),
        actor=trained(policy.make, improve, make_optimiser()),
        **stages,
    )
