"""Policies improved through one denoising step (EDP): its exact values and optima, and what its three forms see."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallest import SPEC, build, experience

import dpolicy as dp
from dpolicy.blocks import critic_function, temporal_difference, value_of_several
from dpolicy.learning import Parts, stage_key
from dpolicy.losses import (
    batched,
    chain,
    cloning,
    critic_regularised,
    denoised,
    exponential_advantage,
    matching,
    one_step,
    one_step_draws,
    one_step_log_likelihood,
    one_step_of_either,
    perturb,
    sharing,
    start,
    weighted,
)
from dpolicy.samplers import dpm_solver

KEY, OBS, NO = jax.random.key(0), jnp.zeros(1), jnp.asarray(False)
SCHEDULE = dp.LinearVP()


def stored(action):
    return dp.Transition(OBS, jnp.asarray(action), jnp.zeros(()), OBS, NO, NO)


class Constant(eqx.Module):
    """A field that predicts this everywhere."""

    value: jax.Array
    schedule: dp.fields.AbstractSchedule = SCHEDULE
    prediction: str = eqx.field(static=True, default="noise")

    def __call__(self, x, t, obs):
        return self.value


def at(time):
    return lambda schedule, key: jnp.asarray(time)


def slope(loss, value, example, key=KEY):
    return eqx.filter_grad(lambda field: loss(field, example, key)[0])(Constant(jnp.asarray(value))).value


def test_of_gaussian_data_one_step_is_the_posterior_mean(x64):
    """x0_hat = m + alpha v / (alpha^2 v + sigma^2) (x - alpha m); where there is hardly any noise, the action."""
    mean, variance, action = jnp.array([0.5, -0.2]), 0.25, jnp.array([0.3, -0.6])

    def noise(x, t, obs):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        return sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)

    field = dp.FunctionField(noise, schedule=SCHEDULE, prediction="noise", action_size=2)
    example = stored(action)
    for time in (0.05, 0.4, 0.9):
        x = chain(perturb(SCHEDULE, times=at(time)))(example, start(example), KEY).x[0]
        alpha, sigma = SCHEDULE.alpha(time), SCHEDULE.sigma(time)
        expected = mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)
        step = denoised(SCHEDULE, times=at(time), clip=None)
        np.testing.assert_allclose(step(field, example, KEY), expected, rtol=1e-5)
    almost = denoised(SCHEDULE, times=at(1e-5))(field, example, KEY)
    np.testing.assert_allclose(almost, action, atol=1e-3)
    pure = dp.RectifiedFlow()
    end = jax.grad(lambda by: denoised(pure, times=at(1.0))(Constant(by, pure), example, KEY).sum())
    assert np.all(np.isfinite(end(jnp.zeros(2))))


def test_of_linear_q_the_optimum_is_a_shifted_noise(x64):
    """At eps - D lambda sigma g / (2 alpha), by the same noised action in both terms; D = 3."""
    g, example, push, time = jnp.array([0.3, -0.2, 0.1]), stored([0.3, -0.6, 0.1]), 0.7, 0.3
    loss = sharing(
        fit=(1.0, matching(perturb(SCHEDULE, times=at(time)))),
        q=(push, one_step(SCHEDULE, lambda obs, action: g @ action, times=at(time), clip=None)),
    )
    noise = chain(perturb(SCHEDULE, times=at(time)))(example, start(example), KEY).target.noise[0]
    shift = 3 * push * SCHEDULE.sigma(time) * g / (2 * SCHEDULE.alpha(time))
    np.testing.assert_allclose(slope(loss, noise - shift, example), 0.0, atol=1e-7)
    assert np.abs(slope(loss, noise, example)).max() > 0.01


def test_either_critic_is_climbed_in_units_of_its_own_size(x64):
    """One for a batch: -mean Q_j / mean |Q_j|. The slope knows no scale of Q, and none where the clip is active."""
    pair = lambda obs, a: jnp.stack([a[0], 3 * a[0] ** 2 + a[0]])
    scaled = lambda obs, a: jnp.array([7.0, 0.1]) * pair(obs, a)
    actions = np.array([-0.5, 0.9, 0.8])
    batch = jax.vmap(lambda a: stored(a[None]))(jnp.asarray(actions))
    loss = lambda critic: batched(one_step_of_either(SCHEDULE, critic, times=at(1e-4)))
    # At almost no noise a field leaves the action where it is.
    found = jax.vmap(
        jax.value_and_grad(lambda by, critic, key: loss(critic)(Constant(by), batch, key)[0]),
        in_axes=(None, None, 0),
    )
    keys = jax.random.split(KEY, 60)
    value, gradient = found(jnp.zeros(1), pair, keys)
    values = np.asarray(jax.vmap(lambda a: pair(None, a))(jnp.asarray(actions)[:, None]))
    expected = -values.mean(axis=0) / np.abs(values).mean(axis=0)
    which = np.abs(np.asarray(value)[:, None] - expected).argmin(axis=1)
    np.testing.assert_allclose(value, expected[which], rtol=0.05)
    assert 15 < which.sum() < 45
    np.testing.assert_allclose(found(jnp.zeros(1), scaled, keys)[1], gradient, rtol=1e-6)
    assert np.all(gradient != 0)
    boxed = one_step_of_either(SCHEDULE, pair, times=at(0.5))
    np.testing.assert_array_equal(slope(boxed, [50.0], stored([0.3])), 0.0)


def test_its_likelihood_is_the_fit_of_a_data_prediction(x64):
    """D / 2 times the mean that `matching` measures, at the same noised action; weighed, that of the tilted data."""
    field = dp.FunctionField(lambda x, t, obs: 0.5 * x, schedule=SCHEDULE, prediction="data", action_size=3)
    terms = {
        "fit": (1.0, matching(perturb(SCHEDULE))),
        "regression": (1.0, cloning(one_step_log_likelihood(SCHEDULE, clip=None))),
    }
    _, metrics = sharing(**terms)(field, stored([0.4, -0.3, 0.9]), KEY)
    np.testing.assert_allclose(metrics["regression/loss"], 1.5 * metrics["fit/loss"], rtol=1e-6)


def test_the_advantage_over_the_policys_own_actions(x64):
    """CRR: the lower weight of three by hand, no gradient through it, and the bound."""
    q = lambda obs, action: 2 * action[0] - action[1] ** 2
    draws = jnp.array([[0.5, 0.1], [0.2, -0.4], [-0.9, 0.0]])
    draw = lambda model, example, key: model * draws
    likelihood = lambda model, example, key: -3 * model
    example = stored([0.3, -0.6])
    loss = critic_regularised(likelihood, draw, q, 0.5)
    gap = (0.6 - 0.36) - np.mean([1.0 - 0.01, 0.4 - 0.16, -1.8])
    value, metrics = loss(1.0, example, KEY)
    np.testing.assert_allclose(
        [value, metrics["weight"]], [3 * np.exp(gap / 0.5), np.exp(gap / 0.5)], rtol=1e-6
    )
    np.testing.assert_allclose(jax.grad(lambda m: loss(m, example, KEY)[0])(1.0), value, rtol=1e-6)
    bounded = critic_regularised(likelihood, draw, q, 1e-3, largest=5.0)
    np.testing.assert_allclose(bounded(1.0, example, KEY)[0], 15.0, rtol=1e-5)


def test_its_draws_stand_around_one_step(x64):
    example, field = stored([0.3, -0.6]), Constant(jnp.array([0.1, 0.2]))
    found = one_step_draws(SCHEDULE, 4_000, times=at(0.2))(field, example, KEY)
    centre = denoised(SCHEDULE, times=at(0.2))(field, example, KEY)
    np.testing.assert_allclose(found.mean(axis=0), centre, atol=0.06)
    np.testing.assert_allclose(found.std(axis=0), 1.0, atol=0.06)


def pushed(name, s, now, schedule):
    """The second term of the actor's loss, of the parts that it should see."""
    if name == "edp":
        return one_step_of_either(schedule, s.critic)
    likelihood = one_step_log_likelihood(schedule)
    if name == "edp_crr":
        q = critic_function(s.critic)
        return critic_regularised(likelihood, one_step_draws(schedule, 2), q, 1.0)
    weight = exponential_advantage(critic_function(s.target), now.value, 1 / 3)
    return weighted(weight, cloning(likelihood))


