"""Noise of exploration that is held: the law of how long, whose keys, in any policy, and in a run that is cut short."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.algorithm import Algorithm
from dpolicy.algorithms import fast_td3, sac, sdac
from dpolicy.envs import make
from dpolicy.train import HeldKeys, ReturnScale, off_policy
from dpolicy.train.checkpoint import Checkpoints

KEY = jax.random.key(0)
SETTINGS: dict[str, Any] = {"batch_size": 2, "replay_size": 120, "evaluation_episodes": 1}


def drawing():
    """Its action is a draw by its key, whatever it sees; it learns nothing."""
    return Algorithm(
        "drawing",
        "off_policy",
        lambda key, spec: {"count": jnp.zeros((), jnp.int32)},
        lambda state, obs, key, mode: (jax.random.uniform(key, (1,)), {}),
        lambda state, batch, key: (state, {"loss": jnp.zeros(()), "grad_norm": jnp.zeros(())}),
    )


def runs_of(values):
    """Lengths of the runs of equal values that begin and end within, one list for all columns."""
    lengths = []
    for column in values.T:
        ends = np.flatnonzero(np.diff(column)) + 1
        lengths.extend(np.diff(ends))
    return np.asarray(lengths)


def test_the_law_of_how_long_and_whose_keys():
    """P(k) = k^-2 / H with H = 1 + 1/4 + 1/9 + 1/16; a key is one environment's, and comes once."""

    def step(held, key):
        held = held.renewed(jax.random.split(key, 64), 4, 2.0)
        return held, jax.vmap(lambda k: jax.random.bits(k))(held.keys)

    held = HeldKeys.start(KEY, 64)
    drawn = np.asarray(jax.jit(lambda h, k: jax.lax.scan(step, h, k)[1])(held, jax.random.split(KEY, 600)))
    lengths = runs_of(drawn)
    assert lengths.max() == 4
    law = np.arange(1, 5) ** -2.0
    found = np.bincount(lengths, minlength=5)[1:] / len(lengths)
    np.testing.assert_allclose(found, law / law.sum(), atol=0.008)  # three deviations of 26,000 lengths
    changes = 64 + np.count_nonzero(np.diff(drawn, axis=0))
    assert len(np.unique(drawn)) == changes


def test_a_run_holds_its_noise_and_resumes_to_the_same_bits(tmp_path):
    """Two seeds, three environments; the state through a checkpoint goes on as the one that was never saved."""
    run = off_policy(
        drawing(),
        make("probe/action"),
        num_envs=3,
        warmup=6,
        evaluation_interval=54,
        noise_repeats=3,
        **SETTINGS,
    )
    init, step = jax.jit(jax.vmap(run.init)), jax.jit(jax.vmap(run.step))
    begun = init(jax.random.split(KEY, 2))
    first, _ = step(begun)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, first, {})
    restored, _ = checkpoints.restore(first)
    ended, again = step(first)[0], step(restored)[0]
    raw = lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    for left, right in zip(*map(jax.tree.leaves, (ended, again)), strict=True):
        np.testing.assert_array_equal(raw(left), raw(right))
    actions = ended.experience.replay.data.action[:, 6 : 6 + 2 * 54, 0].reshape(2, 36, 3)
    for seed in actions:
        lengths = runs_of(seed)
        assert lengths.max() <= 3 < 10 < np.count_nonzero(lengths > 1)
    # Across the end of a call too, which is between steps 17 and 18.
    assert np.any(np.asarray(first.experience.held.left) > 0)
    assert len(np.unique(actions)) == 6 + np.count_nonzero(np.diff(actions, axis=1))
    assert off_policy(drawing(), make("probe/action"), **SETTINGS, warmup=6).init(KEY).experience.held is None


@pytest.mark.parametrize("recipe", [sac, fast_td3, sdac], ids=lambda recipe: recipe.__name__)
def test_a_key_is_the_noise_of_any_policy(recipe):
    """The same key, another state: a Gaussian's own noise, noise added to an action, a chain's are drawn again."""
    made = recipe(hidden=(8,), critic_hidden=(8,), **({"sampler_steps": 2} if recipe is sdac else {}))
    state = made.init(KEY, make("probe/action").spec)
    act = jax.jit(lambda obs, key: made.act(state, obs, key, "explore", 1.0)[0])
    size = make("probe/action").spec.obs_size
    obs, other = jnp.ones(size), jnp.ones(size) * 1.001
    one, two = jax.random.split(KEY)
    assert act(obs, one) == act(obs, one) != act(obs, two)
    assert abs(act(obs, one) - act(other, one)).max() < 0.1 * abs(act(obs, one) - act(obs, two)).max()


def test_rewards_by_the_returns_seen():
    """g of two environments by hand, one of which ends; the deviation of all g, or the largest over the bound."""
    rewards, done = jnp.asarray([[1.0, -2.0], [3.0, 1.0], [0.5, 4.0]]), jnp.asarray([[False, True]] * 3)
    scale = ReturnScale.start(2)
    for reward, last in zip(rewards, done, strict=True):
        scale = scale.update(reward, last, 0.5)
    seen = np.asarray([1, 3.5, 2.25, -2, 1, 4])
    np.testing.assert_allclose(scale.returns, [2.25, 0])
    np.testing.assert_allclose(scale.scale(5.0), np.std(seen), rtol=1e-6)
    np.testing.assert_allclose(scale.scale(1.0), 4.0)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"noise_repeats": 0}, "noise_repeats must be"),
        ({"noise_exponent": -1.0}, "noise_exponent must be"),
        ({"noise_exponent": 1.0}, "noise_exponent needs noise_repeats above 1, got 1.0 without."),
        ({"return_bound": 0.0}, "return_bound must be"),
        ({"return_bound": 2.0}, "return_bound needs a reward_discount, got 2.0 without."),
        ({"reward_discount": 1.5}, "reward_discount must be"),
    ],
)
def test_what_is_refused(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        off_policy(drawing(), make("probe/action"), **SETTINGS, warmup=6, **setting)
