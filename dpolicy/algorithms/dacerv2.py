"""DACERv2: DACER in few steps, each of which also follows the gradient of Q."""

from collections.abc import Callable
from typing import Any

from dpolicy._settings import Finite, NonNegative
from dpolicy._types import Critic
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, pathwise
from dpolicy.losses import match_directions
from dpolicy.recipe import composed


@composed(pathwise, sampler_steps=5)
def dacerv2(
    make_algorithm: Callable[..., Algorithm],
    *,
    direction_weight: NonNegative = 1.0,
    direction_slope: Finite = 0.4,
    direction_offset: Finite = -1.8,
) -> Algorithm:
    r"""DACERv2: DACER in five steps, whose scores also match the direction of Q's gradient (arXiv 2505.23426).

    $$ L = L_{DACER} + w_g\, \| S_\theta(s, x_i, t_i) - w(i)\, \nabla_a Q / (\|\nabla_a Q\| + \delta) \|^2, \qquad
       w(i) = e^{.4 i - 1.8}, $$

    at states x_i of the policy's own chain, without gradient (`match_directions`, which says how it is biased), i
    uniform. All else is `dacer`, which see.

    There is no public code: the constants of w are a third party's. The chain whose states are matched is drawn for
    itself, of the same law as that through which Q is ascended.

    Args:
        direction_weight: w_g: 1 or .01 in the paper, by group of tasks.
        direction_slope: Of log w in the number of steps that are left.
        direction_offset: log w with none left.
    """

    def terms(policy: FieldPolicy, q: Critic) -> dict[str, Any]:
        match = match_directions(policy.sample, q, slope=direction_slope, offset=direction_offset)
        return {"direction": (direction_weight, match)}

    return make_algorithm(name="dacerv2", terms=terms)
