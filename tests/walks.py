"""A walk that is sound, and walks that break one promise of an environment each; the names of the checks."""

import jax
import jax.numpy as jnp

from dpolicy.envs import (
    Environment,
)
from dpolicy.envs.protocol import Spec, clip_action

EPISODES = ["finite numbers", "flags", "time limit", "clocks", "starts", "terminal observations"]
CHECKS = [
    *("specification", "reset", "step", "state", "purity", "jit", "vmap", "determinism", "actions"),
    *EPISODES,
]
LIMIT = 6


class Walk(Environment):
    """Walks by its action from a random place, and terminates beyond 2. Tests break one promise of it each."""

    spec: Spec = Spec("test/walk", 2, 1, LIMIT)
    start: float = 1.0

    def reset(self, key):
        place = self.start * jax.random.uniform(key, (2,))
        return place, place

    def step(self, state, action, key):
        moved = state + clip_action(action)
        return moved, moved, -jnp.sum(clip_action(action) ** 2), jnp.abs(moved[0]) > 2


class ResetReturnsObs(Walk):
    def reset(self, key):
        return jnp.zeros(2), jnp.zeros(2), {}


class LongObs(Walk):
    def reset(self, key):
        return jnp.zeros(2), jnp.zeros(3)


class IntegerObs(Walk):
    def reset(self, key):
        return jnp.zeros(2), jnp.zeros(2, int)


class FiveValues(Walk):
    def step(self, state, action, key):
        return *super().step(state, action, key), jnp.asarray(False)


class VectorReward(Walk):
    def step(self, state, action, key):
        state, obs, _, terminated = super().step(state, action, key)
        return state, obs, action, terminated


class FloatFlag(Walk):
    def step(self, state, action, key):
        state, obs, reward, terminated = super().step(state, action, key)
        return state, obs, reward, terminated.astype(float)


class LongerObs(Walk):
    def step(self, state, action, key):
        state, obs, reward, terminated = super().step(state, action, key)
        return state, jnp.append(obs, 0.0), reward, terminated


class GrowingState(Walk):
    def reset(self, key):
        return {"place": jnp.zeros(2)}, jnp.zeros(2)

    def step(self, state, action, key):
        new = {"place": state["place"], "time": jnp.zeros((), int)}
        return new, state["place"], jnp.zeros(()), jnp.asarray(False)
