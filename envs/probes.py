"""Probe environments: each isolates one thing a learner must get right, and its values are known in closed form.

| task               | observation    | reward          | episode        | V(s)             | tests                  |
|--------------------|----------------|-----------------|----------------|------------------|------------------------|
| constant           | 0              | 1               | one step       | 1                | value loss, optimiser  |
| observation        | -1 or 1        | s               | one step       | s                | observations reach V   |
| discount           | 0, then 1      | 0, then 1       | two steps      | discount, then 1 | bootstrap, termination |
| action             | 0              | 1 - (a - 1/2)^2 | one step       | 1                | policy improvement     |
| observation_action | -1 or 1        | 1 - (a - s/2)^2 | one step       | 1                | both together          |
| time_limit         | -1 or 1, flips | s               | truncated at 2 | s/(1 + discount) | bootstrap at the limit |

Q(s, a) = r(s, a) + discount V(s'), with V(s') = 0 where the episode terminates. In `time_limit` a learner that takes
truncation for termination, or bootstraps from the observation after the reset (whose value is zero on average),
learns s/(1 + discount/2): on the last step its target is s.

In the spirit of Andy Jones, "Debugging RL, without the agonizing pain" (2021).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Observation, Scalar
from dpolicy.envs.protocol import Environment, Spec, check_action, clip_action


class _Rules(NamedTuple):
    start: Callable[[Any], Any]
    reward: Callable[[Any, Any], Any]
    value: Callable[[Any, Any], Any]
    ends: Callable[[Any], Any] = lambda s: jnp.ones_like(s, bool)
    successor: Callable[[Any], Any] = lambda s: s
    best: Callable[[Any], Any] = jnp.zeros_like
    time_limit: int = 1


def _zero(key: Key) -> Observation:
    return jnp.zeros(1)


def _sign(key: Key) -> Observation:
    return jax.random.rademacher(key, (1,), jnp.zeros(()).dtype)


_RULES = {
    "constant": _Rules(_zero, lambda s, a: jnp.ones_like(s), lambda s, g: jnp.ones_like(s)),
    "observation": _Rules(_sign, lambda s, a: s, lambda s, g: s),
    "discount": _Rules(
        _zero,
        lambda s, a: s,
        lambda s, g: jnp.where(s > 0.5, 1.0, g),
        ends=lambda s: s > 0.5,
        successor=jnp.ones_like,
        time_limit=2,
    ),
    "action": _Rules(
        _zero,
        lambda s, a: 1.0 - (a - 0.5) ** 2,
        lambda s, g: jnp.ones_like(s),
        best=lambda s: jnp.full_like(s, 0.5),
    ),
    "observation_action": _Rules(
        _sign, lambda s, a: 1.0 - (a - 0.5 * s) ** 2, lambda s, g: jnp.ones_like(s), best=lambda s: 0.5 * s
    ),
    "time_limit": _Rules(
        _sign,
        lambda s, a: s,
        lambda s, g: s / (1.0 + g),
        ends=lambda s: jnp.zeros_like(s, bool),
        successor=lambda s: -s,
        time_limit=2,
    ),
}

TASKS = {task: Spec(f"probe/{task}", 1, 1, rules.time_limit) for task, rules in _RULES.items()}


class Probe(Environment):
    """One of the probes of this module's table; the state is the observation.

    Args:
        task: Its name.
        time_limit: Steps after which an episode is truncated; the table's by default.

    Raises:
        ValueError: For an unknown task or a time limit below 1.
    """

    spec: Spec
    task: str = eqx.field(static=True)

    def __init__(self, task: str, *, time_limit: int | None = None):
        _checks.one_of("task", task, _RULES)
        limit = _RULES[task].time_limit if time_limit is None else time_limit
        self.spec = Spec(f"probe/{task}", 1, 1, limit)
        self.task = task

    def value(self, obs: Observation, discount: Number) -> Scalar:
        """V(s) of the optimal policy, the time limit not counted as part of the task."""
        return jnp.asarray(_RULES[self.task].value(obs, discount), float)[0]

    def q_value(self, obs: Observation, action: Action, discount: Number) -> Scalar:
        """Q(s, a) = r(s, a) + discount V(s') of the optimal policy; a clipped to [-1, 1]."""
        rules = _RULES[self.task]
        following = jnp.where(rules.ends(obs)[0], 0.0, self.value(rules.successor(obs), discount))
        return rules.reward(obs, clip_action(action))[0] + discount * following

    def optimal_action(self, obs: Observation) -> Action:
        """The best action; zero where every action is."""
        return _RULES[self.task].best(obs)

    def reset(self, key: Key) -> tuple[Observation, Observation]:
        """The start of an episode: `(state, obs)`."""
        obs = _RULES[self.task].start(_checks.one_key(key))
        return obs, obs

    def step(
        self, state: Observation, action: Action, key: Key
    ) -> tuple[Observation, Observation, Scalar, Bool[Array, ""]]:
        """One transition: `(state, obs, reward, terminated)`; deterministic."""
        check_action(self.spec, action)
        rules = _RULES[self.task]
        obs = rules.successor(state)
        reward = rules.reward(state, clip_action(action))[0]
        return obs, obs, reward, rules.ends(state)[0]
