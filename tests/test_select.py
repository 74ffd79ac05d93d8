"""What must not count does not, also where it is not a number: 0 times nan is nan."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._select import weighed
from dpolicy._types import Transition
from dpolicy.fields import CosineVP, FunctionField, MeanField, RectifiedFlow
from dpolicy.losses import (
    add,
    advantage,
    batched,
    best,
    boltzmann,
    categorical_target,
    chain,
    clipped,
    gae,
    log_ratio,
    matching,
    mean_flow_matching,
    mix,
    perturb,
    posterior_mean,
    reverse_sample,
    smoothed_score,
    soft_value,
    td_target,
    tilt,
    uniform,
    weigh,
    weighted,
)
from dpolicy.losses.match import of_actions, start
from dpolicy.modes import by_group, shares

NAN, NO, KEY = jnp.nan, jnp.asarray(False), jax.random.key(0)
ENDS = jnp.asarray([False, True, False, False, True, False])
DEAD = jnp.zeros(6).at[4].set(NAN)
EXAMPLE = Transition(jnp.ones(2), jnp.asarray([0.3]), jnp.asarray(1.0), jnp.ones(2), NO, NO)


@pytest.mark.parametrize("dialect", ["exact", "rsl", "brax"])
def test_the_successor_of_a_terminal_state_may_be_anything(dialect):
    zeros = jnp.zeros(6)
    found, returns = gae(
        zeros + 1, zeros, DEAD, ENDS, ENDS & False, discount=0.99, trace=0.95, dialect=dialect
    )
    np.testing.assert_allclose(returns, [1.9405, 1, 2.8250, 1.9405, 1, 1], rtol=2e-5)
    # Brax does not multiply the first hop by the trace.
    expected = [1.99, 1, 2.9211, 1.99, 1, 1] if dialect == "brax" else returns
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("dialect", ["rsl", "brax"])
def test_nor_is_that_of_a_truncated_one_read_where_the_dialect_leaves_it_out(dialect):
    values = jnp.asarray([0.5, -1.0, 0.3, 2.0, 0.7, -0.4])

    def at(successor):
        later = jnp.asarray([0.1, 0.2, 1.3, 0.4, successor, 0.6])
        return gae(values + 1, values, later, ENDS & False, ENDS, discount=0.9, trace=0.8, dialect=dialect)

    for dead, sound in zip(at(NAN), at(3.0), strict=True):
        np.testing.assert_array_equal(dead, sound)
        assert jnp.all(jnp.isfinite(dead))


def test_a_reward_that_brax_masks_may_be_anything():
    zeros = jnp.zeros(6)
    found, _ = gae(1 + DEAD, zeros, zeros, ENDS & False, ENDS, discount=0.9, trace=0.8, dialect="brax")
    assert jnp.all(jnp.isfinite(found)) and found[4] == 0


def test_what_is_discounted_by_zero_does_not_count():
    assert td_target(jnp.asarray(2.0), NO, jnp.asarray(NAN), 0.0) == 2
    later = jnp.full(6, NAN)
    found, _ = gae(jnp.ones(6), jnp.zeros(6), later, ENDS, NO & ENDS, discount=0.0, trace=0.95)
    np.testing.assert_array_equal(found, np.ones(6))


def test_the_law_of_a_terminal_state_may_be_anything():
    law = jnp.full(3, NAN)
    found = categorical_target(law, jnp.asarray(0.5), ~NO, 0.9, low=0.0, high=2.0)
    np.testing.assert_allclose(found, [0.5, 0.5, 0], rtol=1e-6)


def test_a_weight_of_zero_keeps_value_and_gradient_finite():
    value = jnp.asarray([1.0, NAN, jnp.inf, 2.0])
    weight = jnp.asarray([3.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(weighed(weight, value), [3, 0, 0, 0])
    gradients = jax.grad(lambda w, v: jnp.sum(weighed(w, v)), argnums=(0, 1))(weight, value)
    np.testing.assert_array_equal(gradients[0], [1, 0, 0, 2])
    np.testing.assert_array_equal(gradients[1], weight)


SCHEDULE = CosineVP()


def field(scale):
    return FunctionField(
        lambda x, t, obs: scale * x * obs[0], schedule=SCHEDULE, prediction="noise", action_size=1
    )


def spoiled(*, point=True):
    """Three noised candidates, of which the second weighs nothing and is given numbers that are none."""

    def transform(example, match, key):
        noised = chain(lambda *_: of_actions(jnp.asarray([[0.2], [-0.4], [0.6]])), perturb(SCHEDULE))
        match = noised(example, match, key)
        bad = jnp.asarray([[0.0], [NAN], [0.0]])
        return dataclasses.replace(
            match,
            weight=jnp.asarray([0.5, 0.0, 0.25]),
            x=match.x + bad if point else match.x,
            t=match.t + bad[:, 0] if point else match.t,
            target=jax.tree.map(lambda part: part + bad, match.target),
        )

    return transform


def kept(transform):
    """The same without the one that weighs nothing."""

    def shorter(example, match, key):
        match, rows = transform(example, match, key), jnp.asarray([0, 2])
        few = jax.tree.map(
            lambda leaf: leaf[rows], (match.action, match.x, match.t, match.target, match.weight)
        )
        return dataclasses.replace(
            match, **dict(zip(("action", "x", "t", "target", "weight"), few, strict=True))
        )

    return shorter


@pytest.mark.parametrize("point", [True, False])
@pytest.mark.parametrize("rule", ["uniform", "noise_variance"])
def test_candidates_without_weight_do_not_enter_a_matching_loss(point, rule):
    def measured(transform):
        loss = matching(transform, time_weight=rule, huber=0.3)
        return jax.value_and_grad(lambda scale: loss(field(scale), EXAMPLE, KEY)[0])(0.7)

    found, expected = measured(spoiled(point=point)), measured(kept(spoiled(point=point)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert jnp.isfinite(matching(spoiled())(field(0.7), EXAMPLE, KEY)[1]["target"])


def test_a_time_without_weight_does_not_enter_a_matching_loss():
    def transform(example, match, key):
        match = chain(lambda *_: of_actions(jnp.asarray([[0.2], [-0.4]])), perturb(SCHEDULE))(
            example, match, key
        )
        bad = jnp.asarray([[NAN], [0.0]])
        return dataclasses.replace(match, target=jax.tree.map(lambda part: part + bad, match.target))

    loss = matching(transform, time_weight=lambda schedule, t: jnp.asarray([0.0, 1.0]))
    found = jax.value_and_grad(lambda scale: loss(field(scale), EXAMPLE, KEY)[0])(0.7)
    assert np.all(np.isfinite(found)) and found[0] > 0


def test_an_example_without_weight_may_hold_anything():
    """Its observation too: a padded window, or the start of a copy that has diverged."""
    dead = dataclasses.replace(EXAMPLE, obs=jnp.full(2, NAN))
    transform = lambda *args: dataclasses.replace(perturb(SCHEDULE)(*args), weight=jnp.zeros(1))
    loss = matching(transform)
    assert jax.value_and_grad(lambda scale: loss(field(scale), dead, KEY)[0])(0.7) == (0, 0)
    mean = mean_flow_matching(
        lambda *args: dataclasses.replace(perturb(RectifiedFlow())(*args), weight=jnp.zeros(1))
    )
    network = MeanField(2, 1, schedule=RectifiedFlow(), hidden=(4,), embedding="cos_sin", key=KEY)
    value, gradient = jax.value_and_grad(lambda bias: mean(shifted(network, bias), dead, KEY)[0])(jnp.ones(1))
    assert value == 0 and gradient == 0


def shifted(network, bias):
    return eqx.tree_at(lambda n: n.mlp.layers[-1].bias, network, bias)


def test_masked_examples_do_not_enter_the_mean_of_a_weighted_loss():
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), EXAMPLE)
    batch = dataclasses.replace(batch, obs=jnp.asarray([[2.0, 0.0], [NAN, jnp.inf]]))

    def square(model, example, key):
        return jnp.sum((model * example.obs) ** 2), {"loss": jnp.sum(example.obs)}

    loss = batched(weighted(lambda example: (jnp.sum(example.obs) == 2).astype(float), square))
    found = jax.value_and_grad(lambda model: loss(model, batch, KEY)[0])(3.0)
    np.testing.assert_allclose(found, (18, 12))


@pytest.mark.parametrize("traced", [True, False])
def test_a_term_whose_coefficient_is_zero_adds_nothing(traced):
    broken = lambda model, example, key: (jnp.sqrt(model - model) / 0 + jnp.log(-model), {})
    square = lambda model, example, key: (model**2, {})

    def found(coefficient):
        loss = add(kept=(2.0, square), broken=(coefficient, broken))
        return jax.value_and_grad(lambda model: loss(model, EXAMPLE, KEY)[0])(3.0)

    np.testing.assert_allclose((jax.jit(found) if traced else found)(0.0), (18, 12))
    assert np.all(np.isnan(found(1.0)))


def q(obs, action):
    """Not defined beyond .5."""
    return jnp.where(action[0] > 0.5, NAN, 2 * action[0])


def record(weight):
    return of_actions(jnp.asarray([[0.2], [0.9], [-0.4]]), jnp.asarray(weight), 3)


@pytest.mark.parametrize(
    ("transform", "weights"),
    [
        (boltzmann(q, 0.5), np.exp([0.8, -1.6]) * [0.5, 0.25] / (np.exp([0.8, -1.6]) @ [0.5, 0.25]) * 0.75),
        (boltzmann(q, 0.5, normalise=False), np.exp([0.8, -1.6]) * [0.5, 0.25]),
        (boltzmann(q, 0.5, normalise=False, rescale=True), np.exp([0, -2.4]) * [0.5, 0.25]),
        (advantage(q), [0.5 * 0.4, 0]),
        (weigh(lambda obs, action: 1 + q(obs, action)), [0.5 * 1.4, 0.25 * 0.2]),
    ],
)
def test_candidates_without_weight_may_have_any_value(transform, weights):
    found = transform(EXAMPLE, record([0.5, 0.0, 0.25]), KEY).weight
    np.testing.assert_allclose(found, [weights[0], 0, weights[1]], rtol=1e-6, atol=1e-7)


def test_the_best_is_none_whose_value_is_not_a_number_and_that_weighs_nothing():
    match = best(q)(EXAMPLE, record([0.5, 0.0, 0.25]), KEY)
    assert match.action[0, 0] == jnp.float32(0.2) and match.weight[0] == 1.5


def test_a_group_without_weight_keeps_none():
    match = record([0.0, 0.0, 0.0])
    for shape in ("exponential", "linear", "square"):
        np.testing.assert_array_equal(tilt(q, 0.5, shape=shape)(EXAMPLE, match, KEY).weight, np.zeros(3))


def test_a_branch_without_share_may_have_any_weight():
    spoil = lambda example, match, key: dataclasses.replace(match, weight=match.weight * NAN)
    match = mix((1.0, uniform(2)), (0.0, chain(uniform(1), spoil)))(EXAMPLE, start(EXAMPLE), KEY)
    np.testing.assert_array_equal(match.weight, [0.5, 0.5, 0])


@pytest.mark.parametrize("link", [posterior_mean(), smoothed_score(q, 0.5, noise_share=0.5, normalise=True)])
def test_proposals_without_weight_do_not_enter_a_mean(link):
    """Those beyond .5 weigh nothing, and what they would add is not a number."""

    def spoil(example, match, key):
        beyond = match.action[:, 0] > 0.5
        target = jax.tree.map(lambda part: jnp.where(beyond[:, None], NAN, part), match.target)
        return dataclasses.replace(match, target=target, weight=jnp.where(beyond, 0, match.weight))

    links = chain(perturb(SCHEDULE, draws=3), reverse_sample(SCHEDULE, 16), spoil, link)
    match = links(EXAMPLE, start(EXAMPLE), KEY)
    assert np.all(np.isfinite(match.target.noise)) and np.all(match.weight > 0)


def test_ratios_without_weight_do_not_enter_a_surrogate():
    example = dataclasses.replace(EXAMPLE, extras={"advantage": jnp.asarray(2.0), "log_prob": jnp.zeros(3)})
    likelihood = lambda model, example, key: jnp.stack([model, jnp.asarray(NAN), 2 * model])
    loss = clipped(log_ratio(likelihood), eps=0.2, weights=jnp.asarray([1.0, 0.0, 0.5]))
    found = jax.value_and_grad(lambda model: loss(model, example, KEY)[0])(0.0)
    np.testing.assert_allclose(found, (-1, -(2 + 2) / 3), rtol=1e-6)


def test_without_a_temperature_the_density_does_not_count():
    sample = lambda model, obs, key: (model * obs[:1], -jnp.inf * jnp.ones(()))
    loss = soft_value(sample, lambda obs, action: 3 * action[0], 0.0)
    assert loss(jnp.asarray(2.0), EXAMPLE, KEY)[0] == -6


def test_what_fills_up_a_block_spoils_no_other_group():
    """Five items in three groups, of which the last one's are not finite."""
    live = jnp.ones(3, bool)
    group = shares(live, 5)
    items = jnp.where(group == 2, NAN, 1.0 + jnp.arange(5))

    def total(models):
        return jnp.sum(jnp.where(group == 2, 0, by_group(lambda m, x: m * x**2, models, live, items)))

    gradient = jax.grad(total)(jnp.ones(3))
    square = (1.0 + np.arange(5)) ** 2
    np.testing.assert_allclose(gradient[:2], [np.sum(square[group == g]) for g in (0, 1)])
