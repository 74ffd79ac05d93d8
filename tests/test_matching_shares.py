"""What few proposals and the faces of the box do to the shares of modes: the numbers that the docstrings print.

The mean target of n proposals is known without a draw: with weights w_i and values h_i of independent proposals,

    E[sum_i w_i h_i / sum_i w_i] = n int_0^inf E[w h exp(-l w)] E[exp(-l w)]^(n - 1) dl,

so a field in a table of it stands for a network that has been trained to the end.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.envs import faces, unequal_modes
from dpolicy.fields import CosineVP, FunctionField
from dpolicy.losses import boltzmann, chain, perturb, posterior_mean, reverse_sample, smoothed_score, start
from dpolicy.samplers import ode

SCHEDULE, OBS, STEPS, CELLS, SAMPLES, MANY = CosineVP(), jnp.zeros(1), 60, 121, 2_000, 1e7
TEMPERATURE = {"unequal_modes": 1.0, "faces": 0.5}
ENV = {"unequal_modes": unequal_modes(), "faces": faces()}


def mean_target(name, form, n, t, x):
    """The expected noise target of `n` truncated proposals around x."""
    energy = lambda a: ENV[name].energy(a[None]) / TEMPERATURE[name]
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    a = (jnp.arange(1_000) + 0.5) / 500 - 1
    noise = (x - alpha * a) / sigma
    p = jax.nn.softmax(-(noise**2) / 2)
    h = noise if form == "noise" else -sigma / alpha * jax.vmap(jax.grad(energy))(a)
    logs = jax.vmap(energy)(a)
    logs = logs - jnp.max(logs)
    w = jnp.exp(logs)
    places = jnp.linspace(-jnp.log(n) - 14, 4 - jnp.min(logs), 300)  # of log l
    decay = jnp.exp(-jnp.outer(jnp.exp(places), w))
    others = jnp.exp(places) * (decay @ p) ** (n - 1)
    # Over the integral of E[w exp(-l w)], which is 1 / n, the error of the rule cancels.
    return jnp.trapezoid(others * (decay @ (p * w * h)), places) / jnp.trapezoid(
        others * (decay @ (p * w)), places
    )


def sampled(name, form, counts):
    """Actions `[count, sample]` of Euler's method from quantiles of x_1, for each number of proposals."""
    times = SCHEDULE.grid(STEPS)[1:]

    def table(n, t):
        reach = 1.2 * SCHEDULE.alpha(t) + 4.5 * SCHEDULE.sigma(t)
        x = jnp.linspace(-reach, reach, CELLS)
        return x, jax.lax.map(lambda x: mean_target(name, form, n, t, x), x, batch_size=CELLS)

    def one(n):
        x, target = jax.lax.map(lambda t: table(n, t), times)

        def fn(at, t, obs):
            index = jnp.argmin(jnp.abs(times - t))
            return jnp.interp(at, x[index], target[index])

        field = FunctionField(fn, schedule=SCHEDULE, prediction="noise", action_size=1)
        starts = jax.scipy.special.ndtri((jnp.arange(SAMPLES) + 0.5) / SAMPLES)[:, None]
        run = lambda x: ode(steps=STEPS, clip=1.0)(field, OBS, jax.random.key(0), start=x)[0]
        return jax.vmap(run)(starts)

    return np.asarray(jax.jit(lambda counts: jax.lax.map(one, counts))(jnp.asarray(counts)))


@pytest.mark.parametrize("form", ["noise", "gradient"])
def test_the_mean_target_of_few_proposals(x64, form):
    """Of the library's draws, and it differs from that of many by many standard errors."""
    n, draws, x, t = 4, 40_000, 0.2, 0.1
    env = ENV["unequal_modes"]
    q = lambda obs, a: env.energy(a)
    last = (boltzmann(q, 1.0), posterior_mean()) if form == "noise" else (smoothed_score(q, 1.0),)
    end = jnp.zeros((), bool)
    action = jnp.array([0.4])
    example = Transition(OBS, action, jnp.zeros(()), OBS, end, end)

    place = lambda example, match, key: dataclasses.replace(match, x=jnp.full((1, 1), x))
    noised = perturb(SCHEDULE, times=lambda schedule, key: jnp.asarray(t))
    links = chain(noised, place, reverse_sample(SCHEDULE, n), *last)

    def draw(key):
        return links(example, start(example), key).target.noise[0, 0]

    found = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(3), draws)))
    expected = float(mean_target("unequal_modes", form, n, t, x))
    error = found.std() / np.sqrt(draws)
    assert abs(found.mean() - expected) < 4 * error
    assert abs(float(mean_target("unequal_modes", form, MANY, t, x)) - expected) > 30 * error


SHARES = {  # of the modes at 64, 500 and all proposals; exact .1, .7, .2
    "noise": [(0.115, 0.670, 0.215), (0.103, 0.694, 0.203), (0.101, 0.698, 0.201)],
    "gradient": [(0.054, 0.798, 0.147), (0.091, 0.719, 0.191), (0.101, 0.698, 0.201)],
}


@pytest.mark.parametrize("form", SHARES)
def test_shares_of_unequal_modes(x64, form):
    """Drawn together by weighted noises, here apart by weighted gradients, by O(1/n)."""
    actions = sampled("unequal_modes", form, [64.0, 500.0, MANY])
    near = np.abs(np.subtract.outer(actions, [-0.6, 0.0, 0.6])).argmin(axis=-1)
    shares = np.mean(near[..., None] == np.arange(3), axis=1)
    np.testing.assert_allclose(shares, SHARES[form], atol=2e-3)


@pytest.mark.parametrize(("form", "above"), [("noise", 0.387), ("gradient", 0.865)])
def test_mass_at_a_face(x64, form, above):
    """P(a > .9), .385 in truth: the gradient form misses the flux through the faces, however many the proposals."""
    assert np.mean(sampled("faces", form, [MANY]) > 0.9) == pytest.approx(above, abs=3e-3)
