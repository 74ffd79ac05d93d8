"""What losses are audited on: experience of uniform actions, their critic, and a network that knows the actions."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Action, Key, Model, Observation, Scalar, Transition
from dpolicy.blocks import actor_critic, critic_function
from dpolicy.fields import AbstractField
from dpolicy.losses import batched, matching, perturb
from dpolicy.networks import Ensemble
from dpolicy.optimisers import adam, descend, learner
from dpolicy.train import off_policy

_TOGETHER = 64  # environments that are stepped side by side, at most
_RATE = 1e-3


class FittedCritic(eqx.Module):
    """q(obs, action) -> scalar, the least of an ensemble; a pytree, so that a compiled function may return it."""

    ensemble: Ensemble

    def __call__(self, obs: Observation, action: Action) -> Scalar:
        return critic_function(self.ensemble)(obs, action)


def uniform_experience(
    env: Any, key: Key, *, size: int = 256, updates: int = 300
) -> tuple[Transition, FittedCritic]:
    """Transitions of uniform actions, and a critic of that behaviour fitted to them.

    No method is favoured: the actions are nobody's, and so is the critic. Under `jax.jit` it is one program.

    Args:
        env: An environment, or a `Vector` of one.
        key: What episodes, actions and the critic's parameters are drawn from.
        size: Transitions: the first steps of episodes side by side, of as many as divide the number, at most 64.
        updates: Updates of the critic, each on all transitions.

    Returns:
        The transitions, `[size, ...]`, and the critic.

    Raises:
        ValueError: For something that is no environment, fewer than two transitions, or a negative number of updates.
    """
    _checks.integer("size", size, 2)
    _checks.integer("updates", updates, 0)
    start_key, fit_key = jax.random.split(_checks.one_key(key))

    def uniform(actor: Model, q: Any, obs: Observation, key: Key) -> tuple[Action, Scalar]:
        return jax.random.uniform(key, (env.spec.action_size,), minval=-1.0, maxval=1.0), jnp.zeros(())

    # Whoever acts uniformly has no actor to train; the critic backs its actions up as those of any other.
    behaviour = actor_critic(
        name="uniform",
        make_actor=lambda key, spec: jnp.zeros(()),
        explore=uniform,
        evaluate=uniform,
        actor_loss=lambda q, _: lambda actor, example, key: (0.0 * actor, {}),
        critic_learning_rate=_RATE,
    )
    together = math.gcd(size, _TOGETHER)
    # The warm-up is all of the experience: its program is never stepped.
    program = off_policy(
        behaviour,
        env,
        num_envs=together,
        warmup=size,
        batch_size=size,
        replay_size=size,
        evaluation_interval=together,
        evaluation_episodes=1,
    )
    state = program.init(start_key)
    batch = state.experience.replay.data
    update = lambda state, key: (behaviour.update(state, batch, key)[0], None)
    trained, _ = jax.lax.scan(update, state.algorithm, jax.random.split(fit_key, updates))
    return batch, FittedCritic(trained.critic)


def fitted(model: Model, batch: Transition, key: Key, *, updates: int = 300) -> Model:
    """A field fitted to the batch's actions; any other network as it is.

    The output of an untrained network is in the gradient of every loss, and makes all of them look alike.

    Args:
        model: A field, or another network.
        batch: Transitions with one leading axis.
        key: What times and noise are drawn from.
        updates: Updates, each on all transitions.

    Raises:
        ValueError: For a negative number of updates.
    """
    _checks.integer("updates", updates, 0)
    _checks.one_key(key)
    if not isinstance(model, AbstractField):
        return model
    optimiser, loss = adam(_RATE), batched(matching(perturb(model.schedule)))

    def update(state: Any, key: Key) -> tuple[Any, None]:
        return descend(state, lambda field: loss(field, batch, key), optimiser)[0], None

    return jax.lax.scan(update, learner(model, optimiser), jax.random.split(key, updates))[0].model
