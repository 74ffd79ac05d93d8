"""Log-likelihoods, ratios and the clipped loss: oracles by quadrature, exact ones at unchanged parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpolicy._types import Transition
from dpolicy.fields import FunctionField, RectifiedFlow
from dpolicy.losses import (
    Match,
    Target,
    add,
    batched,
    clipped,
    entropy,
    flow_matching_log_likelihood,
    flow_matching_log_ratio,
    gaussian_log_ratio,
    log_ratio,
    matching,
    perturb,
    residual_gaussian_log_likelihood,
    residual_gaussian_log_ratio,
    score_regulariser,
)
from dpolicy.networks import Gaussian, ResidualGaussian, gaussian_log_prob

FLOW = RectifiedFlow()


def transition(action, obs=(0.0, 0.0), **extras):
    action, obs = jnp.atleast_1d(jnp.asarray(action, float)), jnp.asarray(obs, float)
    end = jnp.zeros((), bool)
    return Transition(obs, action, jnp.zeros(()), obs, end, end, extras)


def gaussian_flow(mean, std):
    """The exact velocity of data N(mean, std^2)."""

    def fn(x, t, obs):
        total = (1 - t) ** 2 * std**2 + t**2
        return -mean + (t - (1 - t) * std**2) / total * (x - (1 - t) * mean)

    return FunctionField(fn, schedule=FLOW, prediction="velocity", action_size=1)


def quadrature(times):
    """A transform whose weights integrate the loss: Gauss-Hermite over eps, and over t by `times` = (t, weight)."""
    points, weights = np.polynomial.hermite_e.hermegauss(8)
    t, eps = (grid.reshape(-1) for grid in np.meshgrid(times[0], points, indexing="ij"))
    weight = np.outer(times[1], weights / np.sqrt(2 * np.pi)).reshape(-1)

    def transform(example, match, key):
        action = jnp.broadcast_to(match.action, (t.size, 1))
        noise, time = jnp.asarray(eps)[:, None], jnp.asarray(t)
        x = (1 - time)[:, None] * action + time[:, None] * noise
        return Match(action, x, time, Target(action, noise), jnp.asarray(weight), FLOW, 1)

    return transform


def gauss_legendre(n=64):
    points, weights = np.polynomial.legendre.leggauss(n)
    return (points + 1) / 2, weights / 2


GRID = np.arange(1, 11) / 10, np.full(10, 0.1)


def expected_loss(action, mean, std, compare=None, times=None):
    loss = matching(quadrature(gauss_legendre() if times is None else times), compare=compare)
    return float(loss(gaussian_flow(mean, std), transition(action), jax.random.key(0))[0])


@pytest.mark.parametrize(
    ("a", "m", "s", "value"),
    [(0.7, 0.2, 1, 0.981748), (0.7, 0.2, 0.5, 0.785398), (0.1, -0.4, 0.2, 1.138827), (1.5, 0, 2, 2.454369)],
)
def test_gaussian_oracle_of_the_velocity_loss(x64, a, m, s, value):
    found = expected_loss(a, m, s)
    assert found == pytest.approx(value, abs=1e-6)
    assert found == pytest.approx(np.pi / 4 * ((a - m) ** 2 / s + s), abs=1e-6)


@pytest.mark.parametrize(
    ("compare", "times", "std", "kappa", "constant"),
    [
        ("noise", None, 1.0, 0.1073009, 0.3926991),
        ("noise", None, 0.5, 0.3958046, 0.2562329),
        ("noise", None, 0.2, 1.7608132, 0.1278273),
        ("noise", GRID, 1.0, 0.1073043, 0.3426957),
        ("noise", GRID, 0.5, 0.3958348, 0.2062189),
        ("noise", GRID, 0.2, 1.7628643, 0.0776860),
        (None, GRID, 1.0, 0.8337315, 0.7337315),
        ("data", None, 1.0, 0.3926991, None),
        ("data", None, 0.5, 0.5458648, None),
    ],
)
def test_gaussian_oracle_of_the_other_weights(x64, compare, times, std, kappa, constant):
    at_mean, beside = (expected_loss(a, 0.2, std, compare, times) for a in (0.2, 1.2))
    assert beside - at_mean == pytest.approx(kappa, abs=1e-6)
    if constant is not None:
        assert at_mean == pytest.approx(constant, abs=1e-6)


def test_the_flow_ratio_is_a_scaled_gaussian_ratio(x64):
    std = 0.5
    found = expected_loss(0.7, 0.2, std) - expected_loss(0.7, 0.3, std)
    true = ((0.7 - 0.2) ** 2 - (0.7 - 0.3) ** 2) / (2 * std**2)
    assert found == pytest.approx(0.141372, abs=1e-6)
    assert true == pytest.approx(0.18)
    assert found / true == pytest.approx(np.pi * std / 2, abs=1e-6)


def test_monte_carlo_likelihood_converges_to_the_oracle(getkey):
    likelihood = flow_matching_log_likelihood(matching(perturb(FLOW)), 16)
    example = lambda key: transition(0.7, key=key)
    run = jax.jit(jax.vmap(lambda key: likelihood(gaussian_flow(0.2, 0.5), example(key), key)))
    values = run(jax.random.split(getkey(), 5000))
    assert -jnp.mean(values) == pytest.approx(0.785398, abs=4 * float(jnp.std(values)) / np.sqrt(5000))


class SmallField(eqx.Module):
    """tanh(x W) V + t b: enough to move, quick to compile."""

    first: jax.Array
    second: jax.Array
    bias: jax.Array
    schedule: RectifiedFlow = eqx.field(default_factory=RectifiedFlow)
    prediction: str = eqx.field(static=True, default="velocity")
    action_size: int = eqx.field(static=True, default=2)

    def __call__(self, x, t, obs):
        return jnp.tanh(x @ self.first) @ self.second + t * self.bias


def small_field(key):
    first, second = jax.random.normal(key, (2, 2, 2))
    return SmallField(first, second, jnp.zeros(2))


def rollout(likelihood, model, keys, actions):
    """Transitions as a rollout stores them: the log-likelihood under the parameters that acted."""

    def one(key, action):
        example = transition(action, key=key, advantage=jnp.asarray(1.5))
        stored = likelihood(model, example, key)
        return eqx.tree_at(lambda e: e.extras, example, {**example.extras, "log_prob": stored})

    return jax.vmap(one)(keys, actions)


FLOW_RATIOS = {
    "fpo": flow_matching_log_ratio(matching(perturb(FLOW, times="grid"), compare="noise"), draws=8),
    "fpo_plus": flow_matching_log_ratio(
        matching(perturb(FLOW, times="power"), reduction="sqrt"),
        draws=8,
        average="per_sample",
        loss_clip=20.0,
        clip=10.0,
    ),
    "outside": flow_matching_log_ratio(matching(perturb(FLOW)), draws=8, average="exp_then_mean"),
}


@pytest.mark.parametrize("name", FLOW_RATIOS)
def test_flow_ratio_is_one_at_unchanged_parameters(getkey, name):
    """And its gradient is -A times that of minus the mean loss; other parameters or other draws move it."""
    ratio, model = FLOW_RATIOS[name], small_field(getkey())
    keys, actions = jax.random.split(getkey(), 6), jax.random.normal(getkey(), (6, 2))
    batch = jax.jit(lambda: rollout(ratio.log_likelihood, model, keys, actions))()
    loss = eqx.filter_jit(eqx.filter_value_and_grad(batched(clipped(ratio, eps=0.05)), has_aux=True))
    (value, metrics), gradient = loss(model, batch, getkey())
    assert value == pytest.approx(-1.5, abs=1e-6)
    for extreme in (metrics["ratio_min"], metrics["ratio"], metrics["ratio_max"]):
        assert extreme == pytest.approx(1, abs=1e-6)
    assert metrics["clip_fraction"] == 0

    def proxy(model):
        return -1.5 * jnp.mean(jax.vmap(lambda e: jnp.mean(ratio.log_likelihood(model, e, getkey_)))(batch))

    getkey_ = getkey()
    expected = eqx.filter_jit(eqx.filter_grad(proxy))(model)
    for found, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)

    redrawn = eqx.tree_at(lambda b: b.extras["key"], batch, jax.random.split(getkey(), 6))
    assert abs(loss(model, redrawn, getkey())[0][1]["ratio"] - 1) > 1e-3
    moved = eqx.tree_at(lambda b: b.action, batch, batch.action + 0.5)
    assert abs(loss(model, moved, getkey())[0][1]["ratio"] - 1) > 1e-3


def test_draws_may_be_permuted():
    """The mean over draws forgets their order; a vector of ratios keeps it, and gives the same surrogate."""
    old, new = jnp.array([0.3, 0.9, 0.1, 0.5]), jnp.array([0.2, 1.0, 0.3, 0.4])
    order = jnp.array([2, 0, 3, 1])
    for ratio in FLOW_RATIOS.values():
        first, second = ratio.combine(-new, -old), ratio.combine(-new[order], -old[order])
        np.testing.assert_allclose(jnp.mean(jnp.exp(first)), jnp.mean(jnp.exp(second)), rtol=1e-6)


def test_loss_clip_ignores_and_ratio_clip_does_not():
    huge = lambda scale, example, key: (30.0 * scale, {})
    example = transition(0.0, key=jax.random.key(1), log_prob=jnp.asarray([-45.0]))
    ratio = flow_matching_log_ratio(huge, draws=1, average="per_sample", loss_clip=20.0)
    assert jax.grad(lambda s: ratio(s, example, example.extras["key"])[0])(1.0) == 0
    ratio = flow_matching_log_ratio(huge, draws=1, average="per_sample", clip=10.0)
    value, gradient = jax.value_and_grad(lambda s: ratio(s, example, example.extras["key"])[0])(1.0)
    assert (value, gradient) == (10.0, -30.0)
    assert log_ratio(lambda m, e, k: jnp.asarray(m), clip=2.0)(
        5.0, transition(0.0, log_prob=jnp.asarray(1.0)), example.extras["key"]
    ) == pytest.approx(2.0)


@pytest.mark.parametrize("mode", ["per_sample", "mean_then_exp"])
def test_what_was_badly_fitted_gains_no_more_than_its_bound(mode):
    loss = lambda model, example, key: (jnp.asarray(model), {})
    ratio = flow_matching_log_ratio(loss, draws=1, average=mode, old_loss_clip=4.0)
    stored = jnp.asarray(-9.0) if mode == "mean_then_exp" else jnp.asarray([-9.0])
    example = transition(0.0, key=jax.random.key(1), log_prob=stored)
    assert ratio(1.0, example, example.extras["key"]) == pytest.approx(4 - 1.0)
    kept = transition(0.0, key=jax.random.key(1), log_prob=stored / 3)
    assert ratio(1.0, kept, example.extras["key"]) == pytest.approx(3 - 1.0)


def test_no_gradient_into_what_was_stored(getkey):
    def value(stored):
        example = transition([0.3, 0.1], log_prob=stored, advantage=jnp.asarray(2.0))
        return clipped(gaussian_log_ratio, eps=0.2)(model, example, key)[0]

    key, model = getkey(), Gaussian(2, 2, hidden=(8,), key=getkey())
    assert jax.grad(value)(jnp.asarray(-2.0)) == 0


def test_gaussian_ratio_against_the_formula(getkey):
    model = Gaussian(2, 2, hidden=(8,), key=getkey())
    action, old = jnp.array([0.3, -0.8]), jnp.asarray(-2.2)
    example = transition(action, log_prob=old, advantage=jnp.asarray(-1.0))
    log_prob = gaussian_log_prob(action, model.mean(example.obs), model.log_std)
    assert gaussian_log_ratio(model, example, getkey()) == pytest.approx(float(log_prob - old), rel=1e-5)
    value, metrics = clipped(gaussian_log_ratio, eps=0.2)(model, example, getkey())
    ratio = float(jnp.exp(log_prob - old))
    assert value == pytest.approx(max(ratio, min(max(ratio, 0.8), 1.2)), rel=1e-5)
    assert metrics["ratio"] == pytest.approx(ratio, rel=1e-5)
    assert metrics["clip_fraction"] == float(abs(ratio - 1) > 0.2)


def test_zero_advantage_gives_zero_gradient(getkey):
    model = Gaussian(2, 2, hidden=(8,), key=getkey())
    example = transition([0.3, 0.1], log_prob=jnp.asarray(-2.0), advantage=jnp.asarray(0.0))
    for surrogate in ("ppo", "spo", "aspo"):
        loss = clipped(gaussian_log_ratio, eps=0.2, surrogate=surrogate)
        gradient = eqx.filter_grad(lambda m, loss=loss: loss(m, example, getkey())[0])(model)
        assert all(bool(jnp.all(leaf == 0)) for leaf in jax.tree.leaves(gradient))


def test_conditional_and_marginal_gradients_agree(x64):
    """a0 = +-1, a = a0 + theta a0 + sigma n, reward -a^2: both policy gradients are -2 (1 + theta)."""
    theta, sigma = 0.3, 0.3
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    base = jnp.array([1.0, -1.0])
    action = (base[:, None] * (1 + theta) + sigma * jnp.asarray(points)[None]).reshape(-1)
    bases = jnp.repeat(base, len(points))
    weight = jnp.tile(jnp.asarray(weights / np.sqrt(2 * np.pi)), 2) / 2

    class Residual(eqx.Module):
        gain: jax.Array

        def log_prob(self, obs, base, action):
            return gaussian_log_prob(action, base * (1 + self.gain), jnp.full_like(base, np.log(sigma)))

    def example(a, a0):
        one = transition(a, base=a0[None], advantage=-(a**2))
        stored = residual_gaussian_log_likelihood(Residual(jnp.asarray(theta)), one, jax.random.key(0))
        return eqx.tree_at(lambda e: e.extras, one, {**one.extras, "log_prob": stored})

    batch = jax.vmap(example)(action, bases)
    loss = clipped(residual_gaussian_log_ratio, eps=0.2)

    def conditional(model):
        values = jax.vmap(lambda e: loss(model, e, jax.random.key(0))[0])(batch)
        return -jnp.sum(weight * values)

    def log_marginal(gain, a):
        both = jnp.stack([-((a - b * (1 + gain)) ** 2) / (2 * sigma**2) for b in (1.0, -1.0)])
        return jax.nn.logsumexp(both)

    scores = jax.vmap(jax.grad(log_marginal), (None, 0))(theta, action)
    marginal = jnp.sum(weight * -(action**2) * scores)
    assert jax.grad(conditional)(Residual(jnp.asarray(theta))).gain == pytest.approx(
        -2 * (1 + theta), abs=1e-9
    )
    assert marginal == pytest.approx(-2 * (1 + theta), abs=1e-7)  # no polynomial: 60 points give 4e-9
    conditional_scores = bases * (action - bases * (1 + theta)) / sigma**2
    assert jnp.sum(weight * scores**2) <= jnp.sum(weight * conditional_scores**2)


class Step(eqx.Module):
    """A residual policy with a given offset."""

    gain: jax.Array
    log_std: jax.Array

    def offset(self, obs, base):
        return self.gain * base

    def entropy(self):
        return jnp.sum(self.log_std) + self.log_std.size * 0.5 * (1 + np.log(2 * np.pi))


def test_score_regulariser(getkey):
    base = jnp.array([1.0, 1.0])
    example = transition([0.0, 0.0], base=base)
    still = Step(jnp.asarray(0.0), jnp.zeros(2))
    assert score_regulariser(still, example, getkey())[0] == pytest.approx(2 * 0.25)
    langevin = Step(jnp.asarray(-0.5 * 0.09), jnp.full(2, np.log(0.3)))
    assert score_regulariser(langevin, example, getkey())[0] == pytest.approx(0, abs=1e-12)

    def gradient(**options):
        return eqx.filter_grad(lambda m: score_regulariser(m, example, getkey(), **options)[0])(still)

    assert bool(jnp.all(gradient().log_std == 0))
    assert gradient().gain == pytest.approx(2.0)
    # d/ds |Sigma a0 / 2|^2 with Sigma = exp(2 s), at s = 0, per coordinate: 2 * (1/2) * 1
    np.testing.assert_allclose(gradient(variance_gradient=True).log_std, 1.0, rtol=1e-6)


def test_a_conditional_gaussian_method_reads_as_written(getkey):
    """The DP-CPPO loss, one expression, on the library's residual policy."""
    model = ResidualGaussian(2, 2, hidden=(8,), initial_std=0.5, key=getkey())
    base = jnp.array([0.2, -0.4])
    action, log_prob = model.sample(jnp.zeros(2), base, getkey())
    example = transition(action, base=base, log_prob=log_prob, advantage=jnp.asarray(0.7))
    loss = add(
        ppo=(1.0, clipped(residual_gaussian_log_ratio, eps=0.2)),
        entropy=(-0.01, entropy),
        score=(0.1, score_regulariser),
    )
    value, metrics = loss(model, example, getkey())
    assert metrics["ppo/ratio"] == pytest.approx(1, abs=1e-6)
    parts = -0.7 - 0.01 * model.entropy() + 0.1 * metrics["score/loss"]
    assert value == pytest.approx(float(parts), rel=1e-5)


