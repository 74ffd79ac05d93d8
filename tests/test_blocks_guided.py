"""A behaviour guided by an energy: what it samples, whose parts it takes, and the network that guides it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture
from smallest import SPEC

from dpolicy.blocks import guided_policy
from dpolicy.fields import EnergyNetwork, Guided
from dpolicy.learning import Parts

KEY = jax.random.key(0)
OBS = jnp.zeros(3)
NU = GaussianMixture([1.0], [[0.1, -0.2]], 0.2)
BETA, SLOPE = 2.0, jnp.array([1.5, -1.0])


def energy_of(schedule, t, x):
    """log E[exp(beta g.x_0) | x_t = x] of the Gaussian: beta g.mu(x), and what does not depend on x."""
    return BETA * SLOPE @ NU.posterior(x, t, schedule)[0]


def acting(scale, **options):
    policy = guided_policy(guidance_scale=scale, sampler_steps=100)
    schedule = policy.behaviour.schedule
    exact = lambda x, t, obs: energy_of(schedule, t, x)
    parts = Parts(nu=NU.field(schedule), pull=exact, target=lambda obs, action: jnp.stack([action[0]] * 2))
    act = policy.acts(behaviour="nu", energy="pull", **options)(parts)
    return np.asarray(jax.jit(jax.vmap(act, in_axes=(None, 0)))(OBS, jax.random.split(KEY, 2_000)))


def test_it_samples_the_tilted_behaviour():
    """nu exp(beta g.a) has the mean m + beta v g and the variance of nu; a scale of 0 is nu."""
    still, tilted = acting(0.0), acting(1.0)
    np.testing.assert_allclose(still.mean(0), [0.1, -0.2], atol=0.015)
    np.testing.assert_allclose(tilted.mean(0), [0.1 + 2 * 0.04 * 1.5, -0.2 - 2 * 0.04], atol=0.015)
    np.testing.assert_allclose(tilted.std(0), still.std(0), rtol=0.02)
    np.testing.assert_allclose(still.std(0), 0.2, rtol=0.05)


def test_candidates_are_guided_and_chosen_by_the_critic():
    """Of four samples the one of largest Q lies 1.029 deviations above their mean; at a high temperature any does."""
    best = acting(1.0, candidates=4)
    np.testing.assert_allclose(best.mean(0), [0.1 + 0.12 + 1.029 * 0.2, -0.28], atol=0.015)
    lowest = acting(1.0, candidates=4, select=lambda parts: lambda obs, action: -action[0])
    np.testing.assert_allclose(lowest.mean(0), [0.1 + 0.12 - 1.029 * 0.2, -0.28], atol=0.015)
    np.testing.assert_allclose(
        acting(1.0, candidates=4, temperature=100.0).mean(0), [0.22, -0.28], atol=0.015
    )


def test_samples_end_in_the_box_and_are_not_clipped_on_the_way():
    far = acting(40.0)
    assert np.abs(far).max() == 1.0 and (far[:, 0] == 1.0).mean() > 0.9
    policy = guided_policy(sampler_steps=2, hidden=(4,), energy_hidden=(4,))
    made = policy.behaviour.make(KEY, SPEC), policy.make(jax.random.key(1), SPEC)
    field = policy.field(*made)
    assert isinstance(field, Guided) and isinstance(field.energy, EnergyNetwork)
    sampled = jax.eval_shape(lambda field: policy.behaviour.sample(field, OBS, KEY), field)
    assert sampled.shape == (SPEC.action_size,)


def test_an_energy_network_sees_everything_it_is_given(getkey):
    network = EnergyNetwork(3, 2, hidden=(16, 8), key=getkey())
    x, t, obs = jnp.array([0.3, -0.2]), jnp.array(0.4), jnp.array([1.0, 0.5, -0.3])
    slopes = jax.jit(jax.grad(lambda *given: network(*given), argnums=(0, 1, 2)))(x, t, obs)
    assert all(np.all(np.asarray(slope) != 0) for slope in slopes)
    # Frequencies are no parameters.
    moved = jax.jit(jax.grad(lambda net: net(x, t, obs)))(network).embedding
    assert not np.any(moved.inner.frequencies) and np.any(moved.mlp.layers[0].bias)
    assert EnergyNetwork(3, 2, hidden=(16, 8), final_scale=0.0, key=getkey())(x, t, obs) == 0.0


def test_bad_arguments(getkey):
    with pytest.raises(ValueError, match="guidance_scale must be"):
        guided_policy(guidance_scale=-1.0)
    with pytest.raises(ValueError, match="energy_embedding must be one of"):
        guided_policy(energy_embedding="cossin")
    with pytest.raises(ValueError, match="candidates must be"):
        guided_policy().acts(0)
    with pytest.raises(ValueError, match="activation must be one of"):
        EnergyNetwork(1, 1, activation="x", key=getkey())
