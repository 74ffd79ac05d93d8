"""Recording a data set with the policy of a run."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.tree_util import Partial

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Observation, Transition
from dpolicy.data.recording import joined, record
from dpolicy.train.configuration import MOST_SEED, seed_keys
from dpolicy.train.evaluate import policy_of
from dpolicy.train.memory import check_room
from dpolicy.train.program import TrainState
from dpolicy.train.runs import Run


def record_run(
    run: Run, *, episodes: int = 100, mode: str = "evaluate", noise: Number = 0.0, seed: int = 0
) -> Transition:
    """Fresh episodes of all seeds of a run that have not failed, one seed after the other; see `dpolicy.data.record`.

    Observations are recorded as the environment gives them, also where the policy sees them standardised.

    Args:
        run: The run.
        episodes: Episodes of each seed.
        mode: How the policy acts; one of the algorithm's modes.
        noise: Standard deviation of Gaussian noise on its actions.
        seed: Key of the recording, independent of the training's.

    Raises:
        ValueError: For an unknown mode, a value out of its range, or a run whose seeds have all failed.
    """
    _checks.instance("run", run, Run, "a Run, as load_run gives it")
    _checks.integer("episodes", episodes)
    _checks.integer("seed", seed, 0, MOST_SEED)
    _checks.one_of("mode", mode, run.algorithm.modes)
    living = np.flatnonzero(np.asarray(run.state.alive))
    if not len(living):
        raise ValueError("every seed of the run has failed: there is no policy to record.")

    spec = run.env.spec
    rows = len(living) * spec.time_limit
    check_room("episodes", episodes, 4 * rows * (2 * spec.obs_size + spec.action_size + 2))

    def act(state: TrainState, obs: Observation, key: Key) -> Action:
        return policy_of(run.algorithm, state, mode)(obs, key)

    keys = seed_keys(seed, run.config["seeds"])
    # A replay is no part of how it acts, and is large.
    state = eqx.tree_at(lambda s: s.experience, run.state, None, is_leaf=lambda leaf: leaf is None)

    def one(i: Any) -> Transition:
        policy = Partial(act, jax.tree.map(lambda leaf: leaf[i], state))
        return record(run.env, policy, keys[i], episodes=episodes, noise=noise)

    return joined([one(i) for i in living])
