import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from dpolicy.networks import (
    Gaussian,
    ResidualGaussian,
    TanhGaussian,
    gaussian_entropy,
    gaussian_kl,
    gaussian_log_prob,
    tanh_log_det,
)


def tanh_log_prob(u, mean, log_std):
    return gaussian_log_prob(u, mean, log_std) - tanh_log_det(u)


def test_stable_log_det(x64):
    """log(1 - tanh^2 u) at the specification's points, where the naive form gives -inf at 20."""
    values = [-float(tanh_log_det(jnp.array([u]))) for u in (0.0, 1.0, 5.0, 10.0, 20.0)]
    np.testing.assert_allclose(values, [0, 0.86756, 8.6138, 18.6137, 38.6137], atol=5e-5)
    np.testing.assert_allclose(
        tanh_log_det(jnp.array([0.3, -2.0])), jnp.sum(jnp.log(1 - jnp.tanh(jnp.array([0.3, -2.0])) ** 2))
    )
    assert jnp.isfinite(tanh_log_det(jnp.array([1e3, -1e3], jnp.float32)))


def test_tanh_log_prob_vector(x64):
    value = tanh_log_prob(jnp.array([0.5]), jnp.array([0.2]), jnp.log(jnp.array([0.8])))
    np.testing.assert_allclose(value, -0.525878, atol=5e-7)


@pytest.mark.parametrize(("mean", "std"), [(0.2, 0.8), (-1.0, 0.3)])
def test_tanh_density_integrates_to_one(mean, std, x64):
    def density(a):
        u = jnp.arctanh(a)
        return jnp.exp(
            jax.vmap(tanh_log_prob, (0, None, None))(u[:, None], jnp.array([mean]), jnp.log(jnp.array([std])))
        )

    a = jnp.linspace(-1 + 1e-6, 1 - 1e-6, 200_001)
    np.testing.assert_allclose(integrate.simpson(np.asarray(density(a)), x=np.asarray(a)), 1, atol=2e-6)


def test_kl(x64):
    zero, one = jnp.zeros(1), jnp.ones(1)
    value = gaussian_kl(zero, zero, 0.1 * one, jnp.log(1.1 * one))
    np.testing.assert_allclose(value, 0.0126655517, atol=5e-11)
    assert gaussian_kl(one, zero, one, zero) == 0
    # Against its definition, by quadrature.
    old, new = (jnp.array([0.3]), jnp.log(jnp.array([0.5]))), (jnp.array([-0.1]), jnp.log(jnp.array([0.9])))
    x = jnp.linspace(-6, 6, 4001)[:, None]
    log_old, log_new = (jax.vmap(lambda v, p=p: gaussian_log_prob(v, *p))(x) for p in (old, new))
    integral = integrate.simpson(np.asarray(jnp.exp(log_old) * (log_old - log_new)), x=np.asarray(x[:, 0]))
    np.testing.assert_allclose(gaussian_kl(*old, *new), integral, rtol=1e-10)


def test_entropy_and_log_prob(x64):
    np.testing.assert_allclose(gaussian_entropy(jnp.log(jnp.array([0.3]))), 0.214966, atol=5e-7)
    x, mean, std = np.array([0.3, -1.0]), np.array([0.1, 0.4]), np.array([0.5, 2.0])
    expected = sum(
        math.log(math.exp(-0.5 * z * z) / s / math.sqrt(2 * math.pi))
        for z, s in zip((x - mean) / std, std, strict=True)
    )
    value = gaussian_log_prob(jnp.asarray(x), jnp.asarray(mean), jnp.log(jnp.asarray(std)))
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_tanh_gaussian(x64, getkey):
    policy = TanhGaussian(3, 2, hidden=(8,), initialisation="torch", key=getkey())
    obs = jax.random.normal(getkey(), (3,))
    action, log_prob = policy.sample(obs, getkey())
    u = jnp.arctanh(action)
    np.testing.assert_allclose(log_prob, policy.log_prob_from_unsquashed(obs, u), rtol=1e-9)
    mean, log_std = policy.parameters(obs)
    np.testing.assert_allclose(policy.mode(obs), jnp.tanh(mean), rtol=1e-12)
    actions = jax.jit(jax.vmap(policy.sample, (None, 0)))(obs, jax.random.split(getkey(), 4000))[0]
    pre = jnp.arctanh(actions)
    assert bool(jnp.all(jnp.abs(pre.mean(0) - mean) < 4 * jnp.exp(log_std) / 4000**0.5))
    assert bool(jnp.all(jnp.abs(pre.std(0) / jnp.exp(log_std) - 1) < 4 / 8000**0.5))
    gradient = jax.jit(jax.grad(lambda p: p.sample(obs, jax.random.key(0))[1]))(policy)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))


def test_tanh_gaussian_clips_log_std(getkey):
    policy = TanhGaussian(3, 2, hidden=(), log_std_min=-1.0, log_std_max=0.5, key=getkey())
    low, high = policy.parameters(jnp.full(3, 1e3))[1], policy.parameters(jnp.full(3, -1e3))[1]
    assert {float(v) for v in jnp.concatenate([low, high])} == {-1.0, 0.5}


