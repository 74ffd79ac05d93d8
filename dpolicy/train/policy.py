"""A trained policy as a function: from the directory of a run to actions, in two lines."""

import itertools
import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._files import as_path
from dpolicy._places import RunWarning
from dpolicy._types import Key
from dpolicy.algorithm import Algorithm
from dpolicy.envs import Environment
from dpolicy.train.building import make_algorithm
from dpolicy.train.configuration import changed_files, check_named, read_config
from dpolicy.train.evaluate import policy_of
from dpolicy.train.metrics_log import read_history
from dpolicy.train.naming import make_env
from dpolicy.train.normalise import Normaliser
from dpolicy.train.origin import newest_arrays
from dpolicy.train.program import TrainState


class TrainedPolicy:
    """A policy that a run has learned: `policy(obs)`, for one observation or any batch of them; see `load_policy`.

    It acts as in evaluation: the normaliser, the sampler and the selection rule (best of n) are part of it. It is
    compiled at its first call with each shape, and may be called within `jit`, `vmap` or `scan`.

    Attributes:
        env: Where it was trained, wrapped as it was: `env.spec` says how long observations and actions are.
        mode: How it acts, one of `modes`.
        modes: The ways in which it can act.
        seed: Which of the run's seeds it is.
        step: Steps that it was trained for.
        deterministic: Whether an observation decides the action, so that keys are of no consequence.
    """

    def __init__(self, algorithm: Algorithm, env: Environment, state: TrainState, *, mode: str, seed: int):
        self.env = env
        self.mode = mode
        self.modes = algorithm.modes
        self.seed = seed
        self.step = int(state.steps)
        self.deterministic = not _draws(algorithm, env, state, mode)
        self._algorithm = algorithm
        self._state = state
        self._calls = itertools.count()

    def __call__(self, obs: Any, key: Array | None = None) -> Float[Array, "*batch a"]:
        """The action for an observation, or one for each of a batch.

        Args:
            obs: Raw, as the environment gives it: an array `[o]` or `[..., o]`, of JAX or numpy, or numbers in lists.
            key: What a policy that draws (flows and diffusions, and Gaussians that explore) draws with: one key, which
                is split so that every row has a draw of its own, or a key for each row. Without, calls use
                fold_in(key(0), 0), fold_in(key(0), 1), ...: draws differ from call to call, and a fresh `load` draws
                the same again.

        Returns:
            Actions in [-1, 1], as the environment executes them: it maps that box to its own bounds.

        Raises:
            ValueError: For observations of another size, something that is no key, or, within `jit` and the like, no
                key where the policy draws: the draw would be compiled in.
        """
        obs = self._observations(obs)
        rows = obs.shape[:-1]
        if key is None:
            key = self._next_key(obs)
        elif not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            raise ValueError(f"key must be a key such as jax.random.key(0), got {key!r}.")
        if key.shape not in ((), rows):
            raise ValueError(
                f"key must be one key, or one for each of the observations {rows}, got shape {key.shape}."
            )
        return _actions(self._algorithm, self.mode, self._state, obs, key)

    def _observations(self, obs: Any) -> Array:
        size, name = self.env.spec.obs_size, self.env.spec.name
        try:
            array = jnp.asarray(obs)
            real = jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iub"
        except (TypeError, ValueError):
            raise ValueError(f"obs must be an array of numbers, got {obs!r}.") from None
        if not real or array.ndim == 0 or array.shape[-1] != size:
            raise ValueError(
                f"obs must be real numbers of shape [{size}] or [..., {size}] ({name}), got "
                f"{array.dtype}{list(array.shape)}."
            )
        return array.astype(float)

    def _next_key(self, obs: Array) -> Array:
        if self.deterministic:
            return jax.random.key(0)
        key = jax.random.fold_in(jax.random.key(0), next(self._calls))
        if isinstance(obs, jax.core.Tracer) or isinstance(key, jax.core.Tracer):
            raise ValueError(
                f"within jit, vmap or scan a policy that draws needs a key: policy(obs, key); {self.mode!r} draws."
            )
        return key


@partial(jax.jit, static_argnums=(0, 1))
def _actions(algorithm: Algorithm, mode: str, state: TrainState, obs: Array, key: Array) -> Array:
    """The actions of the policy, each row with a draw of its own, as the environment clips them."""
    act, rows = policy_of(algorithm, state, mode), obs.shape[:-1]
    if rows:
        keys = key if key.shape else jax.random.split(key, rows)
        flat = obs.reshape(math.prod(rows), obs.shape[-1])
        action = jax.vmap(act)(flat, keys.reshape(flat.shape[0]))
        action = action.reshape(*rows, action.shape[-1])
    else:
        action = act(obs, key)
    return jnp.clip(action, -1.0, 1.0)


