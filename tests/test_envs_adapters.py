"""Adapters against the packages they adapt, and the registry."""

import subprocess
import sys
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import GymnaxChain, pushed

from dpolicy.envs import FAMILIES, Brax, Gymnax, Vector, make, names

LIGHT = [name for name in names() if not name.startswith(("brax/", "playground/"))]


@pytest.mark.parametrize("name", LIGHT)
def test_sizes_are_as_listed_and_types_are_kept(getkey, name):
    env = make(name)
    family, task = name.split("/")
    assert env.spec == FAMILIES[family].tasks[task]
    state, obs = jax.eval_shape(env.reset, getkey())
    action = jnp.zeros(env.spec.action_size)
    new, next_obs, reward, terminated = jax.eval_shape(env.step, state, action, getkey())
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(new) == shapes(state)
    assert obs.shape == next_obs.shape == (env.spec.obs_size,)
    assert (reward.shape, terminated.shape, terminated.dtype) == ((), (), bool)
    assert obs.dtype == next_obs.dtype == reward.dtype == jnp.zeros(()).dtype


@pytest.mark.parametrize("name", [name for name in LIGHT if not name.startswith("bandit/")])
def test_runs_in_double_precision(x64, getkey, name):
    vector = Vector(make(name), 2)

    @jax.jit
    def run(key):
        one = lambda state, key: vector.step(state, jnp.ones((2, vector.env.spec.action_size)), key)
        return jax.lax.scan(one, vector.init(key), jax.random.split(key, 3))[1]

    step = run(getkey())
    assert step.next_obs.dtype == step.reward.dtype == jnp.float64
    assert bool(jnp.isfinite(step.reward).all())


def test_pendulum_is_gymnax_pendulum(getkey):
    import gymnax

    raw, params = gymnax.make("Pendulum-v1")
    env = make("gymnax/Pendulum-v1")
    key = getkey()
    state, obs = env.reset(key)
    raw_obs, raw_state = raw.reset_env(key, params)
    np.testing.assert_array_equal(obs, raw_obs)
    step, raw_step = eqx.filter_jit(env.step), jax.jit(raw.step_env)
    for torque in (0.5, -1.7, 2.0, 2.0):
        action = jnp.array([torque / 2.0])
        state, obs, reward, terminated = step(state, action, key)
        raw_obs, raw_state, raw_reward, _, _ = raw_step(key, raw_state, jnp.array([torque]), params)
        np.testing.assert_allclose(obs, raw_obs, rtol=1e-6)
        np.testing.assert_allclose(reward, raw_reward, rtol=1e-6)
        assert not terminated


def test_pendulum_ends_at_its_time_limit_only(getkey):
    vector = Vector(make("gymnax/Pendulum-v1", time_limit=3), 2)

    @jax.jit
    def run(key):
        one = lambda state, key: vector.step(state, jnp.zeros((2, 1)), key)
        return jax.lax.scan(one, vector.init(key), jax.random.split(key, 6))[1]

    step = run(getkey())
    np.testing.assert_array_equal(step.truncated[:, 0], [0, 0, 1, 0, 0, 1])
    assert not step.terminated.any()
    np.testing.assert_allclose(step.episode_return[2], step.reward[:3].sum(0), rtol=1e-5)


def test_gymnax_actions_are_clipped_and_parameters_are_passed_on(getkey):
    env = make("gymnax/MountainCarContinuous-v0")  # charges for the raw action
    state, _ = env.reset(getkey())
    np.testing.assert_array_equal(
        env.step(state, jnp.array([1.0]), getkey())[2], env.step(state, jnp.array([5.0]), getkey())[2]
    )
    strong = make("gymnax/Pendulum-v1", max_torque=4.0)
    np.testing.assert_array_equal(strong.high, [4.0])
    with pytest.raises(
        ValueError, match=r"parameter of gymnax/Pendulum-v1 must be one of .* Did you mean max_torque"
    ):
        make("gymnax/Pendulum-v1", max_torq=4.0)


def test_gymnax_needs_continuous_actions():
    import gymnax

    with pytest.raises(ValueError, match="must have a bounded, continuous action space"):
        Gymnax(*gymnax.make("CartPole-v1"))


