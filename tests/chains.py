"""A chain whose values are known, as an environment of ours and through the interfaces of the packages we adapt.

States 0 ... LENGTH - 1 in a row, episodes start in any of them, every step moves on by one and pays 1 whatever the
action, and the step out of the last state terminates. From state s the return is a sum over the LENGTH - s steps that
are left. A time limit that is shorter than the chain truncates most episodes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpolicy.envs import Brax, Environment, Gymnax, Playground
from dpolicy.envs.protocol import Spec

LENGTH = 6


def value(state, discount, together=1):
    """V(s) where a step of the wrapper takes `together` steps of the chain, whose rewards it adds up:

    the m = ceil((LENGTH - s) / together) steps that are left pay `together` each, the last one what remains, so
    V = together (1 - discount^(m - 1)) / (1 - discount) + discount^(m - 1) (LENGTH - s - together (m - 1)).
    """
    left = LENGTH - state
    full = -(-left // together) - 1
    return together * (1 - discount**full) / (1 - discount) + discount**full * (left - together * full)


def seen(state):
    """The observation of a state: one-hot; of the place behind the last one: zero."""
    return (jnp.arange(LENGTH) == state).astype(float)


def drawn(key):
    return jax.random.randint(key, (), 0, LENGTH)


class Chain(Environment):
    spec: Spec

    def __init__(self, time_limit=2):
        self.spec = Spec("test/chain", LENGTH, 1, time_limit)

    def reset(self, key):
        state = drawn(key)
        return state, seen(state)

    def step(self, state, action, key):
        return state + 1, seen(state + 1), jnp.ones(()), state + 1 >= LENGTH


class GymnaxChain:
    """Interface of a gymnax environment."""

    class Params(NamedTuple):
        max_steps_in_episode: int

    class Space(NamedTuple):
        shape: tuple
        low: float = -2.0
        high: float = 2.0

    def action_space(self, params):
        return self.Space((1,))

    def observation_space(self, params):
        return self.Space((LENGTH,))

    def reset_env(self, key, params):
        state = drawn(key)
        return seen(state), state

    def step_env(self, key, state, action, params):
        return seen(state + 1), state + 1, 1.0, state + 1 >= LENGTH, {"discount": 0.0}


class State(NamedTuple):
    """What brax and playground environments pass around."""

    place: Any
    obs: Any
    reward: Any
    done: Any
    info: Any


class BraxChain:
    """Interface of a brax environment: flags are floats, and `time_out` says that the episode terminated."""

    action_size = 1

    def reset(self, key):
        place = drawn(key)
        return State(place, seen(place), jnp.zeros(()), 0.0, {"time_out": 0.0})

    def step(self, state, action):
        place = state.place + 1
        done = (place >= LENGTH).astype(float)
        state.info["time_out"] = done
        return State(place, seen(place), jnp.ones(()), done, state.info)


class PlaygroundChain:
    """Interface of a playground environment: keys without a type, several groups of observations, a key in `info`."""

    action_size = 1

    def _groups(self, place):
        return {"state": seen(place), "privileged_state": jnp.append(seen(place), place)}

    def reset(self, rng):
        rng, start = jax.random.split(rng)
        if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
            raise TypeError("rng must be an array of integers.")
        place = drawn(start)
        return State(place, self._groups(place), jnp.zeros(()), jnp.zeros(()), {"rng": rng})

    def step(self, state, action):
        place = state.place + 1
        state.info["rng"] = jax.random.split(state.info["rng"])[0]
        return State(place, self._groups(place), jnp.ones(()), (place >= LENGTH).astype(float), state.info)


def adapted(time_limit):
    """The chain through every adapter, by family."""
    return {
        "gymnax": Gymnax(GymnaxChain(), GymnaxChain.Params(time_limit), name="gymnax/chain"),
        "brax": Brax(BraxChain(), name="brax/chain", time_limit=time_limit),
        "playground": Playground(PlaygroundChain(), name="playground/chain", time_limit=time_limit),
    }


def pushed(vector, steps, key):
    """The last state and the steps, [time, environment], of a batch that always acts with all force."""
    actions = jnp.ones((vector.num, vector.env.spec.action_size))

    @jax.jit
    def run(key):
        keys = jax.random.split(key, steps)
        return jax.lax.scan(lambda state, key: vector.step(state, actions, key), vector.init(key), keys)

    return run(key)
