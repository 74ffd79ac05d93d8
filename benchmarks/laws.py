"""What samples should look like: the laws that methods lead to, without a network, and the distance of two samples."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq, linear_sum_assignment
from scipy.spatial.distance import cdist

from dpolicy.fields import CosineVP, FunctionField
from dpolicy.samplers import ddpm


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """The 2-Wasserstein distance between two equally large samples, by optimal assignment."""
    cost = cdist(a, b, "sqeuclidean")
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


def mode_shares(env: Any, samples: np.ndarray) -> np.ndarray:
    """Of samples `[..., n, d]`, the share to which each mode is the nearest, `[..., m]`."""
    near = jax.jit(jax.vmap(env.nearest_mode))(samples.reshape(-1, samples.shape[-1]))
    near = np.asarray(near).reshape(samples.shape[:-1])
    return np.mean(near[..., None] == np.arange(len(env.modes)), axis=-2)


def shares_text(shares: np.ndarray) -> str:
    """Shares in a cell of a table; one number where all are the same."""
    texts = [f"{share:.3f}".removeprefix("0") for share in shares]
    return " / ".join(texts) if len(set(texts)) > 1 else f"{texts[0]} each"


def qsm_fixed_point(env: Any, temperature: float, samples: int) -> np.ndarray:
    """What QSM's sampler returns for the field that its target defines, noise = -sigma grad Q / temperature."""
    schedule = CosineVP()
    field = FunctionField(
        lambda x, t, obs: -schedule.sigma(t) * jax.grad(env.energy)(x) / temperature,
        schedule=schedule,
        prediction="noise",
        action_size=env.spec.action_size,
    )
    sampler = ddpm(steps=20)
    keys = jax.random.split(jax.random.key(0), samples)
    return np.asarray(jax.jit(jax.vmap(lambda key: sampler(field, jnp.zeros(1), key)))(keys))


class Grid:
    """A density on a regular grid over [-1, 1]^d, and the steps that methods take with it."""

    def __init__(self, env: Any):
        self.d = env.spec.action_size
        self.n = 2_001 if self.d == 1 else 201
        axis = np.linspace(-1, 1, self.n)
        self.points = np.stack([x.ravel() for x in np.meshgrid(*[axis] * self.d, indexing="ij")], -1)
        self.q = np.asarray(jax.vmap(env.energy)(jnp.asarray(self.points)), float)
        self.uniform = np.full(len(self.points), 1 / len(self.points))
        self.modes = np.asarray(env.modes)

    def boltzmann(self, temperature: float) -> np.ndarray:
        weight = np.exp((self.q - self.q.max()) / temperature)
        return weight / weight.sum()

    def best_of(self, p: np.ndarray, n: int) -> np.ndarray:
        """The law of the best of n draws: differences of (P(Q(b) <= Q(a)))^n in the order of Q."""
        order = np.argsort(self.q, kind="stable")
        below = np.concatenate([[0.0], np.cumsum(p[order])])
        best = np.empty_like(p)
        best[order] = np.diff(below**n)
        return best / best.sum()

    def noised(self, p: np.ndarray, std: float) -> np.ndarray:
        """Gaussian noise, what leaves the box put on its face."""
        cells = std * (self.n - 1) / 2
        width = int(4 * cells) + 1
        wide = np.pad(p.reshape([self.n] * self.d), width)
        wide = gaussian_filter(wide, cells, mode="constant")
        for axis in range(self.d):
            wide = np.moveaxis(wide, axis, 0)
            inner = wide[width:-width].copy()
            inner[0] += wide[:width].sum(0)
            inner[-1] += wide[-width:].sum(0)
            wide = np.moveaxis(inner, 0, axis)
        return wide.ravel() / wide.sum()

    def descent(self, noise: float, *, noise_first: bool) -> np.ndarray:
        """DPMD and FPMD: best of 8, noise (before the choice in FPMD), weight exp(clip((Q - M) / R, -3, 3)), again."""
        p = proposed = self.uniform
        for _ in range(200):
            best = self.best_of(self.noised(p, noise) if noise_first else p, 8)
            proposed = best if noise_first else self.noised(best, noise)
            mean = (proposed * self.q).sum()
            std = np.sqrt((proposed * (self.q - mean) ** 2).sum())
            p = proposed * np.exp(np.clip((self.q - mean) / max(std, 1e-6), -3, 3))
            p = p / p.sum()
        return proposed  # how it explores

    def tilted(self, shape: str, kl: float) -> np.ndarray:
        """GeMPO: noise on the old policy, then weights of a given divergence from equal ones, again and again."""
        p = self.uniform
        for _ in range(40):
            p = self.noised(p, 0.2)
            weight = partial(self._exponential if shape == "exponential" else self._linear, p)

            def excess(log_t: float, p: np.ndarray = p, weight: Any = weight) -> float:
                w = weight(np.exp(log_t))
                return float((p * w * np.log(np.maximum(w, 1e-300))).sum()) - kl

            log_t: Any = brentq(excess, -8, 8)
            p = p * weight(np.exp(log_t))
            p = p / p.sum()
        return p

    def _exponential(self, p: np.ndarray, temperature: float) -> np.ndarray:
        w = np.exp((self.q - self.q.max()) / temperature)
        return w / (p * w).sum()

    def _linear(self, p: np.ndarray, temperature: float) -> np.ndarray:
        total = lambda nu: float((p * np.maximum((self.q - nu) / temperature, 0)).sum()) - 1
        nu = brentq(total, self.q.min() - 2 * temperature - 10, self.q.max())
        return np.maximum((self.q - nu) / temperature, 0)

    def qvpo(self, omega: float = 0.02, candidates: int = 16, uniform: int = 10) -> np.ndarray:
        """QVPO: the best of 16 by its advantage, mixed with uniform actions, again and again."""
        p = self.uniform
        for _ in range(200):
            best = self.best_of(p, candidates) * np.maximum(self.q - (p * self.q).sum(), 0)
            p = (best / best.sum() + uniform * omega * self.uniform) / (1 + uniform * omega)
        return p

    def ascent(self, env: Any) -> np.ndarray:
        """DIPO: every action at the top of the slope it started on, uniformly drawn starts."""
        climb = jax.jit(jax.vmap(jax.grad(lambda a: env.energy(a))))
        a = jnp.asarray(self.points)
        for _ in range(4_000):
            g = climb(a)
            a = jnp.clip(a + 2e-3 * g / (jnp.linalg.norm(g, axis=-1, keepdims=True) + 1e-2), -1, 1)
        cells = np.rint((np.asarray(a).T + 1) * (self.n - 1) / 2).astype(int)
        nearest = np.ravel_multi_index(tuple(cells), [self.n] * self.d)
        return np.bincount(nearest, minlength=len(self.points)) / len(self.points)

    def draw(self, p: np.ndarray, n: int, seed: int) -> np.ndarray:
        """`n` points of the law."""
        rng = np.random.default_rng(seed)
        shift = rng.uniform(-1, 1, (n, self.d)) / (self.n - 1)
        return np.clip(self.points[rng.choice(len(p), n, p=p)] + shift, -1, 1)
