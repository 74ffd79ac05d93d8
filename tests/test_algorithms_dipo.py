"""DIPO: what is stored, what is rewritten, what is cloned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GaussianMixture
from transitions import experience

from dpolicy.algorithms import bc, dipo
from dpolicy.audit import objective
from dpolicy.blocks import SAMPLERS, critic_function, field_policy
from dpolicy.envs import MultiGoal
from dpolicy.fields import CosineVP
from dpolicy.learning import remembered
from dpolicy.losses import ascend, gradient_ascent, start
from dpolicy.samplers import langevin, mean_flow, noise_free, ode, sde
from dpolicy.train import Replay, off_policy

TINY = {"hidden": (8,), "critic_hidden": (8,), "sampler_steps": 2}


class Spec:
    obs_size = action_size = 2


def test_rewriting_rows_of_the_replay():
    replay = Replay.start({"x": jnp.zeros(()), "y": {"z": jnp.zeros(2)}}, 4)
    replay = replay.add({"x": jnp.arange(4.0), "y": {"z": jnp.zeros((4, 2))}})
    rows = jnp.asarray([2, 0, 2])
    new = {"z": jnp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
    written = replay.rewrite(rows, lambda item: item["y"], new)
    np.testing.assert_array_equal(written.data["x"], replay.data["x"])
    np.testing.assert_array_equal(written.data["y"]["z"], [[3, 4], [0, 0], [1, 2], [0, 0]])
    np.testing.assert_array_equal(written[rows]["y"]["z"], [[1, 2], [3, 4], [1, 2]])


def test_the_norm_of_all_gradients_is_bounded_together(x64):
    """Two examples whose gradients change at different rates, against Adam by hand on the pair."""
    values = lambda a: jnp.sum(jnp.asarray([[-1.0, -4.0], [-20.0, -1.0]]) * (a - 0.9) ** 4)
    begin = jnp.asarray([[0.1, -0.4], [0.5, 0.2]])
    q = lambda obs, action: jnp.sum(obs * (action - 0.9) ** 4)
    obs = jnp.asarray([[-1.0, -4.0], [-20.0, -1.0]])

    def climbed(bound):
        one = lambda obs, a: gradient_ascent(lambda a: q(obs, a), a, steps=6, rate=0.05, max_grad_norm=bound)
        return jax.vmap(one, axis_name="batch")(obs, begin)

    a, first, second = np.asarray(begin), 0.0, 0.0
    for i in range(1, 7):
        gradient = np.asarray(jax.grad(values)(jnp.asarray(a)))
        gradient = gradient * min(1.0, 3.0 / np.linalg.norm(gradient))
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        step = first / (1 - 0.9**i) / (np.sqrt(second / (1 - 0.999**i)) + 1e-5)
        a = np.clip(a + 0.05 * step, -1, 1)
    np.testing.assert_allclose(climbed(3.0), a, rtol=1e-10)
    np.testing.assert_allclose(climbed(1e9), climbed(None), rtol=1e-12)
    assert np.abs(climbed(3.0) - climbed(None)).max() > 1e-3


def test_the_transform_bounds_the_norm_too(x64, getkey):
    batch, bound = experience(getkey(), 3), 0.5
    q = lambda obs, action: jnp.sum(obs * action**3)
    link = ascend(q, steps=5, max_grad_norm=bound)
    one = lambda e: link(e, start(e), jax.random.key(0)).action[0]
    expected = lambda e: gradient_ascent(
        lambda a: q(e.obs, a), e.action, steps=5, rate=0.03, max_grad_norm=bound
    )
    run = lambda f: jax.vmap(f, axis_name="batch")(batch)
    np.testing.assert_allclose(run(one), run(expected), rtol=1e-12)


def test_only_the_improved_actions_of_drawn_rows_change(x64, getkey):
    """One step of everything: experience stays as it was; drawn rows hold the ascent under the critics' minimum."""
    algorithm = dipo(**TINY, ascent_steps=3, ascent_norm=None)
    program = off_policy(
        algorithm,
        MultiGoal(),
        num_envs=2,
        batch_size=8,
        replay_size=64,
        warmup=40,
        evaluation_interval=2,
        evaluation_episodes=1,
    )
    before = jax.jit(program.init)(getkey())
    after, _ = jax.jit(program.step)(before)
    old, new = before.experience.replay.data, after.experience.replay.data
    np.testing.assert_array_equal(old.extras["improved"], old.action)
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(old, name)[:40], getattr(new, name)[:40])
    q = critic_function(before.algorithm.critic)
    climb = lambda obs, a: gradient_ascent(lambda a: q(obs, a), a, steps=3, rate=0.03)
    climbed = np.asarray(jax.jit(jax.vmap(climb))(new.obs, new.action))[:42]
    stored, acted = np.asarray(new.extras["improved"])[:42], np.asarray(new.action)[:42]
    changed = np.any(stored != acted, axis=1)
    assert 3 <= changed.sum() <= 8
    np.testing.assert_allclose(stored[changed], climbed[changed], rtol=1e-9)
    np.testing.assert_array_equal(new.extras["improved"][42:], 0)
    # The next visit goes on from there.
    later = jax.jit(program.step)(after)[0].experience.replay.data
    both = np.any(np.asarray(later.extras["improved"])[:42] != stored, axis=1) & changed
    assert np.all(np.abs(np.asarray(later.extras["improved"])[:42] - acted)[both].max(axis=1) > 0.03)


