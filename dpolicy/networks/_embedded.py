"""Embeddings of states and actions, and the networks that see them beside their own inputs (TD7, arXiv 2306.02451)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Observation, Scalar
from dpolicy.networks._mlp import MLP, check_parts


def avg_l1_norm(x: Float[Array, "*batch n"], *, eps: Number = 1e-8) -> Float[Array, "*batch n"]:
    """x / mean_i |x_i|: the sizes of its entries are 1 on average. Source: TD7 (arXiv 2306.02451).

    Args:
        x: Along its last axis.
        eps: The least that it is divided by.
    """
    _checks.array("x", x)
    _checks.positive("eps", eps)
    return x / jnp.maximum(jnp.mean(jnp.abs(x), axis=-1, keepdims=True), eps)


class StateActionEncoder(eqx.Module):
    """z_s = AvgL1Norm(f(s)) and z_sa = g(z_s, a): TD7's embeddings of states and of pairs (SALE, arXiv 2306.02451).

    Called on (s, a) it gives both.
    """

    f: MLP
    g: MLP

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        embedding_size: int = 256,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "elu",
        initialisation: str = "torch",
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        _checks.integer("embedding_size", embedding_size)
        layers: dict[str, Any] = {
            "hidden": hidden,
            "activation": activation,
            "initialisation": initialisation,
        }
        first, second = jax.random.split(_checks.one_key(key))
        self.f = MLP((obs_size,), embedding_size, **layers, key=first)
        self.g = MLP((embedding_size, action_size), embedding_size, **layers, key=second)

    def state(self, obs: Observation) -> Float[Array, " z"]:
        """z_s."""
        check_parts(self.f, obs=obs)
        return avg_l1_norm(self.f(obs))

    def pair(self, z: Float[Array, " z"], action: Action) -> Float[Array, " z"]:
        """z_sa, of z_s and the action."""
        check_parts(self.g, z=z, action=action)
        return self.g(z, action)

    def __call__(self, obs: Observation, action: Action) -> tuple[Float[Array, " z"], Float[Array, " z"]]:
        z = self.state(obs)
        return z, self.pair(z, action)


class _Beside(eqx.Module):
    """MLP([AvgL1Norm(W x + b), z]): what a linear layer makes of the inputs x, beside embeddings z of the same size."""

    first: MLP
    mlp: MLP

    def __init__(
        self,
        in_sizes: tuple[int, ...],
        embedding_sizes: tuple[int, ...],
        out_size: int,
        *,
        hidden: tuple[int, ...],
        activation: str,
        initialisation: str,
        final_scale: float | int,
        key: Key,
    ):
        _checks.sizes("hidden", hidden)
        if not hidden:
            raise ValueError("hidden must have one width or more, that of the linear layer first, got ().")
        first, second = jax.random.split(_checks.one_key(key))
        self.first = MLP(in_sizes, hidden[0], hidden=(), initialisation=initialisation, key=first)
        self.mlp = MLP(
            (hidden[0], *embedding_sizes),
            out_size,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            key=second,
        )

    def __call__(
        self, inputs: tuple[Array, ...], embeddings: tuple[Float[Array, " z"], ...]
    ) -> Float[Array, " out"]:
        return self.mlp(avg_l1_norm(self.first(*inputs)), *embeddings)


class EmbeddedQ(eqx.Module):
    """Q(s, a, z_s, z_sa): a critic that sees embeddings beside AvgL1Norm(W [s, a]) (TD7, arXiv 2306.02451)."""

    net: _Beside

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        embedding_size: int = 256,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "elu",
        initialisation: str = "torch",
        final_scale: float | int = 1.0,
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        _checks.integer("embedding_size", embedding_size)
        self.net = _Beside(
            (obs_size, action_size),
            (embedding_size, embedding_size),
            1,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            key=key,
        )

    def __call__(
        self, obs: Observation, action: Action, z: Float[Array, " z"], z_pair: Float[Array, " z"]
    ) -> Scalar:
        check_parts(self.net.first, obs=obs, action=action)
        return self.net((obs, action), (z, z_pair))[0]


class EmbeddedDeterministic(eqx.Module):
    """a = tanh(pi(s, z_s)): an actor that sees an embedding beside AvgL1Norm(W s) (TD7, arXiv 2306.02451)."""

    net: _Beside

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        embedding_size: int = 256,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "relu",
        initialisation: str = "torch",
        final_scale: float | int = 1.0,
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        _checks.integer("embedding_size", embedding_size)
        self.net = _Beside(
            (obs_size,),
            (embedding_size,),
            action_size,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            key=key,
        )

    def __call__(self, obs: Observation, z: Float[Array, " z"]) -> Action:
        """The action, within (-1, 1)."""
        check_parts(self.net.first, obs=obs)
        return jnp.tanh(self.net((obs,), (z,)))


class Seeing(eqx.Module):
    """A network together with the encoder whose embeddings it sees, called as if it needed none.

        Seeing(actor, encoder)(obs)  # actor(obs, z_s)
        Seeing(critic, encoder)(obs, action)  # critic(obs, action, z_s, z_sa)

    Args:
        network: Of embeddings, such as `EmbeddedDeterministic`, or an ensemble of `EmbeddedQ`.
        encoder: A `StateActionEncoder`.
    """

    network: Any
    encoder: StateActionEncoder

    def __call__(self, obs: Observation, action: Action | None = None) -> Any:
        if action is None:
            return self.network(obs, self.encoder.state(obs))
        return self.network(obs, action, *self.encoder(obs, action))
