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


class NetworkField(AbstractField):
    """What fields that are networks share: an MLP over the noised action, embedded times and the observation."""

    encoder: eqx.AbstractVar[MLP | None]
    mlp: eqx.AbstractVar[MLP]
    output_scale: eqx.AbstractVar[float]

    def _start(
        self,
        obs_size: int,
        action_size: int,
        times: tuple[AbstractEmbedding, ...],
        *,
        schedule: AbstractSchedule,
        prediction: Prediction,
        obs_hidden: tuple[int, ...],
        output_scale: float | int,
        encoder_key: Key,
        activation: str,
        initialisation: str,
        **network: Any,
    ) -> None:
        """Everything but the embeddings `times`; `network` are more settings of the MLP."""
        check_schedule(schedule)
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        _checks.one_of("prediction", prediction, PREDICTIONS)
        _checks.sizes("obs_hidden", obs_hidden)
        self.schedule, self.prediction, self.action_size = schedule, prediction, action_size
        self.output_scale = constant("output_scale", output_scale)
        both: dict[str, Any] = {"activation": activation, "initialisation": initialisation}
        self.encoder, features = None, obs_size
        if obs_hidden:
            *widths, features = obs_hidden
            self.encoder = MLP(
                (obs_size,), features, hidden=tuple(widths), final_activation=True, key=encoder_key, **both
            )
        parts = action_size, *(embedding.size for embedding in times), features
        self.mlp = MLP(parts, action_size, **both, **network)

    def _evaluate(self, x: Action, times: tuple[Float[Array, " n"], ...], obs: Observation) -> Action:
        """The prediction at a noised action, embedded times and an observation."""
        if self.encoder is None:
            _checks.shaped("obs", obs, self.mlp.in_sizes[-1:])
            features = obs
        else:
            check_parts(self.encoder, obs=obs)
            features = self.encoder(obs)
        return self.output_scale * self.mlp(x, *times, features)


class Field(NetworkField):
    """A network: MLP over the noised action, the embedded time and the observation, times `output_scale`.

    The defaults are FlowRL's (arXiv 2603.27450, appendix A): three Mish layers of 256, orthogonal with gain
    sqrt(2) throughout, 64 learnable Fourier features of the time through a two-layer MLP; `obs_hidden=(128, 128)`
    adds its observation encoder. `final_scale=0` starts the field at zero. `embedding` is a name of EMBEDDINGS or
    a factory `key -> embedding`. A small fast field: `hidden=(64, 64), embedding="cos_sin"`.

    Raises:
        ValueError: For sizes that are no positive ints and for unknown names.
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
        embedding_key, encoder_key, mlp_key = jax.random.split(_checks.one_key(key), 3)
        self.embedding = make_embedding(embedding, key=embedding_key)
        self._start(
            obs_size,
            action_size,
            (self.embedding,),
            schedule=schedule,
            prediction=prediction,
            hidden=hidden,
            activation=activation,
            obs_hidden=obs_hidden,
            initialisation=initialisation,
            final_scale=final_scale,
            layer_norm=layer_norm,
            residual=residual,
            output_scale=output_scale,
            encoder_key=encoder_key,
            key=mlp_key,
        )

    def __call__(self, x: Action, t: Scalar, obs: Observation) -> Action:
        _checks.shaped("x", x, (self.action_size,))
        return self._evaluate(x, (self.embedding(t),), obs)


class FunctionField(AbstractField):
    """A field given by a function `fn(x, t, obs)`: analytic fields, guidance, tests.

    Raises:
        ValueError: Where it is called for an `x` that is not `action_size` numbers, and for an `fn` that returns
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
