"""Adapter for brax: its bare environments, without its training wrappers (they lose the terminal observation)."""

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.envs.adapt import (
    check_like,
    ended,
    foreign,
    has_parts,
    like,
    making,
    require,
    strong,
    vector_size,
)
from dpolicy.envs.protocol import Environment, Spec, clip_action

# Swimmer is missing: it calls a signature that JAX has removed (brax 0.14).
TASKS = {
    task: Spec(f"brax/{task}", obs_size, action_size, 1000)
    for task, (obs_size, action_size) in {
        "ant": (27, 8),
        "halfcheetah": (17, 6),
        "hopper": (11, 3),
        "humanoid": (244, 17),
        "humanoidstandup": (244, 17),
        "inverted_double_pendulum": (8, 1),
        "inverted_pendulum": (4, 1),
        "pusher": (23, 7),
        "reacher": (11, 2),
        "walker2d": (17, 6),
    }.items()
}
BACKENDS = ("spring", "generalized", "positional", "mjx")


class Brax(Environment):
    """A brax environment whose observation is a vector.

    Actions are clipped to [-1, 1], brax's own convention: it would charge the control cost for the unclipped action.
    An episode terminates where brax says so, and where an observation or a reward is not finite.
    Compile `reset`; op by op it takes tens of seconds.

    Args:
        env: The bare brax environment.
        name: What the specification calls it.
        time_limit: Steps after which an episode is truncated; brax environments have none of their own.

    Raises:
        ValueError: For an environment that lacks something, or whose observation is no vector.
    """

    spec: Spec
    env: Any = eqx.field(static=True)

    def __init__(self, env: Any, *, name: str = "brax/custom", time_limit: int = 1000):
        has_parts(name, env, "reset", "step", "action_size")
        with foreign():
            obs = jax.eval_shape(env.reset, jax.random.key(0)).obs
        size = vector_size(f"the observation of {name}", obs)
        self.spec = Spec(name, size, int(env.action_size), time_limit)
        self.env = env

    def reset(self, key: Key) -> tuple[Any, Observation]:
        """The start of an episode: `(state, obs)`."""
        _checks.one_key(key)
        with foreign():
            state = strong(self.env.reset(key))
        return state, jnp.asarray(state.obs, float)

    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Observation, Scalar, Bool[Array, ""]]:
        """One transition: `(state, obs, reward, terminated)`; deterministic."""
        # A copy, since brax writes into the dictionaries of the state that it is given.
        copy = jax.tree.map(lambda leaf: leaf, state)
        with foreign():
            new = like(self.env.step(copy, clip_action(action)), state)
        obs, reward = jnp.asarray(new.obs, float), jnp.asarray(new.reward, float)
        return new, obs, reward, ended(new.done, obs, reward)


def _options(brax: Any, task: str) -> dict[str, Any]:
    """What may be said to the constructor of a task, and what that passes on to the one of all tasks: the defaults."""
    constructors = (brax.base.PipelineEnv, brax._envs[task])
    found = {
        name: p for function in constructors for name, p in inspect.signature(function).parameters.items()
    }
    return {name: p.default for name, p in found.items() if p.default is not p.empty}


def build(task: str, *, backend: str = "spring", time_limit: int = 1000, **options: Any) -> Brax:
    """One of `TASKS`; further options go to brax's constructor.

    The spring backend is the default because it is many times faster than `generalized` on most tasks; returns
    differ between backends and must not be compared across them.

    Raises:
        ImportError: Where brax is missing.
        ValueError: For an unknown task or backend, a time limit below 1, or options that brax refuses.
    """
    _checks.one_of("task", task, TASKS)
    _checks.one_of("backend", backend, BACKENDS)
    _checks.integer("time_limit", time_limit)
    brax = require("brax.envs", "brax", f"brax/{task}")
    known = _options(brax, task)
    for option, value in options.items():
        _checks.one_of(f"option of brax/{task}", option, known)
        check_like(option, value, known[option])
        if option == "n_frames":
            _checks.integer(option, value)
    with making(f"brax/{task}", options):
        env = brax.get_environment(task, backend=backend, **options)
    return Brax(env, name=f"brax/{task}", time_limit=time_limit)
