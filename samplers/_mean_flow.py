"""Sampling by average velocities: one step, or a few, of any length."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation
from dpolicy.fields import MeanField
from dpolicy.samplers import _chain
from dpolicy.samplers._grid import Grid, Number, Numbers, Prior, bounded, check_bound


class MeanFlow(eqx.Module):
    """The sampler of a field of average velocities; built by `mean_flow`.

    Examples:
        >>> print(mean_flow(steps=2).steps)
        2
    """

    grid: Grid
    prior: Prior
    clip: Number | None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.grid.steps

    def _walk(self, walk: Any, field: Any, obs: Observation, key: Key, start: Action | None) -> Any:
        _checks.instance("field", field, MeanField, "a MeanField")
        times = self.grid(field)

        def step(x: Action, row: tuple[Any, Any]) -> Action:
            t, r = row
            return x - (t - r) * field.average(x, r, t, obs)

        x = self.prior(field, jax.random.split(_checks.one_key(key))[0], start)
        return walk(step, x, (times[:-1], times[1:]))

    def __call__(self, field: Any, obs: Observation, key: Key, *, start: Action | None = None) -> Action:
        """One action; `start` is x_1 itself, on the scale of the schedule's `prior_std`."""
        return bounded(self._walk(_chain.run, field, obs, key, start), self.clip)

    def chain(
        self, field: Any, obs: Observation, key: Key, *, start: Action | None = None
    ) -> Float[Array, "{self.steps}+1 a"]:
        """All the points from x_1 to the action."""
        points = self._walk(_chain.trace, field, obs, key, start)
        return points.at[-1].set(bounded(points[-1], self.clip))


def mean_flow(
    *,
    steps: int = 1,
    clip: Number | None = None,
    initial: str = "normal",
    initial_scale: Number = 1.0,
    times: Numbers | None = None,
) -> MeanFlow:
    """x_r = x - (t - r) u(x, r, t, obs) along a grid of times from noise to action; one step by default.

    Unlike Euler's step on a velocity its length costs no accuracy where u is exact.

    Source: Geng et al. 2025 (arXiv 2505.13447, eq. 12).

    Args:
        steps: Number of steps, each one evaluation.
        clip: Clip the action to [-clip, clip], None for not.
        initial: "normal", x_1 ~ N(0, (initial_scale prior_std)^2), or "zero", x_1 = 0.
        initial_scale: See `initial`.
        times: The `steps + 1` times, decreasing; the schedule's own grid by default.

    Returns:
        A sampler `(field, obs, key, *, start=None) -> action` of a `MeanField`, for one example, with `.chain`.

    Raises:
        ValueError: For arguments out of range, and for a field that has no average velocities.

    Examples:
        >>> shape = {"hidden": (4,), "embedding": "cos_sin", "initialisation": "torch"}
        >>> field = dp.MeanField(1, 2, schedule=dp.RectifiedFlow(), key=key, **shape)
        >>> print(mean_flow()(field, obs, key).shape)
        (2,)
    """
    check_bound("clip", clip)
    return MeanFlow(Grid(steps, times), Prior(initial, initial_scale), clip)
