"""Distributional critics: C51's projection, HL-Gauss, quantiles; each against numbers of its own."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from dpolicy.losses import (
    bellman,
    categorical_error,
    hl_gauss,
    onto_atoms,
    quantile_error,
    quantile_huber,
    support,
    td_target_law,
)
from dpolicy.networks import CategoricalValue, Points, QuantileValue, mean_of

ATOMS = np.linspace(-1.0, 1.0, 11)
KEY = jax.random.key(0)


class EXAMPLE:
    obs, action = jnp.zeros(1), jnp.zeros(1)


def law_of(seed, count=11):
    weight = np.random.default_rng(seed).dirichlet(np.ones(count))
    return Points(jnp.asarray(np.linspace(-1.0, 1.0, count)), jnp.asarray(weight))


def variance(value, weight):
    return np.sum(weight * value**2) - np.sum(weight * value) ** 2


def test_the_projection_of_c51(x64):
    """Atoms stay; the mean is kept where nothing is clipped; the variance grows by at most dz^2 / 4."""
    law, atoms = law_of(0), jnp.asarray(ATOMS)
    np.testing.assert_allclose(onto_atoms(law, atoms), law.weight, atol=1e-14)
    moved = td_target_law(jnp.asarray(0.05), jnp.asarray(False), law, 0.9)
    weight = np.asarray(onto_atoms(moved, atoms))
    np.testing.assert_allclose(moved.mean, 0.05 + 0.9 * law.mean, atol=1e-14)
    np.testing.assert_allclose([np.sum(weight), np.sum(weight * ATOMS)], [1.0, moved.mean], atol=1e-14)
    grown = variance(ATOMS, weight) - variance(np.asarray(moved.value), np.asarray(moved.weight))
    assert 0.0 < grown <= 0.2**2 / 4
    np.testing.assert_allclose(
        onto_atoms(law._replace(value=law.value + 5.0), atoms), np.eye(11)[-1], atol=1e-14
    )


def test_the_law_after_an_end(x64):
    """Two atoms around the reward, whatever the successor's law is."""
    law = law_of(1)._replace(weight=jnp.full(11, jnp.nan))
    after = td_target_law(jnp.asarray(0.34), jnp.asarray(True), law, 0.9)
    np.testing.assert_allclose(onto_atoms(after, jnp.asarray(ATOMS))[6:8], [0.3, 0.7], atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.13, -0.61])
def test_hl_gauss_is_the_mass_of_each_bin(value, x64):
    found = np.asarray(hl_gauss(jnp.asarray(value), jnp.asarray(ATOMS), width=0.5))
    edges = np.append(ATOMS - 0.1, 1.1)
    mass = np.diff(norm.cdf(edges, value, 0.5 * 0.2))
    np.testing.assert_allclose(found, mass / mass.sum(), atol=1e-12)
    assert np.sum(found * ATOMS) == pytest.approx(value, abs=2e-3)


def test_hl_gauss_beyond_the_ends():
    atoms = support(-1.0, 1.0, 11)
    np.testing.assert_allclose(hl_gauss(jnp.asarray(7.0), atoms), hl_gauss(jnp.asarray(1.0), atoms))


@pytest.mark.parametrize(
    ("level", "kappa", "minimiser"),
    [(0.5, 1.0, 0.0), (0.9, 1.0, 0.9930), (0.995, 1.0, 2.1952), (0.9, 0.01, 1.2776), (0.995, 0.01, 2.5709)],
)
def test_what_the_quantile_loss_is_stationary_at(level, kappa, minimiser, x64):
    """Of N(0, 1): for a large kappa not the quantile, which is 1.2816 at .9 and 2.5758 at .995."""
    nodes = np.linspace(-9, 9, 20001)
    weight = jnp.asarray(norm.pdf(nodes) / norm.pdf(nodes).sum())
    count = {0.5: 1, 0.9: 5, 0.995: 100}[level]  # whose last level it is

    def slope(last):
        quantiles = lambda q: jnp.zeros(count).at[-1].set(q)
        loss = lambda q: quantile_huber(quantiles(q), jnp.asarray(nodes), weight=weight, kappa=kappa)
        return jax.grad(loss)(last)

    around = jax.vmap(slope)(jnp.asarray(minimiser) + jnp.asarray([-2e-3, 2e-3]))
    assert around[0] < 0 < around[1]


