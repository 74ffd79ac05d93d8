"""SALE: embeddings of states and actions, trained apart, and the actor and critics that see them (TD7)."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dpolicy._settings import Count, Positive, Sizes
from dpolicy._types import Key, Model, Number, Scalar, Transition
from dpolicy.blocks._bootstrap import Policy, next_value
from dpolicy.blocks._critic_function import critic_function
from dpolicy.blocks._critics import KIND_SETTINGS, Critics, q_critics
from dpolicy.learning import Parts, Seen, Stage, average, every, trained
from dpolicy.losses import next_embedding, td_target
from dpolicy.networks import Activation, EmbeddedDeterministic, EmbeddedQ, Seeing, StateActionEncoder, mean_of
from dpolicy.optimisers import adam
from dpolicy.recipe import composed, tunable


class Sale(NamedTuple):
    """The encoder, and the actor that sees its embeddings.

    Attributes:
        make: `(key, spec) -> encoder`.
        make_actor: `(key, spec) -> actor`, an `EmbeddedDeterministic`.
        optimiser: Of the encoder.
    """

    make: Callable[[Key, Any], StateActionEncoder]
    make_actor: Callable[[Key, Any], Model]
    optimiser: optax.GradientTransformation

    def stages(self, interval: int) -> dict[str, Stage]:
        """The parts "encoder", "fixed_encoder" and "target_encoder".

        The first is trained; the others are copies that move every `interval` updates, each to where the one before it
        was: actor and critics see the second, their targets the third.
        """
        return {
            "encoder": trained(self.make, lambda s: next_embedding(), self.optimiser),
            "fixed_encoder": every(average("encoder"), interval),
            "target_encoder": every(average("fixed_encoder", found=True), interval),
        }


class EmbeddedTargets(NamedTuple):
    """What critics of embeddings are fitted to, and how far they are from it.

    Of the parts "target_actor", "target" and "target_encoder", bounded by "bounds" (`value_range`); the critics
    themselves see "fixed_encoder".

    Attributes:
        policy: Draws the next action.
        discount: gamma.
    """

    policy: Policy
    discount: Number

    def label(self, s: Seen, example: Transition, key: Key) -> dict[str, Any]:
        """The entry "target" of the extras, unless it is there, as where its priority was told by it."""
        if "target" in example.extras:
            return {}
        slow, bounds = s.before.target_encoder, s.before.bounds
        lower = critic_function(Seeing(s.before.target, slow))
        q = lambda obs, action: bounds(lower(obs, action))
        value = next_value(self.policy, Seeing(s.before.target_actor, slow), q, q)
        following = mean_of(value(example, key))
        gamma = self.discount if example.discount is None else example.discount
        return {"target": td_target(example.reward, example.terminated, following, gamma)}

    def errors(self, state: Parts, batch: Transition, key: Key) -> tuple[Transition, Float[Array, " b"]]:
        """The batch with its targets, and the largest distance of a critic from each: `Errors`, for `prioritised`."""
        s, q = Seen(state, state, batch, state.updates + 1, {}), Seeing(state.critic, state.fixed_encoder)

        def one(example: Transition, key: Key) -> tuple[Scalar, Scalar]:
            goal = self.label(s, example, key)["target"]
            return goal, jnp.max(jnp.abs(q(example.obs, example.action) - goal))

        goals, sizes = jax.vmap(one)(batch, jax.random.split(key, batch.reward.shape[0]))
        return dataclasses.replace(batch, extras={**batch.extras, "target": goals}), sizes


@tunable(
    "embedding_size",
    "encoder_hidden",
    "encoder_activation",
    "encoder_learning_rate",
    "hidden",
    "activation",
)
def sale(
    *,
    embedding_size: Count = 256,
    encoder_hidden: Sizes = (256, 256),
    encoder_activation: Activation = "elu",
    encoder_learning_rate: Positive = 3e-4,
    hidden: Sizes = (256, 256),
    activation: Activation = "relu",
) -> Sale:
    """State-action embeddings (SALE, in TD7, arXiv 2306.02451), trained by `next_embedding` apart from all else.

    Networks start as linear layers of PyTorch do.

    Args:
        embedding_size: Size of the embeddings of states, and of pairs.
        encoder_hidden: Widths of both encoders' hidden layers.
        encoder_activation: Activation of the encoders.
        encoder_learning_rate: Adam's rate for the encoders.
        hidden: Widths of the actor's hidden layers; the first is also that of the linear layer before them.
        activation: Activation of the actor.
    """

    def make(key: Key, spec: Any) -> StateActionEncoder:
        return StateActionEncoder(
            spec.obs_size,
            spec.action_size,
            embedding_size=embedding_size,
            hidden=encoder_hidden,
            activation=encoder_activation,
            key=key,
        )

    def make_actor(key: Key, spec: Any) -> EmbeddedDeterministic:
        return EmbeddedDeterministic(
            spec.obs_size,
            spec.action_size,
            embedding_size=embedding_size,
            hidden=hidden,
            activation=activation,
            key=key,
        )

    return Sale(make, make_actor, adam(encoder_learning_rate))


@tunable("embedding_size")
@composed(
    q_critics,
    without=("target_rate", "critic_subset", *KIND_SETTINGS),
    critic_activation="elu",
    critic_reduction="sum",
)
def embedded_critics(make_critics: Callable[..., Critics], *, embedding_size: Count = 256) -> Critics:
    """Critics that see the embeddings of SALE, called `critic(obs, action, z, z_pair)` (`dpolicy.networks.Seeing`).

    Args:
        embedding_size: Size of the embeddings of states, and of pairs.
    """
    return make_critics(network=partial(EmbeddedQ, embedding_size=embedding_size))
