"""Flow Q-learning: a flow is cloned, and a one-step actor between the flow and the critic."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from dpolicy._settings import NonNegative, Sizes
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    FieldPolicy,
    NextValue,
    actor_optimiser,
    critic_function,
    field_policy,
    q_critics,
    value_of_several,
)
from dpolicy.learning import Seen, algorithm, trained
from dpolicy.losses import add, bptt, distil, matching, perturb
from dpolicy.networks import Activation, NoiseActor
from dpolicy.recipe import composed
from dpolicy.samplers import noise_free


@composed(
    field_policy,
    actor_optimiser,
    q_critics,
    schedule="rectified_flow",
    prediction="velocity",
    sampler="euler",
    sampler_steps=10,
    embedding="raw",
    initialisation="xavier_uniform",
    critic_hidden=(512, 512, 512, 512),
    critic_activation="gelu",
    critic_network="layer_norm",
)
def fql(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    distillation_weight: NonNegative = 10.0,
    backup_value: Literal["mean", "min"] = "mean",
    normalise_q: bool = False,
    hidden: Sizes = (512, 512, 512, 512),
    activation: Activation = "gelu",
) -> Algorithm:
    r"""FQL: a one-step actor imitates a flow that is fitted to the data, and climbs Q (arXiv 2502.02538).

    $$ L_v = E | v(x_t, t, s) - (z - a) |^2, \qquad
       L_\mu = \alpha\, \mathrm{mean} | \mu(s, z) - F(s, z) |^2 - \mathrm{mean}_k Q_k(s, \mu(s, z)), $$

    F ten Euler steps of the flow from the noise z, clipped to the box at the end. Q never reaches the flow, and no
    gradient passes its steps; the distillation bounds how far the actor leaves the data (in the 2-Wasserstein
    distance). All three networks step on what the update found, as one step on the sum of their losses does. The next
    action is one of the current actor, which also acts: a single sample, mu(s, z). The two terms of the actor's loss
    have noise of their own.

    With linear Q the actor's optimum is F(s, z) + D g / (2 alpha), g the gradient of Q and D the action's dimension.
    `distillation_weight` counts in units of Q and must be tuned: 3 or 10 for antmaze, up to 30,000 for adroit, 10 to
    1,000 in OGBench; with `normalise_q` the authors advise .03 to 10. `backup_value="min"` is theirs for adroit and
    OGBench's antmaze. Here layers are normalised before the activation of the critics, by the authors after it.

    Args:
        distillation_weight: alpha.
        backup_value: What of the target critics a target takes.
        normalise_q: Whether Q is divided by its mean size over the batch.
        hidden: Widths of the flow's network and of the actor's.
        activation: Activation of both.
    """
    layers: dict[str, Any] = {"hidden": hidden, "activation": activation}
    policy, critics = make_field(**layers, clip=None), make_critics()
    endpoint = noise_free(policy.sample)
    climbed = lambda s: critic_function(s.before.critic, "mean")

    def make(key: Any, spec: Any) -> NoiseActor:
        return NoiseActor(spec.obs_size, spec.action_size, **layers, key=key)

    def act(actor: NoiseActor, q: Any, obs: Any, key: Any) -> Any:
        return actor.sample(obs, key), jnp.zeros(())

    def value(s: Seen) -> NextValue:
        options: dict[str, Any] = {"actions": 1, "how": backup_value}
        return value_of_several(act, s.before.actor, climbed(s), s.before.target, **options)

    def improve(s: Seen) -> Loss:
        def teacher(obs: Any, start: Any) -> Any:
            # A map from noise to actions: what such a sampler is given for a key is not drawn from.
            return jnp.clip(endpoint(s.before.flow, obs, jax.random.key(0), start=start), -1.0, 1.0)

        q = climbed(s)
        climb = bptt(NoiseActor.sample, q, normaliser=q if normalise_q else None)
        return add(distil=(distillation_weight, distil(NoiseActor.__call__, teacher)), q=(1.0, climb))

    fit = matching(perturb(policy.schedule))
    sample = lambda s: lambda obs, key: s.actor.sample(obs, key)
    return algorithm(
        "fql",
        "offline",
        explore=sample,
        evaluate=sample,
        flow=trained(policy.make, lambda s: fit, make_optimiser()),
        actor=trained(make, improve, make_optimiser()),
        critic=critics.fitted(value),
        target=critics.averaged(),
    )
