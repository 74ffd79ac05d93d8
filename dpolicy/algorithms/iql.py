"""Implicit Q-learning with a Gaussian policy."""

from collections.abc import Callable

from dpolicy._settings import Positive
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import InSample, critic_function, in_sample_critics, weighed_gaussian
from dpolicy.losses import exponential_advantage
from dpolicy.recipe import composed


@composed(weighed_gaussian, in_sample_critics)
def iql(
    make_algorithm: Callable[..., Algorithm],
    make_critics: Callable[..., InSample],
    *,
    temperature: Positive = 1 / 3,
    largest_weight: Positive = 100.0,
) -> Algorithm:
    r"""IQL: an expectile of Q over the data's actions, and a Gaussian fitted by weights of the advantage (2110.06169).

    $$ L_\pi = -\min(e^{(\bar Q(s, a) - V(s)) / \lambda}, 100) \log \pi(a | s), \qquad
       \pi = N(\tanh f(s), \sigma^2). $$

    No critic is ever asked about an action that the data does not hold. In an update V comes first, then the actor and
    the critics, which see the new V; the actor's Q is the lower target value. It acts by the mean, and explores by a
    sample clipped to the box.

    The paper's settings are `temperature` 1/3 and `expectile` .7 for locomotion, 1/10 and .9 for antmaze, 2 and .7 for
    kitchen and adroit (there with `dropout=0.1`), and a rate of the actor that falls to 0 over the million updates of a
    run: `decay_updates=1e6, decay_shape="cosine"`. FlowRL's code also standardises
    observations (`normalise_observations` of the program).

    Args:
        temperature: lambda, 1 / beta of the paper, in units of Q.
        largest_weight: Bound on the weight of an example.
    """
    return make_algorithm(
        name="iql",
        critics=make_critics(),
        weight=lambda s: exponential_advantage(
            critic_function(s.before.target), s.now.value, temperature, largest=largest_weight
        ),
    )
