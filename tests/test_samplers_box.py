"""Few steps: actions stay in the box under every schedule, prediction and sampler, and near the law they stand for."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import GaussianMixture

from dpolicy.fields import (
    PREDICTIONS,
    AbstractSchedule,
    CosineVP,
    DiscreteVP,
    FunctionField,
    LinearVP,
    RectifiedFlow,
    Trigonometric,
    VarianceExploding,
    cosine_betas,
    linear_betas,
)
from dpolicy.samplers import ddim, ddpm, langevin, ode, sde

OBS, KEY, POINTS, MOST = jnp.zeros(1), jax.random.key(0), 400, 20
COUNTS = (1, 2, 5, 10, MOST)
CONTINUOUS = (RectifiedFlow(), Trigonometric(), CosineVP(), LinearVP(), VarianceExploding())
# A discrete schedule has as many levels as there are steps.
CASES = [(schedule, steps) for schedule in CONTINUOUS for steps in COUNTS]
CASES += [(DiscreteVP(cosine_betas(steps)), steps) for steps in COUNTS]
CASES += [(DiscreteVP(linear_betas(steps, start=0.8e-4, end=0.8 * 0.999)), steps) for steps in COUNTS]
WEIGHTS, MEANS, STDS = np.array([0.5, 0.2, 0.3]), np.array([-0.6, 0.2, 0.9]), np.array([0.1, 0.05, 0.03])
MIXTURE = GaussianMixture(WEIGHTS, MEANS[:, None], STDS)
SAMPLERS = {
    "euler": ode,
    "heun": lambda **options: ode(solver="heun", **options),
    "sde": sde,
    "sde_reverse": lambda **options: sde(diffusion="reverse", **options),
    "ddpm": ddpm,
    "ddpm_posterior": lambda **options: ddpm(variance="posterior", **options),
    "ddim": ddim,
    "langevin": langevin,
}


class Tabulated(AbstractSchedule):
    """A schedule by its values at the times that a sampler visits: data, so that one program serves all schedules."""

    times: jax.Array
    values: dict[str, jax.Array]
    t_min: float = eqx.field(static=True, default=0.0)
    t_max: float = eqx.field(static=True, default=1.0)

    @property
    def prior_std(self):
        return self.values["prior_std"]

    def _at(self, name, t):
        gap = jnp.abs(jnp.subtract.outer(jnp.asarray(t), self.times))
        return self.values[name][jnp.argmin(gap, axis=-1)]

    def alpha(self, t):
        return self._at("alpha", t)

    def sigma(self, t):
        return self._at("sigma", t)

    def dalpha(self, t):
        return self._at("dalpha", t)

    def dsigma(self, t):
        return self._at("dsigma", t)


def tabulated(schedule, steps, prediction):
    """(times, schedule); fewer steps wait at their first time, where a step of length zero changes nothing."""
    times = np.minimum(np.asarray(schedule.grid(steps))[::-1], min(schedule.span(prediction)[1], 0.999))
    visited = np.append(times, (times[-1] + times[-2]) / 2).astype(np.float32)
    visited = np.concatenate([np.full(MOST - steps, visited[0]), visited])
    names = ("alpha", "sigma", "dalpha", "dsigma")
    values = {name: np.asarray(getattr(schedule, name)(jnp.asarray(visited))) for name in names}
    values["prior_std"] = np.asarray(schedule.prior_std, np.float32)
    return visited[:-1], Tabulated(visited, values)


@functools.cache
def sampled(name, prediction):
    """Actions of the exact field `[case, point]`."""
    quantiles = jax.scipy.special.ndtri((jnp.arange(POINTS) + 0.5) / POINTS)[:, None]
    keys = jax.random.split(KEY, POINTS)

    def one(times, schedule):
        field = MIXTURE.field(schedule, prediction)
        sampler = SAMPLERS[name](steps=MOST, times=times, clip=1.0)
        start = schedule.prior_std * quantiles
        return jax.vmap(lambda key, start: sampler(field, OBS, key, start=start))(keys, start)[:, 0]

    cases = [tabulated(schedule, steps, prediction) for schedule, steps in CASES]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases)
    return np.asarray(jax.jit(jax.vmap(one))(*stacked))


def name_of(case):
    return f"{type(case[0]).__name__}, {case[1]} steps"


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_actions_stay_in_the_box(name, prediction):
    largest = np.abs(sampled(name, prediction)).max(axis=1)
    assert not {name_of(case): x for case, x in zip(CASES, largest, strict=True) if not x <= 1}


# Wasserstein-1 to the law. A last step like all others gives .060, .065 and .51 for Heun, whose velocity is then that
# of a point far outside, and .080 for Euler, which leaves half of the noise of the first level.
DISTANCES = [
    ("heun", RectifiedFlow(), 5, 0.035),
    ("heun", CosineVP(), 5, 0.031),
    ("heun", LinearVP(), 5, 0.092),
    ("euler", DiscreteVP(cosine_betas(10)), 10, 0.032),
]


@pytest.mark.parametrize(("name", "schedule", "steps", "bound"), DISTANCES)
def test_few_steps_come_near_the_law(name, schedule, steps, bound):
    fine = np.linspace(-2, 2, 40_001)
    cumulative = (WEIGHTS * scipy.stats.norm.cdf((fine[:, None] - MEANS) / STDS)).sum(axis=1)
    quantiles = np.interp((np.arange(POINTS) + 0.5) / POINTS, cumulative, fine)
    actions = sampled(name, "noise")[CASES.index((schedule, steps))]
    assert np.abs(np.sort(actions) - quantiles).mean() < bound


@pytest.mark.parametrize("make", [ode, sde])
def test_the_last_step_goes_along_the_prediction(make, x64):
    schedule = CosineVP()
    field = FunctionField(
        lambda x, t, obs: jnp.full_like(x, 0.4), schedule=schedule, prediction="data", action_size=1
    )
    ends = [jnp.asarray(t) for t in (schedule.t_max, schedule.t_min)]
    (alpha, end_alpha), (sigma, end_sigma) = ([f(t) for t in ends] for f in (schedule.alpha, schedule.sigma))
    start = jnp.array([3.0])
    expected = end_alpha * 0.4 + end_sigma * (start - alpha * 0.4) / sigma
    np.testing.assert_allclose(make(steps=1)(field, OBS, KEY, start=start), expected, rtol=1e-12)


def test_the_last_step_of_heun_is_two_halves(x64):
    schedule = LinearVP()
    field = MIXTURE.field(schedule, "noise")
    middle = (schedule.t_max + schedule.t_min) / 2
    start = jnp.array([0.7])
    half = ode(steps=2, times=[schedule.t_max, middle, schedule.t_min])
    found = ode(steps=1, solver="heun")(field, OBS, KEY, start=start)
    np.testing.assert_allclose(found, half(field, OBS, KEY, start=start), rtol=1e-12)


def test_an_explored_chain_keeps_its_last_draw():
    field = FunctionField(
        lambda x, t, obs: jnp.full_like(x, 5.0), schedule=CosineVP(), prediction="data", action_size=64
    )
    options = {"steps": 2, "min_std": 0.5}
    assert np.all(np.abs(ddpm(**options)(field, OBS, KEY)) <= 1)
    drawn = ddpm(final_noise=True, **options)(field, OBS, KEY)
    assert np.any(np.abs(drawn) > 1)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), CosineVP()], ids=["flow", "cosine"])
def test_the_adaptive_solver_ends_in_the_box(schedule):
    """Its velocity leads to the clipped prediction, but noise is left at the end of its grid."""
    field = FunctionField(
        lambda x, t, obs: jnp.full_like(x, 5.0), schedule=schedule, prediction="data", action_size=64
    )
    sampler = ode(solver="tsit5", steps=2, clip=1.0)
    action = sampler(field, OBS, KEY)
    assert np.all(np.abs(action) <= 1)
    assert np.all(np.abs(sampler.chain(field, OBS, KEY)[-1]) <= 1)
    free = ode(solver="tsit5", steps=2, clip=None)(field, OBS, KEY)
    assert np.all(np.abs(free) > 1)
