"""The divergence of chains against closed forms: steps, weights by level, and the chain of BDPO over a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.fields import Field, FunctionField, LinearVP
from dpolicy.losses import step_ascent, step_regression, step_value
from dpolicy.samplers import ddim, ddpm, path_divergence, step_divergence

KEY, OBS = jax.random.key(0), jnp.asarray([0.3])
VP = LinearVP(0.1, 10.0, t_min=0.0)
G, ETA = 1.3, 0.7
MEAN, PATH, VALUE = 1.84524, 1.71344, 1.19941


def function(fn, size=1):
    return FunctionField(fn, schedule=VP, prediction="noise", action_size=size)


# A standard normal, which the steps leave as it is, and exp(Q / eta) times it for Q = g x.
NU = function(lambda x, t, obs: VP.sigma(t) * x)
PI = function(lambda x, t, obs: VP.sigma(t) * x - VP.alpha(t) * VP.sigma(t) * G / ETA)
Q = lambda obs, action: jnp.broadcast_to(G * action[0], (2,))


def optimal(x, t, obs):
    """V* at time t, of two critics."""
    return jnp.broadcast_to(VP.alpha(t) * G * x[0] + VP.sigma(t) ** 2 * G**2 / (2 * ETA), (2,))


def chain(steps=5, **options):
    return ddpm(steps=steps, clip=None, **options)


def test_it_is_the_divergence_of_the_two_gaussians_of_a_step(x64):
    """Of networks, by their means and one width, at every step but the last, which draws no noise."""
    ours, theirs = (Field(1, 3, schedule=VP, hidden=(8,), key=jax.random.key(i)) for i in (1, 2))
    x, draws_last = jax.random.normal(KEY, (3,)), chain(final_noise=True)
    for step in range(5):
        (mean, std), (other, same) = (draws_last.kernel(field, x, OBS, step) for field in (ours, theirs))
        assert std == same
        expected = np.sum((mean - other) ** 2) / (2 * std**2)
        for sampler in (chain(), ddpm(steps=5)):  # whether the action is clipped or not
            np.testing.assert_allclose(
                step_divergence(sampler, ours, theirs, x, OBS, step), expected, rtol=1e-9
            )
            assert step_divergence(sampler, ours, ours, x, OBS, step) == 0


def test_the_levels_of_five_steps_weigh_unevenly(x64):
    """b / ((1 - b) (1 - abar)) of the noise, the least noise first."""
    zero, one = (function(lambda x, t, obs, v=v: jnp.full_like(x, v)) for v in (0.0, 1.0))
    found = [2 * step_divergence(chain(), zero, one, jnp.ones(1), OBS, step) for step in range(4, -1, -1)]
    np.testing.assert_allclose(found, [1.24, 1.50, 2.07, 3.20, 5.09], atol=5e-3)
    beta = np.asarray([0.19587, 0.45882, 0.63578, 0.75488, 0.83503])
    kept = np.asarray([0.80413, 0.43518, 0.15850, 0.03885, 0.00641])
    np.testing.assert_allclose(found, beta / (1 - beta) / (1 - kept), rtol=1e-4)


@pytest.mark.parametrize("steps", [5, 50])
def test_the_chain_of_a_tilted_gaussian(steps, x64):
    """Its divergence along the path is a constant, larger than that of the actions; the mean of its actions."""
    last = VP.alpha(VP.grid(steps)[-1]) ** 2
    sampler = chain(steps, final_noise=True)
    action, cost = path_divergence(sampler, PI, NU, OBS, KEY)
    assert action == sampler(PI, OBS, KEY)
    np.testing.assert_allclose(cost, (1 - last) * G**2 / (2 * ETA**2), rtol=1e-9)
    np.testing.assert_allclose(cost, PATH, atol=5e-6)
    # Both chains with the same noise: what is left of the difference is the shift of the mean.
    shift = action - sampler(NU, OBS, KEY)
    np.testing.assert_allclose(shift, (1 - last) * G / ETA, rtol=1e-9)
    np.testing.assert_allclose(shift, MEAN, atol=5e-6)
    np.testing.assert_allclose(G * shift[0] - ETA * cost, VALUE, atol=5e-6)
    of_actions = shift[0] ** 2 / 2
    np.testing.assert_allclose(of_actions, (1 - last) ** 2 * G**2 / (2 * ETA**2), rtol=1e-9)
    assert of_actions < cost
    # The mean of V*_N over the noise that the chain starts with is the same value.
    np.testing.assert_allclose(optimal(jnp.zeros(1), 1.0, OBS)[0], VALUE, atol=5e-6)


def test_the_optimal_step_has_the_optimal_value(x64):
    """V*_n from V*_{n-1}, the mean over the noise taken out by its draws; Q alone at the last step."""
    draws = 3
    value = step_value(chain(), NU, Q, optimal, ETA, draws=draws)
    grid, noise = chain().grid(PI), jnp.mean(jax.random.normal(KEY, (draws, 1)))
    for step in range(5):
        x, (_, std) = jnp.asarray([0.4]), chain().kernel(PI, jnp.zeros(1), OBS, step)
        found, divergence = value(PI, OBS, x, step, KEY)
        by_chance = VP.alpha(grid[step + 1]) * G * std * noise
        np.testing.assert_allclose(found - by_chance, optimal(x, grid[step], OBS)[0], rtol=1e-9)
        # The shift of the step's mean is b sqrt(abar) g / eta, of what it leads to.
        shift = chain().kernel(PI, x, OBS, step)[0] - chain().kernel(NU, x, OBS, step)[0]
        beta = chain(final_noise=True).kernel(NU, x, OBS, step)[1] ** 2
        np.testing.assert_allclose(shift, beta * VP.alpha(grid[step + 1]) * G / ETA, rtol=1e-9)
        np.testing.assert_allclose(divergence, shift[0] ** 2 / (2 * beta), rtol=1e-9)
    wrong = step_value(chain(), NU, Q, lambda x, t, obs: 1e3 * optimal(x, t, obs), ETA, draws=draws)
    assert wrong(PI, OBS, x, 4, KEY) == value(PI, OBS, x, 4, KEY)
    assert abs(wrong(PI, OBS, x, 3, KEY)[0] - value(PI, OBS, x, 3, KEY)[0]) > 1


def test_the_actor_rests_at_the_optimum_and_v_has_no_error_there(x64):
    no, one = jnp.asarray(False), jnp.ones(1)
    example = Transition(OBS, one / 3, jnp.zeros(()), OBS, no, no)
    value = step_value(chain(), NU, Q, optimal, ETA, draws=2)

    def loss(size, key):
        field = function(lambda x, t, obs: VP.sigma(t) * x - size * VP.alpha(t) * VP.sigma(t))
        return step_ascent(chain(), value)(field, example, key)[0]

    sizes = G / ETA + jnp.asarray([0.0, -0.1, 0.1])[:, None] + jnp.zeros((3, 16))
    slopes = jax.vmap(jax.grad(loss))(sizes.ravel(), jnp.tile(jax.random.split(KEY, 16), 3)).reshape(3, 16)
    np.testing.assert_allclose(slopes[0], 0, atol=1e-9)
    assert np.all(slopes[1] < -1e-4) and np.all(slopes[2] > 1e-4)
    # Behind a last step there is no chance, so V* is met exactly; behind the others but for the noise.
    fit = step_regression(chain(1), PI, step_value(chain(1), NU, Q, optimal, ETA))
    assert fit(optimal, example, KEY)[0] < 1e-18
    assert fit(lambda x, t, obs: optimal(x, t, obs) + 1, example, KEY)[0] == pytest.approx(1)


def test_with_nothing_to_pay_it_is_the_lower_bound_of_the_mean_of_each_critic(x64):
    """Where pi = nu the penalty is 0; two critics that disagree, of which the bound at 1 is the lower."""
    q = lambda obs, action: jnp.stack([action[0], 3 - action[0]])
    for pessimism, expected in ((1.0, jnp.min), (0.0, jnp.mean)):
        value = step_value(chain(), PI, q, optimal, ETA, pessimism=pessimism)
        found, divergence = value(PI, OBS, jnp.ones(1), 4, KEY)
        assert divergence == 0
        end = chain().kernel(PI, jnp.ones(1), OBS, 4)[0]
        np.testing.assert_allclose(found, expected(q(OBS, end)), rtol=1e-9)


def test_other_samplers_are_refused():
    for sampler in (ddpm(variance="posterior"), ddim(eta=1.0), lambda field, obs, key: obs):
        with pytest.raises(ValueError, match="sampler must be ddpm"):
            path_divergence(sampler, PI, NU, OBS, KEY)
        with pytest.raises(ValueError, match="sampler must be ddpm"):
            step_divergence(sampler, PI, NU, jnp.ones(1), OBS, 0)
