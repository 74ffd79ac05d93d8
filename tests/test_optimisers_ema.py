import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.networks import ValueNetwork
from dpolicy.optimisers import ema


def test_decay_weighs_the_old_value():
    old = {"weight": jnp.array([1.0, 2.0]), "count": jnp.array(3)}
    new = {"weight": jnp.array([3.0, 6.0]), "count": jnp.array(5)}
    mixed = ema(old, new, 0.75)
    np.testing.assert_allclose(mixed["weight"], [1.5, 3.0])
    assert mixed["count"] == 5
    np.testing.assert_array_equal(ema(old, new, 1)["weight"], old["weight"])
    np.testing.assert_array_equal(ema(old, new, 0)["weight"], new["weight"])


def test_sixty_steps_of_dp_cppo(x64):
    value = {"weight": jnp.array(1.0)}
    step = jax.jit(lambda v: ema(v, {"weight": jnp.array(0.0)}, 0.999))
    for _ in range(60):
        value = step(value)
    np.testing.assert_allclose(value["weight"], 0.9417, atol=5e-5)


def test_modules_traced_decay_and_dtype(x64, getkey):
    networks = [ValueNetwork(2, hidden=(3,), initialisation="torch", key=getkey()) for _ in range(2)]
    old, new = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), networks)
    swept = jax.jit(jax.vmap(lambda decay: ema(old, new, decay)))(jnp.array([0.0, 0.5, 1.0]))
    mixed, before, after = (module.mlp.layers[0].weights[0] for module in (swept, old, new))
    assert mixed.dtype == jnp.float32
    np.testing.assert_allclose(mixed[1], (before + after) / 2, rtol=1e-6)


def test_bad_arguments(getkey):
    with pytest.raises(ValueError, match="decay must be"):
        ema(jnp.ones(2), jnp.ones(2), 1.5)
    with pytest.raises(ValueError, match="same structure"):
        ema({"a": jnp.ones(2)}, {"b": jnp.ones(2)}, 0.5)
