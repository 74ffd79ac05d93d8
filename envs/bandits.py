"""Continuous bandits: one state, a reward that is a known energy, and its exact Boltzmann distribution."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.polynomial.legendre import leggauss

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Observation, Scalar
from dpolicy.envs.protocol import Environment, Spec, check_action, clip_action

_NODES = 8  # Gauss-Legendre nodes per panel


class Bandit(Environment):
    """Reward Q(a) for one action a in [-1, 1]^d, then the episode terminates. The observation is a constant zero.

    What maximum-entropy policy improvement should sample is known:

        pi(a) = exp(Q(a) / temperature) / Z,   Z = integral of exp(Q / temperature) over [-1, 1]^d,

    with Z by composite Gauss-Legendre quadrature (8 nodes per panel and axis). It resolves features wider than about
    a third of a panel: the default panels are 1/128 wide for d = 1 and 1/32 for d = 2.

    Args:
        function: Q, `[d] -> []`.
        action_size: d, 1 or 2.
        modes: Maxima of Q, `[m, d]`; where they form a curve, points along it.
        name: What the specification calls it.
        panels: Panels of the quadrature per axis.

    Raises:
        ValueError: For another action size, or modes of another shape or outside the box.
    """

    spec: Spec
    function: Callable[[Any], Any] = eqx.field(static=True)
    modes: Float[Array, "m d"]
    panels: int = eqx.field(static=True)

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        action_size: int,
        modes: Sequence[Sequence[float]] | np.ndarray,
        name: str = "bandit/custom",
        panels: int | None = None,
    ):
        _checks.function("function", function, "action -> scalar")
        _checks.integer("action_size", action_size, 1, 2)
        panels = {1: 256, 2: 64}[action_size] if panels is None else panels
        _checks.integer("panels", panels)
        try:
            maxima = np.asarray(modes, float)
        except (TypeError, ValueError):
            raise ValueError(f"modes must be rows of numbers, [m, {action_size}], got {modes!r}.") from None
        if maxima.ndim != 2 or maxima.shape[1] != action_size:
            raise ValueError(f"modes must have the shape [m, {action_size}], got {list(maxima.shape)}.")
        _checks.in_range("modes", maxima, -1.0, 1.0, ndim=(2,))
        self.spec = Spec(name, 1, action_size, 1)
        self.function = function
        self.modes = jnp.asarray(maxima, float)
        self.panels = panels

    def energy(self, action: Action) -> Scalar:
        """Q(a), also outside the box.

        Raises:
            ValueError: For a function that does not return a scalar.
        """
        return jnp.asarray(_checks.returned("function", self.function(action)))

    def _grid(self, axis: np.ndarray) -> Float[Array, "n d"]:
        axes = [axis] * self.spec.action_size
        grid = np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=-1)
        # Without the barrier the compiler evaluates Q on this constant itself, which takes it half a minute.
        return jax.lax.optimization_barrier(jnp.asarray(grid, float))

    def quadrature(self, temperature: Number) -> tuple[Float[Array, "n d"], Float[Array, " n"], Scalar]:
        """Nodes, the logarithm of weight times exp(Q / temperature) at each, and log Z: the log-sum of the latter."""
        _checks.positive("temperature", temperature)
        inner, weights = leggauss(_NODES)
        edges = np.linspace(-1.0, 1.0, self.panels + 1)[:-1, None]
        axis = (edges + (inner + 1.0) / self.panels).ravel()
        logs = np.tile(np.log(weights / self.panels), self.panels)
        log_weights = sum(np.meshgrid(*[logs] * self.spec.action_size, indexing="ij"))
        nodes = self._grid(axis)
        values = jax.vmap(self.energy)(nodes) / temperature + jnp.asarray(np.ravel(log_weights), float)
        return nodes, values, jax.nn.logsumexp(values)

    def log_partition(self, temperature: Number) -> Scalar:
        """log Z. The optimal soft value is `temperature * log_partition(temperature)`."""
        return self.quadrature(temperature)[2]

    def log_density(self, action: Action, temperature: Number) -> Scalar:
        """log pi(a) in nats, -inf outside the box. Under `vmap` over actions Z is computed once."""
        check_action(self.spec, action)
        inside = jnp.all(jnp.abs(action) <= 1.0)
        value = self.energy(action) / temperature - self.log_partition(temperature)
        return jnp.where(inside, value, -jnp.inf)

    def expectation(self, function: Callable[[Any], Any], temperature: Number) -> Any:
        """E[function(a)] under pi, by quadrature; `function` maps `[d]` to an array (an event: to 0.0 or 1.0)."""
        _checks.function("function", function, "action -> array")
        nodes, values, log_z = self.quadrature(temperature)
        probabilities = jnp.exp(values - log_z)
        return jnp.tensordot(
            probabilities, jnp.asarray(jax.vmap(function)(nodes), float), axes=1, precision="highest"
        )

    def nearest_mode(self, action: Action) -> Int[Array, ""]:
        """Index of the nearest of `modes`."""
        check_action(self.spec, action)
        return jnp.argmin(jnp.sum((self.modes - action[None]) ** 2, axis=1))

    def mode_shares(self, temperature: Number) -> Float[Array, " m"]:
        """P(each mode is the nearest) under pi, by quadrature."""
        return self.expectation(lambda a: jnp.arange(len(self.modes)) == self.nearest_mode(a), temperature)

    def sample(self, key: Key, n: int, temperature: Number) -> Float[Array, "{n} d"]:
        """`n` independent draws from pi, up to the width of a cell (1/1024 for d = 1, 1/256 for d = 2).

        A cell is drawn by its probability, and a point uniformly inside it.
        """
        _checks.integer("n", n)
        _checks.positive("temperature", temperature)
        cells = self.panels * _NODES
        centres = self._grid((np.arange(cells) + 0.5) * 2.0 / cells - 1.0)
        probabilities = jax.nn.softmax(jax.vmap(self.energy)(centres) / temperature)
        cell_key, place_key = jax.random.split(_checks.one_key(key))
        index = jax.random.choice(cell_key, len(centres), (n,), p=probabilities)
        shift = jax.random.uniform(place_key, (n, self.spec.action_size), minval=-1.0, maxval=1.0) / cells
        return centres[index] + shift

    def reset(self, key: Key) -> tuple[Observation, Observation]:
        """The start of an episode: `(state, obs)`, both a constant zero."""
        _checks.one_key(key)
        return jnp.zeros(1), jnp.zeros(1)

    def step(
        self, state: Observation, action: Action, key: Key
    ) -> tuple[Observation, Observation, Scalar, Bool[Array, ""]]:
        """Reward Q at the clipped action; every step terminates."""
        check_action(self.spec, action)
        return state, state, jnp.asarray(self.energy(clip_action(action)), float), jnp.asarray(True)
