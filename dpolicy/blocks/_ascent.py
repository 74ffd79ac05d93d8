"""Actions that climb the critic, kept beside those that were executed."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from dpolicy._settings import Positive, at_least
from dpolicy._types import Key, Transition
from dpolicy.blocks._critic_function import critic_function
from dpolicy.learning import Seen, Stage, remembered
from dpolicy.losses import gradient_ascent
from dpolicy.recipe import tunable


def improved(example: Transition) -> Transition:
    """The transition with extras["improved"] in place of the executed action."""
    return dataclasses.replace(example, action=example.extras["improved"])


@tunable("ascent_steps", "ascent_rate", "ascent_norm")
def ascended(
    *,
    ascent_steps: Annotated[int, at_least(0)] = 20,
    ascent_rate: Positive = 0.03,
    ascent_norm: Positive | None = 0.1,
) -> Stage:
    """Actions in the replay, as extras["improved"], that climb the lower critic whenever they are drawn (DIPO).

    Args:
        ascent_steps: Adam steps on the improved actions per update; 0 clones the executed ones (40 in HalfCheetah).
        ascent_rate: Adam's rate there; a coordinate moves by at most about steps times rate.
        ascent_norm: Bound on the norm of all action gradients of the batch together, per action dimension; None for
            none (0.3 in Hopper, 0.08 in Walker2d and HalfCheetah, 0.1 in Ant and Humanoid).

    Raises:
        ValueError: For a value out of its range.
    """

    def climb(s: Seen) -> Callable[[Transition, Key], dict[str, Any]]:
        q = critic_function(s.before.critic)

        def one(example: Transition, key: Key) -> dict[str, Any]:
            start = example.extras["improved"]
            bound = None if ascent_norm is None else ascent_norm * start.size
            ascend = partial(gradient_ascent, steps=ascent_steps, rate=ascent_rate, max_grad_norm=bound)
            return {"improved": ascend(partial(q, example.obs), start)}

        return one

    return remembered(lambda transition: {"improved": transition.action}, climb)
