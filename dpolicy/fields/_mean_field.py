"""Fields of average velocities, whose one step spans any interval of time."""

from collections.abc import Callable

import equinox as eqx
import jax

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Prediction, Scalar
from dpolicy.fields._embeddings import AbstractEmbedding, make_embedding
from dpolicy.fields._field import NetworkField
from dpolicy.fields._schedule import AbstractSchedule
from dpolicy.networks import MLP


class MeanField(NetworkField):
    """u(x, r, t, s), the average over [r, t] of the velocity along the path through x at t: x_r = x - (t - r) u.

    As a field it predicts the velocity, u(x, t, t, s), so every sampler takes it; `mean_flow` uses the averages. A
    network: MLP over the noised action, the embeddings of t and of t - r, and the observation, times `output_scale`.
    The other settings are those of `Field`. Source: Geng et al. 2025 (arXiv 2505.13447).

    Raises:
        ValueError: For sizes that are no positive ints and for unknown names.
    """

    embedding: AbstractEmbedding
    span_embedding: AbstractEmbedding
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
        hidden: tuple[int, ...] = (256, 256, 256),
        obs_hidden: tuple[int, ...] = (),
        activation: str = "mish",
        embedding: str | Callable[[Key], AbstractEmbedding] = "fourier_mlp",
        initialisation: str = "orthogonal",
        residual: bool = False,
        output_scale: float | int = 1.0,
        key: Key,
    ):
        embedding_key, span_key, mlp_key, encoder_key = jax.random.split(_checks.one_key(key), 4)
        self.embedding = make_embedding(embedding, key=embedding_key)
        self.span_embedding = make_embedding(embedding, key=span_key)
        self._start(
            obs_size,
            action_size,
            (self.embedding, self.span_embedding),
            schedule=schedule,
            prediction="velocity",
            hidden=hidden,
            obs_hidden=obs_hidden,
            activation=activation,
            initialisation=initialisation,
            residual=residual,
            output_scale=output_scale,
            encoder_key=encoder_key,
            key=mlp_key,
        )

    def average(self, x: Action, r: Scalar, t: Scalar, obs: Observation) -> Action:
        """The average velocity over [r, t]."""
        _checks.shaped("x", x, (self.action_size,))
        _checks.shaped("r", r, ())
        _checks.shaped("t", t, ())
        return self._evaluate(x, (self.embedding(t), self.span_embedding(t - r)), obs)

    def __call__(self, x: Action, t: Scalar, obs: Observation) -> Action:
        return self.average(x, t, t, obs)
