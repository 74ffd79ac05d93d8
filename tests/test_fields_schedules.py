import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.blocks import SCHEDULES as NAMED
from dpolicy.fields import (
    CosineVP,
    DiscreteVP,
    Karras,
    LinearVP,
    RectifiedFlow,
    Trigonometric,
    VarianceExploding,
    cosine_betas,
    ddpm_table,
    linear_betas,
)

SCHEDULES = [
    RectifiedFlow(),
    CosineVP(),
    LinearVP(),
    LinearVP(0.1, 10.0),
    VarianceExploding(),
    Karras(),
    Trigonometric(),
    DiscreteVP(cosine_betas(5)),
]
VP = [s for s in SCHEDULES if not isinstance(s, RectifiedFlow | VarianceExploding | Karras)]


def name(schedule):
    return type(schedule).__name__


def test_cosine_values(x64):
    t = jnp.array([0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.9946])
    alpha = [0.99998, 0.98595, 0.92033, 0.70274, 0.37983, 0.15522, 0.00842]
    sigma = [0.00643, 0.16705, 0.39114, 0.71145, 0.92506, 0.98788, 0.99996]
    np.testing.assert_allclose(CosineVP().alpha(t), alpha, atol=5.1e-6)
    np.testing.assert_allclose(CosineVP().sigma(t), sigma, atol=5.1e-6)


def test_cosine_is_constant_beyond_t_max(x64):
    cosine = CosineVP()
    for method in (cosine.alpha, cosine.sigma, cosine.dalpha, cosine.dsigma):
        assert method(1.0) == method(0.9946)
    assert cosine.dalpha(1.0) < -1


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_derivatives_match_autodiff(schedule, x64):
    t = jnp.array([0.013, 0.11, 0.37, 0.52, 0.77, 0.93])
    np.testing.assert_allclose(schedule.dalpha(t), jax.vmap(jax.grad(schedule.alpha))(t), rtol=1e-10)
    np.testing.assert_allclose(schedule.dsigma(t), jax.vmap(jax.grad(schedule.sigma))(t), rtol=1e-10)
    snr = (schedule.alpha(t) / schedule.sigma(t)) ** 2
    np.testing.assert_allclose(schedule.log_snr(t), jnp.log(snr), rtol=1e-10)
    assert bool(jnp.all(jnp.diff(schedule.log_snr(t)) < 0))


@pytest.mark.parametrize("schedule", VP, ids=name)
def test_variance_preserving(schedule, x64):
    t = jnp.linspace(0, 1, 30).reshape(5, 6)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, np.ones((5, 6)), rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_ends(schedule, x64):
    assert schedule.alpha(0.0) == 1
    assert schedule.sigma(0.0) == (schedule.sigma_min if isinstance(schedule, Karras) else 0)
    # x_1 is drawn from N(0, prior_std^2): its law up to alpha_1 times the action.
    np.testing.assert_allclose(schedule.sigma(1.0), schedule.prior_std, atol=schedule.alpha(1.0) ** 2)


def test_rectified_flow_and_trigonometric(x64):
    t = jnp.array([0.0, 0.25, 1.0])
    np.testing.assert_array_equal(RectifiedFlow().alpha(t), [1, 0.75, 0])
    np.testing.assert_array_equal(RectifiedFlow().sigma(t), t)
    np.testing.assert_allclose(Trigonometric().alpha(t), [1, math.cos(math.pi / 8), 0], rtol=1e-15)


def test_variance_exploding(x64):
    schedule = VarianceExploding(0.1, 4.0)
    np.testing.assert_allclose(schedule.sigma(0.5), math.sqrt(0.1 * 4 - 0.1**2), rtol=1e-12)
    np.testing.assert_allclose(schedule.sigma(1.0), schedule.prior_std, rtol=1e-12)


def test_linear_vp_is_the_discrete_vp_of_dacer(x64):
    schedule = LinearVP(0.1, 10.0, t_min=0.0)
    table = ddpm_table(schedule, 5)
    np.testing.assert_allclose(table.beta, [0.19587, 0.45882, 0.63578, 0.75488, 0.83503], atol=5e-6)
    np.testing.assert_allclose(table.alpha_bar[1:], [0.80413, 0.43518, 0.15850, 0.03885, 0.00641], atol=5e-6)
    table = ddpm_table(schedule, 20)
    np.testing.assert_allclose(table.beta[jnp.array([0, 1, 19])], [0.0172249, 0.04125, 0.3859169], atol=5e-6)
    np.testing.assert_allclose(table.alpha_bar[10], 0.27596, atol=5e-6)
    np.testing.assert_allclose(schedule.alpha(1.0), 0.0800583, atol=5e-8)


def test_relax_linear_betas(x64):
    betas = linear_betas(20, start=0.8e-4, end=0.8 * 0.999)
    table = ddpm_table(DiscreteVP(betas), 20)
    # k = 15 is .05605, printed as .0561.
    expected = [1.000, 0.7984, 0.3308, 0.0561, 0.0023]
    np.testing.assert_allclose(table.alpha[jnp.array([1, 5, 10, 15, 20])], expected, atol=5.1e-5)