class Space(NamedTuple):
    low: Any = -1.0
    high: Any = 1.0
    shape: Any = (2,)
    dtype: Any = jnp.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": jnp.int32}, "must have actions that are real numbers, not integers, got Space"),
        ({"shape": (2, 2)}, "must have actions that are vectors, of one dimension, got Space"),
        ({"shape": ()}, "must have actions that are vectors, of one dimension, got Space"),
        ({"low": np.zeros(3)}, "must have actions that are vectors, of one dimension, got Space"),
        ({"low": -np.inf}, "must have a bounded, continuous action space, got Space"),
        ({"high": "b"}, "must have a bounded, continuous action space, got Space"),
        ({"high": -2.0}, "must have a bounded, continuous action space, got Space"),
    ],
)
def test_gymnax_spaces_that_do_not_fit_are_refused_for_what_they_are(change, message):
    env = GymnaxChain()
    env.action_space = lambda params: Space(**change)
    with pytest.raises(ValueError, match=f"^gymnax/custom {message}"):
        Gymnax(env, GymnaxChain.Params(5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Brax(5), "brax/custom must have reset, step, action_size; 5 has no reset"),
        (lambda: Brax(Seen((8, 8, 3))), r"of brax/custom must be a vector, got the shape \[8, 8, 3\]"),
        (lambda: Brax(Seen(())), r"the observation of brax/custom must be a vector, got the shape \[\]"),
        (lambda: Brax(Seen(None)), "the observation of brax/custom must be a vector, got dict"),
        (
            lambda: Gymnax(5, GymnaxChain.Params(5)),
            "gymnax/custom must have reset_env, .*; 5 has no reset_env",
        ),
        (
            lambda: Gymnax(GymnaxChain(), None),
            "the parameters of gymnax/custom must have max_steps_in_episode",
        ),
        (
            lambda: Gymnax(GymnaxChain(), GymnaxChain.Params(2.5)),
            "max_steps_in_episode of gymnax/custom must be .*, got 2.5",
        ),
        (lambda: make("brax/hopper", foo=3), "option of brax/hopper must be one of backend, .*; got 'foo'"),
    ],
)
def test_what_an_adapter_cannot_use_is_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_brax_with_pooled_resets(getkey):
    vector = Vector(make("brax/inverted_pendulum", time_limit=3), 2, resets="pool", pool_size=2)
    assert vector.env.spec.obs_size == FAMILIES["brax"].tasks["inverted_pendulum"].obs_size
    last, step = pushed(vector, 4, getkey())
    np.testing.assert_array_equal(step.truncated[:, 0], [0, 0, 1, 0])
    assert not step.terminated.any()
    np.testing.assert_array_equal(step.episode_return[2], [3.0, 3.0])
    # The terminal observation is far from every start: the pole is pushed with all force.
    assert float(jnp.abs(step.next_obs[2]).max()) > 0.1
    pool = np.abs(np.asarray(last.pool[1]))
    assert pool.max() <= 0.01


class Charging:
    """Has the interface of a brax environment and its habits: charges for the raw action, starts with a reward that is
    a Python number, and writes Python numbers into the metrics of the state it is given.
    """

    class State(NamedTuple):
        obs: Any
        reward: Any
        done: Any
        metrics: Any

    action_size = 2

    def reset(self, key):
        return self.State(jnp.zeros(3), 0.0, 0.0, {"alive": jnp.zeros(())})

    def step(self, state, action):
        state.metrics.update(alive=1.0)
        done = jnp.where(state.obs[0] >= 1.0, 1.0, 0.0)
        return self.State(state.obs + 1.0, -jnp.sum(action**2), done, state.metrics)


class Seen(Charging):
    """Shows an array of that shape, or a dictionary."""

    def __init__(self, shape):
        self.shape = shape

    def reset(self, key):
        obs = {"place": jnp.zeros(3)} if self.shape is None else jnp.zeros(self.shape)
        return self.State(obs, 0.0, 0.0, {})


def test_brax_actions_are_clipped_and_done_means_terminated(getkey):
    env = Brax(Charging(), time_limit=2)
    assert (env.spec.obs_size, env.spec.action_size, env.spec.time_limit) == (3, 2, 2)
    start, _ = env.reset(getkey())
    state, obs, reward, terminated = env.step(start, jnp.array([5.0, -0.5]), getkey())
    assert float(start.metrics["alive"]) == 0.0
    assert float(state.metrics["alive"]) == 1.0
    np.testing.assert_array_equal(obs, 1.0)
    np.testing.assert_allclose(reward, -1.25)
    assert not terminated
    assert bool(env.step(state, jnp.zeros(2), getkey())[3])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "brax.envs", None)
    monkeypatch.setitem(sys.modules, "brax", None)
    with pytest.raises(
        ImportError, match=r'brax/hopper needs the package brax.*pip install "dpolicy\[brax\]"'
    ):
        make("brax/hopper")


def test_nothing_heavy_is_imported_before_it_is_needed():
    heavy = "[m for m in ('gymnax', 'brax', 'mujoco') if m in sys.modules]"
    code = f"import sys, dpolicy.envs as e; e.names(); print({heavy})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_family_with_one_task_may_be_named_alone():
    assert make("multigoal", bonus=3.0).spec == make("multigoal/multigoal").spec


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pendulum", "gymnax/Pendulum-v1"),
        ("gymnax/pendulum-v1", "gymnax/Pendulum-v1"),
        ("brax/hoper", "brax/hopper"),
        ("bandits/rings", "bandit/rings"),
        ("multi_goal", "multigoal/multigoal"),
        ("cheetah", "brax/halfcheetah"),
    ],
)
def test_unknown_names_get_suggestions(name, hint):
    with pytest.raises(ValueError, match=f"got '{name}'. Did you mean .*{hint}"):
        make(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "multigoal",
            {"bonuss": 1.0},
            "multigoal/multigoal takes action_cost, .*; got 'bonuss'. Did you mean bonus",
        ),
        ("bandit/rings", {"mean": 1.0}, "bandit/rings takes radii, std; got 'mean'"),
        ("probe/constant", {"limit": 1}, "probe/constant takes time_limit; got 'limit'"),
        ("brax/hopper", {"backend": "warp"}, "backend must be one of spring, generalized, positional, mjx"),
    ],
)
def test_unknown_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)