def test_the_quantile_loss_by_hand(x64):
    quantiles, target = np.asarray([-0.4, 2.0, 0.3]), np.asarray([0.5, -3.0])
    expected = 0.0
    for i, q in enumerate(quantiles):
        for y, share in zip(target, (0.2, 0.8), strict=True):
            e = y - q
            huber = e**2 / 2 if abs(e) <= 0.7 else 0.7 * (abs(e) - 0.35)
            expected += share * abs((i + 0.5) / 3 - (e < 0)) * huber / 0.7
    weight = jnp.asarray([0.2, 0.8])
    found = quantile_huber(jnp.asarray(quantiles), jnp.asarray(target), weight=weight, kappa=0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    even = quantile_huber(jnp.asarray(quantiles), jnp.asarray(target), kappa=0.7)
    half = quantile_huber(jnp.asarray(quantiles), jnp.asarray(target), weight=weight * 0 + 0.5, kappa=0.7)
    np.testing.assert_allclose(even, half, rtol=1e-12)


def test_errors_of_an_ensemble(x64):
    """Each member's own, of one goal; of a number and of a law; and what lies beyond the atoms."""
    logits = jax.random.normal(KEY, (2, 11))
    said = CategoricalValue(jax.nn.log_softmax(logits), jnp.broadcast_to(jnp.asarray(ATOMS), (2, 11)))
    goal = Points(jnp.asarray([0.1, 3.0]), jnp.asarray([0.75, 0.25]))
    errors, metrics = categorical_error()(said, goal)
    target = 0.75 * np.eye(11)[5] / 2 + 0.75 * np.eye(11)[6] / 2 + 0.25 * np.eye(11)[-1]
    np.testing.assert_allclose(errors, -said.log_probabilities @ target, atol=1e-12)
    assert metrics["outside"] == 0.25
    errors, metrics = categorical_error(width=0.75)(said, goal)
    target = hl_gauss(goal.mean, jnp.asarray(ATOMS))
    np.testing.assert_allclose(errors, -said.log_probabilities @ target, atol=1e-12)
    assert metrics["outside"] == 0.0
    rewarded, _ = categorical_error(entropy_weight=0.1)(said, jnp.asarray(1.0))
    law = jnp.exp(said.log_probabilities)
    bonus = 0.1 * jnp.sum(law * said.log_probabilities, axis=1)
    np.testing.assert_allclose(rewarded, -said.log_probabilities[:, -1] + bonus, atol=1e-12)
    own = Points(jnp.stack([jnp.full(1, 0.0), jnp.full(1, 3.0)]), jnp.ones((2, 1)))  # one for each
    errors, metrics = categorical_error()(said, own)
    np.testing.assert_allclose(
        errors, [-said.log_probabilities[0, 5], -said.log_probabilities[1, -1]], rtol=1e-9
    )
    assert metrics["outside"] == 0.5
    quantiles = QuantileValue(logits)
    errors, _ = quantile_error()(quantiles, goal)
    each = [quantile_huber(row, goal.value, weight=goal.weight) for row in logits]
    np.testing.assert_allclose(errors, each, rtol=1e-12)
    np.testing.assert_allclose([mean_of(goal), mean_of(3.0)], [0.825, 3.0])


def test_the_temporal_difference_of_a_law():
    """`bellman` reports means, and cuts the gradient of a target that is a law."""
    goal = lambda shift: Points(jnp.asarray([0.0, 2.0]) + shift, jnp.asarray([0.5, 0.5]))
    said = QuantileValue(jnp.asarray([[0.0, 4.0]]))

    def loss(shift):
        return bellman(lambda e, key: goal(shift), error=quantile_error())(lambda *_: said, EXAMPLE, KEY)

    slope, metrics = jax.grad(loss, has_aux=True)(0.5)
    assert (slope, metrics["value"], metrics["target"]) == (0.0, 2.0, 1.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: categorical_error(width=0.0), "width must be a finite number in (0, inf), got 0"),
        (
            lambda: categorical_error(entropy_weight=-1.0),
            "entropy_weight must be a finite number in [0, inf)",
        ),
        (lambda: quantile_error(kappa=0.0), "kappa must be a finite number in (0, inf), got 0"),
        (lambda: categorical_error()(jnp.zeros(2), jnp.zeros(())), "what the critic returns must be"),
        (lambda: quantile_error()(jnp.zeros(2), jnp.zeros(())), "what the critic returns must be"),
        (lambda: hl_gauss(jnp.zeros(()), jnp.zeros(1)), "the number of atoms must be an integer"),
        (
            lambda: bellman(lambda e, key: jnp.zeros(()))(
                lambda *_: QuantileValue(jnp.zeros((1, 2))), EXAMPLE, KEY
            ),
            "error must be given for a critic that returns a QuantileValue",
        ),
        (
            lambda: quantile_error()(QuantileValue(jnp.zeros(2)), jnp.zeros(2)),
            "target must return a scalar, got shape (2,)",
        ),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
