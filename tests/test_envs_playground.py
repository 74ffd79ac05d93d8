"""The adapter of MuJoCo Playground, on a stand-in with its interface and on the package."""

import dataclasses
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import LENGTH, PlaygroundChain, State, pushed

from dpolicy.envs import FAMILIES, ActionRepeat, Playground, Vector, make

TASKS = FAMILIES["playground"].tasks
COMMIT = "1234abc"


class Diverging(PlaygroundChain):
    """Pays the raw action; its physics diverges where the action says so."""

    def step(self, state, action):
        new = super().step(state, action)
        broken = action[0] == -1.0
        spoilt = lambda x: jnp.where(broken, jnp.nan, x)
        return State(
            new.place,
            jax.tree.map(spoilt, new.obs),
            spoilt(jnp.sum(action)),
            jnp.where(broken, 1.0, new.done),
            new.info,
        )


def test_actions_are_clipped_and_the_policy_sees_its_group(getkey):
    env = Playground(Diverging())
    assert (env.spec.obs_size, env.spec.action_size, env.spec.time_limit) == (LENGTH, 1, 1000)
    state, obs = env.reset(getkey())
    assert obs.shape == (LENGTH,)
    _, _, reward, terminated = env.step(state, jnp.array([7.0]), getkey())
    assert (float(reward), bool(terminated)) == (1.0, False)
    privileged = Playground(Diverging(), observation="privileged_state")
    assert privileged.spec.obs_size == LENGTH + 1
    state, obs = privileged.reset(getkey())
    np.testing.assert_array_equal(obs[-1], state.place)


def test_the_state_that_a_step_is_given_stays_as_it_was(getkey):
    env = Playground(PlaygroundChain())
    state, _ = env.reset(getkey())
    before = np.array(state.info["rng"])
    new, *_ = env.step(state, jnp.zeros(1), getkey())
    np.testing.assert_array_equal(state.info["rng"], before)
    assert (np.asarray(new.info["rng"]) != before).any()


def test_a_true_end_keeps_its_observation_and_reward(getkey):
    env = Playground(Diverging())
    state, _ = env.reset(getkey())
    state = state._replace(place=jnp.asarray(LENGTH - 1))
    _, after, reward, terminated = env.step(state, jnp.array([0.5]), getkey())
    assert bool(terminated)
    np.testing.assert_array_equal(after, 0.0)
    assert float(reward) == 0.5


class Pixels(PlaygroundChain):
    def _groups(self, place):
        return {"pixels": jnp.zeros((2, 3, 3))}


