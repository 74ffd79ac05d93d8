"""Starts, grids, chains, clipping, selection among samples, and the sentences that bad arguments get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture

from dpolicy.fields import (
    CosineVP,
    DiscreteVP,
    FunctionField,
    LinearVP,
    RectifiedFlow,
    Trigonometric,
    VarianceExploding,
    cosine_betas,
)
from dpolicy.samplers import (
    best_of,
    ddim,
    ddpm,
    dpm_solver,
    langevin,
    log_likelihood,
    ode,
    sde,
    select,
    unadjusted_langevin,
)
from dpolicy.samplers._predict import predict_pair

OBS, KEY = jnp.zeros(1), jax.random.key(0)
SCHEDULES = [
    RectifiedFlow(),
    Trigonometric(),
    CosineVP(),
    LinearVP(),
    VarianceExploding(),
    DiscreteVP(cosine_betas(4)),
]
SAMPLERS = {
    "euler": ode(steps=4),
    "heun": ode(steps=4, solver="heun"),
    "sde": sde(steps=4),
    "sde_reverse": sde(steps=4, diffusion="reverse"),
    "ddpm": ddpm(steps=4),
    "ddim": ddim(steps=4, eta=0.5),
    "langevin": langevin(steps=4),
    "dpm_solver": dpm_solver(steps=4, order=3),
}
# A standard normal as a flow: the velocity vanishes on average, so that an action is its own x_1.
IDLE = FunctionField(
    lambda x, t, obs: jnp.zeros_like(x), schedule=RectifiedFlow(), prediction="velocity", action_size=1
)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_every_prediction_gives_the_same_chain(schedule, x64):
    mixture = GaussianMixture(np.array([0.7, 0.3]), np.array([[-0.5], [0.6]]), np.array([0.15, 0.2]))
    # The two ends where one kind has no conversion are moved, for all kinds alike.
    low = max(schedule.span("data")[0], schedule.span("noise")[0])
    times = np.linspace(schedule.span("noise")[1], low, 4)
    for sampler in (
        ode(steps=3, solver="heun", times=times),
        sde(steps=3, times=times),
        ddpm(steps=3, times=times),
    ):
        chains = []
        with jax.disable_jit():
            for prediction in ("velocity", "noise", "score", "data"):
                field = mixture.field(schedule, prediction)
                chains.append(sampler.chain(field, OBS, KEY, start=jnp.array([0.8 * schedule.prior_std])))
        for chain in chains[1:]:
            np.testing.assert_allclose(chain, chains[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SAMPLERS)
def test_chain_ends_are_start_and_action(name):
    field = GaussianMixture(np.ones(1), np.array([[0.2, -0.1]]), np.array([0.5])).field(CosineVP(), "noise")
    sampler = SAMPLERS[name]
    chain, action = sampler.chain(field, OBS, KEY), sampler(field, OBS, KEY)
    assert chain.shape == (5, 2)
    np.testing.assert_allclose(chain[-1], action, atol=1e-6)
    assert np.all(np.isfinite(chain))
    given = sampler.chain(field, OBS, KEY, start=jnp.array([2.0, -3.0]))
    np.testing.assert_array_equal(given[0], [2.0, -3.0])
    assert not np.allclose(given[-1], chain[-1])


def test_adaptive_chain(x64):
    field = GaussianMixture(np.ones(1), np.array([[0.2]]), np.array([0.5])).field(RectifiedFlow(), "velocity")
    chain = ode(steps=2, solver="tsit5", rtol=1e-8, atol=1e-8).chain(field, OBS, KEY, start=jnp.array([1.0]))
    spread = np.sqrt(0.25 * 0.25 + 0.25)
    np.testing.assert_allclose(chain[:, 0], [1.0, 0.1 + spread, 0.7], atol=1e-7)


def test_the_same_key_gives_the_same_start():
    starts = [
        sampler.chain(IDLE, OBS, KEY)[0] for sampler in (SAMPLERS["euler"], SAMPLERS["sde"], SAMPLERS["ddpm"])
    ]
    np.testing.assert_array_equal(starts[0], starts[1])
    np.testing.assert_array_equal(starts[0], starts[2])


def test_prior():
    wide = FunctionField(IDLE.fn, schedule=VarianceExploding(), prediction="velocity", action_size=4000)
    start = lambda **options: ode(**options).start(wide, KEY)
    deviation = np.sqrt(10.0**2 - 0.01**2)
    np.testing.assert_allclose(jnp.std(start()), deviation, rtol=4 / np.sqrt(8000))
    np.testing.assert_allclose(start(initial_scale=0.5), 0.5 * start(), rtol=1e-6)
    np.testing.assert_array_equal(start(initial="zero"), 0.0)
    with pytest.raises(ValueError, match=r"start must have the field's action shape \(4000,\), got \(1,\)"):
        ode()(wide, OBS, KEY, start=jnp.zeros(1))


def test_grids():
    cosine = ode(steps=20).grid(
        FunctionField(IDLE.fn, schedule=CosineVP(), prediction="noise", action_size=1)
    )
    np.testing.assert_allclose(cosine, np.linspace(0.9946, 0.001, 21), rtol=1e-6)
    flow = ode(steps=4).grid(IDLE)
    np.testing.assert_allclose(flow, [1, 0.75, 0.5, 0.25, 0], atol=1e-7)
    noise = FunctionField(IDLE.fn, schedule=RectifiedFlow(), prediction="noise", action_size=1)
    np.testing.assert_allclose(ode(steps=4).grid(noise), [0.999, 0.75, 0.5, 0.25, 0], atol=1e-7)
    discrete = DiscreteVP(cosine_betas(8))
    field = FunctionField(IDLE.fn, schedule=discrete, prediction="noise", action_size=1)
    np.testing.assert_allclose(ddpm(steps=4).grid(field), [1, 0.75, 0.5, 0.25, 0], atol=1e-7)
    np.testing.assert_allclose(ode(steps=2, times=[0.9, 0.2, 0.0]).grid(IDLE), [0.9, 0.2, 0.0], rtol=1e-6)


@pytest.mark.parametrize("name", ["euler", "heun", "sde", "ddpm", "ddim", "langevin"])
def test_clip_keeps_a_bad_field_in_the_box(name):
    # A field that insists on the clean action (5, -5): where the chain ends at sigma = 0 it ends on the face.
    field = FunctionField(
        lambda x, t, obs: jnp.array([5.0, -5.0]), schedule=RectifiedFlow(), prediction="data", action_size=2
    )
    make = {
        "euler": lambda **options: ode(**options),
        "heun": lambda **options: ode(solver="heun", **options),
        "sde": lambda **options: sde(**options),
        "ddpm": lambda **options: ddpm(**options),
        "ddim": lambda **options: ddim(**options),
        "langevin": lambda **options: langevin(**options),
    }[name]
    np.testing.assert_allclose(make(steps=3, clip=1.0)(field, OBS, KEY), [1, -1], atol=1e-5)
    np.testing.assert_allclose(make(steps=3, clip=None)(field, OBS, KEY), [5, -5], atol=1e-4)


def test_clip_of_the_prediction():
    """Of both ends of the box; the noise follows, or stays as it was predicted."""
    field = FunctionField(
        lambda x, t, obs: jnp.array([5.0, -5.0, 0.25]), schedule=CosineVP(), prediction="data", action_size=3
    )
    x, t = jnp.array([0.1, 0.2, 0.3]), jnp.asarray(0.4)
    alpha, sigma = (float(of(t)) for of in (field.schedule.alpha, field.schedule.sigma))
    for recompute, data_of_noise in ((True, [0.5, -0.5, 0.25]), (False, [5.0, -5.0, 0.25])):
        data, noise = predict_pair(field, x, t, OBS, clip=0.5, recompute=recompute)
        np.testing.assert_allclose(data, [0.5, -0.5, 0.25])
        np.testing.assert_allclose(noise, (x - alpha * np.asarray(data_of_noise)) / sigma, rtol=1e-5)


def test_clip_of_the_state():
    field = FunctionField(
        lambda x, t, obs: jnp.zeros_like(x), schedule=CosineVP(), prediction="data", action_size=2
    )
    chain = ddpm(steps=5, clip_state=0.25).chain(field, OBS, KEY, start=jnp.array([3.0, -3.0]))
    np.testing.assert_array_less(jnp.abs(chain[1:]), 0.25 + 1e-6)


def test_hyperparameters_may_be_traced():
    run = lambda eta, clip: sde(steps=2, eta=eta, clip=clip)(IDLE, OBS, KEY)
    both = jax.vmap(run)(jnp.array([0.0, 1.0]), jnp.array([2.0, 3.0]))
    np.testing.assert_allclose(both[0], run(0.0, 2.0), rtol=1e-6)
    np.testing.assert_allclose(both[1], run(1.0, 3.0), rtol=1e-6)

    def pick(temperature):
        return best_of(8, ode(steps=1), lambda obs, action: action[0], temperature=temperature)(
            IDLE, OBS, KEY
        )

    np.testing.assert_allclose(jax.vmap(pick)(jnp.array([1e-4, 1e4]))[0], pick(None), rtol=1e-6)
    grids = jnp.array([[1.0, 0.5, 0.0], [1.0, 0.2, 0.0]])
    jax.vmap(lambda times: ode(steps=2, times=times)(IDLE, OBS, KEY))(grids)


def test_best_of_returns_the_arg_max():
    q = lambda obs, action: -((action[0] - obs[0]) ** 2)
    obs, key = jnp.array([0.4]), jax.random.key(3)
    found = best_of(16, ode(steps=1), q)(IDLE, obs, key)
    keys = jax.random.split(jax.random.split(key)[0], 16)
    candidates = jnp.stack([ode(steps=1)(IDLE, obs, one) for one in keys])
    np.testing.assert_allclose(found, candidates[jnp.argmin(jnp.abs(candidates[:, 0] - 0.4))], rtol=1e-6)
    np.testing.assert_array_equal(best_of(1, ode(steps=1), q)(IDLE, obs, key), candidates[0])


@pytest.mark.parametrize(("n", "bound"), [(10, 1.40), (32, 2.50)])
def test_divergence_of_the_best_of_n(n, bound):
    # The best of n has density n F^(n-1) f, so log n + (n - 1) log F averages to the divergence.
    sampler = best_of(n, ode(steps=1), lambda obs, action: action[0])
    x = jax.jit(jax.vmap(lambda key: sampler(IDLE, OBS, key)))(jax.random.split(KEY, 4000))[:, 0]
    ratios = np.log(n) + (n - 1) * np.asarray(jax.scipy.stats.norm.logcdf(x))
    np.testing.assert_allclose(np.mean(ratios), np.log(n) - (n - 1) / n, atol=4 / np.sqrt(4000))
    np.testing.assert_allclose(np.log(n) - (n - 1) / n, bound, atol=5e-3)


def test_a_temperature_tilts_the_policy(x64):
    # N(0, 1) tilted by exp(a / T) is N(1/T, 1).
    sampler = best_of(400, ode(steps=1), lambda obs, action: action[0], temperature=2.0)
    x = jax.jit(jax.vmap(lambda key: sampler(IDLE, OBS, key)))(jax.random.split(KEY, 2000))[:, 0]
    np.testing.assert_allclose(np.mean(x), 0.5, atol=4 / np.sqrt(2000))
    np.testing.assert_allclose(np.var(x), 1.0, atol=4 * np.sqrt(2 / 2000))


def test_select():
    actions, values = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([0.0, 5.0, 1.0])
    np.testing.assert_array_equal(select(actions, values), [2.0])
    np.testing.assert_array_equal(select(actions, values, KEY, temperature=1e-3), [2.0])
    with pytest.raises(ValueError, match="key must be given to draw at a temperature"):
        select(actions, values, temperature=1.0)


def test_a_discrete_schedule_has_no_velocity_below_its_first_level():
    field = GaussianMixture([1.0], [[0.3]], 0.5).field(DiscreteVP(cosine_betas(5)), "noise")
    with pytest.raises(
        ValueError, match='solver "tsit5" needs a schedule that is continuous down to the action'
    ):
        ode(solver="tsit5")(field, OBS, KEY)
    with pytest.raises(ValueError, match="log_likelihood needs a schedule that is continuous"):
        log_likelihood(field, jnp.zeros(1), OBS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ode(solver="hoin"), "solver must be one of euler, heun, tsit5; got 'hoin'"),
        (lambda: ode(steps=0), "steps must be an integer of at least 1, got 0"),
        (lambda: ode(clip=0.0), "clip must be a finite number in"),
        (lambda: ode(initial="normall"), "Did you mean normal"),
        (lambda: ode(initial_scale=0.0), "initial_scale must be"),
        (lambda: ode(truncate=11), "truncate must be an integer from 1 to 10, got 11"),
        (lambda: ode(solver="tsit5", truncate=2), "truncate needs a solver of fixed steps"),
        (lambda: ode(solver="tsit5", rtol=-1.0), "rtol must be"),
        (lambda: ode(steps=2, times=[1.0, 0.5]), r"times must hold steps \+ 1 = 3 numbers .* shape \(2,\)"),
        (lambda: ode(steps=2, times=[0.0, 0.5, 1.0]), "times must decrease"),
        (
            lambda: ode(steps=2, times=[1.5, 0.5, 0.0]),
            "times must be a non-empty sequence of finite numbers in",
        ),
        (lambda: sde(eta=-0.1), "eta must be a finite number in"),
        (lambda: sde(diffusion="constan"), "Did you mean constant"),
        (lambda: ddpm(variance="fixed"), "variance must be one of beta, posterior"),
        (lambda: ddpm(min_std=-1.0), "min_std must be"),
        (lambda: ddpm(noise_bound=0.0), "noise_bound must be"),
        (lambda: ddim(eta=1.5), "eta must be"),
        (lambda: langevin(step_size=2.0), r"step_size must be a finite number in \(0, 2\)"),
        (lambda: langevin(corrections=-1), "corrections must be an integer of at least 0"),
        (lambda: langevin(predictor="euler"), "predictor must be one of ddim, ddpm"),
        (lambda: unadjusted_langevin(step_sizes=[1.0]), "step_sizes must hold steps = 20 numbers"),
        (lambda: unadjusted_langevin(time=2.0), "time must be"),
        (lambda: best_of(0, ode(), lambda o, a: a[0]), "n must be an integer of at least 1"),
        (lambda: best_of(2, ode(), lambda o, a: a[0], temperature=0.0), "temperature must be"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
