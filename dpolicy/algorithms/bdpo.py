"""Behaviour-regularised diffusion policy optimisation: steps that climb, and pay for leaving the behaviour's."""

from collections.abc import Callable
from typing import Annotated

import optax

from dpolicy._settings import Count, Fraction, Positive, at_least
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    FieldPolicy,
    StepCritics,
    actor_optimiser,
    acts,
    copied_until,
    field_policy,
    in_turn,
    slow_actor,
    step_critics,
)
from dpolicy.learning import Stage, algorithm, average, every, trained
from dpolicy.losses import matching, perturb
from dpolicy.recipe import composed


@composed(
    field_policy,
    actor_optimiser,
    step_critics,
    slow_actor,
    without=("sampler", "average_after"),
    schedule="vp",
    sampler_steps=5,
    hidden=(256, 256, 256, 256),
    learning_rate=1e-5,
    max_grad_norm=1.0,
)
def bdpo(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., StepCritics],
    make_average: Callable[..., Stage],
    *,
    behaviour_updates: Annotated[int, at_least(0)] = 2_000_000,
    critic_updates: Annotated[int, at_least(0)] = 50_000,
    actor_interval: Count = 5,
    behaviour_learning_rate: Positive = 3e-4,
    behaviour_rate: Fraction = 0.005,
    candidates: Count = 10,
    evaluation_candidates: Count = 10,
) -> Algorithm:
    r"""BDPO: a diffusion that climbs the value of its next step, less the divergence from the data's (2502.04778).

    $$ L_\pi = -E\,[V_{n-1}(x_{n-1}, s) - \eta\, l_n(x_n, s)], \qquad
       l_n = \frac{\beta_n |\epsilon_\pi - \epsilon_\nu|^2}{2 (1 - \beta_n) (1 - \bar\alpha_n)}, $$

    x_{n-1} ONE reverse step of the actor from x_n, a noised action of the data, V_0 = Q. The sum of l_n along a chain
    is the divergence of its path from the behaviour's, and its mean is in the targets of Q (`step_critics`). The
    optimal kernels give nu exp(Q / eta), but for the noise that the chain starts with.

    Three phases: the behaviour nu alone; the critics alone, with the actor a copy of nu's slow copy; then, at every
    fifth update, the actor and nu as well. The critics come first and see what the update found; the actor climbs the
    targets as they are then. It acts by the best of ten samples of its slow copy under the mean of the target critics,
    in the first phase of nu's.

    The authors choose, by data set, `eta` and `pessimism`: .05 and .5 (halfcheetah), .2 and 2 (hopper), .15 and 1
    (walker2d), .5, .2 or 1 and .8 (antmaze, with `backup="max"`, `critic_network="layer_norm"`, `discount=0.995`,
    widths of 512 and a `behaviour_learning_rate` of 1e-4), and rates of actor and critics that fall by a cosine over
    two million steps of each. At five steps the levels weigh very differently: the factors of |.|^2 / 2 are 1.24, 1.50,
    2.07, 3.20, 5.09. As in the code l_n leaves the clip of the predicted action out, and counts the last step, which
    draws no noise. Its sum is discounted with the value that it is taken off, and cut off with it where the task ends,
    as the paper has it; the code does neither. Samplers without a width at the last step have no such divergence, so
    the sampler is ddpm.

    Args:
        behaviour_updates: Updates of the behaviour policy alone, at the start.
        critic_updates: Updates of the critics alone, after it.
        actor_interval: Then actor and behaviour move at every so many updates.
        behaviour_learning_rate: Adam's rate for the behaviour policy, which does not fall.
        behaviour_rate: Share of the behaviour policy that enters its slow copy, whenever it moves.
        candidates: Samples of which the best is taken while exploring.
        evaluation_candidates: The same in evaluation.
    """
    policy, critics = make_field(), make_critics()
    fit = matching(perturb(policy.schedule, times=policy.times))
    kept = {f"decay_{name}": None for name in ("updates", "start", "share", "shape")}
    begin = behaviour_updates + critic_updates

    def phases(stage: Stage) -> Stage:
        beside = every(stage, actor_interval, after=begin)
        if behaviour_updates == 0:
            return beside
        return in_turn(alone=every(stage, 1, until=behaviour_updates), beside=beside)

    def improved(stage: Stage) -> Stage:
        return copied_until(stage, "behaviour_average", behaviour_updates)

    def critical(stage: Stage) -> Stage:
        return every(stage, 1, after=behaviour_updates)

    nu = trained(policy.make, lambda s: fit, make_optimiser(learning_rate=behaviour_learning_rate, **kept))
    actor = trained(policy.make, critics.climbed(policy), make_optimiser())
    best = lambda count: acts(policy.best(count), actor="average", select="target_mean")
    method = algorithm(
        "bdpo",
        "offline",
        explore=best(candidates),
        evaluate=best(evaluation_candidates),
        # Before the others, who see what it was: only the copies at the end of its phase are of what it has become.
        behaviour=phases(nu),
        behaviour_average=phases(average("behaviour", behaviour_rate)),
        critic=critical(critics.fitted(policy)),
        value=critical(critics.valued(policy)),
        target=critical(critics.critics.averaged()),
        value_target=critical(critics.averaged()),
        actor=improved(every(actor, actor_interval, after=begin)),
        average=improved(make_average(average_after=begin)),
    )
    return method._replace(phases=begin)
