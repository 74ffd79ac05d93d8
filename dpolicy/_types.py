"""The vocabulary of the library's signatures. Shapes: `a` action, `o` observation, `k` candidates, `b` batch."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import equinox as eqx
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, UInt32
from jaxtyping import Key as TypedKey

Key: TypeAlias = PRNGKeyArray
# Several of them, along axes in front.
Keys: TypeAlias = TypedKey[Array, "..."] | UInt32[Array, "... 2"]
Scalar: TypeAlias = Float[Array, ""]
Action: TypeAlias = Float[Array, " a"]
Observation: TypeAlias = Float[Array, " o"]
Metrics: TypeAlias = dict[str, Array]
Model: TypeAlias = PyTree
Critic: TypeAlias = Callable[[Observation, Action], Scalar]
# A hyperparameter: a Python number, or a traced scalar where a sweep maps over it.
Number: TypeAlias = float | int | Float[Array, ""]
Mode: TypeAlias = str  # "explore", "evaluate", or a further mode that the algorithm lists
Prediction: TypeAlias = Literal["noise", "score", "velocity", "data"]


class Transition(eqx.Module):
    """One step of experience; under `vmap` every leaf carries leading axes.

    Policies act in [-1, 1]; `action` is what the environment received. `next_obs` is the true successor of `obs`
    (on the last step of an episode the terminal observation, never the one after the reset). `terminated` cuts the
    bootstrap; `truncated` (a time limit) ends the episode without cutting it and is never set together with it.
    `extras` holds what the algorithm's `act` returned beside the action, e.g. `log_prob`, and in a rollout "following":
    the observation that was acted on next, after a reset where there was one. `discount` is gamma^h of an h-step
    window, from `obs` to `next_obs`; None for a single step, whose discount is the method's own.
    """

    obs: Float[Array, "*batch o"]
    action: Float[Array, "*batch a"]
    reward: Float[Array, "*batch"]
    next_obs: Float[Array, "*batch o"]
    terminated: Bool[Array, "*batch"]
    truncated: Bool[Array, "*batch"]
    extras: dict[str, Any] = eqx.field(default_factory=dict)
    discount: Float[Array, "*batch"] | None = None

    @property
    def done(self) -> Bool[Array, "*batch"]:
        """Whether the episode ended at this step, for either reason."""
        return self.terminated | self.truncated


# A loss maps (model, example, key) to (scalar, metrics), for ONE example.
Loss: TypeAlias = Callable[[Model, Any, Key], tuple[Scalar, Metrics]]
