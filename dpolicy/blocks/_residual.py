"""A flow that proposes an action, and a Gaussian residual around it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from dpolicy._types import Action, Key, Observation, Transition
from dpolicy.blocks._field_policy import FieldPolicy
from dpolicy.learning import Acting, Parts, Seen, Stage, labelled
from dpolicy.networks import ResidualGaussian, gaussian_kl

# What is executed: the flow's action, the residual's mean or a draw of it around it, or a draw around the action of the
# flow before its last fit.
RESIDUAL_MODES = ("flow", "flow+residual", "flow+residual+noise", "improved")


class ResidualFlow(NamedTuple):
    """The action a0 of the flow, part "average" ("previous" where it is improved), and the residual, part "policy"."""

    flow: FieldPolicy

    def acting(self, mode: str) -> Acting:
        """An acting slot, by one of RESIDUAL_MODES; with noise the extras hold what the ratio and the KL read."""

        def acting(parts: Parts) -> Callable[[Observation, Key], tuple[Action, dict[str, Any]]]:
            residual: ResidualGaussian = parts.policy

            def act(obs: Observation, key: Key) -> tuple[Action, dict[str, Any]]:
                flow_key, key = jax.random.split(key)
                field = parts.previous if mode == "improved" else parts.average
                base = self.flow.sample(field, obs, flow_key)
                if mode == "flow":
                    return base, {}
                mean = residual.mean(obs, base)
                if mode == "flow+residual":
                    return mean, {}
                action, log_prob = residual.sample(obs, base, key)
                stored = {"base": base, "log_prob": log_prob, "mean": mean, "log_std": residual.log_std}
                return action, stored

            return act

        return acting

    def improved(self) -> Stage:
        """Fresh actions at the observations of a rollout, as extras["improved"]."""

        def draw(s: Seen, example: Transition, key: Key) -> dict[str, Action]:
            return {"improved": self.acting("flow+residual+noise")(s.now)(example.obs, key)[0]}

        return labelled(draw)

    @staticmethod
    def kl(residual: ResidualGaussian, example: Transition, key: Key) -> Float[Array, ""]:
        """KL(old || new) of the residual at the base that was stored."""
        old = example.extras
        mean = residual.mean(example.obs, old["base"])
        return gaussian_kl(old["mean"], old["log_std"], mean, residual.log_std)
