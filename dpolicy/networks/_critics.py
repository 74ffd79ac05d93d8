"""Critics: q(obs, action) and v(obs), scalars or laws of the return; several of them are an `ensemble`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Observation, Scalar
from dpolicy.networks._laws import CategoricalValue, GaussianValue, QuantileValue
from dpolicy.networks._layers import Fixed
from dpolicy.networks._mlp import MLP, check_parts


class QNetwork(eqx.Module):
    """Q(s, a), an MLP over the observation and the action.

    The first layer keeps their shares apart: under a `vmap` over proposals of one state, that of the state is
    computed once.
    """

    mlp: MLP

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "relu",
        initialisation: str = "orthogonal",
        final_scale: float | int = 1.0,
        layer_norm: bool = False,
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        self.mlp = MLP(
            (obs_size, action_size),
            1,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            layer_norm=layer_norm,
            key=key,
        )

    def read(self, out: Float[Array, " 1"]) -> Scalar:
        """What these outputs of its MLP say."""
        return out[0]

    def __call__(self, obs: Observation, action: Action) -> Scalar:
        check_parts(self.mlp, obs=obs, action=action)
        return self.read(self.mlp(obs, action))


class ValueNetwork(eqx.Module):
    """V(s), an MLP over the observation."""

    mlp: MLP

    def __init__(
        self,
        obs_size: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "relu",
        initialisation: str = "orthogonal",
        final_scale: float | int = 1.0,
        layer_norm: bool = False,
        residual: bool = False,
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        self.mlp = MLP(
            (obs_size,),
            1,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            layer_norm=layer_norm,
            residual=residual,
            key=key,
        )

    def __call__(self, obs: Observation) -> Scalar:
        check_parts(self.mlp, obs=obs)
        return self.mlp(obs)[0]


class CategoricalQ(eqx.Module):
    """The law of the return of (s, a) over fixed atoms, as log-probabilities (C51, arXiv 1707.06887).

    Its mean, sum_i p_i z_i, is Q(s, a); see `dpolicy.losses.support` for the atoms z.
    """

    mlp: MLP

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        atoms: int = 51,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "relu",
        initialisation: str = "orthogonal",
        final_scale: float | int = 1.0,
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        _checks.integer("atoms", atoms, 2)
        self.mlp = MLP(
            (obs_size, action_size),
            atoms,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            key=key,
        )

    def read(self, out: Float[Array, " n"]) -> Float[Array, " n"]:
        """What these outputs of its MLP say."""
        return jax.nn.log_softmax(out)

    def __call__(self, obs: Observation, action: Action) -> Float[Array, " n"]:
        check_parts(self.mlp, obs=obs, action=action)
        return self.read(self.mlp(obs, action))


class AtomicQ(eqx.Module):
    """A critic of categorical laws that knows the atoms they are over, `low` to `high`: its value has a mean.

    The bounds are carried as arrays, so that a sweep may map over them, and are no parameters.

    Args:
        q: Gives the log-probabilities of (s, a).
        low: The lowest atom.
        high: The highest.
    """

    q: CategoricalQ
    low: Fixed
    high: Fixed

    def __init__(self, q: CategoricalQ, low: Number, high: Number):
        _checks.in_range("low", low)
        _checks.in_range("high", high)
        _checks.positive("high - low", high - low)
        self.q = q
        self.low, self.high = Fixed(jnp.asarray(low, float)), Fixed(jnp.asarray(high, float))

    @property
    def mlp(self) -> Any:
        """Of the critic that it holds."""
        return self.q.mlp

    def read(self, out: Float[Array, " n"]) -> CategoricalValue:
        """What these outputs of its MLP say."""
        low, high = self.low(), self.high()
        return CategoricalValue(self.q.read(out), low + (high - low) * jnp.linspace(0.0, 1.0, out.shape[0]))

    def __call__(self, obs: Observation, action: Action) -> CategoricalValue:
        check_parts(self.mlp, obs=obs, action=action)
        return self.read(self.mlp(obs, action))


class QuantileQ(eqx.Module):
    """The law of the return of (s, a) by its quantiles (QR-DQN, arXiv 1710.10044), whose mean is Q(s, a)."""

    mlp: MLP

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        quantiles: int = 100,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "relu",
        initialisation: str = "orthogonal",
        final_scale: float | int = 1.0,
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        _checks.integer("quantiles", quantiles)
        self.mlp = MLP(
            (obs_size, action_size),
            quantiles,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            key=key,
        )

    def read(self, out: Float[Array, " n"]) -> QuantileValue:
        """What these outputs of its MLP say."""
        return QuantileValue(out)

    def __call__(self, obs: Observation, action: Action) -> QuantileValue:
        check_parts(self.mlp, obs=obs, action=action)
        return self.read(self.mlp(obs, action))


class GaussianQ(eqx.Module):
    """The law of the return of (s, a) as a Gaussian, whose deviation is a softplus (DSAC-T, arXiv 2310.05858).

    See `dpolicy.losses.gaussian_value_loss` for what fits it.
    """

    mlp: MLP

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "relu",
        initialisation: str = "orthogonal",
        final_scale: float | int = 1.0,
        layer_norm: bool = False,
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        self.mlp = MLP(
            (obs_size, action_size),
            2,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            layer_norm=layer_norm,
            key=key,
        )

    def read(self, out: Float[Array, " 2"]) -> GaussianValue:
        """What these outputs of its MLP say."""
        mean, raw = out
        return GaussianValue(mean, jax.nn.softplus(raw))

    def __call__(self, obs: Observation, action: Action) -> GaussianValue:
        check_parts(self.mlp, obs=obs, action=action)
        return self.read(self.mlp(obs, action))
