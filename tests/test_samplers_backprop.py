"""The gradient through a chain of denoising steps against closed forms, and what holds it in check."""

from decimal import Decimal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.fields import AbstractField, AbstractSchedule, CosineVP, Field, FunctionField, LinearVP
from dpolicy.samplers import (
    best_of,
    ddim,
    ddpm,
    differentiated,
    langevin,
    ode,
    sde,
    solve,
    unadjusted_langevin,
)

OBS, KEY = jnp.array([0.3, -0.2]), jax.random.key(0)
VP = LinearVP(0.1, 10.0, t_min=0.0)  # the specification's vp, with alpha = 1 at t = 0


class Shifted(AbstractField):
    """The exact denoiser of N(0, std^2) plus a constant for each step, whose gradient is the weight of the step."""

    shift: jax.Array  # [steps], the first of the step nearest the action
    std: jax.Array
    schedule: AbstractSchedule = VP
    prediction: str = eqx.field(static=True, default="noise")
    action_size: int = eqx.field(static=True, default=1)

    def __call__(self, x, t, obs):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        step = jnp.round(t * len(self.shift)).astype(int) - 1
        return sigma * x / (alpha**2 * self.std**2 + sigma**2) + self.shift[step]


def fast(fn, *args):
    """Compile without optimisation: these programs run once."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(fn).lower(*args).compile(compiler_options=options)(*args)


def gradients(sampler, std):
    """d x_0 / d x_N and the weights of the steps, the one nearest the action first."""

    def action(start, shift):
        return sampler(Shifted(shift, std), OBS, KEY, start=start[None])[0]

    start, shift = jax.grad(action, (0, 1))(jnp.asarray(0.7), jnp.zeros(sampler.steps))
    return start, -shift


def slopes(sampler, field):
    """d x_{i-1} / d x_i of every step, the one nearest the action first."""
    one = lambda x, step: sampler.kernel(field, x[None], OBS, step)[0][0]
    return jax.vmap(jax.grad(one), (None, 0))(jnp.asarray(0.3), jnp.arange(sampler.steps)[::-1])


# The specification's table for vp and the posterior's noise: steps, S, weights by number, share of the last quarter.
WEIGHTS = [
    (5, 0.1, {1: "0.4935", 2: "0.0365", 3: "0.0133", 5: "4.2e-3"}, 0.89),
    (20, 0.1, {1: "0.1324", 2: "0.0642", 3: "0.0280", 20: "5.1e-4"}, 0.88),
    (50, 0.1, {1: "0.0632", 2: "0.0523", 3: "0.0355", 50: "1.8e-4"}, 0.88),
    (5, 0.5, {1: "0.4935", 2: "0.4687", 3: "0.2812", 4: "0.1757", 5: "0.1047"}, None),
    (20, 0.5, {20: "0.0127"}, 0.52),
    (50, 0.5, {50: "0.0044"}, None),
]


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_gradients_of_the_exact_denoiser_are_those_of_the_closed_form(steps, x64):
    """J from step k is d E[x_0 | x_k] / d x_k whatever the number of steps; so the weights, as in the table."""
    sampler = ddpm(steps=steps, variance="posterior", clip=None)
    stds = jnp.asarray([0.1, 0.5])
    (start, weights), product = fast(
        lambda stds: (
            jax.vmap(lambda std: gradients(sampler, std))(stds),
            jax.vmap(lambda std: jnp.cumprod(slopes(sampler, Shifted(jnp.zeros(steps), std))))(stds),
        ),
        stds,
    )
    times = jnp.arange(steps + 1) / steps
    alpha, sigma, squares = np.asarray(VP.alpha(times)), np.asarray(VP.sigma(times)), np.square(stds)[:, None]
    down = alpha * squares / (alpha**2 * squares + sigma**2)  # from k = 0, where it is 1
    np.testing.assert_allclose(product, down[:, 1:], rtol=1e-9)
    np.testing.assert_allclose(start, down[:, -1], rtol=1e-9)
    beta = 1 - (alpha[1:] / alpha[:-1]) ** 2
    closed = alpha[:-1] * beta / (sigma[1:] * alpha[1:]) * down[:, :-1]
    np.testing.assert_allclose(weights, closed, rtol=1e-9)
    for count, std, table, share in WEIGHTS:
        if count == steps:
            row = np.asarray(weights[int(std == 0.5)])
            for number, weight in table.items():
                digit = 10.0 ** Decimal(weight).as_tuple().exponent
                np.testing.assert_allclose(row[number - 1], float(weight), rtol=0, atol=0.51 * digit)
            if share is not None:
                np.testing.assert_allclose(row[: steps // 4].sum() / row.sum(), share, atol=0.005)


@pytest.mark.parametrize("schedule", [VP, CosineVP()])
def test_a_field_that_denoises_nothing_has_the_gain_of_the_schedule(schedule, x64):
    """Its prediction not clipped: 1 / alpha at the start over that of the end, 12.4909 and 119."""
    field = FunctionField(lambda x, t, obs: 0 * x, schedule=schedule, prediction="noise", action_size=1)
    gains = {
        steps: fast(
            jax.grad(lambda x, steps=steps: ddpm(steps=steps, clip=None)(field, OBS, KEY, start=x[None])[0]),
            0.3,
        )
        for steps in (5, 20)
    }
    expected = 12.4909 if schedule is VP else 119.0
    np.testing.assert_allclose(list(gains.values()), expected, atol=5e-5 if schedule is VP else 0.5)


def test_where_the_prediction_is_clipped_only_the_state_carries_gradient(x64):
    sampler = ddpm(steps=5, variance="posterior")
    field = Shifted(jnp.zeros(5), jnp.asarray(0.5))
    state = sampler.coefficients(field).state

    def mean(x, shift, step):
        return sampler.kernel(eqx.tree_at(lambda f: f.shift, field, shift), x[None], OBS, step)[0][0]

    # The exact prediction of x_3 = 60 is far above the box, that of .3 within it.
    x, at = fast(jax.vmap(jax.grad(mean, (0, 1)), (0, None, None)), jnp.asarray([60.0, 0.3]), jnp.zeros(5), 2)
    np.testing.assert_allclose(x[0], state[2], rtol=1e-9)
    assert np.all(np.asarray(at[0]) == 0)
    assert abs(x[1] - state[2]) > 1e-2
    assert np.flatnonzero(at[1]).tolist() == [2]


def test_the_chain_is_a_loop_over_its_steps(x64):
    sampler = ddpm(steps=5, variance="posterior", clip=0.5)
    field = Shifted(jnp.arange(5) / 5, jnp.asarray(0.4))

    def both():
        x, noise = sampler.start(field, KEY), sampler.rows(field, KEY)[1]
        points = [x]
        for step in range(5):
            mean, std = sampler.kernel(field, points[-1], OBS, step)
            points.append(mean + std * noise[step])
        return jnp.stack(points), sampler.chain(field, OBS, KEY), sampler(field, OBS, KEY)

    loop, chain, action = fast(both)
    np.testing.assert_allclose(chain[:-1], loop[:-1], rtol=1e-12)
    np.testing.assert_allclose(action, np.clip(loop[-1], -0.5, 0.5), rtol=1e-12)
    np.testing.assert_array_equal(chain[-1], action)


@pytest.mark.parametrize("how", ["action", "chain"])
def test_truncation_keeps_the_terms_of_the_last_steps(how, x64):
    full = ddpm(steps=5, variance="posterior", clip=None)

    def weights(sampler):
        if how == "action":
            return gradients(sampler, 0.5)
        last = lambda start, shift: sampler.chain(Shifted(shift, 0.5), OBS, KEY, start=start)[-1, 0]
        start, shift = jax.grad(last, (0, 1))(jnp.asarray([0.7]), jnp.zeros(5))
        return start[0], -shift

    (start, kept), (_, whole) = fast(lambda: (weights(differentiated(full, truncate=2)), weights(full)))
    np.testing.assert_allclose(kept, [*np.asarray(whole)[:2], 0, 0, 0], rtol=1e-12)
    assert start == 0


def test_the_gradient_is_bounded_after_every_step(x64):
    """Against a loop by hand: the cotangent is shortened to the bound wherever it is longer, and where alone."""
    sampler, bound, std = ddpm(steps=5, variance="posterior", clip=None), 1.1, 3.0
    field = Shifted(jnp.zeros(5), jnp.asarray(std))
    found, step, free = fast(
        lambda bound: (
            gradients(differentiated(sampler, max_norm=bound), std),
            slopes(sampler, field),
            gradients(sampler, std)[1],
        ),
        jnp.asarray(bound),
    )
    cotangent, shares, shortened = 1.0, [], []
    own = np.asarray(free) / np.concatenate(
        [[1.0], np.cumprod(step)[:-1]]
    )  # of a step for a cotangent of one
    for slope, weight in zip(np.asarray(step), own, strict=True):
        shortened.append(cotangent > bound)
        cotangent = min(cotangent, bound)
        shares.append(weight * cotangent)
        cotangent *= slope
    np.testing.assert_allclose(found[1], shares, rtol=1e-9)
    np.testing.assert_allclose(found[0], cotangent, rtol=1e-9)
    assert any(shortened) and not all(shortened)


def test_what_is_not_finite_is_dropped_before_the_bound(x64):
    """Of two coordinates that do not meet, the one without a finite cotangent has none; the other keeps its own."""
    field = FunctionField(lambda x, t, obs: 0.9 * x, schedule=VP, prediction="noise", action_size=2)
    start, cotangent = jnp.asarray([0.3, -0.4]), jnp.asarray([jnp.nan, 2.0])

    def pulled(sampler):
        return jax.vjp(lambda x: sampler(field, OBS, KEY, start=x), start)[1](cotangent)[0]

    sampler = ddpm(steps=3, clip=None)
    plain, dropped, bounded = fast(
        lambda: tuple(
            map(
                pulled,
                (
                    sampler,
                    differentiated(sampler, finite=True),
                    differentiated(sampler, finite=True, max_norm=1e-3),
                ),
            )
        )
    )
    assert np.isnan(plain[0]) and dropped[0] == 0
    np.testing.assert_allclose(dropped[1], plain[1], rtol=1e-12)
    assert 0 < np.abs(bounded[1]) <= 1e-3 and bounded[0] == 0


CHAINS = {
    "ode": ode(steps=3),
    "heun": ode(steps=3, solver="heun"),
    "sde": sde(steps=3, clip=1.0),
    "ddim": ddim(steps=3),
    "langevin": langevin(steps=3),
    "unadjusted": unadjusted_langevin(steps=3, bound=None, initial_scale=0.1),
}


@pytest.mark.parametrize("name", CHAINS)
def test_every_chain_keeps_its_actions_under_control(name):
    sampler = CHAINS[name]
    kind = "score" if name == "unadjusted" else "noise"
    field = FunctionField(lambda x, t, obs: jnp.tanh(x), schedule=VP, prediction=kind, action_size=2)
    held = differentiated(sampler, truncate=2, max_norm=1e-3, finite=True)
    assert held.truncate == 2
    action = lambda sampler: lambda x: sampler(field, OBS, KEY, start=x)
    start = jnp.asarray([0.1, -0.2])
    one, other, gradient = fast(
        lambda: (
            action(sampler)(start),
            action(held)(start),
            jax.jacobian(action(differentiated(sampler, max_norm=1e-3)))(start),
        )
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)
    assert np.all(np.linalg.norm(gradient, axis=1) <= 3e-3)


@pytest.mark.parametrize(
    ("sampler", "settings", "message"),
    [
        (ode(solver="tsit5"), {}, "must be made of ode of fixed steps, dpm_solver, sde"),
        (
            best_of(2, ddpm(), lambda obs, action: jnp.sum(action)),
            {},
            "must be made of ode of fixed steps, dpm_solver, sde",
        ),
        (ddpm(steps=3), {"finite": 1}, "finite must be"),
    ],
)
def test_what_cannot_be_controlled_is_refused(sampler, settings, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        differentiated(sampler, **settings)


def test_one_solve_of_a_batch_has_no_control():
    sampler = differentiated(ode(steps=2), max_norm=1.0)
    with pytest.raises(ValueError, match="vmap it"):
        solve(sampler, Shifted(jnp.zeros(2), jnp.asarray(0.5)), jnp.zeros((2, 2)), KEY)


def test_memory_does_not_grow_with_the_steps():
    """A gradient through 20 steps needs at most 1.3 times that through 5: one x a step is kept, no layer."""
    field = Field(2, 2, schedule=VP, hidden=(32, 32), activation="relu", embedding="cos_sin", key=KEY)
    obs, keys = jnp.zeros((64, 2)), jax.random.split(KEY, 64)

    def temporary(steps):
        sample = lambda field: jax.vmap(lambda obs, key: ddpm(steps=steps)(field, obs, key))(obs, keys)
        gradient = jax.jit(jax.grad(lambda field: jnp.mean(sample(field))))
        return gradient.lower(field).compile().memory_analysis().temp_size_in_bytes

    assert temporary(20) < 1.3 * temporary(5)
