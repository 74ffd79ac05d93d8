"""Embeddings of the diffusion time: modules t[] -> [size], named by what they feed a field."""

import abc
import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Key, Scalar
from dpolicy.fields._schedule import AbstractSchedule, check_schedule
from dpolicy.networks import MLP


def _even(name: str, size: int) -> None:
    _checks.integer(name, size, 2)
    if size % 2:
        raise ValueError(f"{name} must be even (a cosine and a sine per frequency), got {size}.")


class AbstractEmbedding(eqx.Module):
    """A map from the time t[] to `size` features."""

    size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, t: Scalar) -> Float[Array, " n"]:
        """The features of one time."""


class Raw(AbstractEmbedding):
    """t itself."""

    size: int = eqx.field(static=True, default=1, init=False)

    def __call__(self, t: Scalar) -> Float[Array, " n"]:
        _checks.shaped("t", t, ())
        return t[None]


class CosSin(AbstractEmbedding):
    """[cos(2^j t)]_j ++ [sin(2^j t)]_j, j = 0 .. size/2 - 1, t not multiplied by 2 pi (FPO and FPO++)."""

    size: int = eqx.field(static=True)

    def __init__(self, size: int = 8):
        _even("size", size)
        self.size = size

    def __call__(self, t: Scalar) -> Float[Array, " n"]:
        _checks.shaped("t", t, ())
        angles = t * 2.0 ** jnp.arange(self.size // 2, dtype=t.dtype)
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


class Sinusoidal(AbstractEmbedding):
    """[sin(u w_j)] ++ [cos(u w_j)], w_j = 10000^(-j/(size/2 - 1)), u = scale t + shift (Vaswani et al. 2017).

    `scale=1` is GenPO. For K steps t = k/K, `scale=K, shift=-1` feeds the index k - 1 (DPPO, DACER).
    """

    size: int = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    shift: float = eqx.field(static=True)

    def __init__(self, size: int = 16, *, scale: float | int = 1.0, shift: float | int = 0.0):
        _even("size", size)
        _checks.integer("size", size, 4)
        _checks.positive("scale", scale)
        _checks.in_range("shift", shift)
        self.size, self.scale, self.shift = size, float(scale), float(shift)

    def __call__(self, t: Scalar) -> Float[Array, " n"]:
        _checks.shaped("t", t, ())
        half = self.size // 2
        frequencies = jnp.exp(-math.log(10000.0) / (half - 1) * jnp.arange(half, dtype=t.dtype))
        angles = (self.scale * t + self.shift) * frequencies
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


class Phased(AbstractEmbedding):
    """[sin(u w_j + p_j)] ++ [cos(u w_j + p_j)], u = steps (1 - t), w_j from .1 to 100 evenly, p learned from 0 on.

    u is the number of steps that a chain has taken (DIME, arXiv 2502.02316, code).
    """

    phases: Float[Array, " half"]
    size: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __init__(self, size: int = 512, *, steps: int):
        _even("size", size)
        _checks.integer("steps", steps)
        self.size, self.steps = size, steps
        self.phases = jnp.zeros(size // 2)

    def __call__(self, t: Scalar) -> Float[Array, " n"]:
        _checks.shaped("t", t, ())
        angles = self.steps * (1 - t) * jnp.linspace(0.1, 100.0, self.size // 2, dtype=t.dtype) + self.phases
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


def _fourier(t: Scalar, frequencies: Float[Array, " half"]) -> Float[Array, " n"]:
    _checks.shaped("t", t, ())
    angles = 2 * math.pi * t * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


class RandomFourier(AbstractEmbedding):
    """[cos(2 pi t w)] ++ [sin(2 pi t w)] with fixed w ~ N(0, std^2) (Tancik et al. 2020, arXiv 2006.10739).

    No gradient reaches w, nor the weight decay of `dpolicy.optimisers.adam`; exclude it from that of any other.
    """

    frequencies: Float[Array, " half"]
    size: int = eqx.field(static=True)
    undecayed: ClassVar[tuple[str, ...]] = ("frequencies",)

    def __init__(self, size: int = 64, *, std: float | int = 1.0, key: Key):
        _even("size", size)
        _checks.positive("std", std)
        self.size = size
        self.frequencies = std * jax.random.normal(_checks.one_key(key), (size // 2,))

    def __call__(self, t: Scalar) -> Float[Array, " n"]:
        return _fourier(t, jax.lax.stop_gradient(self.frequencies))


class LearnableFourier(AbstractEmbedding):
    """[cos(2 pi t w)] ++ [sin(2 pi t w)] with learned w, initially N(0, std^2) (FlowRL: size 64, std 0.2)."""

    frequencies: Float[Array, " half"]
    size: int = eqx.field(static=True)

    def __init__(self, size: int = 64, *, std: float | int = 0.2, key: Key):
        _even("size", size)
        _checks.positive("std", std)
        self.size = size
        self.frequencies = std * jax.random.normal(_checks.one_key(key), (size // 2,))

    def __call__(self, t: Scalar) -> Float[Array, " n"]:
        return _fourier(t, self.frequencies)


class LogSNR(AbstractEmbedding):
    """An embedding of log(alpha^2/sigma^2) in place of t (MaxEntDP feeds it raw)."""

    schedule: AbstractSchedule
    inner: AbstractEmbedding
    size: int = eqx.field(static=True)

    def __init__(self, schedule: AbstractSchedule, inner: AbstractEmbedding | None = None):
        check_schedule(schedule)
        self.schedule, self.inner = schedule, Raw() if inner is None else inner
        _checks.instance("inner", self.inner, AbstractEmbedding, "an embedding, such as Raw()")
        self.size = self.inner.size

    def __call__(self, t: Scalar) -> Float[Array, " n"]:
        return self.inner(self.schedule.log_snr(t))


class Projected(AbstractEmbedding):
    """An embedding followed by an MLP; `final_activation` applies the activation to its output too (FlowRL)."""

    inner: AbstractEmbedding
    mlp: MLP
    size: int = eqx.field(static=True)

    def __init__(
        self,
        inner: AbstractEmbedding,
        size: int,
        *,
        hidden: tuple[int, ...],
        activation: str = "mish",
        initialisation: str = "orthogonal",
        final_activation: bool = False,
        key: Key,
    ):
        _checks.instance("inner", inner, AbstractEmbedding, "an embedding, such as Raw()")
        _checks.integer("size", size)
        self.inner, self.size = inner, size
        self.mlp = MLP(
            (inner.size,),
            size,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_activation=final_activation,
            key=key,
        )

    def __call__(self, t: Scalar) -> Float[Array, " n"]:
        return self.mlp(self.inner(t))


def _fourier_mlp(key: Key) -> Projected:
    """FlowRL's: 64 learnable Fourier features, then two Mish layers of 64."""
    inner_key, mlp_key = jax.random.split(key)
    inner = LearnableFourier(64, key=inner_key)
    return Projected(inner, 64, hidden=(64,), final_activation=True, key=mlp_key)


def _sinusoidal_mlp(key: Key) -> Projected:
    """That of Diffusion-QL, CPQL and DACER: 16 sines and cosines, a Mish layer of 32, and 16 features of it."""
    return Projected(Sinusoidal(16), 16, hidden=(32,), key=key)


def _fixed_fourier(key: Key) -> Projected:
    """That of SfBC, CEP and Diffusion-DICE: 32 features of fixed frequencies N(0, 30^2), and a linear layer of them."""
    inner_key, mlp_key = jax.random.split(key)
    inner = RandomFourier(32, std=30.0, key=inner_key)
    return Projected(inner, 32, hidden=(), initialisation="torch", key=mlp_key)


EMBEDDINGS: dict[str, Callable[[Key], AbstractEmbedding]] = {
    "fourier_mlp": _fourier_mlp,
    "fourier": lambda key: LearnableFourier(64, key=key),
    "random_fourier": lambda key: RandomFourier(64, key=key),
    "fixed_fourier": _fixed_fourier,
    "sinusoidal": lambda key: Sinusoidal(16),
    "sinusoidal_mlp": _sinusoidal_mlp,
    "cos_sin": lambda key: CosSin(8),
    "raw": lambda key: Raw(),
}


def make_embedding(embedding: str | Callable[[Key], AbstractEmbedding], *, key: Key) -> AbstractEmbedding:
    """The embedding of that name (one of EMBEDDINGS), or what a factory `key -> embedding` returns."""
    _checks.one_key(key)
    if callable(embedding) and not isinstance(embedding, AbstractEmbedding):
        made = embedding(key)
        _checks.instance("what the embedding's factory returns", made, AbstractEmbedding, "an embedding")
        return made
    _checks.one_of("embedding", embedding, EMBEDDINGS)
    return EMBEDDINGS[embedding](key)
