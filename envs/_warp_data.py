"""MuJoCo Warp's data as an ordinary tree.

Its contacts and work space belong to a whole batch, not to one environment: under `vmap` these arrays have no axis of
copies, so rows of a batch cannot be picked and mixed, which resets do. They are made anew by every step, so a state can
do without them.
"""

import importlib
from typing import Any

import jax

from dpolicy.envs.adapt import foreign


def _is_warp(data: Any) -> bool:
    return type(getattr(data, "_impl", None)).__name__ == "DataWarp"


def without_shared(state: Any) -> Any:
    """The state of an environment without what its data share with the batch; other states as they are."""
    data = getattr(state, "data", None)
    if not _is_warp(data):
        return state
    inner = data._impl
    shared = importlib.import_module("mujoco.mjx.warp.types").DATA_NON_VMAP
    own = {field.name: getattr(inner, field.name) for field in inner.fields() if field.name not in shared}
    return state.replace(data=data.replace(_impl=own))


class SharedData:
    """Puts back what `without_shared` has taken away.

    Args:
        env: The bare environment of the package.
    """

    def __init__(self, env: Any):
        self._env = env
        self._blank: Any = None

    def _shared(self) -> dict[str, Any]:
        if self._blank is None:
            package = importlib.import_module("mujoco_playground._src.mjx_env")
            config, env = self._env._config, self._env
            sizes = {name: config[name] for name in ("naconmax", "naccdmax", "njmax") if name in config}
            # Made while a step is traced for the first time, kept for later ones: it must hold numbers, no tracers.
            with foreign(), jax.ensure_compile_time_eval():
                self._blank = package.make_data(env.mj_model, impl=env.mjx_model.impl.value, **sizes)._impl
        types = importlib.import_module("mujoco.mjx.warp.types")
        return {
            name: getattr(self._blank, name) for name in types.DATA_NON_VMAP if hasattr(self._blank, name)
        }

    def restored(self, state: Any) -> Any:
        """`state` with everything that the environment's `step` expects."""
        data = getattr(state, "data", None)
        inner = getattr(data, "_impl", None)
        if data is None or not isinstance(inner, dict):
            return state
        types = importlib.import_module("mujoco.mjx.warp.types")
        return state.replace(data=data.replace(_impl=types.DataWarp(**inner, **self._shared())))
