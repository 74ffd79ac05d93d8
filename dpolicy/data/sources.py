"""Where data sets come from: a file of arrays, or the exact distribution of a bandit."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpolicy import _checks
from dpolicy._types import Number, Transition
from dpolicy.envs import Bandit, Environment

_REQUIRED = ("obs", "action")
_OPTIONAL = ("reward", "next_obs", "terminated", "truncated")


def exact_samples(env: Bandit, size: int, temperature: Number, *, seed: int = 0) -> Transition:
    """`size` one-step episodes of the exact Boltzmann policy exp(Q / temperature) / Z of a bandit.

    Raises:
        ValueError: for a size below 1 or a temperature that is not above zero.
    """
    _checks.integer("size", size)
    action = env.sample(jax.random.key(seed), size, temperature)
    zeros, yes = jnp.zeros((size, env.spec.obs_size)), jnp.ones(size, bool)
    return Transition(zeros, action, jax.vmap(env.energy)(action), zeros, yes, ~yes)


def load_npz(path: str | Path) -> Transition:
    """A data set from an .npz file.

    The file holds `obs` [n, o] and `action` [n, a] in [-1, 1]; and, for methods that learn values, `reward` [n],
    `next_obs` [n, o], `terminated` [n] and `truncated` [n] (booleans). What is missing is filled with zeros.

    Raises:
        ValueError: if the file is missing, is no such file, or its arrays are misshapen, not finite or out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"data must be an .npz file or 'exact', got {str(path)!r}, which does not exist.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {
                name: file[name] for name in (*_REQUIRED, *_OPTIONAL) if name in file.files
            }
    except (ValueError, OSError, AttributeError):
        raise ValueError(f"data must be an .npz file of numeric arrays, got {str(path)!r}.") from None
    for name in _REQUIRED:
        if name not in arrays or arrays[name].ndim != 2:
            raise ValueError(f"{path} must hold a two-dimensional array {name!r}.")
    size = len(arrays["action"])
    for name, array in arrays.items():
        if len(array) != size or not np.isfinite(array).all():
            raise ValueError(f"{name!r} in {path} must be finite and as long as 'action' ({size}).")
    if np.abs(arrays["action"]).max(initial=0.0) > 1 + 1e-6:
        raise ValueError(
            f"'action' in {path} must lie in [-1, 1]: map it from the environment's own bounds first."
        )
    zeros, no = np.zeros(size), np.zeros(size, bool)
    return Transition(
        jnp.asarray(arrays["obs"], float),
        jnp.asarray(arrays["action"], float),
        jnp.asarray(arrays.get("reward", zeros), float),
        jnp.asarray(arrays.get("next_obs", arrays["obs"]), float),
        jnp.asarray(arrays.get("terminated", no), bool),
        jnp.asarray(arrays.get("truncated", no), bool),
    )


def load(data: str, env: Environment, *, size: int, temperature: Number) -> Transition:
    """The data set that `data` names: "exact" samples of a bandit, or the path of an .npz file.

    Raises:
        ValueError: for "exact" in an environment that is no bandit, and as `load_npz` does.
    """
    if data != "exact":
        return load_npz(data)
    if not isinstance(env, Bandit):
        raise ValueError(f"data must be the path of an .npz file: {env.spec.name} is no bandit, got 'exact'.")
    return exact_samples(env, size, temperature)
