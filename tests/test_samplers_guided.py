"""What guided fields sample where field and energy are exact, and what wrong energies do: the toys of the CEP paper.

Gaussians and eight of them, with the numbers of the specification of the offline methods, sections 9.1 to 9.3.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.data import cep_energy, cep_log_density, cep_weights
from dpolicy.data.cep import _CENTRES, _log_pieces
from dpolicy.fields import FunctionField, LinearVP, RectifiedFlow, guided
from dpolicy.samplers import ddpm, ode, sde

OBS, KEY = jnp.zeros(1), jax.random.key(0)
VP = LinearVP()


def gaussian(mean, variance, schedule=VP, shift=0.0):
    """The exact field of N(mean, variance), its score moved by a constant."""

    def noise(x, t, obs):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return sigma * ((x - alpha * mean) / (alpha**2 * variance + sigma**2) - shift)

    return FunctionField(noise, schedule=schedule, prediction="noise", action_size=1)


def test_eight_gaussians_by_exact_energies_and_by_wrong_ones():
    """Masses of exp(beta E); the mean energy E[beta E | x_t] and a scale in the place of beta reach other ones."""
    size = 2_048

    def score(x, t, obs):
        return jax.grad(cep_log_density)(x, VP.alpha(t), VP.sigma(t))

    field = FunctionField(score, schedule=VP, prediction="score", action_size=2)

    @jax.jit
    def run(beta, scale, mean):
        def energy(x, t, obs):
            alpha, sigma = VP.alpha(t), VP.sigma(t)
            average = jax.nn.softmax(_log_pieces(x, alpha, sigma)) @ jnp.arange(8.0) / 7
            return jnp.where(mean, beta * average, cep_energy(x, alpha, sigma, beta))

        draw = lambda key: ode(steps=60, solver="heun")(guided(field, energy, scale), OBS, key)
        return jax.vmap(draw)(jax.random.split(KEY, size))

    rows = [(3.0, 1.0, False), (10.0, 1.0, False), (3.0, 1.0, True), (10.0, 1.0, True), (3.0, 2.0, False)]
    found = np.asarray(jax.vmap(run)(*map(jnp.asarray, zip(*rows, strict=True))))
    label = np.argmin(((found[:, :, None] - _CENTRES) ** 2).sum(axis=-1), axis=-1)
    shares = np.array([np.bincount(row, minlength=8) / size for row in label])
    distance = lambda row, beta: np.abs(shares[row] - cep_weights("8gaussians", beta)).sum() / 2
    assert distance(0, 3.0) < 0.035 and distance(1, 10.0) < 0.035  # of 2,048 draws themselves about .02
    np.testing.assert_allclose((found[0] - _CENTRES[label[0]]).std(axis=0), 0.3536, rtol=0.04)
    assert distance(2, 3.0) == pytest.approx(0.151, abs=0.03)
    assert distance(3, 10.0) == pytest.approx(0.59, abs=0.04)
    assert distance(4, 6.0) == pytest.approx(0.118, abs=0.03)


def energy_of(mean, variance, slope):
    """f* of Q = slope x / beta under N(mean, variance), but for a constant: slope times the mean of the posterior."""

    def energy(x, t, obs):
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        return slope * alpha * variance / (alpha**2 * variance + sigma**2) * x[0]

    return energy


def test_a_linear_q_moves_a_gaussian_and_leaves_its_width():
    """N(.5, .25) under beta g = 2: mean 1, variance .25, by the reverse SDE."""
    field = guided(gaussian(0.5, 0.25), energy_of(0.5, 0.25, 2.0))
    sampler = sde(steps=200, diffusion="reverse")
    draws = jax.jit(jax.vmap(lambda key: sampler(field, OBS, key)[0]))(jax.random.split(KEY, 8_000))
    assert draws.mean() == pytest.approx(1, abs=0.02)
    assert draws.var() == pytest.approx(0.25, abs=0.015)


@pytest.mark.parametrize(
    ("mean", "variance", "by_sde", "by_ode"), [(0.0, 1.0, 0.5961, 1.5075), (0.5, 0.25, 0.2271, 0.7953)]
)
def test_a_constant_shift_of_the_score_is_no_law(mean, variance, by_sde, by_ode):
    """DAC's field: the mean moves by one length under the SDE and by another under the ODE."""
    reverse = sde(steps=2_000, diffusion="reverse")

    @jax.jit
    def moved(shift):
        field = gaussian(mean, variance, shift=shift)
        return jnp.stack(
            [sampler(field, OBS, KEY)[0] for sampler in (reverse, ode(steps=200, solver="heun"))]
        )

    np.testing.assert_allclose(moved(0.3) - moved(0.0), [by_sde, by_ode], atol=3e-3)


@pytest.mark.parametrize(
    ("mean", "variance", "variance_of", "ends_as"),
    [
        (0.0, 1.0, "upper", 0.8041),
        (0.0, 1.0, "posterior", 0.4562),
        (0.5, 0.25, "upper", 0.1967),
        (0.5, 0.25, "posterior", 0.0873),
    ],
)
def test_five_steps_of_ddpm_are_too_narrow(mean, variance, variance_of, ends_as):
    field = gaussian(mean, variance, LinearVP(0.1, 10.0, t_min=0.0))
    options = {} if variance_of == "upper" else {"variance": variance_of}
    draws = jax.jit(jax.vmap(lambda key: ddpm(steps=5, clip=None, **options)(field, OBS, key)[0]))(
        jax.random.split(KEY, 100_000)
    )
    assert draws.var() == pytest.approx(ends_as, rel=0.02)
    assert draws.mean() == pytest.approx({0.0: 0.0, 0.5: 0.4992}[mean], abs=0.01)


@pytest.mark.parametrize(("steps", "low"), [(10, 0.0692), (20, 0.0358), (100, 0.0074)])
def test_eulers_steps_of_a_flow(steps, low):
    """N(.5, .25) from z = -1, 0, 1: exactly 0, .5, 1."""
    flow, mean, variance = RectifiedFlow(), 0.5, 0.25

    def velocity(x, t, obs):
        size = (1 - t) ** 2 * variance + t**2
        away = x - (1 - t) * mean
        return t * away / size - mean - (1 - t) * variance * away / size

    field = FunctionField(velocity, schedule=flow, prediction="velocity", action_size=1)
    end = jax.jit(jax.vmap(lambda start: ode(steps=steps)(field, OBS, KEY, start=start)[0]))
    np.testing.assert_allclose(end(jnp.array([[-1.0], [0.0], [1.0]])), [low, 0.5, 1 - low], atol=6e-5)
