"""Policies that are controlled Langevin chains, whose entropy has a bound by paths."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from dpolicy._settings import Count, Positive, Sizes
from dpolicy._types import Action, Critic, Key, Model, Number, Observation, Scalar
from dpolicy.fields import LangevinControl
from dpolicy.networks import Activation, tanh_log_det
from dpolicy.recipe import tunable
from dpolicy.samplers import Path, controlled_path, cosine_step_shape


class PathPolicy(NamedTuple):
    """a = tanh(x_0), x_0 the end of a controlled chain.

    Attributes:
        make: `(key, spec) -> control`.
        steps: Of the chain.
        prior_std: Of the normal law that it starts from.
    """

    make: Callable[[Key, Any], LangevinControl]
    steps: int
    prior_std: Number

    def path(self, control: Model, obs: Observation, key: Key) -> Path:
        """A path that ends in an action of the box; the squash is part of its running cost: E[C] >= E log pi(a|s)."""
        sizes = cosine_step_shape(self.steps)[:, None] * control.step_size[None]
        path = controlled_path(control, obs, key, step_sizes=sizes, prior_std=self.prior_std)
        return Path(jnp.tanh(path.point), path.initial, path.running - tanh_log_det(path.point))

    def act(self, control: Model, q: Critic, obs: Observation, key: Key) -> tuple[Action, Scalar]:
        """The action, and C in the place of its log-density: a `Policy` whose entropy -E[C] is a lower bound."""
        path = self.path(control, obs, key)
        return path.point, path.log_ratio


@tunable(
    "sampler_steps",
    "hidden",
    "activation",
    "time_size",
    "initial_step_size",
    "initial_friction",
    "prior_std",
)
def path_policy(
    *,
    sampler_steps: Count = 16,
    hidden: Sizes = (256, 256, 256),
    activation: Activation = "gelu",
    time_size: Count = 256,
    initial_step_size: Positive = 0.1,
    initial_friction: Positive = 1.0,
    prior_std: Positive = 2.5,
) -> PathPolicy:
    """A Langevin chain with a learned control and learned step sizes, squashed (DIME, arXiv 2502.02316).

    Args:
        sampler_steps: Steps of the chain.
        hidden: Widths of the control's network.
        activation: Activation of the control's network.
        time_size: Width of the network of the time.
        initial_step_size: The largest step of the chain at first.
        initial_friction: By what the step sizes are divided at first, learned for each dimension of actions.
        prior_std: Standard deviation that the chain starts with, before the squash.
    """

    def make(key: Key, spec: Any) -> LangevinControl:
        return LangevinControl(
            spec.obs_size,
            spec.action_size,
            steps=sampler_steps,
            step_size=initial_step_size,
            friction=initial_friction,
            hidden=hidden,
            activation=activation,
            time_size=time_size,
            key=key,
        )

    return PathPolicy(make, sampler_steps, prior_std)
