"""One episode of one environment, begun and taken a step further: how every batch, evaluation and recording does it.

What an environment returns is checked here, while it is traced; and a simulation that has diverged leaves nothing
behind that is not finite.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.envs._promises import Violation, check_reset, check_state, check_step, raised
from dpolicy.envs.protocol import Environment, check_action


class Taken(NamedTuple):
    """What a step led to.

    Attributes:
        state: The state after it; where the episode ended, not to be stepped further.
        obs: The successor; where the step diverged, the observation before it.
        reward: The reward; zero where the step diverged.
        terminated: Whether the task ended.
        diverged: Whether it ended with an observation or a reward that is not finite.
    """

    state: Any
    obs: Observation
    reward: Scalar
    terminated: Bool[Array, ""]
    diverged: Bool[Array, ""]


class BrokenPromise(ValueError):
    """What an environment does wrong, as it is told.

    Attributes:
        violation: The sentence alone, without the environment's name.
    """

    def __init__(self, name: str, violation: str):
        super().__init__(f"{name}: {violation} `dpolicy check-env` looks at the rest of what it promises.")
        self.violation = violation


@contextlib.contextmanager
def _told(env: Environment, what: str) -> Iterator[None]:
    """Tell what an environment raises, or what is wrong with what it returned, by its name; a wrapper adds nothing."""
    try:
        yield
    except BrokenPromise:
        raise
    except Violation as violation:
        raise BrokenPromise(env.spec.name, str(violation)) from None
    except Exception as error:
        raise BrokenPromise(env.spec.name, f"{what} {raised(error)}") from error


def start(env: Environment, key: Key) -> tuple[Any, Observation]:
    """`env.reset(key)`: the start of an episode, `(state, obs)`.

    Raises:
        ValueError: For a state or an observation of another kind than every environment promises, and for what the
            environment raises.
    """
    with _told(env, "reset"):
        result = env.reset(key)
        check_reset(env.spec, result)
    state, obs = result
    return state, jnp.asarray(obs)


def step(
    env: Environment, state: Any, action: Action, key: Key
) -> tuple[Any, Observation, Scalar, Bool[Array, ""]]:
    """`env.step(state, action, key)`, as arrays.

    Raises:
        ValueError: For an action of another size, for results of another kind than every environment promises, and for
            what the environment raises.
    """
    check_action(env.spec, action)
    with _told(env, "step"):
        result = env.step(state, action, key)
        check_step(env.spec, result)
        new, *shown = result
        check_state(state, new)
    # They may be numbers of Python, whose operators mean something else.
    obs, reward, terminated = map(jnp.asarray, shown)
    return new, obs, reward, terminated


def decided(
    policy: Callable[[Observation, Key], Action], env: Environment, obs: Observation, key: Key
) -> Action:
    """`policy(obs, key)`: what a user's policy does for one observation.

    Raises:
        ValueError: For anything but an array of floats, one for each number of an action.
    """
    action = jnp.asarray(_checks.returned("policy", policy(obs, key), (env.spec.action_size,)))
    if not jnp.issubdtype(action.dtype, jnp.floating):
        raise ValueError(f"policy must return an array of floats, got {action.dtype}.")
    return action


def take(env: Environment, state: Any, obs: Observation, action: Action, key: Key) -> Taken:
    """`step` from a state whose observation is `obs`.

    One that terminates with numbers that are not finite, as a simulation does that has diverged, gives the observation
    before it and a reward of zero.
    """
    new, next_obs, reward, terminated = step(env, state, action, key)
    diverged = terminated & ~(jnp.all(jnp.isfinite(next_obs)) & jnp.isfinite(reward))
    # Selected, not multiplied: zero times infinity is no zero.
    return Taken(
        state=new,
        obs=jnp.where(diverged, obs, next_obs),
        reward=jnp.where(diverged, jnp.zeros_like(reward), reward),
        terminated=terminated,
        diverged=diverged,
    )
