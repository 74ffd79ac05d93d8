"""Random transitions, as an off-policy update is given them."""

import jax
import jax.numpy as jnp

from dpolicy._types import Transition


def experience(key, size=12, obs_size=2, action_size=2):
    """Single steps of which none ends an episode."""
    keys = jax.random.split(key, 3)
    obs = jax.random.normal(keys[0], (size, obs_size))
    action = jax.random.uniform(keys[1], (size, action_size), minval=-1.0, maxval=1.0)
    no = jnp.zeros(size, bool)
    return Transition(obs, action, jax.random.normal(keys[2], (size,)), obs[::-1], no, no)
