"""What minimisers of matching losses sample: in closed form, or from a table of mean targets in place of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture

from dpolicy._types import Transition
from dpolicy.fields import CosineVP, FunctionField, RectifiedFlow
from dpolicy.losses import (
    advantage,
    best,
    boltzmann,
    candidates,
    chain,
    matching,
    mix,
    perturb,
    q_score,
    reverse_sample,
    start,
    uniform,
)
from dpolicy.samplers import ddpm, ode

SCHEDULE, OBS = CosineVP(), jnp.zeros(1)
STEPS, CELLS, SAMPLES = 20, 60, 5_000


def transition(action):
    end = jnp.zeros((), bool)
    return Transition(OBS, action, jnp.zeros(()), OBS, end, end)


def moments(field, steps):
    """Mean and variance of an unclipped DDPM chain whose field is linear in x: every step is affine."""
    sampler = ddpm(steps=steps, clip=None)

    def step(carry, index):
        mean, variance = carry
        at = lambda x: sampler.kernel(field, jnp.full(1, x), OBS, index)
        (low, std), (high, _) = at(0.0), at(1.0)
        slope = (high - low)[0]
        return (slope * mean + low[0], slope**2 * variance + std**2), None

    return jax.jit(lambda: jax.lax.scan(step, (jnp.zeros(()), jnp.ones(())), jnp.arange(steps))[0])()


@pytest.mark.parametrize(
    ("v", "biased", "exact"), [(0.04, (0.5102, 0.0205), (0.5, 0.0402)), (1.0, (1.0, 1.0), (0.5, 1.0))]
)
def test_the_law_of_q_score_matching(x64, getkey, v, biased, exact):
    """Its ideal samples follow exp(2 Q / lambda + x^2 / 2): N(mu / (1 - V / 2), V / (2 - V)) where Q is Gaussian."""
    mean, temperature = 0.5, 0.2
    q = lambda obs, a: -temperature * jnp.sum((a - mean) ** 2) / (2 * v)
    score = FunctionField(
        lambda x, t, obs: -(x - mean) / v, schedule=SCHEDULE, prediction="score", action_size=1
    )
    loss = matching(chain(perturb(SCHEDULE), q_score(q, temperature)))
    assert loss(score, transition(jnp.ones(1)), getkey())[0] < 1e-20  # it is what the loss asks for
    np.testing.assert_allclose(biased, (mean / (1 - v / 2), v / (2 - v)), rtol=0.02)
    np.testing.assert_allclose(moments(score, 1000), biased, atol=0.006 if v == 1 else 1e-4)
    truth = GaussianMixture([1.0], [[mean]], [np.sqrt(v)]).field(SCHEDULE, "noise")
    np.testing.assert_allclose(moments(truth, 1000), exact, atol=2e-4)
    # The clip is load-bearing: few steps without it diverge.
    assert v == 1 or abs(moments(score, 20)[0]) > 1e8


def table_field(links, draw, key, records):
    """The field that minimises a matching loss over functions that are constant in cells of (t, x).

    For each time of the sampler's grid it is the weighted mean of the targets in each of CELLS equally filled cells,
    taken at the mean x, and linear in between.
    """
    times = SCHEDULE.grid(STEPS)[1:]

    def at(index, key):
        noise = perturb(SCHEDULE, times=lambda schedule, key: times[index])

        def one(key):
            action_key, key = jax.random.split(key)
            example = transition(draw(action_key))
            match = chain(*links(noise))(example, start(example), key)
            size = match.action.shape[0] // match.x.shape[0]
            return jnp.repeat(match.x[:, 0], size), match.target.noise[:, 0], match.weight

        keys = jax.random.split(key, records)
        x, target, weight = (jnp.ravel(leaf) for leaf in jax.lax.map(one, keys, batch_size=4096))
        order = jnp.argsort(x)
        cells = lambda value: jnp.sum((weight * value)[order].reshape(CELLS, -1), axis=1)
        total = cells(jnp.ones_like(x))
        return cells(x) / total, cells(target) / total

    xs, targets = jax.lax.map(lambda pair: at(*pair), (jnp.arange(STEPS), jax.random.split(key, STEPS)))

    def fn(x, t, obs):
        index = jnp.argmin(jnp.abs(times - t))
        return jnp.interp(x, xs[index], targets[index])

    return FunctionField(fn, schedule=SCHEDULE, prediction="noise", action_size=1)


def sampled(links, draw, key, records, clip):
    """Samples of the table's chain, from quantiles of x_1, in order."""
    field, sampler = table_field(links, draw, key, records), ddpm(steps=STEPS, clip=clip)
    starts = jax.scipy.special.ndtri((jnp.arange(SAMPLES) + 0.5) / SAMPLES)[:, None]
    one = lambda key, x: sampler(field, OBS, key, start=x)[0]
    return jnp.sort(jax.vmap(one)(jax.random.split(jax.random.key(1), SAMPLES), starts))


