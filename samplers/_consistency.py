"""Sampling by a consistency function: one call from pure noise, or a few at falling noise."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.fields import AbstractField, Karras, VarianceExploding, clip_inward
from dpolicy.fields._predictions import evaluate
from dpolicy.samplers._chain import AbstractChain, Control
from dpolicy.samplers._grid import Number, Numbers, Prior, bounded, check_bound


class Consistency(AbstractChain):
    """The sampler of a consistency function; built by `consistency`.

    Examples:
        >>> print(consistency().steps, consistency(later=(0.5, 0.2)).steps)
        1 3
    """

    prior: Prior
    truncate: int | None
    control: Control | None
    later: Float[Array, " n"]
    clip: Number | None
    inward: bool = eqx.field(static=True, default=False)

    @property
    def steps(self) -> int:
        """Calls of the function."""
        return 1 + self.later.shape[0]

    def rows(self, field: AbstractField, key: Key) -> Any:
        """The time of each call, and what is added to its point before."""
        if field.prediction != "data" or not isinstance(field.schedule, Karras | VarianceExploding):
            raise ValueError(
                "field must predict data under a schedule whose alpha is 1, such as ConsistencyField(...), got "
                f"{field.prediction} under {field.schedule}."
            )
        schedule, shape = field.schedule, (self.steps - 1, field.action_size)
        level = jnp.sqrt(schedule.sigma(self.later) ** 2 - schedule.sigma(schedule.t_min) ** 2)
        noise = level[:, None] * jax.random.normal(jax.random.split(key)[1], shape)
        first = jnp.zeros((1, field.action_size), noise.dtype)
        times = jnp.concatenate([jnp.full((1,), schedule.t_max, self.later.dtype), self.later])
        return times, jnp.concatenate([first, noise])

    def step(self, field: AbstractField, x: Action, row: tuple[Scalar, Action], obs: Observation) -> Action:
        """f at one level."""
        t, noise = row
        return evaluate(field, x + noise, t, obs)

    def finish(self, x: Action) -> Action:
        """The last value, in [-clip, clip]."""
        return clip_inward(x, self.clip) if self.inward and self.clip is not None else bounded(x, self.clip)


def consistency(
    *,
    later: Numbers | tuple[()] = (),
    clip: Number | None = None,
    inward: bool = False,
    initial_scale: Number = 1.0,
) -> Consistency:
    """a = f(sigma_max z, 1); then at each later time a <- f(a + sqrt(sigma(t)^2 - sigma_min^2) z, t).

    One call makes an action, and each later one exchanges its noise below that level. Right for a consistency
    function, which `consistency_matching` fits. Of a posterior mean, which reconstruction fits, the single step is a
    mean of modes: from N(0, v) it has the deviation v / sqrt(v + sigma_max^2), .003 of .5.

    Source: Song et al. 2023 (arXiv 2303.01469, algorithm 1).

    Args:
        later: Times of further calls, decreasing, in (0, 1).
        clip: Clip the action to [-clip, clip], None for not.
        inward: Whether a clipped action has the gradient that leads back (`dpolicy.fields.clip_inward`).
        initial_scale: Standard deviation of the start, in units of the schedule's.

    Returns:
        A sampler `(field, obs, key, *, start=None) -> action` of fields that predict data under `Karras` or
        `VarianceExploding`, for one example, with `.chain`.

    Raises:
        ValueError: For arguments out of range, and for another field.

    Examples:
        >>> exact = lambda x, t, obs: x / jnp.sqrt(1 + dp.Karras().sigma(t) ** 2)
        >>> unit = dp.FunctionField(exact, schedule=dp.Karras(), prediction="data", action_size=2)
        >>> draw = jax.vmap(lambda key: consistency(later=(0.5,))(unit, obs, key))
        >>> print(f"{draw(jax.random.split(key, 10_000)).std():.1f}")
        1.0
    """
    check_bound("clip", clip)
    _checks.boolean("inward", inward)
    if np.shape(later) != (0,):
        _checks.in_range("later", later, 0.0, 1.0, open_low=True, open_high=True, ndim=(1,))
    levels = jnp.asarray(later, float)
    if levels.shape[0] > 1:
        _checks.positive("later must decrease: later[i] - later[i + 1]", levels[:-1] - levels[1:], ndim=(1,))
    return Consistency(Prior("normal", initial_scale), None, None, levels, clip, inward)
