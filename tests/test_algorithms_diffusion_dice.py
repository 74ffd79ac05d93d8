"""Diffusion-DICE: what it samples with exact networks, its phases, and which network sees which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture
from smallest import SPEC, build, experience, updated

from dpolicy.algorithms import diffusion_dice
from dpolicy.blocks import critic_function, guided_policy
from dpolicy.learning import Parts
from dpolicy.losses import f_dice_conjugate, f_dice_weight

KEY = jax.random.key(0)


def test_guided_by_the_exact_energy_two_modes_have_the_ratios_shares():
    """Two equal modes of Q 0 and 1 at alpha = .5, where V = .42630 and the weights are .42630 and 1.57370."""
    nu = GaussianMixture([0.5, 0.5], [[-0.6, 0.2], [0.5, -0.3]], 0.1)
    policy = guided_policy(sampler_steps=60)
    schedule = policy.behaviour.schedule
    weights = f_dice_weight((jnp.array([0.0, 1.0]) - 0.42630) / 0.5)

    def energy(x, t, obs):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        logits = nu._log_components(x, alpha, alpha**2 * nu.stds**2 + sigma**2)
        return jnp.log(jax.nn.softmax(logits) @ weights)

    act = policy.acts()(Parts(behaviour=nu.field(schedule), energy=energy, target=lambda obs, a: a))
    action = jax.jit(jax.vmap(act, in_axes=(None, 0)))(jnp.zeros(1), jax.random.split(KEY, 4_000))
    better = action[:, 0] > -0.05
    np.testing.assert_allclose(jnp.mean(better), weights[1] / 2, atol=0.025)
    np.testing.assert_allclose(jnp.mean(action[better], axis=0), [0.5, -0.3], atol=0.02)
    np.testing.assert_allclose(jnp.mean(action[~better], axis=0), [-0.6, 0.2], atol=0.02)


@pytest.fixture(scope="module")
def steps():
    """Two updates, of which the first fits the behaviour and the second all others."""
    algorithm = build(
        "diffusion_dice",
        learning_rate=1e-2,
        energy_learning_rate=1e-2,
        critic_learning_rate=1e-2,
        target_rate=0.3,
        temperature=0.2,
    )
    state = algorithm.init(KEY, SPEC)
    batch = experience(algorithm, state, jax.random.key(1))
    step = jax.jit(lambda state, key: updated(algorithm, state, batch, key))
    first, early = step(state, jax.random.key(2))
    second, late = step(first, jax.random.key(3))
    return batch, (state, first, second), (early, late)


def moved(before, after):
    leaves = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(not np.array_equal(a, b) for a, b in leaves if jnp.issubdtype(a.dtype, jnp.floating))


def test_the_behaviour_is_fitted_first_and_then_frozen(steps):
    _, (start, first, second), (early, late) = steps
    names = ("behaviour", "value", "critic", "target", "energy")
    each = lambda a, b: [moved(getattr(a, name), getattr(b, name)) for name in names]
    assert each(start, first) == [True, False, False, False, False]
    assert each(first, second) == [False, True, True, True, True]
    assert [early[f"{name}/due"] for name in names] == [1, 0, 0, 0, 0]
    assert [late[f"{name}/due"] for name in names] == [0, 1, 1, 1, 1]
    assert diffusion_dice(behaviour_updates=20).phases == 20  # what a run must be longer than


def test_each_network_sees_what_those_before_it_have_left(steps):
    """V the old targets, the critics the new V, the energy's weights the new targets and the new V; alpha is .2."""
    batch, (_, first, second), (_, late) = steps
    lower = lambda s: jax.vmap(critic_function(s.target))(batch.obs, batch.action)
    old = jax.vmap(first.value)(batch.obs)
    cost = f_dice_conjugate((lower(first) - old) / 0.2) + old / 0.2
    np.testing.assert_allclose(late["value/loss"], jnp.mean(cost), rtol=1e-5)
    follows = jnp.where(batch.terminated, 0.0, jax.vmap(second.value)(batch.next_obs))
    np.testing.assert_allclose(late["critic/target"], jnp.mean(batch.reward + 0.99 * follows), rtol=1e-5)
    u = (lower(second) - jax.vmap(second.value)(batch.obs)) / 0.2
    np.testing.assert_allclose(
        late["energy/weight"], jnp.mean(jnp.minimum(f_dice_weight(u), 100.0)), rtol=1e-5
    )


def test_further_critics_choose_where_there_are_any():
    """They have the targets of the others, and the largest of their mean is taken, whatever the target critics say."""
    algorithm = build("diffusion_dice", selection_critics=3)
    state = algorithm.init(KEY, SPEC)
    assert state.selection.size == 3 and state.critic.size == 2
    obs = jnp.ones(SPEC.obs_size)

    @jax.jit
    def act(selection, target, keys):
        one = lambda key: algorithm.act(
            Parts(state, selection=selection, target=target), obs, key, "evaluate"
        )[0]
        return jax.vmap(one)(keys)

    keys, other = jax.random.split(jax.random.key(1), 16), algorithm.init(jax.random.key(7), SPEC)
    chosen = act(state["selection"], state["target"], keys)
    np.testing.assert_array_equal(chosen, act(state["selection"], other["target"], keys))
    assert np.any(chosen != act(other["selection"], state["target"], keys))


def test_what_has_no_effect_is_refused():
    for setting in ({"selection_critics": 2}, {"selection_temperature": 1.0}):
        name = next(iter(setting))
        with pytest.raises(ValueError, match=f"{name} must be None for one candidate"):
            diffusion_dice(candidates=1, evaluation_candidates=1, **setting)
    with pytest.raises(ValueError, match="selection_critics must be None for gaussian critics"):
        diffusion_dice(selection_critics=2, critic="gaussian")