def test_groups_that_do_not_fit_are_refused():
    match = (
        r"observation of playground/custom must be one of privileged_state, state; got 'stat'. Did you mean"
    )
    with pytest.raises(ValueError, match=match):
        Playground(PlaygroundChain(), observation="stat")
    with pytest.raises(
        ValueError, match=r"observation 'pixels' of .* must be a vector, got the shape \[2, 3, 3\]"
    ):
        Playground(Pixels(), observation="pixels")


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A package of that name: what it was asked to load, and a Menagerie without robots."""
    asked = []

    def load(task, config_overrides):
        asked.append((task, config_overrides))
        return PlaygroundChain()

    config = {"impl": "warp", "ctrl_dt": 0.1, "episode_length": 1000}
    modules = {
        name: ModuleType(name)
        for name in (
            "mujoco_playground",
            "mujoco_playground._src",
            "mujoco_playground._src.mjx_env",
            "mujoco",
        )
    }
    parent, _, inner, mujoco = modules.values()

    class Config(dict):
        __getattr__ = dict.__getitem__

    def get_default_config(task):
        return Config(config)

    parent.registry = SimpleNamespace(load=load, get_default_config=get_default_config)
    inner.MENAGERIE_PATH = tmp_path / "nowhere"
    inner.MENAGERIE_COMMIT_SHA = COMMIT
    mujoco.MjSpec = type("MjSpec", (), {"body": lambda self: None})
    epath = ModuleType("etils.epath")
    epath.Path = type(tmp_path)
    modules |= {"etils": ModuleType("etils"), "etils.epath": epath}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(asked=asked, inner=inner, config=config, mujoco=mujoco)


def test_a_task_is_loaded_with_the_physics_for_the_device(package, monkeypatch):
    make("playground/WalkerRun")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    make("playground/WalkerRun")
    make("playground/WalkerRun", impl="jax", ctrl_dt=0.2)
    assert package.asked == [
        ("WalkerRun", {"impl": "jax"}),
        ("WalkerRun", {"impl": "warp"}),
        ("WalkerRun", {"impl": "jax", "ctrl_dt": 0.2}),
    ]
    assert not hasattr(package.mujoco.MjSpec, "find_body")


def test_the_packages_own_repeat_and_length_are_kept_unless_others_are_given(package):
    pendulum = make("playground/PendulumSwingup")
    assert isinstance(pendulum, ActionRepeat)
    assert (pendulum.count, pendulum.spec.time_limit) == (4, 250)
    assert pendulum.spec.name == "playground/PendulumSwingup"
    assert make("playground/PendulumSwingup", action_repeat=1).spec.time_limit == 1000
    twice = make("playground/PendulumSwingup", action_repeat=2, time_limit=30, action_chunk=5)
    assert twice.spec.name == "playground/PendulumSwingup action_repeat=2 action_chunk=5"
    assert (twice.spec.time_limit, twice.env.spec.time_limit, twice.env.env.spec.time_limit) == (30, 150, 300)
    assert make("playground/WalkerRun", episode_length=77).spec.time_limit == 77


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"impl": "cuda"}, "impl must be one of jax, warp; got 'cuda'"),
        ({"ctrl_dtt": 1.0}, r"entry of playground/WalkerRun must be one of .*Did you mean ctrl_dt\?"),
        ({"time_limit": 0}, "time_limit must be an integer of at least 1, got 0"),
        (
            {"action_repeat": 3},
            "ActionRepeat needs a count that divides the time limit of playground/WalkerRun",
        ),
    ],
)
def test_bad_options_are_refused(package, options, message):
    with pytest.raises(ValueError, match=message):
        make("playground/WalkerRun", **options)


def test_a_task_without_a_choice_of_physics(package):
    del package.config["impl"]
    make("playground/WalkerRun")
    assert package.asked == [("WalkerRun", {})]
    with pytest.raises(ValueError, match="impl must be None for playground/WalkerRun"):
        make("playground/WalkerRun", impl="jax")


def test_missing_robots_are_refused_before_anything_is_loaded(package, tmp_path):
    sentence = (
        rf"needs the folder unitree_go1 of the MuJoCo Menagerie, and there is none in .*nowhere: .*{COMMIT}"
    )
    with pytest.raises(ValueError, match=sentence):
        make("playground/Go1Getup")
    # What an interrupted download leaves is a folder, too.
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(ValueError, match=sentence):
        make("playground/Go1Getup")
    assert package.asked == []
    (tmp_path / "copy" / "unitree_go1").mkdir(parents=True)
    make("playground/Go1Getup", menagerie=tmp_path / "copy")
    assert tmp_path / "copy" == package.inner.MENAGERIE_PATH
    assert [task for task, _ in package.asked] == ["Go1Getup"]


def test_every_robot_has_a_folder():
    from dpolicy.envs.playground_envs import _FOLDERS, _ROBOTS

    for task in _ROBOTS:
        assert len([start for start in _FOLDERS if task.startswith(start)]) == 1, task


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    with pytest.raises(
        ImportError, match=r'playground/CheetahRun needs .*pip install "dpolicy\[playground\]"'
    ):
        make("playground/CheetahRun")


def test_the_tables_are_the_packages():
    import mujoco_playground as suites
    from mujoco_playground.config import dm_control_suite_params, locomotion_params, manipulation_params

    parts = {
        suites.dm_control_suite: dm_control_suite_params,
        suites.locomotion: locomotion_params,
        suites.manipulation: manipulation_params,
    }
    configs = {
        task: params.brax_ppo_config(task)
        for suite, params in parts.items()
        for task in suite.ALL_ENVS
        if task not in ("LeapCubeReorient", "PandaRobotiqPushCube")
    }
    assert set(configs) == set(TASKS)
    # Its table says 4 for "PendulumSwingUp", a name that it does not have.
    configs["PendulumSwingup"].action_repeat = 4
    lengths = {task: config.episode_length // config.action_repeat for task, config in configs.items()}
    assert lengths == {task: spec.time_limit for task, spec in TASKS.items()}


@pytest.mark.parametrize("task", ["ReacherEasy", "PendulumSwingup"])
def test_sizes_are_the_packages(task):
    assert make(f"playground/{task}").spec == TASKS[task]


def test_cartpole_runs_to_its_time_limit_and_starts_anew(getkey):
    vector = Vector(make("playground/CartpoleBalance", time_limit=3), 2, resets="pool", pool_size=2)
    last, step = pushed(vector, 4, getkey())
    np.testing.assert_array_equal(step.truncated, [[False] * 2, [False] * 2, [True] * 2, [False] * 2])
    assert not step.terminated.any()
    np.testing.assert_allclose(step.episode_return[2], step.reward[:3].sum(0), rtol=1e-6)
    assert bool(((step.reward > 0) & (step.reward <= 1)).all())
    # The cart (first number) is pushed to the right for three steps; starts are within a tenth of the middle.
    speed = np.asarray(step.next_obs[:, :, 3])
    assert (speed[2] > speed[0] + 0.1).all()
    assert (speed[3] < speed[2]).all()
    assert np.abs(np.asarray(last.pool[1])[:, 0]).max() <= 0.1


def test_a_batch_of_warps_states_has_rows_of_its_own(getkey):
    """Warp's contacts are one array for the whole batch; a state that carried them could not be reset by rows."""
    vector = Vector(make("playground/HopperHop", impl="warp"), 3, resets="pool", pool_size=2)
    state = jax.eval_shape(vector.init, getkey())
    assert {leaf.shape[0] for leaf in jax.tree.leaves(state.env)} == {3}
    actions = jax.ShapeDtypeStruct((3, 4), float)
    after, _ = jax.eval_shape(vector.step, state, actions, getkey())
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(after) == shapes(state)


