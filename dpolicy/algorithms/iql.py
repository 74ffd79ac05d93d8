"""Implicit Q-learning with a Gaussian policy."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from dpolicy._settings import Positive, Sizes
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import InSample, actor_optimiser, critic_function, in_sample_critics
from dpolicy.learning import Seen, algorithm, trained
from dpolicy.losses import cloning, exponential_advantage, gaussian_log_likelihood, weighted
from dpolicy.networks import Activation, TanhMeanGaussian
from dpolicy.recipe import composed


@composed(actor_optimiser, in_sample_critics)
def iql(
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., InSample],
    *,
    temperature: Positive = 1 / 3,
    largest_weight: Positive = 100.0,
    hidden: Sizes = (256, 256),
    activation: Activation = "relu",
) -> Algorithm:
    r"""IQL: an expectile of Q over the data's actions, and a Gaussian fitted by weights of the advantage (2110.06169).

    $$ L_\pi = -\min(e^{(\bar Q(s, a) - V(s)) / \lambda}, 100) \log \pi(a | s), \qquad
       \pi = N(\tanh f(s), \sigma^2). $$

    No critic is ever asked about an action that the data does not hold. In an update V comes first, then the actor and
    the critics, which see the new V; the actor's Q is the lower target value. It acts by the mean, and explores by a
    sample clipped to the box.

    The paper's settings are `temperature` 1/3 and `expectile` .7 for locomotion, 1/10 and .9 for antmaze, 2 and .7 for
    kitchen and adroit (there with dropout in the actor, which is not here), and a rate of the actor that falls to 0
    over the million updates of a run: `decay_updates=1e6, decay_shape="cosine"`. FlowRL's code also standardises
    observations (`normalise_observations` of the program).

    Args:
        temperature: lambda, 1 / beta of the paper, in units of Q.
        largest_weight: Bound on the weight of an example.
        hidden: Widths of the actor's network.
        activation: Activation of the actor.
    """
    critics = make_critics()

    def extract(s: Seen) -> Loss:
        weight = exponential_advantage(
            critic_function(s.before.target), s.now.value, temperature, largest=largest_weight
        )
        return weighted(weight, cloning(gaussian_log_likelihood))

    def make(key: Any, spec: Any) -> TanhMeanGaussian:
        layers: dict[str, Any] = {"hidden": hidden, "activation": activation}
        return TanhMeanGaussian(spec.obs_size, spec.action_size, **layers, key=key)

    return algorithm(
        "iql",
        "offline",
        explore=lambda s: lambda obs, key: jnp.clip(s.actor.sample(obs, key)[0], -1.0, 1.0),
        evaluate=lambda s: lambda obs, key: s.actor.mode(obs),
        value=critics.valued(),
        actor=critics.critics.of_some(trained(make, extract, make_optimiser())),
        critic=critics.fitted(),
        target=critics.critics.averaged(),
    )
