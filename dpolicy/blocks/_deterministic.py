"""Deterministic policies, the noise that they explore by, and that of a smoothed target."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp

from dpolicy._settings import Sizes, within
from dpolicy._types import Action, Critic, Key, Model, Number, Observation, Scalar
from dpolicy.blocks._bootstrap import Policy
from dpolicy.blocks._critics import noisy, within_box
from dpolicy.networks import Activation, TanhDeterministic
from dpolicy.recipe import tunable


class DeterministicPolicy(NamedTuple):
    """A network that maps observations to actions, and how it acts.

    Attributes:
        make: `(key, spec) -> actor`.
    """

    make: Callable[[Key, Any], TanhDeterministic]

    def sample(self, actor: Model, obs: Observation, key: Key) -> Action:
        """Its action, whatever the key: what a pathwise loss asks for."""
        return actor(obs)

    def act(self, actor: Model, q: Critic, obs: Observation, key: Key) -> tuple[Action, Scalar]:
        """The same as a `Policy`: its action, and 0 for a log-density that it has not."""
        return actor(obs), jnp.zeros(())

    def noisy(self, std: Number, *, bound: Number | None = None) -> Policy:
        """clip(a + clip(std * N(0, I), -bound, bound), -1, 1): exploration, or a smoothed target (see `noisy`)."""
        return within_box(noisy(self.act, std, bound=bound))


@tunable("hidden", "activation", "final_scale")
def deterministic_policy(
    *,
    hidden: Sizes = (256, 256),
    activation: Activation = "relu",
    final_scale: Annotated[float, within(0)] = 1.0,
) -> DeterministicPolicy:
    """a = tanh(f(s)): the actor of DDPG (arXiv 1509.02971) and TD3 (arXiv 1802.09477).

    Args:
        hidden: Widths of the actor's network.
        activation: Activation of the actor.
        final_scale: Multiplies the initial parameters of the actor's last layer.
    """
    return DeterministicPolicy(
        lambda key, spec: TanhDeterministic(
            spec.obs_size,
            spec.action_size,
            hidden=hidden,
            activation=activation,
            final_scale=final_scale,
            key=key,
        )
    )
