"""Environments around environments: several actions at once, one action repeated, past observations, another limit.

Each is an `Environment` for one episode, so `Vector` batches, limits and resets it like any other. A wrapper changes
what a step IS: `spec.time_limit`, episode lengths, discounts and budgets of steps count the wrapper's own steps.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.envs.protocol import Environment, Spec, check_action, check_environment
from dpolicy.envs.stepping import start, step


def unwrapped(env: Environment) -> Environment:
    """The environment inside all wrappers; a place for `eqx.tree_at`, too."""
    while isinstance(env, ActionChunk | ActionRepeat | FrameStack | TimeLimit):
        env = env.env
    return env


def _renamed(env: Environment, setting: str, name: str | None) -> str:
    return f"{env.spec.name} {setting}" if name is None else name


def _shared_limit(env: Environment, wrapper: str, argument: str, count: int) -> int:
    """The time limit in groups of `count` steps; refused where it would fall within a group."""
    check_environment("env", env)
    _checks.integer(argument, count)
    limit = env.spec.time_limit
    if limit % count:
        near = limit - limit % count or count
        raise ValueError(
            f"{wrapper} needs a {argument} that divides the time limit of {env.spec.name}, {limit}, got {count}: put "
            f"it around TimeLimit(env, {near}), or give make a time_limit, which counts the steps of what it returns."
        )
    return limit // count


def _run(
    env: Environment, state: Any, actions: Float[Array, "n a"], key: Key
) -> tuple[Any, Observation, Scalar, Bool[Array, ""]]:
    """Take `actions` in turn until the episode terminates: `(state, obs, sum of rewards, terminated)`."""

    def one(carry: Any, inputs: Any) -> tuple[Any, None]:
        state, obs, total, ended = carry
        action, key = inputs
        new_state, new_obs, reward, terminated = step(env, state, action, key)
        keep = lambda old, new: jax.tree.map(lambda a, b: jnp.where(ended, a, b), old, new)
        state, obs = keep((state, obs), (new_state, new_obs))
        # Selected, not multiplied: what a simulator makes of steps beyond the end may not even be finite.
        return (state, obs, total + jnp.where(ended, 0.0, reward), ended | terminated), None

    zero = jnp.zeros(())
    begin = (state, jnp.zeros(env.spec.obs_size), zero, jnp.asarray(False))
    keys = jax.random.split(key, actions.shape[0])
    return jax.lax.scan(one, begin, (actions, keys))[0]


class ActionChunk(Environment):
    """The policy decides `size` actions at once; they are executed in a row before it sees the next observation.

    An action is `[size * a]`, the first action first. The reward of a step is the undiscounted sum over the executed
    actions; a discount applies between chunks, so discount**(1/size) is that of a single action. Where the episode
    terminates within a chunk, the rest of it does nothing: no reward, the state kept, and the observation is the
    terminal one. `spec.time_limit` counts chunks.

    Args:
        env: What to wrap.
        size: Actions in a chunk; must divide the time limit of `env`, so that no limit falls within a chunk.

    Raises:
        ValueError: For a size below 1 or one that does not divide the time limit.
    """

    spec: Spec
    env: Environment
    size: int = eqx.field(static=True)

    def __init__(self, env: Environment, size: int):
        limit = _shared_limit(env, "ActionChunk", "size", size)
        name = _renamed(env, f"action_chunk={size}", None)
        self.spec = Spec(
            name, env.spec.obs_size, env.spec.action_size * size, limit, success=env.spec.success
        )
        self.env = env
        self.size = size

    def reset(self, key: Key) -> tuple[Any, Observation]:
        """The start of an episode: `(state, obs)`."""
        return start(self.env, key)

    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Observation, Scalar, Bool[Array, ""]]:
        """One chunk: `(state, obs, sum of rewards, terminated)`."""
        check_action(self.spec, action)
        return _run(self.env, state, action.reshape(self.size, self.env.spec.action_size), key)


class ActionRepeat(Environment):
    """Every action is executed `count` times before the policy sees the next observation.

    The reward of a step is the undiscounted sum over the repeats; those after a termination do nothing.
    `spec.time_limit` counts the policy's steps.

    Args:
        env: What to wrap.
        count: How often; must divide the time limit of `env`.
        name: What the specification calls it; by default the name of `env` and the count.

    Raises:
        ValueError: For a count below 1 or one that does not divide the time limit.
    """

    spec: Spec
    env: Environment
    count: int = eqx.field(static=True)

    def __init__(self, env: Environment, count: int, *, name: str | None = None):
        limit = _shared_limit(env, "ActionRepeat", "count", count)
        name = _renamed(env, f"action_repeat={count}", name)
        self.spec = Spec(name, env.spec.obs_size, env.spec.action_size, limit, success=env.spec.success)
        self.env = env
        self.count = count

    def reset(self, key: Key) -> tuple[Any, Observation]:
        """The start of an episode: `(state, obs)`."""
        return start(self.env, key)

    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Observation, Scalar, Bool[Array, ""]]:
        """`count` transitions: `(state, obs, sum of rewards, terminated)`."""
        check_action(self.spec, action)
        return _run(self.env, state, jnp.broadcast_to(action[None], (self.count, action.shape[0])), key)


class FrameStack(Environment):
    """The observation is the last `count` observations, `[count * o]`, oldest first; at reset the first, repeated.

    Args:
        env: What to wrap.
        count: How many.

    Raises:
        ValueError: For a count below 1.
    """

    spec: Spec
    env: Environment
    count: int = eqx.field(static=True)

    def __init__(self, env: Environment, count: int):
        check_environment("env", env)
        _checks.count("count", count, each=env.spec.obs_size)
        name = _renamed(env, f"frame_stack={count}", None)
        self.spec = Spec(
            name,
            env.spec.obs_size * count,
            env.spec.action_size,
            env.spec.time_limit,
            success=env.spec.success,
        )
        self.env = env
        self.count = count

    def reset(self, key: Key) -> tuple[Any, Observation]:
        """The start of an episode: `((state, observations), obs)`."""
        state, obs = start(self.env, key)
        frames = jnp.tile(obs, self.count)
        return (state, frames), frames

    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Observation, Scalar, Bool[Array, ""]]:
        """One transition: `((state, observations), obs, reward, terminated)`."""
        inner, frames = state
        inner, obs, reward, terminated = step(self.env, inner, action, key)
        frames = jnp.concatenate([frames[self.env.spec.obs_size :], obs])
        return (inner, frames), frames, reward, terminated


class TimeLimit(Environment):
    """The same environment, its episodes truncated after `steps` of its steps instead of its own limit.

    Args:
        env: What to wrap.
        steps: The limit.

    Raises:
        ValueError: For a limit below 1.
    """

    spec: Spec
    env: Environment

    def __init__(self, env: Environment, steps: int):
        check_environment("env", env)
        _checks.count("steps", steps)
        name = _renamed(env, f"time_limit={steps}", None)
        self.spec = Spec(name, env.spec.obs_size, env.spec.action_size, steps, success=env.spec.success)
        self.env = env

    def reset(self, key: Key) -> tuple[Any, Observation]:
        """The start of an episode: `(state, obs)`."""
        return start(self.env, key)

    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Observation, Scalar, Bool[Array, ""]]:
        """One transition of the wrapped environment: `(state, obs, reward, terminated)`."""
        return step(self.env, state, action, key)
