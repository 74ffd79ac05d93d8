"""Sparse Q-learning: a value for which the worse actions of the data count for nothing, and a Gaussian likewise."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

from dpolicy._settings import Positive
from dpolicy._types import Scalar
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import InSample, critic_function, implicit_critics, weighed_gaussian
from dpolicy.learning import Seen
from dpolicy.losses import regularised_value, regularised_weight, sparse_conjugate, sparse_weight
from dpolicy.recipe import composed


@composed(weighed_gaussian, implicit_critics, value_layer_norm=True)
def sql(
    make_algorithm: Callable[..., Algorithm],
    make_critics: Callable[..., InSample],
    *,
    temperature: Positive = 1.0,
    weights: Literal["policy", "advantage"] = "policy",
    largest_weight: Positive = 100.0,
) -> Algorithm:
    r"""SQL: the value of the best policy under a chi-squared charge, from the data's actions alone (arXiv 2303.15810).

    $$ L_V = \max(1 + (\bar Q - V) / 2 \alpha, 0)^2 + V / \alpha, \qquad
       L_\pi = -\max(1 + (\bar Q - V) / 2 \alpha, 0) \log \pi(a | s). $$

    The policy nu max(1 + (Q - V) / 2 alpha, 0) is the best in E Q - alpha E (pi / nu): actions worse than V - 2 alpha
    count for nothing, where an expectile has a share for each. V is what the paper makes of that problem's multiplier,
    taking the mean of the squared weights for 1; where no action of a state is that bad V is the mean of Q. Order and
    networks are those of `iql`, with layer norm in V.

    The equations are the paper's, as the authors' code has them, but for the actor: that code's weights are max(Q - V,
    0), `weights="advantage"`. It has alpha 1 for locomotion (with `--data-rewards iql_locomotion`), .1 for antmaze, 3
    for its umaze-diverse, .5 for kitchen; `dropout` in kitchen's actor, and in antmaze's V, which is not here; and a
    rate of the actor that falls to 0 over the million updates of a run: `decay_updates=1e6, decay_shape="cosine"`.

    Args:
        temperature: alpha, in units of Q: towards 0 V is the largest Q of the data.
        weights: Of the likelihoods: policy, those of the best policy, or advantage, max(Q - V, 0).
        largest_weight: Bound on the weight of an example.
    """

    def weight(s: Seen) -> Callable[[Any], Scalar]:
        scale, of = (
            (temperature, sparse_weight) if weights == "policy" else (1.0, lambda u: jnp.maximum(u, 0))
        )
        return regularised_weight(
            critic_function(s.before.target), s.now.value, of, scale, largest=largest_weight
        )

    critics = make_critics(fit=lambda q: regularised_value(q, sparse_conjugate, temperature))
    return make_algorithm(name="sql", critics=critics, weight=weight)