POSTERIOR_STD = {
    5: "0, .2834, .5033, .7258, .9514",
    10: "0, .1442, .2432, .3273, .4065, .4878, .5781, .6873, .8310, .9874",
    20: "0, .0758, .1232, .1617, .1952, .2257, .2546, .2827, .3107, .3392, "
    ".3690, .4007, .4354, .4744, .5194, .5734, .6412, .7310, .8573, .9965",
}


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_posterior_std_of_dppo(steps, x64):
    expected = [float(v) for v in POSTERIOR_STD[steps].split(",")]
    table = ddpm_table(DiscreteVP(cosine_betas(steps)), steps)
    np.testing.assert_allclose(table.posterior_std, expected, atol=5.1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_ancestral_step_keeps_the_marginals(schedule, x64):
    table = ddpm_table(schedule, 5)
    np.testing.assert_allclose(
        table.data_weight + table.x_weight * table.alpha[1:], table.alpha[:-1], atol=1e-12
    )
    variance = (table.x_weight * table.sigma[1:]) ** 2 + table.posterior_std**2
    np.testing.assert_allclose(variance, table.sigma[:-1] ** 2, atol=1e-12 * schedule.prior_std**2)
    kernel = (table.alpha[1:] / table.alpha[:-1] * table.sigma[:-1]) ** 2 + table.beta
    np.testing.assert_allclose(kernel, table.sigma[1:] ** 2, rtol=1e-12)


def test_table_follows_the_textbook_formulas(x64):
    table = ddpm_table(CosineVP(), 20)
    np.testing.assert_allclose(table.t, np.linspace(1e-3, 0.9946, 21), rtol=1e-12)
    bar, previous = table.alpha_bar[1:], table.alpha_bar[:-1]
    beta = 1 - bar / previous
    np.testing.assert_allclose(table.beta, beta, rtol=1e-9)
    np.testing.assert_allclose(table.posterior_std**2, beta * (1 - previous) / (1 - bar), rtol=1e-9)
    np.testing.assert_allclose(table.data_weight, jnp.sqrt(previous) * beta / (1 - bar), rtol=1e-9)
    np.testing.assert_allclose(table.x_weight, jnp.sqrt(1 - beta) * (1 - previous) / (1 - bar), rtol=1e-9)


def test_discrete_grid(x64):
    betas = cosine_betas(10)
    schedule = DiscreteVP(betas)
    k = jnp.arange(11) / 10
    expected = np.sqrt(np.concatenate([[1.0], np.cumprod(1 - np.asarray(betas))]))
    np.testing.assert_allclose(schedule.alpha(k), expected, rtol=1e-10)
    np.testing.assert_allclose(ddpm_table(schedule, 5).alpha, expected[::2], rtol=1e-10)
    np.testing.assert_allclose(schedule.alpha(0.25) ** 2, expected[2] * expected[3], rtol=1e-12)
    assert max(betas) == 0.999
    with pytest.raises(ValueError, match="divide the schedule's 10 betas, got 3"):
        schedule.grid(3)


def test_the_linear_betas_of_the_code_of_sdac():
    schedule = NAMED["discrete_linear"](20)
    alphas = schedule.alpha(jnp.array([1, 5, 10, 15, 20]) / 20)
    np.testing.assert_allclose(alphas, [1.0, 0.7984, 0.3308, 0.0561, 0.0023], atol=5e-5)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_single_precision_near_the_action(schedule, x64):
    exact = schedule.sigma(jnp.array(1e-3))
    single = schedule.sigma(jnp.array(1e-3, jnp.float32))
    assert single.dtype == jnp.float32
    # sqrt(1 - alpha^2) in single precision is wrong by 1e-3 here.
    np.testing.assert_allclose(single, exact, rtol=2e-6)
    for method in (schedule.alpha, schedule.dalpha, schedule.dsigma, schedule.log_snr):
        assert method(jnp.array(0.5, jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_schedules_are_structure(schedule):
    assert jax.tree.leaves(schedule) == []
    assert schedule.grid(5).shape == (6,)
    assert schedule.alpha(1).shape == ()


def test_equality():
    assert CosineVP() == CosineVP()
    assert CosineVP() != CosineVP(0.01)
    assert RectifiedFlow() != Trigonometric()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineVP(0.0), "offset must be"),
        (lambda: LinearVP(1.0, 0.5), "beta_max must be"),
        (lambda: VarianceExploding(1.0, 1.0), "sigma_max must be"),
        (lambda: RectifiedFlow(t_min=0.5, t_max=0.5), "t_min must be"),
        (lambda: RectifiedFlow(t_max=1.5), "t_max must be"),
        (lambda: CosineVP(t_max=1.0), r"t_max must be a finite number in \[0, 1\)"),
        (lambda: DiscreteVP([0.1, 1.0]), "betas must be"),
        (lambda: DiscreteVP([]), "betas must be a non-empty sequence of finite numbers"),
        (lambda: ddpm_table(RectifiedFlow(), 0), "steps must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_traced_constant_is_refused():
    with pytest.raises(Exception, match="beta_max"):
        jax.jit(lambda beta_max: LinearVP(0.1, beta_max).alpha(0.5))(10.0)
