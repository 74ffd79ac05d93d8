"""The energies of the bandits. At temperature 1 the first four are the well-known toy densities."""

import numpy as np
from jax import nn
from jax import numpy as jnp

from dpolicy import _checks
from dpolicy.envs.bandits import Bandit
from dpolicy.envs.protocol import Spec

TASKS = {
    task: Spec(f"bandit/{task}", 1, action_size, 1)
    for task, action_size in {
        "eight_gaussians": 2,
        "rings": 2,
        "two_moons": 2,
        "checkerboard": 2,
        "quadratic": 2,
        "double_well": 1,
        "mixture": 1,
        "linear": 1,
        "faces": 1,
        "unequal_modes": 1,
    }.items()
}

_TINY = 1e-12  # under a square root: the gradient at the centre of a ring exists
_BETWEEN = -0.587757508130319  # of `faces`: 1.2 + 3 a + 1.5 sin 6 a = 0


def _circle(radius: float, count: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(count) / count
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def eight_gaussians(*, radius: float = 0.75, std: float = 0.08) -> Bandit:
    """Q(a) = log sum_i exp(-|a - c_i|^2 / (2 std^2)), eight centres c_i on a circle."""
    _checks.in_range("radius", radius, 0.0, 1.0, open_low=True)
    _checks.positive("std", std)
    centres = _circle(radius, 8)

    def energy(action):
        squares = jnp.sum((action[None] - centres) ** 2, axis=-1)
        return nn.logsumexp(-squares / (2 * std**2))

    return Bandit(energy, action_size=2, modes=centres, name="bandit/eight_gaussians")


def rings(*, radii: tuple[float, ...] = (0.4, 0.8), std: float = 0.05) -> Bandit:
    """Q(a) = log sum_i exp(-(|a| - r_i)^2 / (2 std^2)): concentric rings. `modes` lists 16 points on each."""
    _checks.in_range("radii", radii, 0.0, 1.0, open_low=True, ndim=(1,))
    _checks.positive("std", std)

    def energy(action):
        r = jnp.sqrt(jnp.sum(action**2) + _TINY)
        return nn.logsumexp(-((r - np.asarray(radii)) ** 2) / (2 * std**2))

    modes = np.concatenate([_circle(radius, 16) for radius in radii])
    return Bandit(energy, action_size=2, modes=modes, name="bandit/rings")


def two_moons(*, std: float = 0.06) -> Bandit:
    """Q(a) = log sum_i exp(-dist(a, moon_i)^2 / (2 std^2)): two interlocking half circles of radius 0.6.

    `modes` lists 9 points on each.
    """
    _checks.positive("std", std)
    radius, x, y = 0.6, 0.3, 0.15  # centres (-x, -y), open downwards, and (x, y), open upwards

    def square(across, along):
        ring = (jnp.sqrt(across**2 + along**2 + _TINY) - radius) ** 2
        tip = (jnp.abs(across) - radius) ** 2 + along**2
        return jnp.where(along >= 0, ring, tip)

    def energy(action):
        first, second = square(action[0] + x, action[1] + y), square(action[0] - x, y - action[1])
        return jnp.logaddexp(-first / (2 * std**2), -second / (2 * std**2))

    angles = np.linspace(0.0, np.pi, 9)
    arc = radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    modes = np.concatenate([arc - np.array([x, y]), np.array([x, y]) - arc])
    return Bandit(energy, action_size=2, modes=modes, name="bandit/two_moons")


def checkerboard(*, sharpness: float = 20.0) -> Bandit:
    """Q(a) = log sigmoid(sharpness sin(2 pi a_1) sin(2 pi a_2)): a 4 x 4 board, flat on its eight dark squares."""
    _checks.positive("sharpness", sharpness)

    def energy(action):
        return nn.log_sigmoid(sharpness * jnp.prod(jnp.sin(2 * np.pi * action)))

    ticks = np.array([-0.75, -0.25, 0.25, 0.75])
    centres = np.stack([a.ravel() for a in np.meshgrid(ticks, ticks)], axis=-1)
    modes = centres[np.prod(np.sin(2 * np.pi * centres), axis=-1) > 0]
    return Bandit(energy, action_size=2, modes=modes, name="bandit/checkerboard")


def quadratic(*, mean: float = 0.3, scale: float = 0.3, action_size: int = 2) -> Bandit:
    """Q(a) = -|a - mean|^2 / (2 scale^2): at a temperature the normal N(mean, temperature scale^2), cut to the box."""
    _checks.in_range("mean", mean, -1.0, 1.0)
    _checks.positive("scale", scale)
    _checks.integer("action_size", action_size, 1, 2)

    def energy(action):
        return -0.5 * jnp.sum(((action - mean) / scale) ** 2)

    return Bandit(energy, action_size=action_size, modes=[[mean] * action_size], name="bandit/quadratic")


def double_well(*, action_size: int = 1) -> Bandit:
    """Q(a) = sum_i -8 (a_i^2 - 0.36)^2 + 0.3 a_i: two wells of unequal depth per coordinate.

    At temperature 0.25, per coordinate: mean 0.3485, variance 0.2208, P(a > 0) = 0.7935.
    """
    _checks.integer("action_size", action_size, 1, 2)

    def energy(action):
        return jnp.sum(-8.0 * (action**2 - 0.36) ** 2 + 0.3 * action)

    stationary = np.sort(np.roots([-32.0, 0.0, 11.52, 0.3]).real)
    maxima = stationary[[0, 2]]  # the middle one is the barrier
    modes = np.stack([a.ravel() for a in np.meshgrid(*[maxima] * action_size)], axis=-1)
    return Bandit(energy, action_size=action_size, modes=modes, name="bandit/double_well")


def mixture(
    *, means: tuple[float, ...] = (-0.5, 0.5), stds: tuple[float, ...] = (0.1, 0.2), action_size: int = 1
) -> Bandit:
    """Q(a) = sum_i log mean_j N(a_i; means_j, stds_j^2): at temperature 1 the mixture itself, cut to the box."""
    _checks.in_range("means", means, -1.0, 1.0, ndim=(1,))
    _checks.positive("stds", stds, ndim=(1,))
    if len(means) != len(stds):
        raise ValueError(f"means and stds must have the same length, got {len(means)} and {len(stds)}.")
    _checks.integer("action_size", action_size, 1, 2)
    centres, widths = np.asarray(means, float), np.asarray(stds, float)
    constants = -np.log(widths) - 0.5 * np.log(2 * np.pi) - np.log(len(means))

    def energy(action):
        logs = constants[None] - 0.5 * ((action[:, None] - centres[None]) / widths[None]) ** 2
        return jnp.sum(nn.logsumexp(logs, axis=-1))

    modes = np.stack([a.ravel() for a in np.meshgrid(*[centres] * action_size)], axis=-1)
    return Bandit(energy, action_size=action_size, modes=modes, name="bandit/mixture")


def linear(*, slope: float = 1.0, action_size: int = 1) -> Bandit:
    """Q(a) = slope sum_i a_i: the mean is coth(slope / temperature) - temperature / slope per coordinate."""
    _checks.in_range("slope", slope)
    if slope == 0:
        raise ValueError("slope must not be zero.")
    _checks.integer("action_size", action_size, 1, 2)

    def energy(action):
        return slope * jnp.sum(action)

    modes = [[float(np.sign(slope))] * action_size]
    return Bandit(energy, action_size=action_size, modes=modes, name="bandit/linear")


def faces(*, action_size: int = 1) -> Bandit:
    """Q(a) = sum_i 1.2 a_i + 1.5 a_i^2 - 0.25 cos 6 a_i: maxima on both faces, and a small one between them.

    A density that does not vanish where the box ends. At temperature 0.5, per coordinate: mean 0.7624,
    P(a < -0.5) = 0.0198, P(a > 0.9) = 0.3849, and shares of the maxima 0.008, 0.033 and 0.959.
    """
    _checks.integer("action_size", action_size, 1, 2)

    def energy(action):
        return jnp.sum(1.2 * action + 1.5 * action**2 - 0.25 * jnp.cos(6 * action))

    maxima = [-1.0, _BETWEEN, 1.0]
    modes = np.stack([a.ravel() for a in np.meshgrid(*[maxima] * action_size)], axis=-1)
    return Bandit(energy, action_size=action_size, modes=modes, name="bandit/faces")


def unequal_modes(*, shares: tuple[float, ...] = (0.1, 0.7, 0.2), std: float = 0.05) -> Bandit:
    """Q(a) = log sum_i shares_i exp(-(a - c_i)^2 / (2 std^2)) with centres c = (-0.6, 0, 0.6).

    At temperature 1 the maxima hold `shares`, over their sum: whether a policy has each maximum in proportion.
    """
    _checks.positive("shares", shares, ndim=(1,))
    if len(shares) != 3:
        raise ValueError(f"shares must have one number for each of 3 maxima, got {len(shares)}.")
    _checks.positive("std", std)
    centres, logs = np.array([-0.6, 0.0, 0.6]), np.log(np.asarray(shares, float))

    def energy(action):
        return nn.logsumexp(logs - (action[0] - centres) ** 2 / (2 * std**2))

    return Bandit(energy, action_size=1, modes=centres[:, None], name="bandit/unequal_modes")


ENERGIES = {
    "eight_gaussians": eight_gaussians,
    "rings": rings,
    "two_moons": two_moons,
    "checkerboard": checkerboard,
    "quadratic": quadratic,
    "double_well": double_well,
    "mixture": mixture,
    "linear": linear,
    "faces": faces,
    "unequal_modes": unequal_modes,
}
