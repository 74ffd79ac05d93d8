"""Q-weighted iterative policy optimisation: a field fitted to its own weighted actions, which are renewed."""

from collections.abc import Callable

import optax
from jaxtyping import Array, Bool, Int

from dpolicy._settings import Count, Positive
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    FieldPolicy,
    InSupport,
    actor_optimiser,
    acts,
    critic_function,
    ends_in_box,
    field_policy,
    in_support_critics,
    in_turn,
    surveyed,
)
from dpolicy.learning import Seen, Stage, algorithm, every, trained
from dpolicy.losses import boltzmann, chain, matching, mix, perturb, stored_actions
from dpolicy.recipe import composed


@composed(
    field_policy,
    actor_optimiser,
    in_support_critics,
    schedule="rectified_flow",
    prediction="velocity",
    sampler="heun",
    sampler_steps=10,
    activation="silu",
    embedding="fixed_fourier",
    critic_hidden=(256, 256, 256),
)
def qipo(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., InSupport],
    *,
    temperature: Positive = 1 / 3,
    renewal_updates: Count = 100_000,
    candidates: Count = 1,
    evaluation_candidates: Count = 1,
) -> Algorithm:
    r"""QIPO: matching weighed by exp(Q) over the data's action and actions of the policy (arXiv 2503.04975).

    $$ L = \sum_j w_j | v_\theta(x^j_t, t, s) - (\epsilon^j - a_j) |^2, \qquad
       w = \mathrm{softmax}_j(\min_k \bar Q_k(s, a_j) / \lambda), \quad a_0 \text{ the data's}. $$

    The weighted field is the guided one, so there is no energy, and no gradient of one while sampling. First the field
    is cloned; then the critics are fitted to its actions, as QGPO's (`in_support_critics`), and stay; then the field is
    fitted to the weighted candidates, of which all but the data's own are drawn from it for every state and drawn anew
    at every `renewal_updates`-th update. After l draws, each fitted until it has converged, the policy is nu exp(l Q /
    lambda): how often they are renewed is a temperature, too. Weights over few candidates favour less than
    exp(Q / lambda): of two actions whose log-ratio should be 3 it is 2.02 with 4 of them and 2.87 with 16.

    The defaults are the flow of the paper; with `schedule="linear" prediction="noise" sampler_steps=15` it is its
    diffusion. No code of the method is public. What the paper confirms is `support` of 16, 32 or 64 and temperatures
    down to .1; the lengths of the phases (those of QGPO), `renewal_updates` and the temperature are chosen here.

    Args:
        temperature: lambda, in units of Q, of each renewal.
        renewal_updates: Updates of the improvement between two draws of the candidates.
        candidates: Samples of which the best is taken while exploring.
        evaluation_candidates: The same in evaluation.
    """
    policy, critics = ends_in_box(make_field(clip=None)), make_critics()
    noise = perturb(policy.schedule)
    fit = matching(noise, reduction="sum")
    share = 1 / (critics.support + 1)
    proposals = mix((share, chain()), (1 - share, stored_actions("support")))

    def improve(s: Seen) -> Loss:
        weight = boltzmann(critic_function(s.now.target), temperature)
        return matching(chain(proposals, weight, noise), reduction="sum")

    def renewed(updates: Int[Array, ""]) -> Bool[Array, ""]:
        past = updates - critics.fitted_by - 1
        return (past >= 0) & (past % renewal_updates == 0)

    def phase(loss: Callable[[Seen], Loss]) -> Stage:
        return trained(policy.make, loss, make_optimiser())

    one = acts(policy.act)
    best = lambda count: acts(policy.best(count), select="target_min")
    method = algorithm(
        "qipo",
        "offline",
        explore=best(candidates),
        evaluate=best(evaluation_candidates),
        memory=surveyed(
            next_support=critics.kept(one, name="next_support", at="next_obs"),
            support=critics.kept(one, renewed),
        ),
        critic=critics.fitted(),
        target=critics.averaged(),
        actor=in_turn(
            clone=critics.cloned(phase(lambda s: fit)),
            improve=every(phase(improve), 1, after=critics.fitted_by),
        ),
    )
    return method._replace(phases=critics.fitted_by)
