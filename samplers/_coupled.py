"""An exactly invertible sampler on a doubled action: coupled Euler steps and a mixing of the halves (GenPO)."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.fields import AbstractField, predict_velocity
from dpolicy.samplers._grid import Grid, Number, Numbers, check_field

Pair: TypeAlias = Float[Array, "2 a"]

# A float32 round trip loses mixing^(-2 steps) units of rounding; a thousand are 1e-4.
_LARGEST_LOSS = 1e-4
# mixing^(2 steps), what is left of the gap between the halves: GenPO's default (0.9, 5 steps).
_TIED = 0.35


def _check_pair(name: str, pair: Any, field: Any) -> None:
    check_field(field)
    _checks.shaped(name, pair, (2, field.action_size))


class Coupled(eqx.Module):
    """The invertible map between z ~ N(0, I) of size 2a and a pair of actions (x, y); built by `coupled`.

    Examples:
        >>> sampler = coupled(steps=4)
        >>> z = sampler.start(normal, key)
        >>> pair = sampler.forward(normal, z, obs)
        >>> print(bool(jnp.allclose(sampler.inverse(normal, pair, obs), z, atol=1e-5)))
        True
    """

    grid: Grid
    mixing: Number
    rematerialise: bool = eqx.field(static=True, default=False)

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.grid.steps

    def _rows(
        self, field: AbstractField
    ) -> tuple[Float[Array, "{self.steps}"], Float[Array, "{self.steps}"]]:
        times = self.grid(field)
        return times[:-1], times[:-1] - times[1:]

    def _steps(self, body: Callable[..., Any], pair: Pair, field: AbstractField, reverse: bool) -> Pair:
        body = jax.checkpoint(body, prevent_cse=False) if self.rematerialise else body
        return jax.lax.scan(body, pair, self._rows(field), reverse=reverse)[0]

    def start(self, field: AbstractField, key: Key) -> Pair:
        """z ~ N(0, prior_std^2 I)."""
        check_field(field)
        return field.schedule.prior_std * jax.random.normal(_checks.one_key(key), (2, field.action_size))

    def forward(self, field: AbstractField, z: Pair, obs: Observation) -> Pair:
        """(x, y) = f(z), from a pair of noises to a pair of actions.

        For each step from t by h:

        x <- x - h v(y, t),  y <- y - h v(x, t),  then  x <- p x + (1 - p) y,  y <- p y + (1 - p) x.
        """
        p = self.mixing
        _check_pair("z", z, field)

        def body(pair: Pair, row: Any) -> tuple[Pair, None]:
            (x, y), (t, h) = pair, row
            x = x - h * predict_velocity(field, y, t, obs)
            y = y - h * predict_velocity(field, x, t, obs)
            x = p * x + (1 - p) * y
            y = p * y + (1 - p) * x
            return jnp.stack([x, y]).astype(pair.dtype), None

        return self._steps(body, z, field, reverse=False)

    def inverse(self, field: AbstractField, pair: Pair, obs: Observation) -> Pair:
        """z = f^-1(x, y), exact but for rounding."""
        p = self.mixing
        _check_pair("pair", pair, field)

        def body(pair: Pair, row: Any) -> tuple[Pair, None]:
            (x, y), (t, h) = pair, row
            # What `forward` does, undone from the last line to the first.
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            y = y + h * predict_velocity(field, x, t, obs)
            x = x + h * predict_velocity(field, y, t, obs)
            return jnp.stack([x, y]).astype(pair.dtype), None

        return self._steps(body, pair, field, reverse=True)

    def log_det(self, size: int) -> Scalar:
        """log |det df/dz| = 2 steps size log p, a constant: each coupling is a shear, each mixing has det p^2."""
        return 2 * self.steps * size * jnp.log(jnp.asarray(self.mixing, float))

    def log_prob(self, field: AbstractField, pair: Pair, obs: Observation) -> Scalar:
        """log density of the pair, log N(f^-1(x, y); 0, prior_std^2 I) - 2 steps a log p, in nats."""
        z = self.inverse(field, pair, obs)
        base = jnp.sum(jax.scipy.stats.norm.logpdf(z, scale=field.schedule.prior_std))
        return base - self.log_det(field.action_size)

    def entropy(self, field: AbstractField) -> Scalar:
        """Entropy of the pair in nats, a constant: a (1 + log(2 pi prior_std^2)) + 2 steps a log p."""
        scale = 1 + math.log(2 * math.pi) + 2 * jnp.log(jnp.asarray(field.schedule.prior_std, float))
        return field.action_size * scale + self.log_det(field.action_size)

    def __call__(
        self, field: AbstractField, obs: Observation, key: Key, *, start: Pair | None = None
    ) -> Action:
        """One action, the mean of the halves; `start` is z itself."""
        z = self.start(field, key) if start is None else start
        _check_pair("start", z, field)
        return action_of(self.forward(field, z, obs))


def action_of(pair: Pair) -> Action:
    """What the environment receives of a pair: (x + y) / 2.

    Examples:
        >>> print(action_of(jnp.array([[0.1, 0.2], [0.3, 0.6]])))
        [0.2 0.4]
    """
    return 0.5 * (pair[0] + pair[1])


def tied_mixing(steps: int) -> float:
    """The p at which p^(2 steps) = 0.35: with it the gap between the halves shrinks alike for any step count.

    Examples:
        >>> print(round(tied_mixing(5), 4))
        0.9003
    """
    _checks.integer("steps", steps)
    return _TIED ** (1 / (2 * steps))


def coupled(
    *,
    steps: int = 5,
    mixing: Number | None = 0.9,
    times: Numbers | None = None,
    rematerialise: bool | None = None,
) -> Coupled:
    """GenPO's sampler: exactly invertible, so that a flow policy has an exact density without a Jacobian.

    The density is that of the pair (x, y); the executed action, its mean, has a marginal of it.

    Source: Ding et al. 2025 (arXiv 2505.18763, section 4); the constant determinant follows from its equations.

    Args:
        steps: As for `ode`.
        mixing: The p of `forward`, in (0, 1]; None ties it to the steps (`tied_mixing`). At a fixed p the halves come
            ever closer as the steps grow, the density across their gap becomes nearly singular, and its rounding
            error grows like p^(-2 steps).
        rematerialise: Whether gradients compute each step anew, with the memory of one step in place of all, up to
            a fifth more slowly; None for more than 10 steps.
        times: As for `ode`.

    Returns:
        A sampler `(field, obs, key, *, start=None) -> action` for one example, with `forward`, `inverse`,
        `log_prob` and `entropy`.

    Raises:
        ValueError: For arguments out of range, and where the inverse would lose more than 1e-4 to rounding.

    Examples:
        >>> sampler = coupled(steps=4)
        >>> log_prob = sampler.log_prob(normal, jnp.zeros((2, 2)), obs)
        >>> print(sampler(normal, obs, key).shape, f"{log_prob:.3f}")
        (2,) -1.990
    """
    grid = Grid(steps, times)
    mixing = tied_mixing(steps) if mixing is None else mixing
    _checks.in_range("mixing", mixing, 0.0, 1.0, open_low=True)
    if not isinstance(mixing, jax.core.Tracer):
        rounding = float(np.finfo(jnp.zeros(()).dtype).eps)
        lowest = math.ceil(1e4 * (rounding / _LARGEST_LOSS) ** (1 / (2 * steps))) / 1e4
        if float(mixing) < lowest:
            raise ValueError(
                f"mixing must be at least {lowest:.4f} for {steps} steps in {jnp.zeros(()).dtype} (below, inverting "
                f"loses more than {_LARGEST_LOSS:g} to rounding; {tied_mixing(steps):.4f} keeps the halves as close "
                f"as 0.9 does for 5 steps), got {mixing!r}."
            )
    if rematerialise is not None:
        _checks.boolean("rematerialise", rematerialise)
    return Coupled(grid, mixing, steps > 10 if rematerialise is None else rematerialise)
