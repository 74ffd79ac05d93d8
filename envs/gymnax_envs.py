"""Adapter for gymnax: its bare environments, without its own time limit and autoreset."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.envs.adapt import foreign, like, require, strong
from dpolicy.envs.protocol import Environment, Spec, check_action, to_bounds

TASKS = {
    task: Spec(f"gymnax/{task}", *sizes)
    for task, sizes in {
        "Pendulum-v1": (3, 1, 200),
        "MountainCarContinuous-v0": (2, 1, 999),
        "PointRobot-misc": (6, 2, 100),
        "Reacher-misc": (8, 2, 100),
        "Swimmer-misc": (16, 2, 500),
    }.items()
}


class Gymnax(Environment):
    """A gymnax environment with continuous actions and array observations (flattened).

    Actions in [-1, 1] are clipped and mapped to the bounds of its action space.

    Args:
        env: The gymnax environment.
        params: Its parameters; they hold the time limit, `max_steps_in_episode`.
        name: What the specification calls it.

    Raises:
        ValueError: for an environment without a bounded continuous action space.
    """

    spec: Spec
    env: Any = eqx.field(static=True)
    params: Any
    low: Float[Array, " a"]
    high: Float[Array, " a"]

    def __init__(self, env: Any, params: Any, *, name: str = "gymnax/custom"):
        space = env.action_space(params)
        shape = tuple(getattr(space, "shape", ()))
        bounds = [np.asarray(getattr(space, side, np.nan), float) for side in ("low", "high")]
        finite = all(np.all(np.isfinite(bound)) for bound in bounds)
        if len(shape) != 1 or not finite or not np.all(bounds[0] < bounds[1]):
            raise ValueError(f"{name} must have a bounded, continuous action space, got {space!r}.")
        low, high = (np.broadcast_to(bound, shape) for bound in bounds)
        obs_size = int(np.prod(env.observation_space(params).shape))
        self.spec = Spec(name, obs_size, shape[0], int(params.max_steps_in_episode))
        self.env = env
        self.params = params
        self.low = jnp.asarray(low, float)
        self.high = jnp.asarray(high, float)

    def reset(self, key: Key) -> tuple[Any, Observation]:
        """The start of an episode: `(state, obs)`."""
        with foreign():
            obs, state = self.env.reset_env(key, self.params)
        return strong(state), jnp.asarray(obs, float).ravel()

    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Observation, Scalar, Bool[Array, ""]]:
        """One transition: `(state, obs, reward, terminated)`."""
        check_action(self.spec, action)
        action = to_bounds(action, self.low, self.high)
        with foreign():
            obs, new, reward, terminated, _ = self.env.step_env(key, state, action, self.params)
        return (
            like(new, state),
            jnp.asarray(obs, float).ravel(),
            jnp.asarray(reward, float),
            jnp.asarray(terminated),
        )


def _check_like(name: str, value: Any, default: Any) -> None:
    if name == "max_steps_in_episode":
        _checks.integer(name, value)
    elif isinstance(default, bool):
        _checks.boolean(name, value)
    elif isinstance(default, (int, float)):
        _checks.in_range(name, value)


def build(task: str, *, time_limit: int | None = None, **params: Any) -> Gymnax:
    """One of `TASKS`, with its parameters (such as Pendulum's `g`) overridden by name.

    Raises:
        ImportError: where gymnax is missing.
        ValueError: for an unknown task or parameter, a parameter that is no finite number, or a time
            limit below 1.
    """
    _checks.one_of("task", task, TASKS)
    gymnax = require("gymnax", None, f"gymnax/{task}")
    env, defaults = gymnax.make(task)
    if time_limit is not None:
        _checks.integer("time_limit", time_limit)
        if "max_steps_in_episode" in params:
            given = params["max_steps_in_episode"]
            raise ValueError(f"max_steps_in_episode must not be given where time_limit is, got {given!r}.")
        params["max_steps_in_episode"] = time_limit
    for name, value in params.items():
        _checks.one_of(f"parameter of gymnax/{task}", name, vars(defaults))
        _check_like(name, value, getattr(defaults, name))
    return Gymnax(env, defaults.replace(**params), name=f"gymnax/{task}")
