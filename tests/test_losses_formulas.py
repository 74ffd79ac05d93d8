"""Array formulas against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given as forall
from hypothesis import settings
from hypothesis import strategies as st

from dpolicy.losses import (
    adaptive_rate,
    aspo,
    categorical_target,
    clipped_value_loss,
    expectile,
    expectile_weight,
    explained_variance,
    f_dice_conjugate,
    f_dice_weight,
    gae,
    kl_k1,
    kl_k3,
    log_ratio_from_losses,
    ppo_clip,
    ratio_from_losses,
    reduce_ensemble,
    spo,
    standardise,
    straight_through_clamp,
    td_target,
)

REWARDS = jnp.array([1.0, 2.0, 3.0, 4.0])
VALUES = jnp.array([0.5, 1.0, 1.5, 2.0])
NEXT = jnp.array([1.0, 1.5, 2.0, 2.5])
NEVER = jnp.zeros(4, bool)
AT_1 = jnp.array([False, True, False, False])


@pytest.mark.parametrize(
    ("dialect", "terminated", "truncated", "final", "advantages", "returns"),
    [
        ("exact", NEVER, NEVER, 1.5, [6.389024, 6.9292, 6.36, 4.25], None),
        ("rsl", NEVER, NEVER, 1.5, [6.389024, 6.9292, 6.36, 4.25], None),
        ("brax", NEVER, NEVER, 1.5, [7.63628, 8.074, 7.125, 4.25], [6.889024, 7.9292, 7.86, 6.25]),
        ("exact", AT_1, NEVER, 1.5, [2.12, 1, 6.36, 4.25], None),
        ("rsl", AT_1, NEVER, 1.5, [2.12, 1, 6.36, 4.25], None),
        ("brax", AT_1, NEVER, 1.5, [2.3, 1, 7.125, 4.25], [2.62, 2, 7.86, 6.25]),
        ("exact", NEVER, AT_1, 7.0, [6.656, 7.3, 6.36, 4.25], None),
        ("rsl", NEVER, AT_1, 7.0, [2.768, 1.9, 6.36, 4.25], None),
        ("brax", NEVER, AT_1, 7.0, [1.4, 0, 7.125, 4.25], [1.9, 1, 7.86, 6.25]),
        # Whatever the true successor's value is, the next stored one is read.
        ("leaky", NEVER, AT_1, 7.0, [6.389024, 6.9292, 6.36, 4.25], None),
    ],
)
def test_gae_vectors(dialect, terminated, truncated, final, advantages, returns):
    args = REWARDS, VALUES, NEXT.at[1].set(final), terminated, truncated
    found, targets = gae(*args, discount=0.9, trace=0.8, dialect=dialect)
    np.testing.assert_allclose(found, advantages, rtol=1e-6, atol=1e-6)
    expected = np.asarray(advantages) + np.asarray(VALUES) if returns is None else returns
    np.testing.assert_allclose(targets, expected, rtol=1e-6)


def test_gae_takes_trailing_axes_and_traced_hyperparameters(getkey):
    shape = (5, 3)
    rewards, values, later = (jax.random.normal(getkey(), shape) for _ in range(3))
    ends = jax.random.bernoulli(getkey(), 0.3, shape)
    together = jax.jit(lambda g: gae(rewards, values, later, ends, ~ends, discount=g, trace=0.9))(0.95)
    alone = [
        gae(rewards[:, i], values[:, i], later[:, i], ends[:, i], ~ends[:, i], discount=0.95, trace=0.9)
        for i in range(3)
    ]
    np.testing.assert_allclose(together[0], jnp.stack([a for a, _ in alone], axis=1), rtol=1e-5, atol=1e-6)


def test_gae_rejects_bad_arguments():
    args = REWARDS, VALUES, NEXT, NEVER, NEVER
    with pytest.raises(ValueError, match="discount must be a finite number in"):
        gae(*args, discount=1.1, trace=0.9)
    with pytest.raises(ValueError, match="dialect must be one of exact, rsl, brax, leaky"):
        gae(*args, discount=0.9, trace=0.9, dialect="rsll")


SURROGATE_TABLE = [  # ratio, advantage, ppo, spo with eps = 0.2
    (0.7, 2, 1.4, 0.95),
    (0.8, 2, 1.6, 1.4),
    (1.0, 2, 2.0, 2.0),
    (1.2, 2, 2.4, 2.2),
    (1.3, 2, 2.4, 2.15),
    (0.7, -2, -1.6, -1.85),
    (0.8, -2, -1.6, -1.8),
    (1.0, -2, -2.0, -2.0),
    (1.2, -2, -2.4, -2.6),
    (1.3, -2, -2.6, -3.05),
]


def test_surrogate_table():
    ratio, advantage, ppo, simple = map(jnp.asarray, zip(*SURROGATE_TABLE, strict=True))
    advantage = advantage.astype(ratio.dtype)
    logs = jnp.log(ratio)
    np.testing.assert_allclose(ppo_clip(logs, advantage, 0.2), ppo, rtol=1e-5)
    np.testing.assert_allclose(spo(logs, advantage, 0.2), simple, rtol=1e-5)
    np.testing.assert_allclose(aspo(logs, advantage, 0.2), jnp.where(advantage > 0, ppo, simple), rtol=1e-5)


def test_ppo_is_flat_beyond_the_clip_and_spo_pulls_back():
    slope = jax.grad(lambda ratio, a, f: f(jnp.log(ratio), a, 0.2))
    for ratio, advantage in ((1.3, 1.0), (0.7, -1.0)):
        assert slope(ratio, advantage, lambda *args: ppo_clip(*map(jnp.asarray, args))) == 0
        toward_one = slope(ratio, advantage, lambda *args: spo(*map(jnp.asarray, args))) * (1 - ratio)
        assert toward_one > 0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_spo_is_stationary_at_the_edge_of_the_clip(x64, sign):
    slope = jax.grad(lambda ratio: spo(jnp.log(ratio), jnp.asarray(2 * sign), 0.2))
    edge = 1 + 0.2 * sign
    assert abs(slope(edge)) < 1e-12
    assert slope(edge - 1e-3) > 0 > slope(edge + 1e-3)
    assert spo(jnp.log(edge), jnp.asarray(2 * sign), 0.2) == pytest.approx(2 * sign * edge - 2 * 0.2 / 2)


def test_overshoot_is_pulled_back_by_spo_only():
    """One scalar, ratio exp(-w), advantage -1: momentum carries PPO past its clip, SPO returns to the edge."""

    def end(surrogate):
        optimiser = optax.adam(3e-3)

        def step(carry, _):
            w, state = carry
            gradient = jax.grad(lambda w: -surrogate(-w, jnp.asarray(-1.0), 0.05))(w)
            update, state = optimiser.update(gradient, state)
            return (w + update, state), None

        w = jnp.asarray(0.0)
        (w, _), _ = jax.lax.scan(step, (w, optimiser.init(w)), None, length=2000)
        return float(jnp.exp(-w))

    assert end(ppo_clip) == pytest.approx(0.9194, abs=1e-4)
    assert end(spo) == pytest.approx(0.9500, abs=1e-4)


def test_ratios_from_losses():
    old, new = jnp.array([1.0, 0.5]), jnp.array([0.8, 0.6])
    assert ratio_from_losses(new, old, "mean_then_exp") == pytest.approx(1.051271, abs=1e-6)
    np.testing.assert_allclose(ratio_from_losses(new, old, "per_sample"), [1.221403, 0.904837], atol=1e-6)
    assert ratio_from_losses(new, old, "exp_then_mean") == pytest.approx(1.063120, abs=1e-6)
    with pytest.raises(ValueError, match="average must be one of"):
        ratio_from_losses(new, old, "mean")


losses_lists = st.lists(st.floats(0, 2.5, width=32), min_size=2, max_size=6)


@settings(max_examples=25, deadline=None)
@forall(losses_lists, st.randoms(use_true_random=False))
def test_exp_then_mean_is_never_below_mean_then_exp(new, random):
    old = [value + random.uniform(-0.4, 0.4) for value in new]
    new, old = jnp.asarray(new), jnp.asarray(old)
    inside, outside = (log_ratio_from_losses(new, old, m) for m in ("mean_then_exp", "exp_then_mean"))
    assert outside >= inside - 1e-5
    equal = log_ratio_from_losses(new, new + 0.3, "exp_then_mean")
    assert equal == pytest.approx(0.3, abs=1e-5)


def test_differences_are_clamped_before_the_exponential():
    new, old = jnp.array([3.0, 0.0, 0.1]), jnp.array([0.0, 2.0, 0.3])
    for clamp, ends in ((1.0, (-1.0, 1.0)), (2.5, (-2.5, 2.0))):
        expected = np.log(np.mean(np.exp([*ends, 0.2])))
        assert log_ratio_from_losses(new, old, "exp_then_mean", clamp=clamp) == pytest.approx(
            expected, abs=1e-6
        )


def test_modes_have_one_gradient_at_unchanged_losses():
    old = jnp.array([0.3, 1.2, 0.7])
    for mode in ("mean_then_exp", "per_sample", "exp_then_mean"):
        gradient = jax.grad(lambda new, mode=mode: jnp.mean(ratio_from_losses(new, old, mode)))(old)
        np.testing.assert_allclose(gradient, -jnp.ones(3) / 3, rtol=1e-6)


def test_single_draw_modes_coincide():
    old, new = jnp.array([0.4]), jnp.array([0.9])
    values = [ratio_from_losses(new, old, mode) for mode in ("mean_then_exp", "per_sample", "exp_then_mean")]
    np.testing.assert_allclose([jnp.squeeze(value) for value in values], np.exp(-0.5), rtol=1e-6)


def test_straight_through_clamp():
    value, gradient = jax.value_and_grad(straight_through_clamp)(12.0, None, 10.0)
    assert (value, gradient) == (10.0, 1.0)
    assert jax.value_and_grad(straight_through_clamp)(-12.0, -10.0, None) == (-10.0, 1.0)
    assert straight_through_clamp(jnp.asarray(-20.0), high=10.0) == -20.0
    assert jax.grad(lambda x: jnp.minimum(x, 20.0))(25.0) == 0


def test_adaptive_rate():
    rates = [adaptive_rate(1e-3, kl, 0.01) for kl in (0.03, 0.004, 0.01, 0.0, -0.1)]
    np.testing.assert_allclose(rates, [6.6667e-4, 1.5e-3, 1e-3, 1e-3, 1e-3], rtol=1e-4)
    assert adaptive_rate(1.2e-5, 1.0, 0.01) == pytest.approx(1e-5)
    assert adaptive_rate(9e-3, 1e-4, 0.01) == pytest.approx(1e-2)


def test_kl_estimators():
    logs = jnp.array([0.1, -0.2, 0.4])
    assert kl_k1(logs) == pytest.approx(-0.1, abs=1e-6)
    assert kl_k3(logs) == pytest.approx(
        np.mean(np.exp([0.1, -0.2, 0.4]) - 1 - np.array([0.1, -0.2, 0.4])), abs=1e-6
    )
    assert kl_k3(jnp.zeros(3)) == 0
    assert kl_k3(jnp.array([300.0])) == pytest.approx(np.exp(80), rel=1e-4)


def test_clipped_value_loss():
    assert clipped_value_loss(*map(jnp.asarray, (2.0, 1.0, 3.0)), 0.2) == pytest.approx(3.24)
    assert clipped_value_loss(*map(jnp.asarray, (2.0, 1.0, 1.1)), 0.2) == pytest.approx(0.81)
    assert clipped_value_loss(*map(jnp.asarray, (0.0, 1.0, -1.0)), 0.2) == pytest.approx(3.24)


def test_td_target():
    reward, value = jnp.array([1.0, 1.0]), jnp.array([10.0, 10.0])
    ends = jnp.array([False, True])
    np.testing.assert_allclose(td_target(reward, ends, value, 0.9), [10.0, 1.0])
    np.testing.assert_allclose(td_target(reward, ends, value, 0.0), [1.0, 1.0])
    blown_up = jnp.array([10.0, jnp.inf])
    assert td_target(reward, ends, blown_up, 0.9)[1] == 1.0


def test_reduce_ensemble():
    values = jnp.array([[1.0, 4.0], [3.0, 4.0]])
    np.testing.assert_allclose(reduce_ensemble(values), [1, 4])
    np.testing.assert_allclose(reduce_ensemble(values, "mean"), [2, 4])
    np.testing.assert_allclose(reduce_ensemble(values, "lcb"), [1, 4])
    np.testing.assert_allclose(reduce_ensemble(values, "lcb", pessimism=0.0), [2, 4])
    np.testing.assert_allclose(reduce_ensemble(values, "lcb", pessimism=0.5), [1.5, 4])
    lcb = lambda values: jnp.sum(reduce_ensemble(values, "lcb", pessimism=0.5))
    # d/dx_i (mean - std / 2) = (1 - (x_i - mean) / (2 std)) / n; where members agree, or there is one, the mean alone.
    for members, slopes in (([1.0, 4.0], [0.75, 0.25]), ([0.1] * 7, [1 / 7] * 7), ([0.1], [1.0])):
        np.testing.assert_allclose(jax.grad(lcb)(jnp.asarray(members)), slopes, rtol=1e-6)
    with pytest.raises(ValueError, match="how must be one of min, mean, lcb; got 'median'"):
        reduce_ensemble(values, "median")


@pytest.mark.parametrize(("tau", "uniform", "normal"), [(0.7, 0.60436, 0.33712), (0.9, 0.75, 0.86159)])
def test_expectiles_are_where_the_gradient_vanishes(x64, tau, uniform, normal):
    grid = (jnp.arange(20000) + 0.5) / 20000
    for sample, answer in ((grid, uniform), (jax.scipy.special.ndtri(grid), normal)):
        slope = jax.grad(lambda v, sample=sample: jnp.mean(expectile(sample - v, tau)))
        assert abs(slope(answer)) < 2e-4
        weight = expectile_weight(sample - answer, tau)
        assert abs(jnp.sum(weight * (sample - answer)) / jnp.sum(weight)) < 2e-4


@pytest.mark.parametrize(
    ("eta", "v", "low", "high"),
    [
        (0.1, 0.80007, 0.00034, 1.99966),
        (0.5, 0.42630, 0.42630, 1.57370),
        (1.0, 0.37482, 0.68741, 1.31259),
        (2.0, 0.35292, 0.83823, 1.16177),
    ],
)
def test_f_dice_two_actions(x64, eta, v, low, high):
    q = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(f_dice_weight((q - v) / eta), [low, high], atol=2e-4)
    slope = jax.grad(lambda v: jnp.mean(f_dice_conjugate((q - v) / eta)) + v / eta)
    assert abs(slope(v)) < 1e-3
    # Descended from afar the loss ends there, and the weights, which have the mean 1 there, make a policy.
    found = jax.lax.fori_loop(0, 2_000, lambda _, v: v - 0.3 * eta**2 * slope(v), 3.0)
    np.testing.assert_allclose(found, v, atol=1e-4)
    np.testing.assert_allclose(jnp.mean(f_dice_weight((q - found) / eta)), 1, rtol=1e-6)
    u = jnp.linspace(-2, 2, 9)
    np.testing.assert_allclose(jax.vmap(jax.grad(f_dice_conjugate))(u), f_dice_weight(u), rtol=1e-12)


def test_statistics():
    x = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(standardise(x), np.array([-1, 0, 1]) / np.sqrt(2 / 3), rtol=1e-6)
    assert explained_variance(x, x) == 1
    assert explained_variance(jnp.full(3, 5.0), x) == pytest.approx(0)
    assert explained_variance(x, jnp.ones(3)) == 0


def test_laws_are_moved_in_full_precision():
    """Products of matrices may have fewer digits on an accelerator: 10 bits would move a law by 5e-4."""
    move = lambda law: categorical_target(law, jnp.asarray(0.5), jnp.asarray(False), 0.9, low=0.0, high=2.0)
    (product,) = [
        equation
        for equation in jax.make_jaxpr(move)(jnp.full(3, 1 / 3)).jaxpr.eqns
        if equation.primitive.name == "dot_general"
    ]
    assert set(product.params["precision"]) == {jax.lax.Precision.HIGHEST}
