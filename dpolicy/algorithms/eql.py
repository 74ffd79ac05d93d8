"""Exponential Q-learning: the soft value of Q over the data's actions, and a Gaussian fitted by its weights."""

from collections.abc import Callable
from functools import partial

from dpolicy._settings import Positive
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import InSample, critic_function, implicit_critics, weighed_gaussian
from dpolicy.losses import exponential_advantage, exponential_conjugate, regularised_value
from dpolicy.recipe import composed


@composed(weighed_gaussian, implicit_critics, value_layer_norm=True)
def eql(
    make_algorithm: Callable[..., Algorithm],
    make_critics: Callable[..., InSample],
    *,
    temperature: Positive = 2.0,
    weight_temperature: Positive | None = None,
    largest_exponent: Positive | None = 5.0,
    largest_weight: Positive = 100.0,
) -> Algorithm:
    r"""EQL: the value of the best policy under a KL charge, from the data's actions alone (arXiv 2303.15810).

    $$ L_V = e^{(\bar Q - V) / \alpha} + V / \alpha, \qquad L_\pi = -e^{(\bar Q - V) / \alpha} \log \pi(a | s). $$

    V is alpha log E exp(Q / alpha) over the data's actions, and nu exp((Q - V) / alpha) the best policy in E Q - alpha
    KL. Order and networks are those of `iql`, with layer norm in V.

    Beyond `largest_exponent` the exponential goes on in its tangent. The authors' code has 5, too, but cuts it off
    there, so that the best actions pull V down instead of up; it divides the loss by the batch's largest exponential,
    which does not move the optimum of a batch and is not here; and its actor's temperature is a tenth of alpha,
    `weight_temperature=0.1 * temperature`. It has alpha 2 for locomotion (with `--data-rewards iql_locomotion`) and
    kitchen, .5 for antmaze, 5 for its umaze-diverse; `dropout` in kitchen's actor, and in antmaze's V, which is not
    here; and a rate of the actor that falls to 0 over a run: `decay_updates=1e6, decay_shape="cosine"`.

    Args:
        temperature: alpha, in units of Q: towards 0 V is the largest Q of the data, towards infinity their mean.
        weight_temperature: That of the likelihoods' weights, where it is another.
        largest_exponent: Where the exponential of V's loss turns linear; None for nowhere.
        largest_weight: Bound on the weight of an example.
    """
    conjugate = partial(exponential_conjugate, bound=largest_exponent)
    scale = temperature if weight_temperature is None else weight_temperature
    return make_algorithm(
        name="eql",
        critics=make_critics(fit=lambda q: regularised_value(q, conjugate, temperature)),
        weight=lambda s: exponential_advantage(
            critic_function(s.before.target), s.now.value, scale, largest=largest_weight
        ),
    )