def _draws(algorithm: Algorithm, env: Environment, state: TrainState, mode: str) -> bool:
    """Whether the action depends on the key: whether what follows from the key reaches it."""
    shape = jax.ShapeDtypeStruct((env.spec.obs_size,), float)
    traced = jax.make_jaxpr(policy_of(algorithm, state, mode))(shape, jax.random.key(0)).jaxpr
    touched = {traced.invars[1]}
    for equation in traced.eqns:
        if any(not hasattr(atom, "val") and atom in touched for atom in equation.invars):
            touched.update(equation.outvars)
    return any(not hasattr(atom, "val") and atom in touched for atom in traced.outvars)


def load_policy(directory: Path | str, *, seed: int | str = "best", mode: str = "evaluate") -> TrainedPolicy:
    """The policy that a run has learned, from its newest checkpoint; also called `dpolicy.load`.

        policy = dpolicy.load("runs/sac-gymnax-Pendulum-v1-0")
        action = policy(obs)

    Nothing but the policy is kept: no replay, and a data set that the run learned from need not be there any more.
    Warns where a file of your own that it was trained with has changed since.

    Args:
        directory: Of the run, from the command line or `train_config`.
        seed: Which of its seeds, from 0; "best" for the one whose last evaluation had the highest mean return.
        mode: How it acts: "evaluate" as in evaluation, "explore" as in training, or a further mode of the algorithm.

    Raises:
        ValueError: If the directory holds no run, no checkpoint yet, or one that the code no longer fits; for an
            unknown seed or mode, and for a seed that has failed.
    """
    directory = as_path("directory", directory, "the path of a run")
    config = read_config(directory)
    check_named(config, directory)
    for sentence in changed_files(config, directory):
        warnings.warn(sentence, RunWarning, stacklevel=2)
    algorithm, env = make_algorithm(config["algorithm"], config["hyperparameters"]), make_env(config)
    _checks.one_of("mode", mode, algorithm.modes)
    arrays = newest_arrays(directory, config)
    chosen = _chosen(seed, arrays, directory, config["seeds"])
    state = _state(algorithm, env, arrays, chosen, directory)
    return TrainedPolicy(algorithm, env, state, mode=mode, seed=chosen)


def _chosen(seed: int | str, arrays: dict[str, np.ndarray], directory: Path, seeds: int) -> int:
    """The number of a seed that is to be loaded."""
    alive = arrays[".alive"]
    if isinstance(seed, str):
        _checks.one_of("seed", seed, ["best", *range(seeds)])
        if not alive.any():
            raise ValueError(f"every seed of the run in {directory} has failed: there is no policy to load.")
        return _best(alive, int(arrays[".steps"].max()), directory, seeds)
    _checks.integer("seed", seed, 0, seeds - 1)
    if not alive[seed]:
        raise ValueError(
            f"seed {seed} of the run in {directory} failed at step {arrays['.failed_at'][seed]}: choose another."
        )
    return int(seed)


def _best(alive: np.ndarray, step: int, directory: Path, seeds: int) -> int:
    """The seed with the highest evaluation return at the checkpoint's step."""
    if seeds == 1:
        return 0
    history = read_history(directory, seeds=seeds)
    # A run that was killed may have measured more than its checkpoint holds.
    rows = np.flatnonzero(history.step <= step)
    returns = history.metrics.get("evaluate/return")
    if returns is None or not len(rows):
        raise ValueError(
            f"{directory} has no evaluation to choose the best seed by: give its number, seed=0."
        )
    last = returns[rows[-1]]
    return int(np.argmax(np.where(alive & ~np.isnan(last), last, -np.inf)))


def _state(
    algorithm: Algorithm, env: Environment, arrays: dict[str, np.ndarray], seed: int, directory: Path
) -> TrainState:
    """What a policy reads of a run's state, of one seed: no experience."""
    normalised = any(path.startswith(".normaliser") for path in arrays)

    def blank(key: Key) -> TrainState:
        return TrainState(
            algorithm=algorithm.init(key, env.spec),
            normaliser=Normaliser.start(env.spec.obs_size) if normalised else None,
            experience=None,
            key=key,
            steps=jnp.zeros((), jnp.int32),
            alive=jnp.asarray(True),
            failed_at=jnp.zeros((), jnp.int32),
        )

    def leaf(path: Any, wanted: jax.ShapeDtypeStruct) -> Array:
        name = jax.tree_util.keystr(path)
        if not wanted.size:
            return jnp.zeros(wanted.shape, wanted.dtype)
        is_key = jnp.issubdtype(wanted.dtype, jax.dtypes.prng_key)
        found = arrays.get(name)
        array = None if found is None else jnp.asarray(found[seed])
        if array is not None and is_key:
            array = jax.random.wrap_key_data(array)
        if array is None or (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"the checkpoint in {directory} is of another program than its config.json says: {name}."
            )
        return array

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(blank, jax.random.key(0)))
