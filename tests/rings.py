"""Small rings and data sets in which every transition tells its time and its environment."""

import jax
import jax.numpy as jnp
import numpy as np

from dpolicy._types import Transition
from dpolicy.algorithm import Stored
from dpolicy.train.replay import Replay


def step(time, env=0, *, ends="", extra=0.0):
    """Step `time` of environment `env`: everything in it tells both."""
    place = 100.0 * env + time
    return Transition(
        obs=jnp.array([place, 1.0]),
        action=jnp.array([place / 1000]),
        reward=jnp.asarray(2.0**time + env),
        next_obs=jnp.array([place + 0.5, 2.0]),
        terminated=jnp.asarray(ends == "terminated"),
        truncated=jnp.asarray(ends == "truncated"),
        extras={"mark": jnp.asarray(place + extra)},
    )


def together(items):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)


def ring(steps, capacity, ends, envs=1):
    """A ring of `capacity` rows after `steps` lines of `envs` environments; `ends` says which (time, env) end how."""
    replay = Replay.start(step(0), capacity)
    for time in range(steps):
        line = [step(time, env, ends=ends.get((time, env), "")) for env in range(envs)]
        replay = replay.add(together(line))
    return Stored(replay.data, replay.cursor, replay.size, envs)


def row_of(stored, time, env=0):
    place, written = np.asarray(stored.items.obs).T
    (found,) = np.flatnonzero((place == 100 * env + time) & (written == 1))
    return jnp.asarray([found])


def data(ends=None):
    return together([step(time, ends=(ends or {}).get(time, "")) for time in range(6)])
