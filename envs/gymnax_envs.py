"""Adapter for gymnax: its bare environments, without its own time limit and autoreset."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.envs.adapt import check_like, ended, foreign, has_parts, like, require, strong
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


def _bounds(name: str, space: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of each action; refuses a space that is no box of real numbers, or not one of vectors."""
    try:
        low, high = (np.asarray(getattr(space, side, np.nan), float) for side in ("low", "high"))
    except (TypeError, ValueError):
        low = high = np.asarray(np.nan)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise ValueError(f"{name} must have a bounded, continuous action space, got {space!r}.")
    if not np.issubdtype(np.dtype(getattr(space, "dtype", float)), np.floating):
        raise ValueError(f"{name} must have actions that are real numbers, not integers, got {space!r}.")
    shape = tuple(space.shape)
    if len(shape) != 1 or not {low.shape, high.shape} <= {(), shape}:
        raise ValueError(f"{name} must have actions that are vectors, of one dimension, got {space!r}.")
    return np.broadcast_to(low, shape), np.broadcast_to(high, shape)


class Gymnax(Environment):
    """A gymnax environment with continuous actions and array observations (flattened).

    Actions in [-1, 1] are clipped and mapped to the bounds of its action space. An episode terminates where gymnax says
    so, and where an observation or a reward is not finite.

    Args:
        env: The gymnax environment.
        params: Its parameters; they hold the time limit, `max_steps_in_episode`.
        name: What the specification calls it.

    Raises:
        ValueError: For an environment that lacks something, whose actions are no vector of bounded real numbers, or
            whose time limit is no integer of at least 1.
    """

    spec: Spec
    env: Any = eqx.field(static=True)
    params: Any
    low: Float[Array, " a"]
    high: Float[Array, " a"]

    def __init__(self, env: Any, params: Any, *, name: str = "gymnax/custom"):
        has_parts(name, env, "reset_env", "step_env", "action_space", "observation_space")
        has_parts(f"the parameters of {name}", params, "max_steps_in_episode")
        low, high = _bounds(name, env.action_space(params))
        seen = env.observation_space(params)
        has_parts(f"the observation space of {name}", seen, "shape")
        limit = params.max_steps_in_episode
        if isinstance(limit, (jax.Array, np.ndarray)) and limit.ndim == 0:
            limit = limit.item()
        _checks.count(f"max_steps_in_episode of {name}", limit)
        self.spec = Spec(name, int(np.prod(seen.shape)), low.size, limit)
        self.env = env
        self.params = params
        self.low = jnp.asarray(low, float)
        self.high = jnp.asarray(high, float)

    def reset(self, key: Key) -> tuple[Any, Observation]:
        """The start of an episode: `(state, obs)`."""
        _checks.one_key(key)
        with foreign():
            obs, state = self.env.reset_env(key, self.params)
        return strong(state), jnp.asarray(obs, float).ravel()

    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Observation, Scalar, Bool[Array, ""]]:
        """One transition: `(state, obs, reward, terminated)`."""
        check_action(self.spec, action)
        _checks.one_key(key)
        action = to_bounds(action, self.low, self.high)
        with foreign():
            obs, new, reward, terminated, _ = self.env.step_env(key, state, action, self.params)
        obs, reward = jnp.asarray(obs, float).ravel(), jnp.asarray(reward, float)
        return like(new, state), obs, reward, ended(terminated, obs, reward)


def build(task: str, *, time_limit: int | None = None, **params: Any) -> Gymnax:
    """One of `TASKS`, with its parameters (such as Pendulum's `g`) overridden by name.

    Raises:
        ImportError: Where gymnax is missing.
        ValueError: For an unknown task or parameter, a parameter that is no finite number, or a time
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
        if name == "max_steps_in_episode":
            _checks.integer(name, value)
        check_like(name, value, getattr(defaults, name))
    return Gymnax(env, defaults.replace(**params), name=f"gymnax/{task}")
