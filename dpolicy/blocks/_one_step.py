"""A field that is fitted to the data and improved through one denoising step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from dpolicy._settings import Count, Positive
from dpolicy._types import Loss, Number
from dpolicy.blocks._actor_optimiser import actor_optimiser
from dpolicy.blocks._bootstrap import NextValue
from dpolicy.blocks._critic_function import critic_function
from dpolicy.blocks._critics import acts
from dpolicy.blocks._field_policy import FieldPolicy, field_policy
from dpolicy.blocks._several import value_of_several
from dpolicy.learning import Acting, Seen, Stage, trained
from dpolicy.losses import matching, perturb, sharing
from dpolicy.recipe import composed, tunable


class OneStepPolicy(NamedTuple):
    """EDP's actor: how it is trained, what it backs up and how it acts.

    Attributes:
        policy: The field, its schedule and its sampler.
        optimiser: Of the field.
        candidates: Samples among which its action is chosen while exploring.
        evaluation_candidates: The same in evaluation.
        temperature: Of the softmax over them.
    """

    policy: FieldPolicy
    optimiser: optax.GradientTransformation
    candidates: int
    evaluation_candidates: int
    temperature: Number

    def improved(self, push: Callable[[Seen], Loss], weight: Number) -> Stage:
        """The actor's stage: the matching loss, and `weight` times a loss on the same noised action."""
        fit = matching(perturb(self.policy.schedule))
        improve = lambda s: sharing(fit=(1.0, fit), push=(weight, push(s)))
        return trained(self.policy.make, improve, self.optimiser)

    def backed_up(self, actions: int) -> Callable[[Seen], NextValue]:
        """The lower target critic, each at its best among so many samples of the actor's slow copy."""

        def value(s: Seen) -> NextValue:
            q = critic_function(s.before.critic)
            several: dict[str, Any] = {"actions": actions, "over": "max"}
            return value_of_several(self.policy.act, s.before.average, q, s.before.target, **several)

        return value

    @property
    def explore(self) -> Acting:
        """One of the candidates, drawn with probability softmax of the lower online value."""
        return acts(self.policy.best(self.candidates, temperature=self.temperature))

    @property
    def evaluate(self) -> Acting:
        """The same of the candidates of evaluation."""
        return acts(self.policy.best(self.evaluation_candidates, temperature=self.temperature))


@tunable("candidates", "evaluation_candidates", "selection_temperature")
@composed(
    field_policy,
    actor_optimiser,
    schedule="linear",
    sampler="dpm_solver",
    sampler_steps=15,
    embedding="sinusoidal_mlp",
)
def one_step_policy(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    *,
    candidates: Count = 10,
    evaluation_candidates: Count = 10,
    selection_temperature: Positive = 1.0,
) -> OneStepPolicy:
    """EDP's diffusion, whose training costs the same however many steps it is sampled by (arXiv 2305.20081).

    It is noised at all times of the schedule, and sampled in a few steps.

    Args:
        candidates: Samples among which its action is chosen while exploring.
        evaluation_candidates: The same in evaluation.
        selection_temperature: Of the softmax of Q over them.
    """
    return OneStepPolicy(
        make_field(), make_optimiser(), candidates, evaluation_candidates, selection_temperature
    )
