"""What every environment is: pure functions over one state, without time limit and without autoreset."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar


class Spec(eqx.Module):
    """Sizes and limits of an environment; all static.

    Attributes:
        name: "family/task".
        obs_size: Numbers in an observation.
        action_size: Numbers in an action.
        time_limit: Steps after which an episode is truncated.
        standardised: Whether a policy is shown observations that have been standardised.
        success: Whether an episode that terminates has succeeded; evaluations then tell the share of those that do.

    Raises:
        ValueError: For a name that is no text, or a size or a limit that is no integer from 1 to 2^31 - 1.
    """

    name: str = eqx.field(static=True)
    obs_size: int = eqx.field(static=True)
    action_size: int = eqx.field(static=True)
    time_limit: int = eqx.field(static=True)
    standardised: bool = eqx.field(static=True, default=False)
    success: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        _checks.instance("name", self.name, str, 'a name "family/task"')
        _checks.count("obs_size", self.obs_size)
        _checks.count("action_size", self.action_size)
        _checks.count("time_limit", self.time_limit)
        _checks.boolean("success", self.success)


class Environment(eqx.Module):
    """One environment, for ONE episode at a time; `dpolicy.envs.Vector` adds batch, time limit and resets.

    Actions lie in [-1, 1]: an implementation clips to that box first and then maps it affinely to its own bounds, so
    an unbounded policy is charged for, and moves by, the clipped action. `state` is any pytree of arrays whose
    structure, shapes and types `step` preserves. Floats are of JAX's default precision. Where an array is asked for, a
    number of Python will do (`1.0, False`).

    An environment whose numbers may cease to be finite, as those of a simulation that diverges, terminates then: the
    library puts the observation before that step, and a reward of zero, in the place of what it returned.
    """

    spec: eqx.AbstractVar[Spec]

    def __hash__(self) -> int:
        """Of all but the values of its arrays, which have none; `jax.jit(env.reset)` and `jit(vector.init)` need it."""
        shapes = (jnp.shape(leaf) for leaf in jax.tree.leaves(self))
        return hash((type(self), self.spec, *shapes))

    @abc.abstractmethod
    def reset(self, key: Key) -> tuple[Any, Observation]:
        """The start of an episode: `(state, obs)`."""

    @abc.abstractmethod
    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Observation, Scalar, Bool[Array, ""]]:
        """One transition: `(state, obs, reward, terminated)`.

        `obs` is the successor, also where the episode ends. `terminated` says that the task is over (the value of
        `obs` is zero); running out of time is not told here.
        """


def check_environment(name: str, env: Any) -> None:
    """Raise `ValueError` for something that is no environment, or has no specification."""
    _checks.instance(name, env, Environment, "an Environment")
    _checks.instance(f"{name}.spec", env.spec, Spec, "a Spec")


def check_action(spec: Spec, action: Action) -> None:
    """Raise `ValueError` for an action of another size, which broadcasting would let pass."""
    if jnp.shape(action) != (spec.action_size,):
        shapes = f"{(spec.action_size,)} of {spec.name}, got {jnp.shape(action)}"
        raise ValueError(f"action must have the shape {shapes}.")


def clip_action(action: Action) -> Action:
    """The action clipped to the box [-1, 1] that policies act in."""
    return jnp.clip(action, -1.0, 1.0)


def to_bounds(action: Action, low: jax.Array, high: jax.Array) -> Action:
    """The affine map of [-1, 1] onto [low, high], after clipping: low + (clip(action) + 1) (high - low) / 2."""
    return low + 0.5 * (clip_action(action) + 1.0) * (high - low)
