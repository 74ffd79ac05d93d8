"""Gradients through samplers, the diffrax solve against the scan, and truncated backpropagation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.fields import AbstractField, AbstractSchedule, CosineVP, LinearVP, RectifiedFlow
from dpolicy.samplers import best_of, ddim, ddpm, langevin, ode, sde, solve, unadjusted_langevin

OBS, KEY = jnp.array([0.3, -0.2]), jax.random.key(0)


class Small(AbstractField):
    """tanh of an affine map: the smallest field whose parameters, time and observation all matter."""

    weight: jax.Array
    bias: jax.Array
    schedule: AbstractSchedule
    prediction: str = eqx.field(static=True)
    action_size: int = eqx.field(static=True)

    def __call__(self, x, t, obs):
        return jnp.tanh(self.weight @ jnp.concatenate([x, t[None], obs]) + self.bias)


def small(schedule, prediction, dtype=float):
    weight = jax.random.normal(jax.random.key(7), (3, 6), dtype)
    return Small(weight, jnp.full(3, 0.1, dtype), schedule, prediction, 3)


def fast(fn, *args):
    """Compile without optimisation: these programs run once."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(fn).lower(*args).compile(compiler_options=options)(*args)


FIXED = {
    "euler": (ode(steps=4), RectifiedFlow(), "velocity"),
    "heun_data_from_sigma_zero": (ode(steps=4, solver="heun", clip=1.0), RectifiedFlow(), "data"),
    "sde_noise_from_alpha_zero": (sde(steps=4, clip=1.0), RectifiedFlow(), "noise"),
    "ddpm": (ddpm(steps=4), CosineVP(), "noise"),
    "ddim": (ddim(steps=4, eta=0.5, recompute=True), LinearVP(), "score"),
    "langevin": (langevin(steps=3, corrections=2), CosineVP(), "noise"),
    "unadjusted_langevin": (unadjusted_langevin(steps=4, initial_scale=0.1), RectifiedFlow(), "score"),
    "best_of": (
        best_of(3, ddim(steps=3), lambda obs, action: -jnp.sum(action**2)),
        CosineVP(),
        "noise",
    ),
}


@pytest.mark.parametrize("name", FIXED)
def test_gradient_is_that_of_the_loop_without_checkpoints(name, x64, monkeypatch):
    sampler, schedule, prediction = FIXED[name]

    def gradient(field):
        return jax.grad(lambda field: jnp.sum(jnp.sin(sampler(field, OBS, KEY))))(field)

    field = small(schedule, prediction)
    checkpointed = fast(gradient, field)
    monkeypatch.setattr(jax, "checkpoint", lambda fn, **options: fn)
    plain = fast(lambda field: gradient(field), field)
    for one, other in zip(jax.tree.leaves(checkpointed), jax.tree.leaves(plain), strict=True):
        assert np.all(np.isfinite(one))
        assert np.any(one != 0)
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)


def test_gradient_of_the_adaptive_solver_is_the_derivative(x64):
    sampler, field = ode(solver="tsit5", rtol=1e-8, atol=1e-8), small(RectifiedFlow(), "velocity")

    def loss(scale):
        moved = eqx.tree_at(lambda field: field.weight, field, scale * field.weight)
        return jnp.sum(jnp.sin(sampler(moved, OBS, KEY)))

    value = jax.jit(loss)
    difference = (value(1.0 + 1e-4) - value(1.0 - 1e-4)) / 2e-4
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(1.0), difference, rtol=1e-5)


SOLVED = {
    "euler": (ode(steps=5, clip=1.0), RectifiedFlow(), "velocity"),
    "heun": (ode(steps=5, solver="heun"), RectifiedFlow(), "data"),
    "sde_truncated": (sde(steps=5, eta=0.7, truncate=3), CosineVP(), "data"),
}


