"""A Gaussian fitted to the data's actions by weights, beside critics that see no others."""

from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
import optax

from dpolicy._settings import Sizes, within
from dpolicy._types import Key, Number, Scalar
from dpolicy.algorithm import Algorithm
from dpolicy.blocks._actor_optimiser import actor_optimiser
from dpolicy.blocks._in_sample import InSample
from dpolicy.learning import Seen, algorithm, trained
from dpolicy.losses import cloning, dropping, gaussian_log_likelihood, weighted
from dpolicy.networks import Activation, TanhMeanGaussian
from dpolicy.recipe import composed, tunable


@tunable("hidden", "activation", "dropout")
@composed(actor_optimiser)
def weighed_gaussian(
    make_optimiser: Callable[..., optax.GradientTransformation],
    *,
    name: str,
    critics: InSample,
    weight: Callable[[Seen], Callable[[Any], Scalar]],
    hidden: Sizes = (256, 256),
    activation: Activation = "relu",
    dropout: Annotated[Number, within(0, 1, open_high=True)] | None = None,
) -> Algorithm:
    r"""IQL's chain of stages: V, then a Gaussian of weight -w log pi(a | s), then the critics (arXiv 2110.06169).

    The actor and the critics see the new V. It acts by the mean, and explores by a sample clipped to the box.

    Args:
        name: The algorithm's name.
        critics: Critics and a value network, each the other's target.
        weight: `seen -> (example -> w)`; the critics' targets are the update's, V the new one.
        hidden: Widths of the actor's network.
        activation: Activation of the actor.
        dropout: Share of the actor's hidden units that are left out while it learns; None for none.
    """

    def make(key: Key, spec: Any) -> TanhMeanGaussian:
        layers: dict[str, Any] = {"hidden": hidden, "activation": activation}
        return TanhMeanGaussian(spec.obs_size, spec.action_size, **layers, key=key)

    fit = cloning(gaussian_log_likelihood)
    fit = fit if dropout is None else dropping(fit, dropout)
    extract = lambda s: weighted(weight(s), fit)
    return algorithm(
        name,
        "offline",
        explore=lambda s: lambda obs, key: jnp.clip(s.actor.sample(obs, key)[0], -1.0, 1.0),
        evaluate=lambda s: lambda obs, key: s.actor.mode(obs),
        value=critics.valued(),
        actor=critics.critics.of_some(trained(make, extract, make_optimiser())),
        critic=critics.fitted(),
        target=critics.critics.averaged(),
    )
