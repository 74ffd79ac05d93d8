"""DSAC-D: returns that a diffusion draws, what they are fitted to, and what the actor climbs."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transitions import experience

from dpolicy._types import Transition
from dpolicy.algorithms import dsac_d
from dpolicy.audit import objective
from dpolicy.blocks import diffusion_critics
from dpolicy.fields import AbstractField, AbstractSchedule, LinearVP
from dpolicy.learning import Seen, Statistics, algorithm
from dpolicy.losses import chain, grid_times, perturb
from dpolicy.losses import start as begin
from dpolicy.networks import Ensemble

KEY, SIZE = jax.random.key(0), 6
VP = LinearVP(0.1, 10.0, t_min=0.0)
SMALL = {"critic_hidden": (8,), "value_embedding": "raw"}


class Spec:
    obs_size = action_size = 2


class Exact(AbstractField):
    """eps = sigma (z - alpha m) / (alpha^2 S^2 + sigma^2), of z ~ N(m a_0, S^2)."""

    mean: jax.Array
    std: jax.Array
    schedule: AbstractSchedule = VP
    prediction: str = eqx.field(static=True, default="noise")
    action_size: int = eqx.field(static=True, default=1)

    def __call__(self, x, t, obs):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return sigma * (x - alpha * self.mean * obs[2:3]) / (alpha**2 * self.std**2 + sigma**2)


def test_returns_of_exact_networks():
    """Their law and, through the chain, its gradient in the action; ddpm of unit variance has .983 in 20 steps."""
    critics = diffusion_critics(value_samples=4000)
    exact = Ensemble(Exact(jnp.asarray([1.0, -0.5]), jnp.asarray([1.0, 0.1])), 2)
    scale, obs = Statistics(jnp.asarray(3.0), jnp.asarray(2.0)), jnp.ones(2)

    @jax.jit
    def run(action):
        draw = lambda action: critics.draw(exact, scale, obs, action, KEY)
        return draw(action), jax.jacobian(lambda action: jnp.mean(draw(action), 1))(action)

    drawn, slope = run(jnp.asarray([0.8, 0.3]))
    assert drawn.shape == (2, 4000)
    np.testing.assert_allclose(np.mean(drawn, 1), [3 + 2 * 0.8, 3 - 2 * 0.4], atol=0.1)
    np.testing.assert_allclose(np.var(drawn, 1), [4 * 0.983, 4 * 0.00788], rtol=0.06)
    np.testing.assert_allclose(slope, [[2.0, 0.0], [-1.0, 0.0]], atol=0.02)


def test_returns_start_as_a_standard_normal():
    critics = diffusion_critics(**SMALL, value_samples=4000)
    run = lambda: critics.draw(
        critics.make(KEY, Spec), Statistics(jnp.zeros(()), jnp.ones(())), jnp.ones(2), jnp.ones(2), KEY
    )
    drawn = jax.jit(run)()
    np.testing.assert_allclose(np.mean(drawn, 1), 0, atol=0.06)
    np.testing.assert_allclose(np.var(drawn, 1), 0.983, rtol=0.06)


def test_an_audits_critic_is_climbed_as_it_is():
    made = dsac_d(**SETTINGS)
    q = lambda obs, action: jnp.sum(obs) - jnp.sum(action**2)
    example = jax.tree.map(lambda leaf: leaf[0], experience(KEY, 2))

    @jax.jit
    def both():
        state = made.init(KEY, Spec)
        model, loss = objective(made, state, q)
        action = made.act(state, example.obs, jax.random.split(KEY)[0], "explore")[0]
        return loss(model, example, KEY)[0], -q(example.obs, action)

    np.testing.assert_allclose(*both(), rtol=1e-6)


SETTINGS = {
    **{"hidden": (5,), "embedding": "raw", "sampler_steps": 2, "value_steps": 3, "value_samples": 4, **SMALL},
    **{"discount": 0.9, "statistics_rate": 0.25, "critic_learning_rate": 0.01, "target_rate": 0.25},
    **{"entropy_samples": 4, "entropy_estimate": "gaussian", "value_bound": 0.5},
}


def run():
    made = dsac_d(**SETTINGS)
    critics = diffusion_critics(**SMALL, value_steps=3, value_samples=4)
    ends = jnp.arange(SIZE) % 3
    batch = dataclasses.replace(experience(KEY, SIZE), terminated=ends == 1, truncated=ends == 2)
    step = lambda state, key: (made.update(state, batch, key)[0],) * 2
    start = made.init(KEY, Spec)
    state, states = jax.lax.scan(step, start, jax.random.split(KEY, 4))
    keys, seen = jax.random.split(KEY, SIZE), Seen(state, state, batch, state.updates + 1, {}, "backup")

    label = jax.vmap(lambda e, k: made.stages["backup"].label(seen, e, k))(batch, keys)

    def by_hand(e, key):
        action_key, next_key, here_key = jax.random.split(key, 3)
        action = made.act(state, e.next_obs, action_key, "explore")[0]
        drawn = critics.draw(state.target, state.returns, e.next_obs, action, next_key)
        lowest = jnp.argmin(jnp.mean(drawn, 1))
        here = critics.draw(state.critic, state.returns, e.obs, e.action, here_key)
        y = e.reward + jnp.where(e.terminated, 0, 0.9 * drawn[lowest, 0])
        return {"sampled_return": y, "return_mean": jnp.mean(here, 1), "return_std": jnp.std(here, 1)}

    labels = label, jax.vmap(by_hand)(batch, keys)
    extras = {name: 3 * value for name, value in label.items()}  # beyond the bound on either side
    batch = dataclasses.replace(batch, extras=extras)
    seen = seen._replace(batch=batch, stage="critic")
    losses = jax.vmap(lambda e, k: made.stages["critic"].loss(seen)(start.critic, e, k)[0])(batch, keys)

    def error(e, key):
        """What the networks start with says noise sigma z."""
        total, noised = 0.0, chain(perturb(VP, times=grid_times(3)))
        for j, k in enumerate(jax.random.split(key, 2)):
            middle, reach = e.extras["return_mean"][j], 0.5 * state.deviations[j]
            y = jnp.minimum(jnp.maximum(e.extras["sampled_return"], middle - reach), middle + reach)
            point = dataclasses.replace(e, action=((y - state.returns.mean) / state.returns.std)[None])
            match = noised(point, begin(point), k)
            total += jnp.sum((match.target.noise - VP.sigma(match.t[0]) * match.x) ** 2)
        return total

    errors = losses, jax.vmap(error)(batch, keys)
    actor = jax.vmap(lambda e, k: made.stages["actor"].loss(seen)(state.actor, e, k)[0])(batch, keys)

    def climbed(e, key):
        action_key, draw_key = jax.random.split(key)
        action = made.act(state, e.obs, action_key, "explore")[0]
        return -jnp.min(jnp.mean(critics.draw(state.critic, state.returns, e.obs, action, draw_key), 1))

    return labels, (actor, jax.vmap(climbed)(batch, keys)), (start, states), errors


@pytest.fixture(scope="module")
def ran():
    return jax.tree.map(np.asarray, jax.jit(run)())


def test_what_returns_are_fitted_to(ran):
    """One return of the target critic with the lower mean at s', of the noisy action of the actor."""
    found, expected = ran[0]
    assert set(found) == set(expected)
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=1e-5)
    assert np.std(found["sampled_return"]) > 0.1