def test_tanh_gaussian_of_brax(x64, getkey):
    """std = softplus(q) + 0.001; with a network of weights and biases 0 it is the initial one in every state."""
    policy = TanhGaussian(3, 2, hidden=(4,), width="softplus", key=getkey())
    obs = jax.random.normal(getkey(), (3,))
    _, log_std = policy.parameters(obs)
    np.testing.assert_allclose(np.exp(log_std), np.log1p(np.exp(policy.mlp(obs)[2:])) + 1e-3, rtol=1e-9)
    for width in ("softplus", "exp", "tanh"):
        blank = TanhGaussian(3, 2, final_scale=0, width=width, initial_std=0.3, hidden=(4,), key=getkey())
        mean, log_std = blank.parameters(obs)
        np.testing.assert_allclose(np.exp(log_std), [0.3, 0.3], rtol=1e-9)
        np.testing.assert_array_equal(mean, [0, 0])


def test_entropy_of_a_tanh_gaussian(x64, getkey):
    """The mean of the estimates is -E log p of the squashed density, by quadrature in u."""
    policy = TanhGaussian(3, 1, hidden=(4,), width="softplus", initial_std=0.8, key=getkey())
    obs = jnp.ones(3)
    (mean,), (log_std,) = policy.parameters(obs)
    u = mean + jnp.exp(log_std) * jnp.linspace(-9, 9, 4_001)
    log_prob = jax.vmap(lambda v: policy.log_prob_from_unsquashed(obs, v[None]))(u)
    density = jnp.exp(jax.vmap(lambda v: gaussian_log_prob(v[None], mean[None], log_std[None]))(u))
    expected = -integrate.simpson(np.asarray(density * log_prob), x=np.asarray(u))
    estimates = jax.vmap(policy.entropy, (None, 0))(obs, jax.random.split(getkey(), 20_000))
    assert abs(estimates.mean() - expected) < 4 * estimates.std() / 20_000**0.5
    assert abs(estimates.mean() - gaussian_entropy(log_std[None])) > 0.1


def test_gaussian(x64, getkey):
    policy = Gaussian(3, 2, hidden=(8,), initialisation="torch", initial_std=0.7, key=getkey())
    obs = jax.random.normal(getkey(), (3,))
    action, log_prob = policy.sample(obs, getkey())
    np.testing.assert_allclose(policy.log_prob(obs, action), log_prob, rtol=1e-12)
    np.testing.assert_allclose(policy.log_std, math.log(0.7) * np.ones(2), rtol=1e-12)
    np.testing.assert_allclose(policy.entropy(), 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.7)))
    np.testing.assert_array_equal(policy.mode(obs), policy.mean(obs))
    actions = jax.jit(jax.vmap(policy.sample, (None, 0)))(obs, jax.random.split(getkey(), 4000))[0]
    assert bool(jnp.all(jnp.abs(actions.mean(0) - policy.mean(obs)) < 4 * 0.7 / 4000**0.5))
    assert bool(jnp.all(jnp.abs(actions.std(0) / 0.7 - 1) < 4 / 8000**0.5))


def test_residual_gaussian(x64, getkey):
    policy = ResidualGaussian(3, 2, hidden=(8,), initial_std=0.3, key=getkey())
    obs, base = jax.random.normal(getkey(), (3,)), jnp.array([0.4, -0.2])
    action, log_prob = policy.sample(obs, base, getkey())
    np.testing.assert_allclose(policy.log_prob(obs, base, action), log_prob, rtol=1e-12)
    np.testing.assert_allclose(policy.mean(obs, base) - base, policy.offset(obs, base), atol=1e-15)
    assert jnp.any(policy.offset(obs, base) != policy.offset(obs, -base))
    np.testing.assert_allclose(policy.entropy(), 2 * 0.214966, atol=1e-6)


def test_residual_gaussian_starts_at_its_base(getkey):
    policy = ResidualGaussian(3, 2, hidden=(8,), initial_std=1e-6, final_scale=0, key=getkey())
    base = jnp.array([0.4, -0.2])
    np.testing.assert_array_equal(policy.mean(jnp.ones(3), base), base)
    np.testing.assert_allclose(policy.sample(jnp.ones(3), base, getkey())[0], base, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda key: Gaussian(3, 2, initial_std=0.0, key=key), "initial_std must be"),
        (lambda key: Gaussian(3, 0, key=key), "action_size must be an integer of at least 1, got 0"),
        (lambda key: TanhGaussian(3, 2, log_std_min=3.0, key=key), "log_std_max must be"),
        (
            lambda key: TanhGaussian(3, 2, width="relu", key=key),
            "width must be one of exp, softplus, tanh; got",
        ),
        (lambda key: TanhGaussian(3, 2, width="softplus", initial_std=1e-3, key=key), "initial_std must be"),
        (lambda key: ResidualGaussian(3, 2, hidden=(0,), key=key), "hidden must be"),
    ],
)
def test_bad_arguments(make, message, getkey):
    with pytest.raises(ValueError, match=message):
        make(getkey())
