"""Losses made of losses, pathwise losses and value losses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.fields import CosineVP, FunctionField, RectifiedFlow
from dpolicy.losses import (
    add,
    averaged,
    batch_mean,
    batched,
    bellman,
    boltzmann,
    bptt,
    candidates,
    chain,
    distil,
    dual,
    expectile_regression,
    given,
    knn_entropy,
    matching,
    on,
    one_step,
    perturb,
    soft_value,
    start,
    td_target,
    value_regression,
    weight_kl,
    weighted,
)


def transition(action=(0.0,), reward=0.0, terminated=False, **extras):
    action = jnp.asarray(action, float)
    return Transition(
        jnp.zeros(1),
        action,
        jnp.asarray(reward),
        jnp.zeros(1),
        jnp.asarray(terminated),
        jnp.zeros((), bool),
        extras,
    )


def quadratic(model, example, key):
    value = jnp.sum((model - example.action) ** 2)
    return value, {"loss": value, "error_min": value, "error_max": value}


def noisy(model, example, key):
    value = model * jax.random.normal(key)
    return value, {"loss": value}


def test_add(getkey):
    key, model, example = getkey(), jnp.asarray([2.0]), transition((0.5,))
    loss = add(near=(1.0, quadratic), far=(jnp.asarray(-0.1), lambda m, e, k: (3.0 * m[0], {"loss": m[0]})))
    value, metrics = loss(model, example, key)
    assert value == pytest.approx(2.25 - 0.6)
    assert metrics == {
        "loss": value,
        "near/loss": 2.25,
        "near/error_min": 2.25,
        "near/error_max": 2.25,
        "far/loss": 2.0,
    }


def test_a_later_term_reshuffles_no_earlier_one(getkey):
    key = getkey()
    one = add(a=(1.0, noisy))(1.0, transition(), key)[1]
    two = add(a=(1.0, noisy), b=(1.0, noisy))(1.0, transition(), key)[1]
    assert one["a/loss"] == two["a/loss"] != two["b/loss"]


def test_add_refuses_nonsense():
    with pytest.raises(ValueError, match="at least one term"):
        add()
    with pytest.raises(ValueError, match="the coefficient of bc must be a finite number"):
        add(bc=(float("nan"), quadratic))


def test_averaged(getkey):
    loss = averaged(noisy, 400)
    values = jax.vmap(lambda key: loss(1.0, transition(), key)[0])(jax.random.split(getkey(), 500))
    assert jnp.std(values) == pytest.approx(1 / 20, rel=0.15)
    with pytest.raises(ValueError, match="draws must be an integer of at least 1"):
        averaged(noisy, 0)


def test_batched_reduces_metrics_by_their_names(getkey):
    batch = jax.vmap(transition)(jnp.array([[0.0], [1.0], [3.0]]))
    value, metrics = batched(quadratic)(jnp.asarray([0.0]), batch, getkey())
    assert value == pytest.approx(10 / 3)
    assert (metrics["error_min"], metrics["error_max"]) == (0, 9)


def test_batched_gives_every_example_its_own_key(getkey):
    batch = jax.vmap(transition)(jnp.zeros((2000, 1)))
    assert abs(batched(noisy)(1.0, batch, getkey())[0]) < 4 / np.sqrt(2000)


def test_batch_mean():
    assert batch_mean(jnp.asarray(3.0)) == 3.0
    x = jnp.array([1.0, 2.0, 6.0])
    np.testing.assert_allclose(jax.vmap(batch_mean, axis_name="batch")(x), 3.0)
    np.testing.assert_allclose(jax.vmap(batch_mean)(x), x)
    seeds = jnp.stack([x, 2 * x])
    nested = jax.vmap(jax.vmap(batch_mean, axis_name="batch"))(seeds)
    np.testing.assert_allclose(nested, [[3.0] * 3, [6.0] * 3])


def test_lenses(getkey):
    model = {"actor": jnp.asarray([1.0]), "other": jnp.asarray([7.0])}
    loss = on(lambda m: m["actor"], quadratic)
    value, gradient = jax.value_and_grad(lambda m: loss(m, transition((0.5,)), getkey())[0])(model)
    assert value == 0.25
    assert (gradient["actor"], gradient["other"]) == (1.0, 0.0)
    shifted = given(lambda e: eqx.tree_at(lambda e: e.action, e, e.action + 1), quadratic)
    assert shifted(model["actor"], transition((0.5,)), getkey())[0] == 0.25
    masked = weighted(lambda e: 1.0 - e.terminated, quadratic)
    assert masked(model["actor"], transition((0.5,), terminated=True), getkey())[0] == 0
    assert masked(model["actor"], transition((0.5,)), getkey())[1]["loss"] == 0.25


def linear_sampler(gain, obs, key):
    return gain * jax.random.normal(key, (2,))


def test_bptt_is_the_pathwise_gradient(getkey):
    key, q = getkey(), lambda obs, a: -jnp.sum(a**2)
    value, gradient = jax.value_and_grad(lambda g: bptt(linear_sampler, q)(g, transition(), key)[0])(0.7)
    square = jnp.sum(jax.random.normal(key, (2,)) ** 2)
    np.testing.assert_allclose([value, gradient], [0.49 * square, 1.4 * square], rtol=1e-5)


def test_normalised_bptt_ignores_the_scale_of_q(getkey):
    """The gradient does not see the scale of Q; it does see a constant added to it."""
    key = getkey()
    batch = jax.vmap(transition)(jnp.zeros((4, 1)))

    def gradient(scale, offset=0.0):
        q = lambda obs, a: scale * (offset - jnp.sum(a**2))
        loss = batched(bptt(linear_sampler, q, normaliser=q))
        return jax.grad(lambda g: loss(g, batch, key)[0])(0.7)

    assert gradient(10.0) == pytest.approx(float(gradient(1.0)), rel=1e-4)
    assert abs(gradient(1.0, offset=-5.0)) < 0.9 * abs(gradient(1.0))
    # -(-mean a^2) / mean |a^2|: the value is 1 whatever the gain, the gradient 2 / gain with the divisor held fixed
    assert gradient(1.0) == pytest.approx(2 / 0.7, rel=1e-4)


class Shift(eqx.Module):
    """Predicts a constant noise."""

    value: jax.Array
    schedule: object = eqx.field(default_factory=CosineVP)
    prediction: str = eqx.field(static=True, default="noise")
    action_size: int = eqx.field(static=True, default=1)

    def __call__(self, x, t, obs):
        return jnp.full_like(x, self.value)


def test_one_step_gradient(getkey):
    """x0_hat = (x - sigma e) / alpha, so d(-Q)/de = (sigma / alpha) g for Q = g a, and 0 where the clip is active."""
    schedule = CosineVP()
    time = lambda schedule, key: jnp.asarray(0.4)
    q = lambda obs, a: 2.0 * a[0]
    kappa = float(schedule.sigma(0.4) / schedule.alpha(0.4))
    gradient = eqx.filter_grad(lambda f, loss: loss(f, transition((0.3,)), getkey())[0])
    free = one_step(schedule, q, times=time, clip=None)
    assert gradient(Shift(jnp.asarray(0.1)), free).value == pytest.approx(2 * kappa, rel=1e-5)
    boxed = one_step(schedule, q, times=time)
    for noise, action in ((50.0, -1.0), (-50.0, 1.0)):
        assert gradient(Shift(jnp.asarray(noise)), boxed).value == 0
        assert boxed(Shift(jnp.asarray(noise)), transition((0.3,)), getkey())[0] == -2 * action


def test_one_step_at_the_true_field_recovers_the_action(getkey):
    """A field that knows the action denoises to it, whatever it predicts."""
    schedule, a = RectifiedFlow(), 0.3
    field = FunctionField(
        lambda x, t, obs: (x - a) / t, schedule=schedule, prediction="velocity", action_size=1
    )
    loss = one_step(schedule, lambda obs, action: action[0], times=lambda schedule, key: jnp.asarray(0.6))
    assert loss(field, transition((a,)), getkey())[0] == pytest.approx(-a, abs=1e-6)


def test_behaviour_cloning_plus_q_reads_as_written(getkey):
    schedule, q = CosineVP(), lambda obs, a: -jnp.sum((a - 0.5) ** 2)
    sampler = lambda field, obs, key: jnp.tanh(field(jax.random.normal(key, (1,)), jnp.asarray(0.5), obs))
    loss = add(bc=(1.0, matching(perturb(schedule))), q=(0.5, bptt(sampler, q)))
    value, metrics = loss(Shift(jnp.asarray(0.1)), transition((0.3,)), getkey())
    assert value == pytest.approx(float(metrics["bc/loss"] + 0.5 * metrics["q/loss"]), rel=1e-6)
    assert metrics["q/value"] == pytest.approx(-((np.tanh(0.1) - 0.5) ** 2), rel=1e-5)


def test_soft_value(getkey):
    sample = lambda model, obs, key: (jnp.array([model]), -2.0 * model)
    value, metrics = soft_value(sample, lambda obs, a: 3 * a[0], 0.2)(0.5, transition(), getkey())
    assert value == pytest.approx(0.2 * -1.0 - 1.5)
    assert metrics["entropy"] == 1.0


def test_distillation_shares_the_start(getkey):
    """Student g z, teacher 2 z: the loss is (g - 2)^2 |z|^2 / d, and no gradient reaches the teacher."""
    key = getkey()
    z = jax.random.normal(key, (3,))

    def value(gain, taught):
        loss = distil(lambda model, obs, start: model * start, lambda obs, start: taught * start)
        return loss(gain, transition((0.0, 0.0, 0.0)), key)[0]

    assert value(0.5, 2.0) == pytest.approx(2.25 * float(jnp.mean(z**2)), rel=1e-5)
    student, teacher = jax.grad(value, argnums=(0, 1))(0.5, 2.0)
    assert student == pytest.approx(-3.0 * float(jnp.mean(z**2)), rel=1e-5)
    assert teacher == 0


@pytest.mark.parametrize("dim", [1, 2])
def test_nearest_neighbour_entropy_of_a_normal(getkey, dim):
    points = jax.random.normal(getkey(), (2000, dim))
    exact = dim / 2 * (1 + np.log(2 * np.pi))
    # the estimator's standard deviation is about sqrt(psi'(1) + Var log p) / sqrt(n), below 1.6 / sqrt(n)
    assert knn_entropy(points) == pytest.approx(exact, abs=4 * 1.6 / np.sqrt(2000))
    with pytest.raises(ValueError, match="at least two points, got 1"):
        knn_entropy(points[:1])


def test_dual_holds_the_divergence_of_the_weights(getkey):
    """Q ~ N(0, 1), 64 candidates, KL(weights || equal) kept at 2: the temperature settles at 0.39."""
    policy = candidates(lambda obs, key: jax.random.normal(key, (1,)), 64)

    def divergence(temperature, key):
        links = chain(policy, boltzmann(lambda obs, a: a[0], temperature))
        return jax.vmap(lambda key: weight_kl(links(transition(), start(transition()), key)))(key).mean()

    def step(log_temperature, key):
        slack = 2.0 - divergence(jnp.exp(log_temperature), jax.random.split(key, 64))
        loss = dual(jnp.exp, lambda example: slack)
        return log_temperature - 0.1 * jax.grad(lambda m: loss(m, transition(), key)[0])(
            log_temperature
        ), None

    run = jax.jit(lambda keys: jax.lax.scan(step, jnp.asarray(0.0), keys)[0])
    assert jnp.exp(run(jax.random.split(getkey(), 400))) == pytest.approx(0.39, abs=0.02)


def test_bellman(getkey):
    critics = lambda obs, a: jnp.array([1.0, 3.0]) * jnp.sum(a)
    loss = bellman(lambda e, key: td_target(e.reward, e.terminated, jnp.asarray(10.0), 0.9))
    value, metrics = loss(critics, transition((1.0,), reward=1.0), getkey())
    assert value == pytest.approx(((1 - 10) ** 2 + (3 - 10) ** 2) / 2)
    assert (metrics["target"], metrics["value"]) == (10.0, 2.0)
    assert loss(critics, transition((1.0,), reward=1.0, terminated=True), getkey())[0] == pytest.approx(2.0)


def test_bellman_targets_are_not_differentiated(getkey):
    def value(w):
        loss = bellman(lambda e, key: w * e.reward)
        return loss(lambda obs, a: w * jnp.sum(a), transition((1.0,), reward=3.0), getkey())[0]

    assert jax.grad(value)(1.0) == pytest.approx(2 * (1 - 3) * 1)


def test_value_losses(getkey):
    example = transition(**{"return": jnp.asarray(3.0), "value": jnp.asarray(1.0)})
    constant = lambda obs: jnp.asarray(2.0)
    assert value_regression()(constant, example, getkey())[0] == pytest.approx(1.0)
    assert value_regression(eps=0.2)(constant, example, getkey())[0] == pytest.approx(3.24)
    loss = expectile_regression(lambda obs, a: jnp.asarray(5.0), 0.7)
    assert loss(constant, example, getkey())[0] == pytest.approx(0.7 * 9)
    with pytest.raises(ValueError, match="tau must be a finite number in"):
        expectile_regression(lambda obs, a: jnp.asarray(0.0), 1.2)
