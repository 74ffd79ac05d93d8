"""Adapter for MuJoCo Playground: its bare environments, without its training wrappers.

Those wrappers lose the terminal observation, and one of them resets the flag that tells a time limit from an end.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation, Scalar
from dpolicy.envs._warp_data import SharedData, without_shared
from dpolicy.envs.adapt import ended, foreign, has_parts, like, making, require, strong, vector_size
from dpolicy.envs.protocol import Environment, Spec, clip_action
from dpolicy.envs.wrappers import ActionRepeat

# Sizes by suite: (observation "state", action). Two manipulation tasks are missing, LeapCubeReorient and
# PandaRobotiqPushCube: their `step` calls a signature that JAX has removed (playground 0.2).
_CONTROL = {
    "AcrobotSwingup": (6, 1),
    "AcrobotSwingupSparse": (6, 1),
    "BallInCup": (8, 2),
    "CartpoleBalance": (5, 1),
    "CartpoleBalanceSparse": (5, 1),
    "CartpoleSwingup": (5, 1),
    "CartpoleSwingupSparse": (5, 1),
    "CheetahRun": (17, 6),
    "FingerSpin": (9, 2),
    "FingerTurnEasy": (12, 2),
    "FingerTurnHard": (12, 2),
    "FishSwim": (24, 5),
    "HopperHop": (15, 4),
    "HopperStand": (15, 4),
    "HumanoidRun": (67, 21),
    "HumanoidStand": (67, 21),
    "HumanoidWalk": (67, 21),
    "PendulumSwingup": (3, 1),
    "PointMass": (4, 2),
    "ReacherEasy": (6, 2),
    "ReacherHard": (6, 2),
    "SwimmerSwimmer6": (25, 5),
    "WalkerRun": (24, 6),
    "WalkerStand": (24, 6),
    "WalkerWalk": (24, 6),
}
_ROBOTS = {
    "ApolloJoystickFlatTerrain": (112, 32),
    "BarkourJoystick": (465, 12),
    "BerkeleyHumanoidJoystickFlatTerrain": (52, 12),
    "BerkeleyHumanoidJoystickRoughTerrain": (52, 12),
    "G1JoystickFlatTerrain": (103, 29),
    "G1JoystickRoughTerrain": (103, 29),
    "Go1Footstand": (45, 12),
    "Go1Getup": (42, 12),
    "Go1Handstand": (45, 12),
    "Go1JoystickFlatTerrain": (48, 12),
    "Go1JoystickRoughTerrain": (48, 12),
    "H1InplaceGaitTracking": (186, 19),
    "H1JoystickGaitTracking": (113, 19),
    "Op3Joystick": (147, 20),
    "SpotFlatTerrainJoystick": (81, 12),
    "SpotGetup": (30, 12),
    "SpotJoystickGaitTracking": (69, 12),
    "T1JoystickFlatTerrain": (85, 23),
    "T1JoystickRoughTerrain": (85, 23),
    "AeroCubeRotateZAxis": (14, 7),
    "AlohaHandOver": (83, 14),
    "AlohaSinglePegInsertion": (82, 14),
    "LeapCubeRotateZAxis": (32, 16),
    "PandaOpenCabinet": (55, 8),
    "PandaPickCube": (66, 8),
    "PandaPickCubeCartesian": (70, 3),
    "PandaPickCubeOrientation": (66, 8),
}
# The folder of the MuJoCo Menagerie that a robot's models are read from, by the start of the task's name.
_FOLDERS = {
    "Aero": "tetheria_aero_hand_open",
    "Aloha": "aloha",
    "Apollo": "apptronik_apollo",
    "Barkour": "google_barkour_vb",
    "Berkeley": "berkeley_humanoid",
    "G1": "unitree_g1",
    "Go1": "unitree_go1",
    "H1": "unitree_h1",
    "Leap": "leap_hand",
    "Op3": "robotis_op3",
    "Panda": "franka_emika_panda",
    "Spot": "boston_dynamics_spot",
    "T1": "booster_t1",
}
# Control steps in an episode, where they are not 1000, and how often an action is repeated, where it is: the package's
# own numbers (`brax_ppo_config`). That of PendulumSwingup stands there under a misspelt name, which it never finds.
_EPISODES = {
    "AeroCubeRotateZAxis": 500,
    "AlohaHandOver": 250,
    "Go1Footstand": 500,
    "Go1Getup": 300,
    "Go1Handstand": 500,
    "LeapCubeRotateZAxis": 500,
    "PandaOpenCabinet": 150,
    "PandaPickCube": 150,
    "PandaPickCubeCartesian": 200,
    "PandaPickCubeOrientation": 150,
    "SpotGetup": 300,
}
_REPEATS = {"AlohaSinglePegInsertion": 2, "PendulumSwingup": 4}
TASKS = {
    task: Spec(f"playground/{task}", *sizes, _EPISODES.get(task, 1000) // _REPEATS.get(task, 1))
    for task, sizes in {**_CONTROL, **_ROBOTS}.items()
}
IMPLEMENTATIONS = ("jax", "warp")


class Playground(Environment):
    """An environment of MuJoCo Playground.

    Actions are clipped to [-1, 1], its own convention. It ends an episode only where the physics has diverged (or a
    robot has fallen); running out of time is not told by it at all.

    Args:
        env: The bare environment of the package.
        name: What the specification calls it.
        time_limit: Steps after which an episode is truncated.
        observation: Which group of a dictionary of observations the policy sees.

    Raises:
        ValueError: For an environment that lacks something, a group that there is not or one that is no vector.
    """

    spec: Spec
    env: Any = eqx.field(static=True)
    observation: str = eqx.field(static=True)
    shared: SharedData = eqx.field(static=True)

    def __init__(
        self,
        env: Any,
        *,
        name: str = "playground/custom",
        time_limit: int = 1000,
        observation: str = "state",
    ):
        has_parts(name, env, "reset", "step", "action_size")
        with foreign():
            obs = jax.eval_shape(lambda key: env.reset(jax.random.key_data(key)), jax.random.key(0)).obs
        groups = obs if isinstance(obs, Mapping) else {"state": obs}
        _checks.one_of(f"observation of {name}", observation, groups)
        size = vector_size(f"observation {observation!r} of {name}", groups[observation])
        self.spec = Spec(name, size, int(env.action_size), time_limit)
        self.env = env
        self.observation = observation
        self.shared = SharedData(env)

    def _seen(self, state: Any) -> Observation:
        obs = state.obs[self.observation] if isinstance(state.obs, Mapping) else state.obs
        return jnp.asarray(obs, float)

    def reset(self, key: Key) -> tuple[Any, Observation]:
        """The start of an episode: `(state, obs)`."""
        _checks.one_key(key, typed=True)
        with foreign():
            # Its tasks were written for keys without a type of their own.
            state = strong(without_shared(self.env.reset(jax.random.key_data(key))))
        return state, self._seen(state)

    def step(self, state: Any, action: Action, key: Key) -> tuple[Any, Observation, Scalar, Bool[Array, ""]]:
        """One transition: `(state, obs, reward, terminated)`; its noise comes from a key in the state."""
        # A copy, since its tasks write into the dictionaries of the state that they are given.
        copy = jax.tree.map(lambda leaf: leaf, state)
        with foreign():
            stepped = self.env.step(self.shared.restored(copy), clip_action(action))
            new = like(without_shared(stepped), state)
        obs, reward = self._seen(new), jnp.asarray(new.reward, float)
        return new, obs, reward, ended(new.done, obs, reward)


@contextlib.contextmanager
def _body_by_its_old_name() -> Iterator[None]:
    """`MjSpec.find_body`, for Reacher: it compares versions as text ("3.17" < "3.3"), and calls what is gone."""
    spec = require("mujoco", "playground", "playground").MjSpec
    if hasattr(spec, "find_body"):
        yield
        return
    spec.find_body = spec.body
    try:
        yield
    finally:
        del spec.find_body


def _check_menagerie(task: str, menagerie: str | Path | None) -> None:
    """Refuse a robot whose models are not there: the package would start to download them."""
    package = require("mujoco_playground._src.mjx_env", "playground", f"playground/{task}")
    if menagerie is not None:
        package.MENAGERIE_PATH = require("etils.epath", "playground", f"playground/{task}").Path(menagerie)
    (folder,) = [folder for start, folder in _FOLDERS.items() if task.startswith(start)]
    place = Path(str(package.MENAGERIE_PATH))
    if not (place / folder).is_dir():
        raise ValueError(
            f"playground/{task} needs the folder {folder} of the MuJoCo Menagerie, and there is none in {place}: clone "
            f"https://github.com/google-deepmind/mujoco_menagerie (commit {package.MENAGERIE_COMMIT_SHA}) to that "
            "place, or name a copy by the option menagerie=PATH."
        )


def build(
    task: str,
    *,
    impl: str | None = None,
    observation: str = "state",
    action_repeat: int | None = None,
    time_limit: int | None = None,
    menagerie: str | Path | None = None,
    **overrides: Any,
) -> Environment:
    """One of `TASKS`, as the package's own training sets it up: episode length and repeated actions included.

    Args:
        task: Its name.
        impl: Physics, "jax" or "warp"; by default warp on an NVIDIA GPU and jax elsewhere. Returns differ slightly
            between them.
        observation: Which group of observations the policy sees, where there are several ("state",
            "privileged_state").
        action_repeat: How often each action is executed; the task's own by default.
        time_limit: Steps after which an episode is truncated, each of `action_repeat` control steps.
        menagerie: A copy of the MuJoCo Menagerie, which locomotion and manipulation tasks read their robots from;
            by default where the package looks for it. For the whole process.
        overrides: Entries of the task's configuration, such as `ctrl_dt`.

    Raises:
        ImportError: Where the package is missing.
        ValueError: For an unknown task, implementation, group or entry, a count below 1, missing robot models, or
            entries that the package refuses.
    """
    _checks.one_of("task", task, TASKS)
    if impl is not None:
        _checks.one_of("impl", impl, IMPLEMENTATIONS)
    if time_limit is not None:
        _checks.integer("time_limit", time_limit)
    own_repeat = _REPEATS.get(task, 1)
    repeat = own_repeat if action_repeat is None else action_repeat
    _checks.integer("action_repeat", repeat)
    name = f"playground/{task}"
    registry = require("mujoco_playground", "playground", name).registry
    if task in _ROBOTS:
        _check_menagerie(task, menagerie)
    config = registry.get_default_config(task)
    given = dict(overrides)
    if "impl" in config:
        overrides["impl"] = impl or ("warp" if jax.default_backend() == "gpu" else "jax")
    elif impl is not None:
        raise ValueError(f"impl must be None for {name}, which has no choice of it, got {impl!r}.")
    for entry in overrides:
        _checks.one_of(f"entry of {name}", entry.split(".")[0], config)
    with _body_by_its_old_name(), making(name, given):
        env = registry.load(task, config_overrides=overrides)
    length = overrides.get("episode_length", config.episode_length)
    _checks.count("episode_length", length)
    steps = length if time_limit is None else time_limit * repeat
    adapted = Playground(env, name=name, time_limit=steps, observation=observation)
    if repeat == 1:
        return adapted
    return ActionRepeat(adapted, repeat, name=name if repeat == own_repeat else None)
