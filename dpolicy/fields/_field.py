"""Fields that are networks, and fields that are functions."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Prediction, Scalar
from dpolicy.fields._embeddings import AbstractEmbedding, make_embedding
from dpolicy.fields._predictions import PREDICTIONS, AbstractField
from dpolicy.fields._schedule import AbstractSchedule, check_schedule, constant
from dpolicy.networks import MLP
from dpolicy.networks._mlp import check_parts


def observation_encoder(
    obs_size: int, hidden: tuple[int, ...], *, activation: str, initialisation: str, key: Key
) -> MLP | None:
    """A network of the observation that a field puts before its own, or None for no widths."""
    if not hidden:
        return None
    return MLP(
        (obs_size,),
        hidden[-1],
        hidden=hidden[:-1],
        activation=activation,
        initialisation=initialisation,
        final_activation=True,
        key=key,
    )


def encoded(encoder: MLP | None, obs: Observation, mlp: Any) -> Float[Array, " n"]:
    """What the observation is to the network `mlp` after it, as its last part.

    Raises `ValueError` for an observation of another size, or a batch of them.
    """
    if encoder is None:
        _checks.shaped("obs", obs, mlp.in_sizes[-1:])
        return obs
    check_parts(encoder, obs=obs)
    return encoder(obs)


class Field(AbstractField):
    """A network: MLP over the noised action, the embedded time and the observation, times `output_scale`.

    The defaults are FlowRL's (arXiv 2603.27450, appendix A): three Mish layers of 256, orthogonal with gain
    sqrt(2) throughout, 64 learnable Fourier features of the time through a two-layer MLP; `obs_hidden=(128, 128)`
    adds its observation encoder. `final_scale=0` starts the field at zero. `embedding` is a name of EMBEDDINGS or
    a factory `key -> embedding`. A small fast field: `hidden=(64, 64), embedding="cos_sin"`. Raises `ValueError`
    for sizes that are no positive ints and for unknown names.
    """

    embedding: AbstractEmbedding
    encoder: MLP | None
    mlp: MLP
    schedule: AbstractSchedule
    prediction: Prediction = eqx.field(static=True)
    action_size: int = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        schedule: AbstractSchedule,
        prediction: Prediction = "noise",
        hidden: tuple[int, ...] = (256, 256, 256),
        activation: str = "mish",
        embedding: str | Callable[[Key], AbstractEmbedding] = "fourier_mlp",
        obs_hidden: tuple[int, ...] = (),
        initialisation: str = "orthogonal",
        final_scale: float | int = 1.0,
        layer_norm: bool = False,
        residual: bool = False,
        output_scale: float | int = 1.0,
        key: Key,
    ):
        check_schedule(schedule)
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        _checks.one_of("prediction", prediction, PREDICTIONS)
        _checks.sizes("obs_hidden", obs_hidden)
        embedding_key, encoder_key, mlp_key = jax.random.split(_checks.one_key(key), 3)
        self.embedding = make_embedding(embedding, key=embedding_key)
        self.encoder = observation_encoder(
            obs_size, obs_hidden, activation=activation, initialisation=initialisation, key=encoder_key
        )
        self.mlp = MLP(
            (action_size, self.embedding.size, obs_hidden[-1] if obs_hidden else obs_size),
            action_size,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            layer_norm=layer_norm,
            residual=residual,
            key=mlp_key,
        )
        self.schedule, self.prediction, self.action_size = schedule, prediction, action_size
        self.output_scale = constant("output_scale", output_scale)

    def __call__(self, x: Action, t: Scalar, obs: Observation) -> Action:
        _checks.shaped("x", x, (self.action_size,))
        features = encoded(self.encoder, obs, self.mlp)
        return self.output_scale * self.mlp(x, self.embedding(t), features)


class FunctionField(AbstractField):
    """A field given by a function `fn(x, t, obs)`: analytic fields, guidance, tests.

    Raises `ValueError` where it is called for an `x` that is not `action_size` numbers, and for an `fn` that returns
    anything but as many floats.
    """

    fn: Callable[[Action, Scalar, Observation], Action]
    schedule: AbstractSchedule
    prediction: Prediction = eqx.field(static=True)
    action_size: int = eqx.field(static=True)

    def __init__(
        self,
        fn: Callable[[Action, Scalar, Observation], Action],
        *,
        schedule: AbstractSchedule,
        prediction: Prediction,
        action_size: int,
    ):
        _checks.one_of("prediction", prediction, PREDICTIONS)
        _checks.integer("action_size", action_size)
        _checks.function("fn", fn, "(x, t, obs) -> prediction")
        check_schedule(schedule)
        self.fn, self.schedule = fn, schedule
        self.prediction, self.action_size = prediction, action_size

    def __call__(self, x: Action, t: Scalar, obs: Observation) -> Action:
        _checks.shaped("x", x, (self.action_size,))
        return _checks.field_value("fn", self.fn(x, t, obs), x)
