"""Policies out of values over data: weighed likelihoods, the push of Q at the noised action, terms on one key."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpolicy as dp
from dpolicy.losses import (
    add,
    add_q_score,
    bptt,
    chain,
    cloning,
    distil,
    exponential_advantage,
    matching,
    noisy_q,
    one_step,
    perturb,
    sharing,
    weighted,
)
from dpolicy.samplers import ddpm

KEY, OBS = jax.random.key(0), jnp.zeros(1)
SCHEDULE = dp.LinearVP(0.1, 10.0, t_min=0.0)


def stored(action):
    no = jnp.asarray(False)
    return dp.Transition(OBS, jnp.asarray(action), jnp.zeros(()), OBS, no, no)


def constant(noise):
    """A field that predicts this noise everywhere; it is the parameter."""

    class Constant(eqx.Module):
        noise: jax.Array
        schedule: dp.fields.AbstractSchedule = SCHEDULE
        prediction: str = eqx.field(static=True, default="noise")

        def __call__(self, x, t, obs):
            return self.noise

    return Constant(jnp.asarray(noise))


def test_the_weighted_likelihood_has_the_tilted_law_for_its_optimum():
    """Of three actions with shares nu the optimum is nu exp(A / lambda) / Z (AWR); the bound holds the largest."""
    nu, values = jnp.array([0.5, 0.3, 0.2]), jnp.array([1.0, 2.0, 0.0])
    q = lambda obs, action: values[action[0].astype(int)]
    weight = exponential_advantage(q, lambda obs: jnp.asarray(0.7), 0.5)
    log_likelihood = lambda logits, e, key: jax.nn.log_softmax(logits)[e.action[0].astype(int)]
    loss = weighted(weight, cloning(log_likelihood))
    optimum = nu * jnp.exp(values / 0.5)
    logits = jnp.log(optimum / optimum.sum())

    def mean(logits):
        return sum(nu[i] * loss(logits, stored([float(i)]), KEY)[0] for i in range(3))

    np.testing.assert_allclose(jax.grad(mean)(logits), 0.0, atol=1e-5)
    assert np.abs(jax.grad(mean)(jnp.log(nu))).max() > 0.1
    high = lambda bound: exponential_advantage(q, lambda obs: jnp.asarray(-1e4), 0.5, largest=bound)
    assert high(100.0)(stored([1.0])) == pytest.approx(100, rel=1e-5)
    assert jax.grad(lambda a: weight(stored(jnp.array([a]))))(1.0) == 0


def test_the_push_of_q_has_the_shifted_noise_for_its_optimum():
    """At eps - sigma G / (2 eta), the target of `add_q_score`, and for the same noised action in both terms."""
    q = lambda obs, action: jnp.sum(jnp.sin(action))
    size = lambda obs, action: jnp.asarray(4.0)
    eta, example, noise = 0.7, stored([0.3, -0.6]), perturb(SCHEDULE)
    match = chain(noise)(example, dp.losses.start(example), KEY)
    sigma = SCHEDULE.sigma(match.t[0])
    shifted = match.target.noise[0] - sigma * jnp.cos(match.x[0]) / (4.0 + 1e-6) / (2 * eta)
    loss = sharing(fit=(eta, matching(noise)), q=(1.0, noisy_q(noise, q, normaliser=size)))
    slope = lambda loss, at: eqx.filter_grad(lambda field: loss(field, example, KEY)[0])(constant(at)).noise
    np.testing.assert_allclose(slope(loss, shifted), 0.0, atol=1e-6)
    assert np.abs(slope(loss, match.target.noise[0])).max() > 1e-2
    same = matching(chain(noise, add_q_score(q, 1 / (2 * eta), normaliser=size)))
    np.testing.assert_allclose(slope(same, shifted), 0.0, atol=1e-6)


def test_terms_that_share_see_one_noised_action():
    """`one_step` of the action's own value is the distance that `matching` of a data prediction measures."""
    schedule, action = dp.RectifiedFlow(), jnp.array([0.4])
    field = dp.FunctionField(lambda x, t, obs: 0.5 * x, schedule=schedule, prediction="data", action_size=1)
    q = lambda obs, a: -jnp.sum((a - action) ** 2)
    terms = {"fit": (1.0, matching(perturb(schedule))), "q": (1.0, one_step(schedule, q, clip=None))}
    _, together = sharing(**terms)(field, stored(action), KEY)
    _, apart = add(**terms)(field, stored(action), KEY)
    np.testing.assert_allclose(together["fit/loss"], together["q/loss"], rtol=1e-5)
    assert abs(apart["fit/loss"] - apart["q/loss"]) > 1e-3
    with pytest.raises(ValueError, match="sharing must be given at least one term"):
        sharing()


@pytest.mark.parametrize(("steps", "factor"), [(5, 2.4849), (20, 1.9653), (100, 1.8634)])
def test_what_a_shifted_field_samples_depends_on_the_steps(steps, factor):
    """A score shifted by c moves unit-variance samples by K c, K of the chain (specification of DAC's field)."""
    shift = 0.3

    def field(by):
        noise = lambda x, t, obs: SCHEDULE.sigma(t) * (x - by)
        return dp.FunctionField(noise, schedule=SCHEDULE, prediction="noise", action_size=1)

    sampler = ddpm(steps=steps, clip=None)
    ends = [sampler(field(by), OBS, KEY) for by in (0.0, shift)]
    np.testing.assert_allclose((ends[1] - ends[0]) / shift, factor, rtol=1e-3)


def test_a_distilled_actor_leaves_the_flow_by_the_gradient_of_q():
    """FQL: alpha mean |mu - F|^2 - g . mu is least at mu = F + D g / (2 alpha)."""
    g, flow, alpha = jnp.array([0.3, -0.2, 0.1]), jnp.array([0.1, 0.2, -0.3]), 4.0
    student = lambda action, obs, start: action
    climb = bptt(lambda action, obs, key: action, lambda obs, action: g @ action)
    loss = add(distil=(alpha, distil(student, lambda obs, start: flow)), q=(1.0, climb))
    slope = jax.grad(lambda action: loss(action, stored(jnp.zeros(3)), KEY)[0])
    np.testing.assert_allclose(slope(flow + 3 * g / (2 * alpha)), 0.0, atol=1e-6)
    assert np.abs(slope(flow)).max() > 0.1
