"""The network of a controlled Langevin chain, with the sizes of its steps."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Observation, Scalar
from dpolicy.fields._embeddings import Phased, Projected
from dpolicy.networks import MLP

_MOST = 1e4


def _raw(positive: Number) -> Float[Array, ""]:
    """softplus^-1."""
    return jnp.log(jnp.expm1(jnp.asarray(positive, float)))


class LangevinControl(eqx.Module):
    r"""f(x, t, s), an MLP within [-10^4, 10^4] that starts at 0, and a learned step size (DIME, arXiv 2502.02316).

    $$ \eta = \mathrm{softplus}(\delta) / \mathrm{softplus}(\rho), $$

    with one delta and a friction rho for each dimension: `dpolicy.samplers.controlled_path` walks by f and by eta times
    what the time makes of it. The time, as the number of steps taken, goes through fixed frequencies with learned
    phases (`Phased`) and a perceptron of its own. Constants are those of the code.

    Args:
        obs_size: Of the observation.
        action_size: Of x.
        steps: Of the chain.
        step_size: softplus(delta) at first.
        friction: softplus(rho) at first.
        hidden: Widths of the network.
        activation: Of it, and of the times'.
        time_size: Width of the time's network.
        initialisation: Of all but the last layer.
        key: Of their draw.

    Raises:
        ValueError: For sizes that are no positive ints, names that are unknown, step sizes that are not above 0.
    """

    embedding: Projected
    mlp: MLP
    raw_step: Float[Array, ""]
    raw_friction: Float[Array, " a"]
    # At 0 they stand for a step of .69.
    undecayed: ClassVar[tuple[str, ...]] = ("raw_step", "raw_friction")

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        steps: int,
        step_size: Number = 0.1,
        friction: Number = 1.0,
        hidden: tuple[int, ...] = (256, 256, 256),
        activation: str = "gelu",
        time_size: int = 256,
        initialisation: str = "lecun_normal",
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        _checks.positive("step_size", step_size)
        _checks.positive("friction", friction)
        _checks.integer("time_size", time_size)
        embedding_key, mlp_key = jax.random.split(_checks.one_key(key))
        network: dict[str, Any] = {"activation": activation, "initialisation": initialisation}
        self.embedding = Projected(
            Phased(steps=steps), time_size, hidden=(time_size,), **network, key=embedding_key
        )
        self.mlp = MLP(
            (action_size, obs_size, time_size),
            action_size,
            hidden=hidden,
            final_scale=0.0,
            **network,
            key=mlp_key,
        )
        self.raw_step = _raw(step_size)
        self.raw_friction = jnp.full(action_size, _raw(friction))

    def __call__(self, x: Action, t: Scalar, obs: Observation) -> Action:
        _checks.shaped("x", x, self.raw_friction.shape)
        _checks.shaped("obs", obs, self.mlp.in_sizes[1:2])
        return jnp.clip(self.mlp(x, obs, self.embedding(t)), -_MOST, _MOST)

    @property
    def step_size(self) -> Float[Array, " a"]:
        """eta, of the largest step."""
        return jax.nn.softplus(self.raw_step) / jax.nn.softplus(self.raw_friction)
