"""Trained fields against the exact Boltzmann density of the double well, one matching loss each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpolicy._types import Transition
from dpolicy.fields import CosineVP, CosSin, Field, RectifiedFlow
from dpolicy.losses import (
    batched,
    boltzmann,
    chain,
    matching,
    perturb,
    reverse_sample,
    smoothed_score,
    uniform,
)
from dpolicy.samplers import ddpm, ode

COSINE, FLOW = CosineVP(), RectifiedFlow()
OBS = jnp.zeros(1)


def q(obs, a):
    return jnp.sum(-8 * (a**2 - 0.36) ** 2 + 0.3 * a)


def reverse(schedule, n=64):
    return perturb(schedule), reverse_sample(schedule, n), boltzmann(q, 0.25)


# name -> loss, schedule, prediction, states per batch, steps. MaxEntDP has SDAC's gradient draw by draw (see
# test_losses_matching), and DPMD and GeMPO's exponential weights are FPMD's loss with another field.
OBJECTIVES = {
    "sdac": (matching(chain(*reverse(COSINE))), COSINE, "noise", 128, 4000),
    "idem": (
        matching(chain(*reverse(COSINE)[:2], smoothed_score(q, 0.25)), time_weight="tamed"),
        COSINE,
        "noise",
        128,
        4000,
    ),
    "fpmd": (matching(chain(uniform(64), boltzmann(q, 0.25), perturb(FLOW))), FLOW, "velocity", 16, 2500),
    "reverse_flow": (matching(chain(*reverse(FLOW))), FLOW, "velocity", 128, 2000),
}


def trained(loss, schedule, prediction, states, steps):
    field = Field(
        1,
        1,
        schedule=schedule,
        prediction=prediction,
        hidden=(128, 128),
        embedding=lambda key: CosSin(8),
        key=jax.random.key(1),
    )
    parameters, static = eqx.partition(field, eqx.is_inexact_array)
    optimiser = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    zeros, end = jnp.zeros((states, 1)), jnp.zeros(states, bool)

    def step(carry, key):
        parameters, state = carry
        action_key, key = jax.random.split(key)
        action = jax.random.uniform(action_key, (states, 1), minval=-1.0)
        batch = Transition(zeros, action, zeros[:, 0], zeros, end, end)
        gradient = jax.grad(lambda p: batched(loss)(eqx.combine(p, static), batch, key)[0])(parameters)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(parameters, updates), state), None

    keys = jax.random.split(jax.random.key(2), steps)
    return eqx.combine(jax.lax.scan(step, (parameters, optimiser.init(parameters)), keys)[0][0], static)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_samples_follow_the_boltzmann_density(name):
    loss, schedule, prediction, states, steps = OBJECTIVES[name]
    sampler = ddpm(steps=20) if prediction == "noise" else ode(steps=20, clip=1.0)
    n = 10_000

    def run():
        field = trained(loss, schedule, prediction, states, steps)
        starts = jax.scipy.special.ndtri((jnp.arange(n) + 0.5) / n)[:, None]
        keys = jax.random.split(jax.random.key(3), n)
        samples = jax.vmap(lambda key, x: sampler(field, OBS, key, start=x)[0])(keys, starts)
        single = jax.vmap(lambda key, x: ode(steps=1)(field, OBS, key, start=x)[0])(keys, starts)
        return samples, single

    # Thousands of steps: here the optimiser that the other tests go without pays.
    compiled = jax.jit(run).lower().compile(compiler_options={"xla_backend_optimization_level": 2})
    samples, single = map(np.asarray, compiled())
    fine = np.linspace(-1, 1, 20001)
    density = np.exp((-8 * (fine**2 - 0.36) ** 2 + 0.3 * fine) / 0.25)
    quantiles = np.interp((np.arange(n) + 0.5) / n, np.cumsum(density) / np.sum(density), fine)
    distance = np.mean(np.abs(np.sort(samples) - quantiles))
    assert distance < 0.05
    assert abs(np.mean(samples > 0) - 0.7935) < 0.04
    if prediction == "velocity":  # one step returns the mean, between the modes
        assert np.mean(single) == pytest.approx(0.3485, abs=0.04)
        assert np.var(single) < 0.02
