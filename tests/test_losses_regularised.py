"""Values under a regulariser, of tables that are solved by hand: SQL's, EQL's, Diffusion-DICE's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smallest import SPEC, build, experience

import dpolicy as dp
from dpolicy.learning import Parts
from dpolicy.losses import (
    exponential_conjugate,
    f_dice_conjugate,
    f_dice_weight,
    regularised_value,
    regularised_weight,
    sparse_conjugate,
    sparse_weight,
)

KEY, OBS, NO = jax.random.key(0), jnp.zeros(1), jnp.asarray(False)
SHARES, VALUES = np.array([0.5, 0.3, 0.2]), np.array([0.4, 1.0, -2.0])
PLAIN = {
    sparse_weight: lambda u: np.maximum(1 + u / 2, 0),
    f_dice_weight: lambda u: np.where(u > 0, 1 + u / 2, np.exp(np.minimum(u, 0))),
    jnp.exp: np.exp,
}


def row(index):
    return dp.Transition(OBS, jnp.array([float(index)]), jnp.zeros(()), OBS, NO, NO)


def q(obs, action):
    return jnp.asarray(VALUES)[action[0].astype(int)]


def solved(weight, temperature):
    """V at which the weights' mean is 1, by bisection: they fall as it rises."""
    low, high = -50.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        above = SHARES @ PLAIN[weight]((VALUES - middle) / temperature) > 1
        low, high = (middle, high) if above else (low, middle)
    return low


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(
    ("conjugate", "weight"),
    [(sparse_conjugate, sparse_weight), (exponential_conjugate, jnp.exp), (f_dice_conjugate, f_dice_weight)],
)
def test_the_loss_is_least_where_the_weights_make_a_policy(x64, conjugate, weight, temperature):
    loss = regularised_value(q, conjugate, temperature)
    mean = lambda v: sum(SHARES[i] * loss(lambda obs: v, row(i), KEY)[0] for i in range(3))
    slope = jax.grad(mean)
    best = solved(weight, temperature)
    np.testing.assert_allclose(slope(best), 0.0, atol=1e-9)
    assert slope(best - 0.01) < 0 < slope(best + 0.01)
    u = jnp.linspace(-3.3, 3.0, 13)
    np.testing.assert_allclose(jax.vmap(jax.grad(conjugate))(u), weight(u), rtol=1e-12)


def test_the_two_tables_by_hand(x64):
    """EQL's value is the soft one; SQL's of two actions a mean, or, of a low temperature, that of the better alone.

    With shares .7 and .3 of Q 0 and 1: mean weight 1 is .3 (1 + (1 - V) / 2 alpha) = 1 where the other has none.
    """
    np.testing.assert_allclose(solved(jnp.exp, 0.5), 0.5 * np.log(SHARES @ np.exp(VALUES / 0.5)), rtol=1e-9)
    shares, values = jnp.array([0.7, 0.3]), jnp.array([0.0, 1.0])
    for alpha, expected in ((0.1, 1 - 0.2 * (1 / 0.3 - 1)), (0.15, 0.3), (2.0, 0.3)):
        mean = lambda v, a=alpha: jnp.sum(shares * sparse_conjugate((values - v) / a)) + v / a
        np.testing.assert_allclose(jax.grad(mean)(expected), 0.0, atol=1e-9)
    weights = sparse_weight((values - (1 - 0.2 * (1 / 0.3 - 1))) / 0.1)
    np.testing.assert_allclose(weights, [0, 1 / 0.3], atol=1e-9)


def test_the_policy_of_the_value_is_the_best_that_is_charged(x64):
    """EQL's policy nu w maximises E Q - alpha KL; SQL's is the best with E Q - alpha E (pi / nu) but for its V.

    Its conjugate takes the mean of the squared weights for 1 (the paper's V = U + alpha): the exact threshold U has
    weights max(1 / 2 + (Q - U) / 2 alpha, 0), the same policy with U = V - alpha.
    """
    alpha = 0.5
    for weight, charge in (
        (jnp.exp, lambda pi: jnp.sum(pi * jnp.log(pi / SHARES))),
        (sparse_weight, lambda pi: jnp.sum(pi**2 / SHARES)),
    ):
        pi = SHARES * PLAIN[weight]((VALUES - solved(weight, alpha)) / alpha)
        np.testing.assert_allclose(pi.sum(), 1.0, rtol=1e-9)
        slope = jax.grad(lambda pi, charge=charge: pi @ VALUES - alpha * charge(pi))(pi)
        # One price for all actions that are taken, and a lower one for those that are not.
        np.testing.assert_allclose(slope[pi > 0], slope[0], rtol=1e-6)
        assert np.all(slope[pi == 0] < slope[0])


def test_beyond_its_bound_the_exponential_is_its_tangent(x64):
    of = jax.value_and_grad(lambda u: exponential_conjugate(u, 2.0))
    np.testing.assert_allclose(of(1.5), np.exp([1.5, 1.5]), rtol=1e-12)
    np.testing.assert_allclose(of(5.0), [4 * np.exp(2), np.exp(2)], rtol=1e-12)


def test_weights_of_the_data(x64):
    value = lambda obs: jnp.asarray(0.2)
    found = [regularised_weight(q, value, sparse_weight, 0.1, largest=3.0)(row(i)) for i in range(3)]
    np.testing.assert_allclose(found, [2.0, 3.0, 0.0], rtol=1e-6)
    moved = lambda v: regularised_weight(q, lambda obs: v, sparse_weight, 0.1)(row(0))
    assert jax.grad(moved)(0.2) == 0


@pytest.mark.parametrize(
    ("name", "settings", "by_hand"),
    [
        ("sql", {}, lambda gap: jnp.maximum(1 + gap / 2, 0)),
        ("sql", {"weights": "advantage"}, lambda gap: jnp.maximum(gap, 0)),
        ("eql", {"weight_temperature": 0.2}, lambda gap: jnp.exp(gap / 0.2)),
    ],
)
def test_an_update_by_hand(name, settings, by_hand):
    """The value comes first, from the lower target; its temperatures are 1 and 2."""
    algorithm = build(name, learning_rate=1e-2, critic_learning_rate=1e-2, **settings)
    state = algorithm.init(KEY, SPEC)
    state = Parts(state, target=jax.tree.map(lambda x: 1.5 * x, state.target))
    batch = experience(algorithm, state, KEY)
    after, metrics = jax.jit(algorithm.update)(state, batch, KEY)
    of = lambda function: jax.vmap(function)(batch.obs, batch.action)
    lower = of(lambda obs, action: jnp.min(state.target(obs, action)))
    old, new = (jax.vmap(parts.value)(batch.obs) for parts in (state, after))
    conjugate = {"sql": lambda u: jnp.maximum(1 + u / 2, 0) ** 2, "eql": jnp.exp}[name]
    alpha = {"sql": 1.0, "eql": 2.0}[name]
    np.testing.assert_allclose(
        metrics["value/loss"], jnp.mean(conjugate((lower - old) / alpha) + old / alpha), rtol=1e-4
    )
    weights = jnp.minimum(by_hand(lower - new), 100)
    np.testing.assert_allclose(
        metrics["actor/loss"], -jnp.mean(weights * of(state.actor.log_prob)), rtol=1e-4
    )
    goal = batch.reward + 0.99 * jnp.where(batch.terminated, 0, jax.vmap(after.value)(batch.next_obs))
    np.testing.assert_allclose(
        metrics["critic/loss"], jnp.mean((of(state.critic) - goal[:, None]) ** 2), rtol=1e-4
    )
