"""No method uses a random key twice, neither where it starts nor where it acts or learns."""

import jax
import jax.numpy as jnp
import key_reuse
import pytest
from smallest import SPEC, build, experience, updated

from dpolicy.algorithms import ALGORITHMS

KEY = jax.random.key(0)
# The pairs of FPO and FPO++ are drawn from a key that is stored with the transition to be used in every pass; the
# density of MaxEntDP moves the axis of its keys, by which the checker loses sight of them.
STORED, MOVED = ("fpo", "fpopp"), {"maxentdp": {"soft": False}}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_key_serves_twice(name):
    algorithm = build(name, **MOVED.get(name, {}))

    def begin(key, batch_key):
        state = algorithm.init(key, SPEC)
        return state, experience(algorithm, state, batch_key)

    state, batch = key_reuse.check(begin, *jax.random.split(KEY))
    obs = jnp.zeros(SPEC.obs_size)
    for mode in algorithm.modes:
        key_reuse.check(lambda s, key, mode=mode: algorithm.act(s, obs, key, mode)[0], state, KEY)
    if name == "ddiffpg":  # which explores according to the place of its environment
        key_reuse.check(lambda s, key: algorithm.act(s, obs, key, "explore", 0.5)[0], state, KEY)
    if name not in STORED:
        key_reuse.check(lambda s, b, key: updated(algorithm, s, b, key), state, batch, KEY)
