"""Paths with a running cost: a chain's noise weighed against another law of the same path, and controlled Langevin."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.networks import gaussian_log_prob
from dpolicy.samplers._grid import Number


def accumulated(
    step: Callable[[Action, Any], tuple[Action, Scalar]], start: Action, rows: PyTree[Array]
) -> tuple[Action, Scalar]:
    """The last point of a chain, and the sum of what its steps cost: `step(x, row) -> (x, cost)` along `rows`.

    Both are differentiable; the body runs again in the backward pass, so that one point a step is kept.

    Examples:
        >>> halved = lambda x, row: (x / 2, row * jnp.sum(x))
        >>> end, cost = accumulated(halved, jnp.array([4.0]), jnp.array([1.0, 10.0]))
        >>> print(end, cost)
        [1.] 24.0
    """

    def body(carry: tuple[Action, Scalar], row: Any) -> tuple[tuple[Action, Scalar], None]:
        x, total = carry
        new, cost = step(x, row)
        return (new.astype(x.dtype), total + _checks.returned("step, as cost,", cost)), None

    _checks.function("step", step, "(x, row) -> (x, cost)")
    (end, total), _ = jax.lax.scan(
        jax.checkpoint(body, prevent_cse=False), (start, jnp.zeros((), start.dtype)), rows
    )
    return end, total


def path_log_ratio(noise: Action, shift: Action) -> Scalar:
    r"""The log-ratio of two Gaussian kernels of one deviation s, where the first has drawn: z w + |w|^2 / 2.

    $$ \log \frac{\mathcal{N}(m + s z; m, s^2)}{\mathcal{N}(m + s z; m', s^2)} = z \cdot w + \tfrac12 |w|^2, \qquad
       w = (m - m') / s, $$

    with no division by a residual. Its mean over z is the divergence |w|^2 / 2. A kernel that leads back,
    b(x | x') = N(x; m'(x'), s^2), is of the same form: -(z + w) is its residual over s. Derived.

    Args:
        noise: z of the first kernel's draw.
        shift: w.

    Examples:
        >>> print(path_log_ratio(jnp.array([1.0, -1.0]), jnp.array([0.5, 0.0])))
        0.625
    """
    _checks.same_shapes(noise=noise, shift=shift)
    _checks.vector("noise", noise)
    return jnp.sum(shift * (noise + 0.5 * shift))


class Path(NamedTuple):
    """Where a chain ends, and its log-ratio against the law of a path that leads there.

    Attributes:
        point: x_0.
        initial: log p(x_N), of the law that the chain starts from.
        running: The sum of the kernels' log-ratios.

    Examples:
        >>> print(Path(jnp.zeros(2), jnp.array(-3.0), jnp.array(1.0)).log_ratio)
        -2.0
    """

    point: Float[Array, "*batch a"]
    initial: Float[Array, "*batch"]
    running: Float[Array, "*batch"]

    @property
    def log_ratio(self) -> Float[Array, "*batch"]:
        """C = initial + running: its mean is at least E log p(x_0), as paths tell laws apart better than their ends."""
        return self.initial + self.running


def controlled_path(
    control: Callable[[Action, Scalar, Observation], Action],
    obs: Observation,
    key: Key,
    *,
    step_sizes: Float[Array, "n a"],
    prior_std: Number = 2.5,
) -> Path:
    r"""A Langevin chain that a control f leads away from its prior N(0, s_p^2), and what that costs.

    $$ x_{i-1} = x_i + \eta_i (f(x_i, t_i, s) - x_i / s_p^2) + \sqrt{2 \eta_i} z_i, \qquad
       x_N \sim \mathcal{N}(0, s_p^2), \qquad t_i = i / N. $$

    The way back is the chain without a control, b(x_i | x_{i-1}) = N(x_{i-1} - eta_i x_{i-1} / s_p^2, 2 eta_i), so with
    w_i = sqrt(eta_i / 2) (f - (x_i + x_{i-1}) / s_p^2) the log-ratio of a step is z_i w_i + |w_i|^2 / 2
    (`path_log_ratio`), and

    $$ C = \log \mathcal{N}(x_N; 0, s_p^2) + \sum_i (z_i \cdot w_i + \tfrac12 |w_i|^2), \qquad
       E[C] \geq E \log p(x_0), $$

    equal where both chains have one law of paths. Value and gradient are exact; nothing is cut from the gradient. In
    continuous time f = 2 (score - score of the prior), and f = 0 is right for x_0 ~ N(0, s_p^2) alone.

    Source: DIME (arXiv 2502.02316). The gap for linear controls is in `tests/test_samplers_path.py`: .32 nats for each
    dimension for a standard normal in 16 steps of DIME's sizes, .005 in 640 of .02.

    Args:
        control: `(x, t, obs) -> f`.
        obs: The observation.
        key: Draws x_N and all noise.
        step_sizes: eta_i for each dimension, the noisiest step first.
        prior_std: s_p.

    Examples:
        >>> sizes = jnp.full((4, 2), 0.1)
        >>> path = controlled_path(lambda x, t, obs: 0 * x, obs, key, step_sizes=sizes)
        >>> print(path.point.shape, path.log_ratio.shape)
        (2,) ()
    """
    _checks.function("control", control, "(x, t, obs) -> f")
    _checks.positive("step_sizes", step_sizes, ndim=(2,))
    _checks.positive("prior_std", prior_std)
    step_sizes = jnp.asarray(step_sizes, float)
    start_key, noise_key = jax.random.split(_checks.one_key(key))
    steps, size = step_sizes.shape
    x = prior_std * jax.random.normal(start_key, (size,))
    noises = jax.random.normal(noise_key, (steps, size))
    times = jnp.arange(steps, 0, -1) / steps
    pull = 1 / prior_std**2

    def step(x: Action, row: Any) -> tuple[Action, Scalar]:
        t, eta, z = row
        f = _checks.field_value("control", control(x, t, obs), x)
        new = x + eta * (f - pull * x) + jnp.sqrt(2 * eta) * z
        return new, path_log_ratio(z, jnp.sqrt(eta / 2) * (f - pull * (x + new)))

    log_std = jnp.full(size, jnp.log(jnp.asarray(prior_std, float)))
    initial = gaussian_log_prob(x, jnp.zeros(size), log_std)
    end, running = accumulated(step, x, (times, step_sizes, noises))
    return Path(end, initial, running)


def cosine_step_shape(steps: int, *, floor: Number = 1e-3, offset: Number = 8e-3) -> Float[Array, "{steps}"]:
    """How the step sizes of a controlled chain fall towards the action: floor + (1 - floor) cos^2(..), noisiest first.

    c_i = floor + (1 - floor) cos^2( pi/2 (1 + offset - i/N) / (1 + offset) ), i = N ... 1, for DIME's (arXiv
    2502.02316, code).

    Examples:
        >>> print(cosine_step_shape(4))
        [1.    0.847 0.494 0.145]
    """
    _checks.integer("steps", steps)
    _checks.fraction("floor", floor)
    _checks.positive("offset", offset)
    times = jnp.arange(steps, 0, -1) / steps
    return floor + (1 - floor) * jnp.cos(jnp.pi / 2 * (1 + offset - times) / (1 + offset)) ** 2
