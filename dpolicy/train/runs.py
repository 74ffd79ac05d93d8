"""Runs that are there: rebuilt from their directories, and evaluated."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dpolicy import _checks
from dpolicy._files import as_path
from dpolicy._places import RunWarning
from dpolicy.train.building import build
from dpolicy.train.checkpoint import Checkpoints
from dpolicy.train.configuration import (
    MOST_SEED,
    algorithm_title,
    changed_files,
    check_named,
    read_config,
    seed_keys,
)
from dpolicy.train.origin import warn_of_origin
from dpolicy.train.tracing import traced_init


class Run(NamedTuple):
    """A training run, rebuilt from its directory.

    Attributes:
        algorithm_name: The name its recipe is registered under, or that of your own function.
        algorithm: What was trained.
        env: Where.
        program: The training program.
        state: The newest checkpoint's state; every leaf has a leading axis of seeds.
        config: The resolved configuration.
    """

    algorithm_name: str
    algorithm: Any
    env: Any
    program: Any
    state: Any
    config: dict[str, Any]


def load_run(directory: Path | str) -> Run:
    """Rebuild a run from its directory, with the state of its newest checkpoint.

    Raises:
        ValueError: If the directory holds no run, no checkpoint yet, one that is damaged or that the code no longer
            fits.

    Warns:
        RunWarning: If a file of your own that it was trained with has changed, the configuration is not what the
            checkpoint was made with, or other major versions made it.
    """
    directory = as_path("directory", directory)
    config = read_config(directory)
    check_named(config, directory)
    for sentence in changed_files(config, directory):
        warnings.warn(sentence, RunWarning, stacklevel=2)
    algorithm, env, program = build(config)
    like = traced_init(program, config["seeds"])[1]
    if not (directory / "checkpoints").is_dir():
        raise ValueError(f"{directory} holds no checkpoint yet.")
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    try:
        warn_of_origin(directory, config, checkpoints.host())
        state, _ = checkpoints.restore(like)
    finally:
        checkpoints.close()
    return Run(algorithm_title(config), algorithm, env, program, state, config)


class Evaluation(NamedTuple):
    """Undiscounted returns and lengths of episodes, and which diverged, which the task ended: `[seeds, episodes]`."""

    returns: np.ndarray
    lengths: np.ndarray
    diverged: np.ndarray
    terminated: np.ndarray


def evaluate_run(run: Run, *, episodes: int = 10, mode: str = "evaluate", seed: int = 0) -> Evaluation:
    """Let the policies of all seeds of a run act in fresh episodes.

    Args:
        run: The run.
        episodes: Episodes per seed.
        mode: How the policy acts; one of the algorithm's modes.
        seed: Key of the evaluation, independent of the training's.

    Raises:
        ValueError: For an unknown mode or a number of episodes below 1.
    """
    from dpolicy.envs.evaluation import Played, play_episodes
    from dpolicy.train.evaluate import policy_of

    _checks.instance("run", run, Run, "a Run, as load_run gives it")
    _checks.count("episodes", episodes)
    _checks.integer("seed", seed, 0, MOST_SEED)
    _checks.one_of("mode", mode, run.algorithm.modes)

    def one(state: Any, key: jax.Array) -> Played:
        return play_episodes(
            run.env, policy_of(run.algorithm, state, mode), key, episodes, run.env.spec.time_limit
        )

    played = jax.jit(jax.vmap(one))(run.state, seed_keys(seed, run.config["seeds"]))
    return Evaluation(*map(np.asarray, played))