class DataWarp(NamedTuple):
    """What the data of warp look like: named fields, some of them shared by the batch."""

    own: Any
    contact: Any

    @classmethod
    def fields(cls):
        return [SimpleNamespace(name=name) for name in cls._fields]


class Replaced(eqx.Module):
    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


class Data(Replaced):
    _impl: Any


class WarpState(Replaced):
    data: Any
    obs: Any
    reward: Any
    done: Any


def test_what_is_shared_by_the_batch_is_put_back_for_the_step(package, monkeypatch, getkey):
    blank = DataWarp(None, jnp.arange(5))
    types = ModuleType("mujoco.mjx.warp.types")
    types.DATA_NON_VMAP, types.DataWarp = {"contact", "of another version"}, DataWarp
    monkeypatch.setitem(sys.modules, "mujoco.mjx.warp.types", types)
    asked = []

    def make_data(model, impl, **sizes):
        asked.append((model, impl, sizes))
        return Data(blank)

    package.inner.make_data = make_data

    class Warp:
        action_size = 1
        mj_model = "a model"
        mjx_model = SimpleNamespace(impl=SimpleNamespace(value="warp"))
        _config: ClassVar = {"naconmax": 5, "ctrl_dt": 0.1}

        def reset(self, rng):
            data = Data(DataWarp(jnp.zeros(2), jnp.full(5, -1)))
            return WarpState(data, jnp.zeros(2), jnp.zeros(()), jnp.zeros(()))

        def step(self, state, action):
            found = state.data._impl
            own = found.own + found.contact.sum()
            return WarpState(Data(DataWarp(own, found.contact * 0)), own, action[0], jnp.zeros(()))

    vector = Vector(Playground(Warp()), 3, resets="pool", pool_size=2)
    state = vector.init(getkey())
    for expected in (10.0, 20.0):
        state, step = jax.jit(vector.step)(state, jnp.zeros((3, 1)), getkey())
        np.testing.assert_array_equal(step.next_obs, np.full((3, 2), expected))
    assert asked == [("a model", "warp", {"naconmax": 5})]
