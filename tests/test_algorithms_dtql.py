"""DTQL: where a behaviour's denoising loss leads a policy, EDM's denoiser, and who sees whom when."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallest import SPEC, TINY, experience

import dpolicy as dp
from dpolicy.algorithms import dtql
from dpolicy.fields import ConsistencyField, consistency_scalings
from dpolicy.learning import Parts, Seen
from dpolicy.losses import (
    denoiser_weight,
    log_logistic_times,
    matching,
    perturb,
    trust_region,
)

KEY, OBS = jax.random.key(0), jnp.zeros(1)
SCHEDULE = dp.LinearVP(0.1, 10.0, t_min=0.0)
EXAMPLE = dp.Transition(OBS, jnp.array([-0.9]), jnp.zeros(()), OBS, jnp.asarray(False), jnp.asarray(False))


def slope(noise, action, time, draws):
    """The mean gradient of the trust region in the action of a policy that is nothing else, at one time."""
    field = dp.FunctionField(noise, schedule=SCHEDULE, prediction="noise", action_size=1)
    fit = matching(perturb(SCHEDULE, times=lambda schedule, key: jnp.asarray(time)), held=False)
    loss = trust_region(lambda action, obs, key: action, field, fit)
    one = jax.grad(lambda action, key: loss(action, EXAMPLE, key)[0])
    return float(jnp.mean(jax.vmap(one, (None, 0))(jnp.array([action]), jax.random.split(KEY, draws))))


@pytest.mark.parametrize(("action", "time"), [(0.9, 0.3), (-0.4, 0.3), (0.1, 0.7)])
def test_of_a_gaussian_it_is_the_distance_from_the_mean(action, time):
    """nu = N(.3, .2), its own noise: E |eps_nu(x_t) - eps|^2 has the slope 2 (alpha sigma / S)^2 (a - m)."""
    mean, variance = 0.3, 0.2
    of = lambda t: (SCHEDULE.alpha(t), SCHEDULE.sigma(t))

    def noise(x, t, obs):
        alpha, sigma = of(t)
        return sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)

    alpha, sigma = of(jnp.asarray(time))
    expected = 2 * (alpha * sigma / (alpha**2 * variance + sigma**2)) ** 2 * (action - mean)
    np.testing.assert_allclose(slope(noise, action, time, 100_000), expected, rtol=0.03, atol=0.01)


@pytest.mark.parametrize(("action", "side"), [(0.3, 1), (0.85, -1), (-0.2, -1), (-0.8, 1)])
def test_it_leads_to_the_nearer_of_two_modes(action, side):
    """nu has its modes at .6 and -.6; at little noise the descent goes to the nearer, from both sides."""

    def noise(x, t, obs):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        spread = (alpha * 0.1) ** 2 + sigma**2
        share = jax.nn.softmax(
            jnp.stack([-((x - alpha * c) ** 2) / (2 * spread) for c in (0.6, -0.6)]), axis=0
        )
        return sigma * (share[0] * (x - 0.6 * alpha) + share[1] * (x + 0.6 * alpha)) / spread

    assert -side * slope(noise, action, 0.05, 4_000) > 0.1


def test_a_held_fit_has_no_slope_in_the_action():
    field = dp.FunctionField(lambda x, t, obs: x, schedule=SCHEDULE, prediction="noise", action_size=1)
    loss = trust_region(lambda action, obs, key: action, field, matching(perturb(SCHEDULE)))
    assert jax.grad(lambda action: loss(action, EXAMPLE, KEY)[0])(jnp.array([0.4])) == 0


def test_the_denoiser_is_the_identity_without_noise_and_weighed_by_its_scale():
    """c_skip x + c_out F(c_in x, log(h) / 4) with EDM's scalings, whose c_out^-2 is the weight of its loss."""
    shape = {"hidden": (4,), "initialisation": "torch", "embedding": "raw"}
    field = ConsistencyField(1, 2, denoiser=True, data_std=0.7, key=KEY, **shape)
    obs, x, t = jnp.array([0.4]), jnp.array([0.8, -1.3]), jnp.asarray(0.45)
    h = field.schedule.sigma(t)
    skip, out, inside = 0.49 / (h**2 + 0.49), h * 0.7 / jnp.sqrt(h**2 + 0.49), 1 / jnp.sqrt(h**2 + 0.49)
    inner = field.mlp(inside * x, field.embedding(jnp.log(h) / 4), obs)
    np.testing.assert_allclose(field(x, t, obs), skip * x + out * inner, rtol=1e-5)
    np.testing.assert_allclose(denoiser_weight(0.7)(field.schedule, t), out**-2, rtol=1e-5)
    np.testing.assert_allclose(consistency_scalings(0.0, sigma_min=0.0), (1, 0, 2), atol=1e-7)
    with pytest.raises(ValueError, match="preconditioned must be True for a denoiser"):
        ConsistencyField(1, 2, denoiser=True, preconditioned=False, key=KEY, **shape)