@pytest.mark.parametrize("name", SOLVED)
def test_one_diffrax_solve_is_the_vmapped_scan(name):
    sampler, schedule, prediction = SOLVED[name]
    field, obs = small(schedule, prediction, jnp.float32), jax.random.normal(jax.random.key(1), (6, 2))

    def batched(field):
        x = solve(sampler, field, obs, KEY)
        return jnp.mean(jnp.sin(x)), x

    def scanned(field):
        x = jax.vmap(lambda obs, key: sampler(field, obs, key))(obs, jax.random.split(KEY, 6))
        return jnp.mean(jnp.sin(x)), x

    one, one_gradient = fast(
        lambda field: (batched(field)[1], jax.grad(lambda f: batched(f)[0])(field)), field
    )
    two, two_gradient = fast(
        lambda field: (scanned(field)[1], jax.grad(lambda f: scanned(f)[0])(field)), field
    )
    np.testing.assert_allclose(one, two, atol=1e-6, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(one_gradient), jax.tree.leaves(two_gradient), strict=True):
        assert np.any(a != 0)
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4)


def test_adaptive_solve_of_a_batch_agrees_to_its_tolerance(x64):
    sampler, field = ode(solver="tsit5", rtol=1e-7, atol=1e-7), small(RectifiedFlow(), "velocity")
    obs = jax.random.normal(jax.random.key(1), (4, 2))
    one = fast(lambda: solve(sampler, field, obs, KEY))
    two = fast(lambda: jax.vmap(lambda obs, key: sampler(field, obs, key))(obs, jax.random.split(KEY, 4)))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_solve_starts_where_told():
    field, obs = small(RectifiedFlow(), "velocity", jnp.float32), jnp.zeros((2, 2))
    start = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    found = solve(ode(steps=2), field, obs, KEY, start=start)
    expected = jax.vmap(lambda obs, start: ode(steps=2)(field, obs, KEY, start=start))(obs, start)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"must come from ode or sde.*Ancestral"):
        jax.eval_shape(lambda: solve(ddpm(), field, obs, KEY))


def test_a_single_compilation_keeps_one_parameter_cotangent():
    # The gradient of a vmapped scan must not hold the parameters once per example.
    field, obs = small(RectifiedFlow(), "velocity", jnp.float32), jnp.zeros((512, 2))
    wide = eqx.tree_at(lambda f: (f.weight, f.bias), field, (jnp.ones((3, 6)), jnp.ones(3)))

    def temporary(sample):
        gradient = jax.jit(jax.grad(lambda field: jnp.mean(sample(field))))
        return gradient.lower(wide).compile().memory_analysis().temp_size_in_bytes

    keys = jax.random.split(KEY, 512)
    scan = temporary(lambda f: jax.vmap(lambda o, k: ode(steps=16)(f, o, k))(obs, keys))
    one = temporary(lambda f: solve(ode(steps=16), f, obs, KEY))
    states = 16 * 512 * 3 * 4
    assert scan < 4 * states, (scan, one, states)
    assert one < 4 * states, (scan, one, states)


class Shifted(AbstractField):
    """The exact denoiser of N(0, .1^2) plus a constant: the gradient in the constant is the sum of step weights."""

    shift: jax.Array
    schedule: AbstractSchedule
    prediction: str = eqx.field(static=True, default="noise")
    action_size: int = eqx.field(static=True, default=1)

    def __call__(self, x, t, obs):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return sigma * x / (alpha**2 * 0.01 + sigma**2) + self.shift


def test_truncation_keeps_the_last_steps_only(x64):
    # Specified weights of the steps nearest the action: VP, N = 5, S = .1: .4935, .0365, .0133, ..., .0042.
    field = Shifted(jnp.zeros(()), LinearVP(0.1, 10.0, t_min=0.0))

    def gradient(truncate):
        sampler = ddpm(steps=5, variance="posterior", clip=None, truncate=truncate)
        return -jax.grad(lambda shift: sampler(Shifted(shift, field.schedule), OBS, KEY)[0])(field.shift)

    sums = [float(fast(lambda n=n: gradient(n))) for n in (1, 2, 3, 4, None)]
    weights = np.diff([0.0, *sums])
    np.testing.assert_allclose(weights[:3], [0.4935, 0.0365, 0.0133], atol=6e-5)
    np.testing.assert_allclose(weights[4], 4.2e-3, atol=6e-5)
