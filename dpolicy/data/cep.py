"""The two-dimensional suite of contrastive energy prediction, with its exact targets."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Number, Scalar
from dpolicy.data.sets import DataSet

CEP_SCALE = 5.0  # what the points are divided by, so that they are actions in [-1, 1]
_H = 2**-0.5
_CENTRES = (
    4 / 1.414 * np.array([[0, 1], [-_H, _H], [-1, 0], [-_H, -_H], [0, -1], [_H, -_H], [1, 0], [_H, _H]])
)
_STD = 0.5 / 1.414
_TURNS = 3 * np.pi  # of a spiral, in radians
_ROLL = (1.5 * np.pi, 4.5 * np.pi)  # of the swiss roll, in radians
_ROLL_STD = 1 / 5
_GRID = 20_001


class CepSamples(NamedTuple):
    """Points of the suite.

    Attributes:
        x: Places in the plane, `[n, 2]`, as the paper has them.
        energy: E of each, `[n]`.
        label: Which piece each belongs to, `[n]`.
    """

    x: np.ndarray
    energy: np.ndarray
    label: np.ndarray


class _Toy(NamedTuple):
    """Pieces of equal mass under the data, the energy of each, and how to draw from them.

    Where the energy differs within a piece, `draw` is given beta and tilts it itself.
    """

    energies: tuple[float, ...]
    draw: Callable[[np.random.Generator, np.ndarray, float], tuple[np.ndarray, np.ndarray]]


def _inverse(
    rng: np.random.Generator, size: int, low: float, high: float, log_density: Callable
) -> np.ndarray:
    """Draws from a density on an interval by its inverse distribution function, on a fine grid."""
    grid = np.linspace(low, high, _GRID)
    logs = log_density(grid)
    density = np.exp(logs - logs.max())
    steps = np.append(0.0, np.cumsum((density[1:] + density[:-1]) / 2))
    return np.interp(rng.uniform(size=size), steps / steps[-1], grid)


def _constant(
    energies: tuple[float, ...], place: Callable[[np.random.Generator, np.ndarray], np.ndarray]
) -> _Toy:
    return _Toy(energies, lambda rng, label, beta: (place(rng, label), np.asarray(energies)[label]))


def _gaussians(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    return _CENTRES[label] + _STD * rng.normal(size=(len(label), 2))


def _checkerboard(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    first = label - 2 + rng.uniform(size=len(label))
    second = rng.uniform(size=len(label)) - 2 * rng.integers(0, 2, len(label)) + np.floor(first) % 2
    return 2 * np.stack([first, second], axis=1)


def _moons(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    angle = rng.uniform(0, np.pi, len(label))
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    clean = np.where(label[:, None] == 1, lower, upper)
    return 2 * (clean + 0.1 * rng.normal(size=clean.shape)) + np.array([-1.0, -0.2])


def _rings(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    angle, radius = rng.uniform(0, 2 * np.pi, len(label)), np.array([3.0, 2.25, 1.5, 0.75])[label]
    clean = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return clean + 0.08 * rng.normal(size=clean.shape)


def _spirals(rng: np.random.Generator, label: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
    turn = _inverse(rng, len(label), 1e-9, _TURNS, lambda n: np.log(n) - beta * n / 10)
    clean = turn[:, None] * np.stack([-np.cos(turn), np.sin(turn)], axis=1)
    clean = clean + rng.uniform(0, 0.5, clean.shape)
    x = np.where(label[:, None] == 0, clean, -clean) / 3 + 0.1 * rng.normal(size=clean.shape)
    return x, 1 - turn / 10


def _roll(rng: np.random.Generator, label: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
    # exp(beta |x|^2 / 9) makes of N(mu, s^2) another Gaussian, wider by 1 / (1 - 2 beta s^2 / 9) in variance and mean.
    wider = 1 / (1 - 2 * beta * _ROLL_STD**2 / 9)
    turn = _inverse(rng, len(label), *_ROLL, lambda t: beta / 9 * (t / 5) ** 2 * wider)
    mean = turn[:, None] / 5 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    x = wider * mean + _ROLL_STD * np.sqrt(wider) * rng.normal(size=mean.shape)
    return x, (x**2).sum(axis=1) / 9


_TOYS = {
    "8gaussians": _constant(tuple(k / 7 for k in range(8)), _gaussians),
    "checkerboard": _constant((1.0, 0.0, 1.0, 0.0), _checkerboard),
    "moons": _constant((0.0, 1.0), _moons),
    "rings": _constant((0.667, 0.333, 1.0, 0.0), _rings),
    "2spirals": _Toy((0.0, 0.0), _spirals),
    "swissroll": _Toy((0.0,), _roll),
}
CEP_TOYS = tuple(_TOYS)
_MOST = 50.0  # of beta: the swiss roll's target has no density from 112.5 on


def _toy(name: str, beta: float) -> _Toy:
    _checks.one_of("name", name, CEP_TOYS)
    _checks.in_range("beta", beta, 0.0, _MOST)
    return _TOYS[name]


def cep_weights(name: str, beta: float) -> np.ndarray:
    """The exact mass of each piece under q(x) ~ p(x) exp(beta E(x)), `[pieces]`.

    Pieces are the Gaussians in the order of their energies, the columns of the checkerboard from the left, the moons,
    the rings from the outermost, the arms of the spirals, or the whole swiss roll. Source: the CEP paper (arXiv
    2304.12824) and its code.

    Args:
        name: One of `CEP_TOYS`.
        beta: The inverse temperature, from 0 to 50.

    Raises:
        ValueError: For an unknown name, or beta out of its range.

    Examples:
        >>> cep_weights("moons", 3.0).round(4).tolist()
        [0.0474, 0.9526]
    """
    logs = beta * np.asarray(_toy(name, beta).energies)
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def cep_samples(name: str, size: int, beta: float = 0.0, *, seed: int = 0) -> CepSamples:
    """Independent draws from q(x) ~ p(x) exp(beta E(x)); from the data p where beta is 0.

    The pieces are drawn by their exact masses. Within those of constant energy nothing changes; along the spirals and
    the roll the tilted density is inverted. Points outside the square of half width `CEP_SCALE`, below one in 10^7, are
    drawn anew.

    Args:
        name: One of `CEP_TOYS`.
        size: How many.
        beta: The inverse temperature, from 0 to 50.
        seed: Of the draws.

    Raises:
        ValueError: As `cep_weights`, and for a size below 1.
    """
    toy = _toy(name, beta)
    _checks.count("size", size)
    _checks.integer("seed", seed, 0, 2**32 - 1)
    rng, weights = np.random.default_rng(seed), cep_weights(name, beta)
    label = rng.choice(len(weights), size, p=weights)
    x, energy = toy.draw(rng, label, float(beta))
    while (outside := (np.abs(x) > CEP_SCALE).any(axis=1)).any():
        x[outside], energy[outside] = toy.draw(rng, label[outside], float(beta))
    return CepSamples(x.astype(np.float32), energy.astype(np.float32), label)


def cep_set(name: str, size: int = 100_000, *, seed: int = 0) -> DataSet:
    """Points of the suite as episodes of one step: action x / `CEP_SCALE`, reward E(x), a constant observation.

    What weighted and guided methods should sample, exp(E / temperature) times the data, is `cep_samples` with
    beta = 1 / temperature.

    Raises:
        ValueError: As `cep_samples`.
    """
    found = cep_samples(name, size, seed=seed)
    obs = np.zeros((size, 1), np.float32)
    ends = np.ones(size, bool)
    return DataSet(
        obs, found.x / CEP_SCALE, found.energy, obs, ends, ends, name=f"cep/{name}", source="dpolicy"
    )


def cep_energy(x: Float[Array, "2"], alpha: Number, sigma: Number, beta: Number) -> Scalar:
    """The exact intermediate energy of the eight Gaussians at diffusion time t, whose gradient guides.

        f*(x, t) = log sum_k r_k exp(beta E_k),   r_k = softmax_k(-|x - alpha c_k|^2 / 2 v),   v = alpha^2 s^2 + sigma^2

    Args:
        x: A place of the plane, as the paper has it.
        alpha: alpha_t of the schedule.
        sigma: sigma_t.
        beta: The inverse temperature.
    """
    _checks.shaped("x", x, (2,))
    energies = jnp.arange(8) / 7
    return jax.nn.logsumexp(_log_pieces(x, alpha, sigma) + beta * energies) - jax.nn.logsumexp(
        _log_pieces(x, alpha, sigma)
    )


def cep_log_density(x: Float[Array, "2"], alpha: Number, sigma: Number) -> Scalar:
    """log p_t(x) of the eight Gaussians at diffusion time t; its gradient is the exact score of the data."""
    _checks.shaped("x", x, (2,))
    v = alpha**2 * _STD**2 + sigma**2
    return jax.nn.logsumexp(_log_pieces(x, alpha, sigma)) - jnp.log(8 * 2 * jnp.pi * v)


def _log_pieces(x: Array, alpha: Number, sigma: Number) -> Array:
    squares = jnp.sum((x[None] - alpha * jnp.asarray(_CENTRES, x.dtype)) ** 2, axis=1)
    return -squares / (2 * (alpha**2 * _STD**2 + sigma**2))
