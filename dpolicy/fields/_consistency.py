"""Consistency functions: fields that map every point of a path of noise to its end, the identity at the least noise."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Prediction, Scalar
from dpolicy.fields._embeddings import AbstractEmbedding, make_embedding
from dpolicy.fields._field import NetworkField
from dpolicy.fields._schedule import constant
from dpolicy.fields._schedules import Karras
from dpolicy.networks import MLP


def consistency_scalings(
    sigma: Float[Array, "*shape"] | float, *, sigma_min: float = 0.002, data_std: float = 0.5
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    """(c_skip, c_out, c_in) of f(x, h) = c_skip x + c_out F(c_in x, h) at the noise h = `sigma`.

    c_skip = s^2 / ((h - sigma_min)^2 + s^2), c_out = (h - sigma_min) s / sqrt(h^2 + s^2), c_in = 1 / sqrt(h^2 + s^2),
    with s = `data_std`: 1 and 0 at h = sigma_min, where f is the identity. Source: Song et al. 2023 (arXiv 2303.01469,
    appendix C). With sigma_min = 0 they are those of a denoiser (Karras et al. 2022, arXiv 2206.00364, table 1).
    """
    _checks.non_negative("sigma_min", sigma_min)
    _checks.positive("data_std", data_std)
    above, inside = jnp.asarray(sigma) - sigma_min, 1 / jnp.sqrt(jnp.asarray(sigma) ** 2 + data_std**2)
    return data_std**2 / (above**2 + data_std**2), above * data_std * inside, inside


@jax.custom_vjp
def clip_inward(x: Float[Array, "*shape"], bound: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    """x clipped to [-bound, bound], whose gradient passes beyond it, too, where a descent along it leads back.

    Beyond the bound an entry of the cotangent passes if it has the sign of x, and is 0 if it has the other. (That of
    `jnp.clip` is 0 in both cases, so that what has left stays out.)
    """
    return jnp.clip(x, -bound, bound)


def _inward(saved: Any, cotangent: Array) -> tuple[Array, Array]:
    x, bound = saved
    back = (jnp.abs(x) <= bound) | (cotangent * x > 0)
    return jnp.where(back, cotangent, 0), jnp.zeros_like(bound)


clip_inward.defvjp(lambda x, bound: (clip_inward(x, bound), (x, jnp.asarray(bound, x.dtype))), _inward)


class ConsistencyField(NetworkField):
    """f(x, h, s) = c_skip(h) x + c_out(h) F(c_in(h) x, 250 log h, s), h = sigma(t): x where t = 0, whatever F.

    See `consistency_scalings`. It predicts the clean action: the end of the path through x where it is fitted by
    `consistency_matching`, the mean of all actions that may have led to x where it is fitted by `matching`.
    `preconditioned=False` gives the network x and h as they are (Consistency-AC, arXiv 2309.16984). F is a network as
    that of `Field`, whose other settings it has. Source: Song et al. 2023 (arXiv 2303.01469); CPQL (2310.06343).
    `denoiser=True` makes it EDM's (2206.00364): x where there is no noise at all, and told log(h) / 4.

    Args:
        obs_size: Numbers of an observation.
        action_size: Numbers of an action.
        schedule: Which noise stands at which time.
        data_std: The deviation of actions, s.
        preconditioned: Whether the network sees c_in x and 250 log h, or x and h.
        denoiser: Whether it is a denoiser, and no consistency function; preconditioned, then.
        clip: Bound of the value, beyond which it has no gradient; None for none.
        inward: Whether it has one there that leads back (`clip_inward`).

    Raises:
        ValueError: For sizes that are no positive ints, unknown names, and numbers out of range.
    """

    embedding: AbstractEmbedding
    encoder: MLP | None
    mlp: MLP
    schedule: Karras
    prediction: Prediction = eqx.field(static=True)
    action_size: int = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)
    data_std: float = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)
    inward: bool = eqx.field(static=True)
    preconditioned: bool = eqx.field(static=True)
    denoiser: bool = eqx.field(static=True)

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        schedule: Karras | None = None,
        data_std: float | int = 0.5,
        preconditioned: bool = True,
        denoiser: bool = False,
        clip: float | int | None = None,
        inward: bool = False,
        hidden: tuple[int, ...] = (256, 256, 256),
        obs_hidden: tuple[int, ...] = (),
        activation: str = "mish",
        embedding: str | Callable[[Key], AbstractEmbedding] = "sinusoidal_mlp",
        initialisation: str = "orthogonal",
        residual: bool = False,
        key: Key,
    ):
        schedule = Karras() if schedule is None else schedule
        _checks.instance("schedule", schedule, Karras, "a Karras schedule, such as Karras()")
        _checks.positive("data_std", data_std)
        _checks.boolean("preconditioned", preconditioned)
        _checks.boolean("denoiser", denoiser)
        if denoiser and not preconditioned:
            raise ValueError("preconditioned must be True for a denoiser, got False.")
        _checks.boolean("inward", inward)
        if clip is not None:
            _checks.positive("clip", clip)
        self.data_std, self.preconditioned = constant("data_std", data_std), preconditioned
        self.clip = None if clip is None else constant("clip", clip)
        self.inward, self.denoiser = inward, denoiser
        embedding_key, encoder_key, mlp_key = jax.random.split(_checks.one_key(key), 3)
        self.embedding = make_embedding(embedding, key=embedding_key)
        self._start(
            obs_size,
            action_size,
            (self.embedding,),
            schedule=schedule,
            prediction="data",
            hidden=hidden,
            obs_hidden=obs_hidden,
            activation=activation,
            initialisation=initialisation,
            residual=residual,
            output_scale=1.0,
            encoder_key=encoder_key,
            key=mlp_key,
        )

    def __call__(self, x: Action, t: Scalar, obs: Observation) -> Action:
        _checks.shaped("x", x, (self.action_size,))
        h = self.schedule.sigma(t)
        least, unit = (0.0, 0.25) if self.denoiser else (self.schedule.sigma_min, 250)
        skip, out, inside = consistency_scalings(h, sigma_min=least, data_std=self.data_std)
        seen, time = (inside * x, unit * jnp.log(h)) if self.preconditioned else (x, h)
        value = skip * x + out * self._evaluate(seen, (self.embedding(time),), obs)
        if self.clip is None:
            return value
        return clip_inward(value, self.clip) if self.inward else jnp.clip(value, -self.clip, self.clip)