def test_noise_is_log_logistic_around_the_deviation_of_the_data():
    schedule = dp.Karras(0.1, 2.0)
    draw = jax.vmap(lambda key: schedule.sigma(log_logistic_times(0.4, 0.5)(schedule, key)))
    found = draw(jax.random.split(KEY, 20_000))
    assert found.min() >= 0.1 - 1e-6 and found.max() <= 2.0 + 1e-5
    low, high = (1 / (1 + (end / 0.4) ** -2) for end in (0.1, 2.0))
    ranks = low + (high - low) * np.array([0.25, 0.5, 0.75])
    expected = 0.4 * np.sqrt(ranks / (1 - ranks))
    np.testing.assert_allclose(np.quantile(found, [0.25, 0.5, 0.75]), expected, rtol=0.03)
    with pytest.raises(ValueError, match="the schedule of log_logistic_times must be a Karras"):
        log_logistic_times()(SCHEDULE, KEY)


@pytest.mark.parametrize("values", ["target_min", "online_min"])
def test_the_expectile_is_of_the_critic_that_is_asked_for(values):
    """With the target's members at 3 and 2 and the online ones at 5 and 7, V at 4: gaps of -2 and of 1."""
    made = dtql(**TINY["dtql"], expectile_values=values)
    of = lambda *members: lambda obs, action: jnp.asarray(members, float)
    parts = Parts(critic=of(5, 7), target=of(3, 2))
    assert made.stages is not None
    loss = made.stages["value"].loss(Seen(parts, parts, EXAMPLE, jnp.asarray(1), {}, "value"))
    found, _ = loss(lambda obs: jnp.asarray(4.0), EXAMPLE, KEY)
    np.testing.assert_allclose(found, 0.3 * 4 if values == "target_min" else 0.7 * 1, rtol=1e-6)


def test_critics_see_the_value_that_was_found_and_the_policy_waits():
    """V before its step in targets; the actor moves from the second update on."""
    numbers = {"pretraining_updates": 1, "learning_rate": 1e-2, "critic_learning_rate": 1e-2}
    algorithm = dtql(**{**TINY["dtql"], **numbers})
    state = algorithm.init(KEY, SPEC)
    batch = experience(algorithm, state, KEY)
    update = jax.jit(algorithm.update)
    after, metrics = update(state, batch, KEY)
    later, _ = update(after, batch, KEY)
    goal = batch.reward + 0.99 * jnp.where(batch.terminated, 0, jax.vmap(state.value)(batch.next_obs))
    error = jnp.sum((jax.vmap(state.critic)(batch.obs, batch.action) - goal[:, None]) ** 2, axis=1)
    np.testing.assert_allclose(metrics["critic/loss"], error.mean(), rtol=1e-4)
    assert eqx.tree_equal(after.actor, state.actor) and not eqx.tree_equal(later.actor, after.actor)
    assert not eqx.tree_equal(after.behaviour, state.behaviour)


class Still(eqx.Module):
    """A policy of one action, whose density falls with the square of the distance before the tanh."""

    action: jax.Array

    def sample(self, obs, key):
        return self.action, jnp.zeros(())

    def log_prob_from_unsquashed(self, obs, value):
        return -jnp.sum((value - jnp.arctanh(self.action)) ** 2)


def test_each_term_of_the_policys_loss_by_its_weight_and_sign(unchecked_types):
    """alpha w |D - a|^2 - min Q - gamma log pi: of the critics and the denoiser that this update has left."""
    made = dtql(**{**TINY["dtql"], "trust_weight": 3.0, "cloning_weight": 0.2})
    guess = lambda x, t, obs: jnp.array([0.6, -0.5])
    field = dp.FunctionField(guess, schedule=dp.Karras(), prediction="data", action_size=2)
    critic = lambda obs, action: jnp.stack([7 * action[0], 5 + action[1]])
    now, at = Parts(behaviour=field, critic=critic), jnp.array([0.2, -0.1])
    example = dp.Transition(
        OBS, jnp.array([0.3, -1.0]), jnp.zeros(()), OBS, EXAMPLE.terminated, EXAMPLE.truncated
    )
    loss = made.stages["actor"].loss(Seen(Parts(), now, example, jnp.asarray(9), {}, "actor"))
    (value, metrics), slope = jax.value_and_grad(lambda a: loss(Still(a), example, KEY), has_aux=True)(at)
    away = jnp.arctanh(example.action / 1.001) - jnp.arctanh(at)
    weight = metrics["trust/loss"] / jnp.mean((guess(0, 0, 0) - at) ** 2)
    assert weight > 4  # 1 / sigma^2 + 1 / .5^2
    np.testing.assert_allclose(value, 3 * metrics["trust/loss"] - 7 * 0.2 + 0.2 * jnp.sum(away**2), rtol=1e-5)
    pulled = 3 * weight * (at - guess(0, 0, 0)) - jnp.array([7.0, 0.0]) - 0.4 * away / (1 - at**2)
    np.testing.assert_allclose(slope, pulled, rtol=1e-4)


def test_a_subset_of_the_targets_is_of_no_use_to_the_online_critics():
    dtql(**TINY["dtql"], critic_subset=1)
    with pytest.raises(ValueError, match="critic_subset must be None where expectile_values is online_min"):
        dtql(**TINY["dtql"], critic_subset=1, expectile_values="online_min")
