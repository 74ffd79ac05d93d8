"""Gaussian critics: their loss against closed forms, its fixed points, their targets, and the stages that fit them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri

from dpolicy._types import Transition
from dpolicy.algorithm import Horizon
from dpolicy.blocks import critic_function, next_value, q_critics, temporal_difference
from dpolicy.learning import algorithm
from dpolicy.losses import bellman, gaussian_error, gaussian_value_loss
from dpolicy.networks import GaussianQ, GaussianValue, SampledValue

KEY, NO = jax.random.key(0), jnp.asarray(False)
EXAMPLE = Transition(jnp.ones(2), jnp.zeros(1), jnp.asarray(0.5), jnp.full(2, 2.0), NO, NO)


class Spec:
    obs_size, action_size = 2, 1


@pytest.mark.parametrize(
    ("form", "expected"), [("scaled", 0.99750), ("huber", 0.70534), ("huber_doubled", 0.99750)]
)
def test_where_the_deviation_rests(form, expected, x64):
    """For returns y ~ N(0, 1), the mean at 0 and b held at 1; the clip to 3 b loses .25 per cent."""
    draws = jnp.asarray(ndtri((np.arange(200_000) + 0.5) / 200_000))

    def slope(std):
        loss = lambda std: jnp.mean(
            gaussian_value_loss(
                jnp.zeros(200_000), jnp.full(200_000, std), draws, draws, 1.0 + 0 * draws, form=form
            )
        )
        return jax.grad(loss)(std)

    below, above = jax.jit(jax.vmap(slope))(expected + jnp.asarray([-1e-4, 1e-4]))
    assert below < 0 < above


def test_gradients_are_those_of_the_paper(x64):
    """-(b^2 + e)(y - m) / (s^2 + e) and -(b^2 + e)((m - y_b)^2 - s^2) / (s^3 + e), the sample held at 3 b."""
    mean, std = np.asarray([0.5, -2.0]), np.asarray([0.7, 1.5])
    target, sample, deviation = np.asarray([1.5, 1.0]), np.asarray([0.9, 40.0]), np.asarray([0.6, 2.0])
    arguments = map(jnp.asarray, (mean, std, target, sample, deviation))
    loss = lambda m, s, *rest: jnp.sum(gaussian_value_loss(m, s, *rest))
    found = jax.grad(loss, (0, 1))(*arguments)
    error = np.asarray([0.4, 6.0])  # the second is held at 3 b = 6
    factor = deviation**2 + 0.1
    np.testing.assert_allclose(found[0], -factor * (target - mean) / (std**2 + 0.1), rtol=1e-12)
    np.testing.assert_allclose(found[1], -factor * (error**2 - std**2) / (std**3 + 0.1), rtol=1e-12)


@pytest.mark.parametrize(("form", "factor"), [("huber", 1.0), ("huber_doubled", 2.0)])
def test_gradients_of_the_later_code(form, factor, x64):
    """Its ratio is within .1 and 10, and its errors beyond 50 count linearly."""
    mean, std = np.asarray([0.5, -70.0, 0.1]), np.asarray([0.7, 1.5, 1e-2])
    target, sample = np.asarray([1.5, 1.0, 0.2]), np.asarray([0.9, 40.0, 0.3])
    deviation = np.asarray([0.6, 20.0, 1e-3])
    loss = lambda m, s, *rest: jnp.sum(gaussian_value_loss(m, s, *rest, form=form))
    found = jax.grad(loss, (0, 1))(*map(jnp.asarray, (mean, std, target, sample, deviation)))
    ratio = np.asarray([0.36 / 0.59, 10.0, 0.1])
    np.testing.assert_allclose(found[0], ratio * np.asarray([-1.0, -50.0, -0.1]), rtol=1e-12)
    huber = np.asarray([0.4**2 / 2, 50 * (60 - 25), 0.003**2 / 2])
    np.testing.assert_allclose(found[1], ratio * (std**2 - factor * huber) / (std + 0.1), rtol=1e-12)


def laws(obs, action):
    """Two critics, the lower mean of which changes with the state."""
    return GaussianValue(jnp.stack([obs[0], 2.0 + 0 * obs[0]]) + action[0], jnp.asarray([0.5, 3.0]))


def zero(actor, q, obs, key):
    return jnp.zeros(1), jnp.asarray(-2.0)


def goal_of(value):
    """What a loss is fitted to."""
    found = []

    def goal(example, key):
        error = lambda said, goal: (found.append(goal) or jnp.zeros(2), {})
        loss = temporal_difference(value, 0.5, error=error, sampled=True)
        loss(lambda obs, action: jnp.zeros(2), example, key)
        return found.pop()

    return goal


def test_the_target_is_of_the_lower_mean_in_each_state_and_without_noise():
    lower = critic_function(laws)
    goal = goal_of(next_value(zero, None, lower, lower))
    states = jnp.asarray([[1.0, 0.0], [5.0, 0.0]])
    examples = jax.vmap(lambda obs: eqx.tree_at(lambda e: e.next_obs, EXAMPLE, obs))(states)
    keys = jax.random.split(KEY, 4000)
    one = lambda example: jax.vmap(lambda key: goal(example, key))(keys)
    value, sample = (2 * (of - 0.5) for of in jax.jit(jax.vmap(one))(examples))  # r = .5, gamma = .5
    np.testing.assert_array_equal(value, np.tile([[1.0], [2.0]], (1, 4000)))
    deviations = np.asarray([0.5, 3.0])
    np.testing.assert_allclose(np.std(sample, axis=1), deviations, rtol=0.05)
    assert np.all(np.max(np.abs(sample - value), axis=1) <= 3 * deviations * (1 + 1e-6))
    hard, soft = goal(EXAMPLE, KEY), goal_of(next_value(zero, None, lower, lower, 0.25))(EXAMPLE, KEY)
    np.testing.assert_allclose(soft.mean, 0.5 + 0.5 * (2.0 + 0.5))
    np.testing.assert_allclose(soft.sample - soft.mean, hard.sample - hard.mean, rtol=1e-6)
    number = goal_of(lambda example, key: jnp.asarray(2.0))(EXAMPLE, KEY)
    assert number.mean == number.sample == 1.5


def test_the_loss_of_an_ensemble_is_the_sum_of_its_members():
    critic = lambda obs, action: GaussianValue(jnp.asarray([0.0, 1.0]), jnp.asarray([1.0, 2.0]))
    target = lambda example, key: SampledValue(example.reward, example.reward + 1)
    error = gaussian_error(jnp.asarray([1.0, 0.5]))
    value, metrics = bellman(target, error=error, reduction="sum")(critic, EXAMPLE, KEY)
    each = [
        gaussian_value_loss(*map(jnp.asarray, (m, s, 0.5, 1.5, b)))
        for m, s, b in ((0.0, 1.0, 1.0), (1.0, 2.0, 0.5))
    ]
    np.testing.assert_allclose(value, sum(each), rtol=1e-6)
    assert metrics["value"] == 0.5 and metrics["std"] == 1.5 and metrics["target"] == 0.5


def test_the_stages_of_gaussian_critics():
    """b starts at the first batch's mean of std, then follows it; the mean settles at a return that does not vary."""
    critics = q_critics(
        critic="gaussian",
        critic_reduction="sum",
        critic_hidden=(8,),
        critic_learning_rate=0.02,
        deviation_rate=0.25,
        n_step=2,
        target_rate=0.1,
    )
    assert isinstance(critics.fitted(lambda s: lambda e, key: e.reward).horizon, Horizon)
    method = algorithm(
        "test",
        "off_policy",
        explore=lambda s: lambda obs, key: jnp.zeros(1),
        evaluate=lambda s: lambda obs, key: jnp.zeros(1),
        critic=critics.backed_up(zero, actor="critic"),
        target=critics.averaged(),
    )
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), EXAMPLE)
    batch = eqx.tree_at(
        lambda e: (e.obs, e.terminated), batch, (jnp.asarray([[1.0, 1.0], [0.0, 2.0]]), ~batch.terminated)
    )
    stds = lambda state: jnp.mean(jax.vmap(state.critic)(batch.obs, batch.action).std, axis=0)

    @jax.jit
    def run():
        start = method.init(KEY, Spec())
        first, _ = method.update(start, batch, KEY)
        second, metrics = method.update(first, batch, KEY)

        def one(state, key):
            return method.update(state, batch, key)[0], None

        last, _ = jax.lax.scan(one, second, jax.random.split(KEY, 400))
        seen = (stds(start), first.deviations, stds(first), second.deviations)
        return seen, metrics, critic_function(last.critic)(batch.obs[0], batch.action[0]), stds(last)

    (fresh, begun, moved, followed), metrics, value, settled = run()
    np.testing.assert_allclose(begun, fresh, rtol=1e-6)
    np.testing.assert_allclose(followed, 0.75 * begun + 0.25 * moved, rtol=1e-6)
    np.testing.assert_allclose(metrics["critic/deviation"], np.mean(followed), rtol=1e-6)
    np.testing.assert_allclose(value, 0.5, atol=0.02)
    assert np.all(settled < 0.5 * fresh)


