"""Networks of the noised action whose gradient guides a field."""

from collections.abc import Callable

import equinox as eqx
import jax

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.fields._embeddings import AbstractEmbedding, make_embedding
from dpolicy.networks import MLP
from dpolicy.networks._mlp import check_parts


class EnergyNetwork(eqx.Module):
    """f(x, t, s), one number: an MLP over the noised action, the embedded time and the observation; for `guided`.

    The defaults are those of contrastive energy prediction (arXiv 2304.12824, code): four SiLU layers of 256, and a
    linear layer over 32 Fourier features of fixed frequencies.

    Args:
        obs_size: Of the observation.
        action_size: Of x.
        hidden: Widths of the hidden layers.
        activation: Of them.
        embedding: Of the time, a name of EMBEDDINGS or a factory `key -> embedding`.
        initialisation: Of the layers, one of INITIALISATIONS.
        final_scale: Multiplies the last layer's initial parameters; at 0 it guides nowhere at first.
        layer_norm: Whether layers are normalised before each activation.
        key: Of the draw.

    Raises:
        ValueError: For sizes that are no positive ints and for unknown names; where it is called, for other shapes.
    """

    embedding: AbstractEmbedding
    mlp: MLP

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        hidden: tuple[int, ...] = (256, 256, 256, 256),
        activation: str = "silu",
        embedding: str | Callable[[Key], AbstractEmbedding] = "fixed_fourier",
        initialisation: str = "torch",
        final_scale: float | int = 1.0,
        layer_norm: bool = False,
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        embedding_key, mlp_key = jax.random.split(_checks.one_key(key))
        self.embedding = make_embedding(embedding, key=embedding_key)
        self.mlp = MLP(
            (action_size, self.embedding.size, obs_size),
            1,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            layer_norm=layer_norm,
            key=mlp_key,
        )

    def __call__(self, x: Action, t: Scalar, obs: Observation) -> Scalar:
        embedded = self.embedding(t)
        check_parts(self.mlp, x=x, t=embedded, obs=obs)
        return self.mlp(x, embedded, obs)[0]
