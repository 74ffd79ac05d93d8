"""An invertible flow as a policy: how it acts, and its exact density."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from dpolicy._settings import within
from dpolicy._types import Action, Key, Number, Observation
from dpolicy.blocks._field_policy import FieldPolicy, flow_policy
from dpolicy.blocks._proximal import acted
from dpolicy.fields import AbstractField, Projected, Sinusoidal
from dpolicy.learning import Parts
from dpolicy.losses import exact_log_likelihood
from dpolicy.losses.ratios import LogLikelihood
from dpolicy.recipe import composed, tunable
from dpolicy.samplers import Coupled, action_of, coupled


def _embedding(key: Key) -> Projected:
    return Projected(Sinusoidal(32), 32, hidden=(256, 256), key=key)


class CoupledFlow(NamedTuple):
    """A flow over pairs of actions, of which the environment receives the mean.

    Attributes:
        make: `(key, spec) -> field`.
        sampler: The map between noise and pairs.
        likelihood: The density of the pair that is stored as extras["pair"].
    """

    make: Callable[[Key, Any], AbstractField]
    sampler: Coupled
    likelihood: LogLikelihood

    def explore(self, parts: Parts) -> Callable[[Observation, Key], tuple[Action, dict[str, Any]]]:
        """A sample, with its pair."""

        def act(obs: Observation, key: Key) -> tuple[Action, dict[str, Any]]:
            pair = self.sampler.forward(parts.policy, self.sampler.start(parts.policy, key), obs)
            # By the inverse, like the update's, so that the first ratio is 1 up to rounding (1e-6).
            example = acted(obs, action_of(pair), {"pair": pair})
            return example.action, {"pair": pair, "log_prob": self.likelihood(parts.policy, example, key)}

        return act


@tunable("mixing", "rematerialise")
@composed(flow_policy, sampler_steps=5)
def coupled_flow(
    make_flow: Callable[..., FieldPolicy],
    *,
    mixing: Annotated[Number, within(0, 1, open_low=True)] | None = 0.9,
    rematerialise: bool | None = None,
) -> CoupledFlow:
    """An invertible flow over a doubled action (GenPO, arXiv 2505.18763); see `dpolicy.samplers.coupled`.

    Args:
        mixing: How much of itself each half keeps at a step; None ties it to the steps.
        rematerialise: Whether gradients compute each step anew: up to a fifth more time, the memory of one step in
            place of all `sampler_steps`. None for more than 10 steps.
        sampler_steps: Coupled steps of the flow.

    Raises:
        ValueError: Where the inverse would lose more than 1e-4 to rounding.
    """
    flow = make_flow(embedding=_embedding)
    sampler = coupled(steps=flow.sample.steps, mixing=mixing, rematerialise=rematerialise)  # pyright: ignore[reportFunctionMemberAccess]
    return CoupledFlow(flow.make, sampler, exact_log_likelihood(sampler))