def test_large_negative_advantages_never_give_nan(getkey):
    """Half of the advantages at -100, 1000 steps of Adam on stored data: FPO++'s clamps keep everything finite."""
    ratio = FLOW_RATIOS["fpo_plus"]
    model = small_field(getkey())
    keys, actions = jax.random.split(getkey(), 8), jax.random.normal(getkey(), (8, 2))
    batch = jax.jit(lambda: rollout(ratio.log_likelihood, model, keys, actions))()
    advantages = jnp.where(jnp.arange(8) % 2 == 0, -100.0, 1.0)
    batch = eqx.tree_at(lambda b: b.extras["advantage"], batch, advantages)
    loss, optimiser = batched(clipped(ratio, eps=0.05, surrogate="aspo")), optax.adam(1e-3)
    arrays, static = eqx.partition(model, eqx.is_inexact_array)

    def step(carry, key):
        arrays, state = carry
        value, gradient = jax.value_and_grad(lambda a: loss(eqx.combine(a, static), batch, key)[0])(arrays)
        update, state = optimiser.update(gradient, state)
        return (eqx.apply_updates(arrays, update), state), value

    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))
    (arrays, _), values = run((arrays, optimiser.init(arrays)), jax.random.split(getkey(), 1000))
    assert bool(jnp.all(jnp.isfinite(values)))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(arrays))
    assert values[-1] < values[0]
