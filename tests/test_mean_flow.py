"""Fields of average velocities: the MeanFlow identity, its loss and its sampler, on a Gaussian."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture

from dpolicy._types import Transition
from dpolicy.fields import CosineVP, Field, MeanField, RectifiedFlow, Trigonometric
from dpolicy.losses import (
    Match,
    Target,
    chain,
    matching,
    mean_flow_matching,
    perturb,
    reverse_sample,
)
from dpolicy.losses.times import time_law
from dpolicy.samplers import mean_flow

MU, V = 0.3, 0.25
OBS = jnp.zeros(1)


class Exact(MeanField):
    """The average velocity of N(MU, V), times `factor`."""

    factor: jax.Array

    def __init__(self, schedule, factor=1.0, key=None):
        super().__init__(1, 1, schedule=schedule, hidden=(2,), embedding="raw", key=jax.random.key(0))
        self.factor = jnp.asarray(factor, float)

    def average(self, x, r, t, obs):
        std = lambda t: jnp.sqrt(self.schedule.alpha(t) ** 2 * V + self.schedule.sigma(t) ** 2)
        mean = lambda t: self.schedule.alpha(t) * MU
        there = mean(r) + std(r) / std(t) * (x - mean(t))
        # Never 0 / 0: where r = t the quotient is taken over a short interval.
        return self.factor * (x - there) / (t - r)


def transition(action=0.0):
    end = jnp.zeros((), bool)
    return Transition(OBS, jnp.full(1, action), jnp.zeros(()), OBS, end, end)


def test_one_step_of_the_exact_average_is_the_whole_path(x64):
    """u(x, 0, 1) = x - MU - sqrt(V) x, so that one step maps N(0, 1) onto N(MU, V)."""
    field = Exact(RectifiedFlow())
    for x in (-1.3, 0.0, 2.0):
        average = field.average(jnp.array([x]), jnp.asarray(0.0), jnp.asarray(1.0), OBS)
        np.testing.assert_allclose(average, [x - MU - np.sqrt(V) * x], rtol=1e-12)
        for steps in (1, 3):
            action = mean_flow(steps=steps)(field, OBS, jax.random.key(0), start=jnp.array([x]))
            np.testing.assert_allclose(action, [MU + np.sqrt(V) * x], rtol=1e-10)
    np.testing.assert_allclose(mean_flow(initial="zero")(field, OBS, jax.random.key(0)), [MU], rtol=1e-12)
    points = mean_flow(steps=2, clip=0.2).chain(field, OBS, jax.random.key(0), start=jnp.array([2.0]))
    assert points.shape == (3, 1) and points[0, 0] == 2.0 and points[-1, 0] == 0.2


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Trigonometric()])
def test_the_exact_average_is_the_expected_target(x64, schedule):
    """E[v - (t - r) du/dt | x] = u(x, r, t) everywhere: the derivative is linear in v, whose mean is the velocity."""
    field = Exact(schedule)
    velocity = GaussianMixture([1.0], [[MU]], [np.sqrt(V)]).field(schedule, "velocity")

    def both(x, r, t):
        mean = velocity(x, t, OBS)
        average = lambda x, r, t: field.average(x, r, t, OBS)
        u, rate = jax.jvp(average, (x, r, t), (mean, jnp.zeros_like(r), jnp.ones_like(t)))
        return u, mean - (t - r) * rate

    x = jnp.linspace(-2, 2, 5)[:, None]
    for r, t in ((0.0, 1.0), (0.1, 0.6), (0.4, 0.5)):
        u, target = jax.vmap(lambda x, r=r, t=t: both(x, jnp.asarray(r), jnp.asarray(t)))(x)
        np.testing.assert_allclose(u, target, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Trigonometric()])
def test_the_exact_average_is_a_stationary_point(x64, getkey, schedule):
    """Unit weights: the gradient of the loss vanishes at the exact average velocity and nowhere near it."""
    law = chain(lambda e, m, k: _of(MU + jnp.sqrt(V) * jax.random.normal(k, (1, 1)), m), perturb(schedule))
    loss = mean_flow_matching(law)

    def slopes(factor, keys):
        def slope(key):
            value = lambda factor: loss(Exact(schedule, factor), transition(), key)[0]
            return jax.grad(value)(factor)

        return jax.vmap(slope)(keys)

    slopes = jax.jit(slopes)
    keys = jax.random.split(getkey(), 20_000)
    here, off = slopes(1.0, keys), slopes(1.2, keys)
    error = jnp.std(here) / np.sqrt(keys.shape[0])
    assert abs(jnp.mean(here)) < 4 * error
    assert jnp.mean(off) > 20 * error


def _of(action, match):
    return eqx.tree_at(lambda m: (m.action, m.x, m.target.data), match, (action, action, action))


def fixed(schedule, t=0.7):
    """A noised point without randomness."""

    def transform(example, match, key):
        action, noise, time = jnp.full((1, 1), 0.4), jnp.full((1, 1), -1.1), jnp.full(1, t)
        x = schedule.alpha(t) * action + schedule.sigma(t) * noise
        return Match(action, x, time, Target(action, noise), jnp.full(1, 2.0), schedule, 1)

    return transform


def test_equal_times_are_flow_matching(x64, getkey):
    schedule = RectifiedFlow()
    field = MeanField(1, 1, schedule=schedule, hidden=(8,), embedding="cos_sin", key=getkey())

    def both(loss):
        return eqx.filter_value_and_grad(lambda f: loss(f, transition(), jax.random.key(1))[0])(field)

    ours, plain = both(mean_flow_matching(fixed(schedule), equal_share=1.0)), both(matching(fixed(schedule)))
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-14)


def test_one_target_by_hand(x64):
    """u = x t r + 2 t: target v - (t - r) (v t r + x r + 2), and no gradient through it."""

    class Cubic(MeanField):
        scale: jax.Array

        def __init__(self, scale):
            super().__init__(
                1, 1, schedule=RectifiedFlow(), hidden=(2,), embedding="raw", key=jax.random.key(0)
            )
            self.scale = scale

        def average(self, x, r, t, obs):
            return self.scale * (x * t * r + 2 * t)

    key = jax.random.key(5)
    loss = mean_flow_matching(fixed(RectifiedFlow()))
    (value, metrics), slope = jax.value_and_grad(
        lambda scale: loss(Cubic(scale), transition(), key), has_aux=True
    )(jnp.asarray(1.0))
    t, v = 0.7, -1.1 - 0.4
    x = 0.3 * 0.4 + 0.7 * -1.1
    r = t * float(jax.random.uniform(jax.random.split(key, 3)[1], (1,))[0])
    target = v - (t - r) * (v * t * r + x * r + 2)
    u = x * t * r + 2 * t
    np.testing.assert_allclose(value, 2 * (u - target) ** 2, rtol=1e-10)
    np.testing.assert_allclose(metrics["target"], abs(target), rtol=1e-10)
    np.testing.assert_allclose(slope, 4 * (u - target) * u, rtol=1e-10)


def test_an_encoder_of_the_observation(getkey):
    """As in `Field`: its features take the observation's place, and it is trained."""
    make = lambda obs_hidden: MeanField(
        3, 1, schedule=RectifiedFlow(), hidden=(4,), obs_hidden=obs_hidden, embedding="raw", key=getkey()
    )
    field, obs = make((6, 5)), jnp.asarray([1.0, -2.0, 0.5])
    assert make(()).encoder is None
    field = eqx.tree_at(lambda f: f.mlp, field, lambda x, t, span, features: features[:1])
    features = field.average(jnp.zeros(1), jnp.zeros(()), jnp.ones(()), obs)
    np.testing.assert_allclose(features, field.encoder(obs)[:1], rtol=1e-6)
    assert field.encoder(obs).shape == (5,)


def test_the_later_of_two_times(getkey):
    t = jax.vmap(lambda key: time_law("later")(RectifiedFlow(), key))(jax.random.split(getkey(), 20_000))
    assert jnp.mean(t) == pytest.approx(2 / 3, abs=0.01)
    assert jnp.var(t) == pytest.approx(1 / 18, rel=0.05)


def test_clear_errors(getkey):
    schedule = CosineVP()
    plain = Field(1, 1, schedule=schedule, hidden=(4,), embedding="raw", key=getkey())
    with pytest.raises(ValueError, match="must be a MeanField, got"):
        mean_flow_matching(perturb(schedule))(plain, transition(), getkey())
    with pytest.raises(ValueError, match="field must be a MeanField, got"):
        mean_flow()(plain, OBS, getkey())
    mean = MeanField(1, 1, schedule=schedule, hidden=(4,), embedding="raw", key=getkey())
    links = chain(perturb(schedule), reverse_sample(schedule, 4))
    with pytest.raises(ValueError, match="no reverse_sample in its chain"):
        mean_flow_matching(links)(mean, transition(), getkey())
    with pytest.raises(ValueError, match="the chain's schedule must be the field's"):
        mean_flow_matching(perturb(RectifiedFlow()))(mean, transition(), getkey())