def optimised(run):
    """What `run()` returns; millions of draws are worth the optimiser that other tests go without."""
    options = {"xla_backend_optimization_level": 2}
    return jax.tree.map(np.asarray, jax.jit(run).lower().compile(compiler_options=options)())


def test_where_x_comes_from_does_not_matter(getkey):
    """SDAC on the double well: x_t around uniform actions, or around samples of the target itself."""
    q = lambda obs, a: jnp.sum(-8 * (a**2 - 0.36) ** 2 + 0.3 * a)
    grid = jnp.linspace(-1, 1, 2001)
    logits = jax.vmap(lambda a: q(OBS, a[None]))(grid) / 0.25
    sources = {
        "uniform": lambda key: jax.random.uniform(key, (1,), minval=-1.0),
        "target": lambda key: grid[jax.random.categorical(key, logits)][None],
    }
    links = lambda noise: (noise, reverse_sample(SCHEDULE, 64), boltzmann(q, 0.25))
    keys = {name: getkey() for name in sources}
    found = optimised(lambda: {n: sampled(links, draw, keys[n], 3_000, 1.0) for n, draw in sources.items()})
    assert np.mean(np.abs(found["uniform"] - found["target"])) < 0.02
    density = np.exp(logits)
    quantiles = np.interp((np.arange(SAMPLES) + 0.5) / SAMPLES, np.cumsum(density) / np.sum(density), grid)
    for samples in found.values():
        assert np.mean(np.abs(samples - quantiles)) < 0.05
        assert np.mean(samples > 0) == pytest.approx(0.7935, abs=0.04)


def test_the_uniform_share_of_qvpo(getkey):
    """With the policy far from the box P(|a| < .1) is a tenth of the uniform mass 10 omega / (1 + 10 omega)."""
    omega = 0.02
    policy = lambda obs, key: 3 + 0.1 * jax.random.normal(key, (1,))
    q = lambda obs, a: a[0]
    links = lambda noise: (
        candidates(policy, 4),
        advantage(q),
        best(q),
        mix((1.0, chain()), (10 * omega, uniform(10))),
        noise,
    )
    key = getkey()
    samples = optimised(lambda: sampled(links, lambda key: jnp.zeros(1), key, 12_000, None))
    mass = 10 * omega / (1 + 10 * omega)
    assert np.mean(np.abs(samples) < 1.2) == pytest.approx(mass, rel=0.15)
    assert np.mean(np.abs(samples) < 0.1) == pytest.approx(0.1 * mass, rel=0.3)


def test_flow_policy_mirror_descent_in_its_own_time(x64, getkey):
    """tau = 1 - t with noise at 0 and v = a - eps: the same loss, and the same one step from zero."""
    theirs = lambda x, tau, s: jnp.sin(2 * x + tau) - s * tau
    field = FunctionField(
        lambda x, t, obs: -theirs(x, 1 - t, obs),
        schedule=RectifiedFlow(),
        prediction="velocity",
        action_size=1,
    )
    weights = boltzmann(lambda obs, a: a[0], 0.5, normalise=False)
    links, example = chain(weights, perturb(RectifiedFlow())), transition(jnp.full(1, 0.4))

    def both(key):
        match = links(example, start(example), key)
        action, noise, tau = 0.4, match.target.noise[0], 1 - match.t[0]
        x = tau * action + (1 - tau) * noise
        error = theirs(x, tau, OBS) - (action - noise)
        return matching(links)(field, example, key)[0], jnp.exp(action / 0.5) * jnp.sum(error**2)

    ours, other = jax.jit(jax.vmap(both))(jax.random.split(getkey(), 8))
    np.testing.assert_allclose(ours, other, rtol=1e-10)
    one = ode(steps=1, initial="zero")(field, OBS, getkey())
    np.testing.assert_allclose(one, theirs(jnp.zeros(1), 0.0, OBS), rtol=1e-12)