def test_several_actions_and_all_critics():
    """Of actions the Gaussian of the mixture's mean and deviation, or that of the highest mean; of critics between."""
    drawn = lambda actor, q, obs, key: (jax.random.uniform(key, (1,)), jnp.zeros(()))
    lower = critic_function(laws)
    actions = np.asarray(jax.vmap(lambda k: jax.random.uniform(k))(jax.random.split(KEY, 4)))
    example = eqx.tree_at(lambda e: e.next_obs, EXAMPLE, jnp.asarray([5.0, 0.0]))
    law = next_value(drawn, None, lower, lower, actions=4)(example, KEY)
    np.testing.assert_allclose(law, [2 + actions.mean(), np.sqrt(9 + actions.var())], rtol=1e-5)
    best = next_value(drawn, None, lower, lower, actions=4, over="max")(example, KEY)
    np.testing.assert_allclose(best, [2 + actions.max(), 3.0], rtol=1e-6)
    with pytest.raises(ValueError, match="over must be mean or max for critics that give laws"):
        next_value(drawn, None, lower, lower, actions=4, over="soft")(EXAMPLE, KEY)
    found = {how: critic_function(laws, how).outcome(example.next_obs, jnp.zeros(1)) for how in HOW}
    for how, expected in HOW.items():
        np.testing.assert_allclose(found[how], expected, rtol=1e-6)


# Of N(5, .5^2) and N(2, 3^2).
HOW = {
    "min": [2.0, 3.0],
    "mean": [3.5, 1.75],
    "lcb": [2.0, 1.75],
    0: [5.0, 0.5],
    "each": [[5.0, 2.0], [0.5, 3.0]],
}


def test_the_network_of_a_gaussian_critic():
    law = GaussianQ(2, 1, hidden=(4,), final_scale=0.0, key=KEY)(jnp.ones(2), jnp.zeros(1))
    np.testing.assert_allclose([law.mean, law.std], [0.0, np.log(2)], rtol=1e-6)


def test_an_unknown_form_is_refused():
    one = jnp.ones(())
    with pytest.raises(ValueError, match="form must be one of scaled, huber, huber_doubled; got 'square'"):
        gaussian_value_loss(one, one, one, one, one, form="square")
