"""Critics: q(obs, action) and v(obs), scalars. Several of them are an `ensemble` (see `dpolicy.networks`)."""

import equinox as eqx

from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.networks import MLP


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

    def __call__(self, obs: Observation, action: Action) -> Scalar:
        return self.mlp(obs, action)[0]


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
        return self.mlp(obs)[0]