def test_without_ascent_it_is_cloning(x64, getkey):
    policy = {"hidden": (8,), "schedule": "cosine", "prediction": "noise"}
    clone, ours = bc(**policy), dipo(**TINY, ascent_steps=0)
    key, batch = getkey(), experience(getkey())
    q = lambda obs, action: jnp.sum(action)

    @jax.jit
    def values(key, batch):
        actor, loss = objective(ours, ours.init(key, Spec), q)
        _, plain = objective(clone, clone.init(key, Spec), q)
        mean = lambda f: jax.vmap(lambda e, k: f(actor, e, k)[0])(batch, jax.random.split(key, 12))
        return mean(loss), mean(plain)

    np.testing.assert_allclose(*values(key, batch), rtol=1e-14)


def test_nothing_flows_from_the_actor_into_the_critic(x64, getkey):
    algorithm, batch = dipo(**TINY, ascent_steps=3), experience(getkey())
    example = jax.tree.map(lambda leaf: leaf[0], batch)

    def value(scale, key):
        state = algorithm.init(key, Spec)
        actor, loss = objective(algorithm, state, lambda obs, action: jnp.sum(jnp.sin(scale * action)))
        return loss(actor, example, key)[0]

    value, slope = jax.jit(jax.vmap(jax.value_and_grad(value), in_axes=(0, None)))(
        jnp.asarray([2.0, -2.0]), getkey()
    )
    np.testing.assert_array_equal(slope, 0)
    assert value[0] != value[1]


def test_it_is_told_what_it_lacks():
    for first, revise, message in (
        (lambda: {}, lambda s: None, r"start must be a function transition -> entries, got one of \(\)"),
        (
            lambda t: {},
            lambda s, e, k: {},
            r"revise must be a function seen -> \(\(example, key\) -> entries\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            remembered(first, revise)


def test_evaluation_draws_no_noise_on_the_way(getkey):
    """From one start x_1 every chain ends at the same action; in exploration they differ."""
    algorithm = dipo(**TINY)
    state, obs = jax.jit(lambda key: algorithm.init(key, Spec))(getkey()), jnp.ones(2)
    key, other = getkey(), getkey()
    draw = jax.jit(algorithm.act, static_argnums=3)
    actions = {
        mode: (draw(state, obs, key, mode)[0], draw(state, obs, other, mode)[0]) for mode in algorithm.modes
    }
    for first, second in actions.values():
        assert np.any(first != second)  # x_1 is random in both
        assert np.all(np.abs(first) <= 1)
    assert np.any(actions["explore"][0] != actions["evaluate"][0])


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_without_its_noise(x64, name):
    """Then an action is a function of x_1 alone. Without noise the SDE is the ODE, which keeps the variance."""
    field = GaussianMixture([1.0], [[0.3]], [0.5]).field(CosineVP(), "noise")
    sampler, obs = SAMPLERS[name](20, None), jnp.zeros(1)

    @jax.jit
    def draws(keys):
        at = lambda sampler: jax.vmap(lambda key: sampler(field, obs, key, start=jnp.ones(1))[0])(keys)
        return at(sampler), at(noise_free(sampler)), at(ode(steps=20))

    noisy, quiet, flow = draws(jax.random.split(jax.random.key(0), 2))
    assert (noisy[0] != noisy[1]) == (name in ("sde", "ddpm", "ddpm_posterior"))
    assert quiet[0] == quiet[1]
    if name not in ("sde", "ddpm", "ddpm_posterior"):
        np.testing.assert_array_equal(quiet, noisy)
    if name == "sde":
        np.testing.assert_allclose(quiet, flow, rtol=1e-12)


def test_noise_that_cannot_be_left_out_is_refused():
    assert isinstance(noise_free(mean_flow()), type(mean_flow()))
    assert noise_free(sde(eta=0.7)).eta == 0
    policy = field_policy(hidden=(8,))._replace(sample=langevin(steps=2))
    with pytest.raises(
        ValueError, match="must be made of ode, dpm_solver, mean_flow, sde, ddpm or ddim, got Predictor"
    ):
        _ = policy.quiet