def test_the_critics_error(ran):
    """Of the noise, of normalised returns within half a deviation of each critic's mean; both added up."""
    np.testing.assert_allclose(*ran[3], rtol=1e-4)


def test_what_the_actor_climbs(ran):
    np.testing.assert_allclose(*ran[1], rtol=2e-5, atol=1e-5)


def test_who_moves_when(ran):
    """The critics at every update, the actor and their targets at every second."""
    start, states = ran[2]
    at = lambda i: jax.tree.map(lambda leaf: leaf[i], states) if i >= 0 else start
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    for i in range(4):
        moved = {name for name in start if not same(at(i)[name], at(i - 1)[name])} - {"updates"}
        assert moved == {"critic", "returns", "deviations"} | ({"actor", "target"} if i % 2 else set())
    assert list(start) == [*("returns", "deviations", "critic", "actor", "target", "noise", "updates")]
    np.testing.assert_allclose(start.returns.std, 1.0)


def test_returns_keep_their_peaks_and_their_mean():
    """At s = 0 the end pays -1 or 1, at s = 1 N(.5, .1^2); s = 2 leads there for .1, and is worth .1 + .9 / 2."""
    critics = diffusion_critics(
        **{"critic_hidden": (32, 32), "value_embedding": "cos_sin", "value_steps": 10, "value_samples": 2},
        **{"critic_learning_rate": 5e-3, "target_rate": 0.05, "discount": 0.9, "value_bound": None},
    )
    still = lambda parts: lambda actor, q, obs, key: (jnp.zeros(1), jnp.zeros(()))
    nothing = lambda s: lambda obs, key: jnp.zeros(1)
    made = algorithm(
        "returns",
        "off_policy",
        explore=nothing,
        evaluate=nothing,
        **critics.fitted(still, actor="critic"),
        target=critics.averaged(),
    )

    class One:
        obs_size = action_size = 1

    def transition(key, state):
        end, noise = jax.random.split(key)
        two, near = 2.0 * jax.random.bernoulli(end) - 1, 0.5 + 0.1 * jax.random.normal(noise)
        reward = jnp.stack([two, near, jnp.asarray(0.1)])[state]
        no = jnp.asarray(False)
        return Transition(state[None].astype(float), jnp.zeros(1), reward, jnp.ones(1), state < 2, no)

    @jax.jit
    def train():
        def step(state, key):
            batch_key, key = jax.random.split(key)
            batch = jax.vmap(transition)(jax.random.split(batch_key, 96), jnp.arange(96) % 3)
            return made.update(state, batch, key)[0], None

        state, _ = jax.lax.scan(step, made.init(KEY, One), jax.random.split(KEY, 500))
        many = critics._replace(samples=1000)
        draw = lambda s: many.draw(state.critic, state.returns, s[None], jnp.zeros(1), KEY)
        return jax.vmap(draw)(jnp.arange(3.0))

    peaks, near, leading = np.asarray(train()).reshape(3, -1)
    np.testing.assert_allclose([np.mean(peaks), np.mean(near), np.mean(leading)], [0, 0.5, 0.55], atol=0.15)
    assert np.mean(np.abs(np.abs(peaks) - 1) < 0.35) > 0.8 and np.mean(np.abs(peaks) < 0.4) < 0.1
    assert np.std(near) < 0.3