@pytest.mark.parametrize("name", ["edp", "edp_crr", "edp_iql"])
def test_an_update_by_hand(name):
    """Which critics the actor sees, and the targets of the slow copy: every part is another."""
    algorithm = build(name, learning_rate=1e-2, critic_learning_rate=1e-2)
    state = algorithm.init(KEY, SPEC)
    other = lambda by: lambda x: by * x if eqx.is_inexact_array(x) else x
    parts = {"target": jax.tree.map(other(1.5), state.target)}
    if name != "edp_iql":
        parts["average"] = jax.tree.map(other(0.5), state.average)
    state = Parts(state, **parts)
    batch = experience(algorithm, state, KEY)

    @jax.jit
    def both(state, batch):
        after, metrics = algorithm.update(state, batch, KEY)
        push = pushed(name, state, after, state.actor.schedule)
        terms = {"fit": (1.0, matching(perturb(state.actor.schedule))), "push": (1.0, push)}
        _, actor = batched(sharing(**terms))(state.actor, batch, stage_key(KEY, "actor"))
        if name == "edp_iql":
            goal = lambda e, key: after.value(e.next_obs)
        else:
            act = lambda field, q, obs, key: (dpm_solver(steps=2, clip=1.0)(field, obs, key), jnp.zeros(()))
            q = critic_function(state.critic)
            goal = value_of_several(act, state.average, q, state.target, actions=1, over="max")
        error = batched(temporal_difference(goal, 0.99, reduction="sum"))
        _, critic = error(state.critic, batch, stage_key(KEY, "critic"))
        weight = 2.0 if name == "edp" else 1.0
        total = actor["fit/loss"] + weight * actor["push/loss"]
        return metrics, {
            "actor/loss": total,
            "critic/loss": critic["loss"],
            "critic/target": critic["target"],
        }

    metrics, expected = both(state, batch)
    for metric, value in expected.items():
        np.testing.assert_allclose(metrics[metric], value, rtol=1e-4, err_msg=metric)
