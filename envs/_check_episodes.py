"""The part of `check` that looks at whole episodes in a batch."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dpolicy._types import Key
from dpolicy.envs._promises import Violation
from dpolicy.envs.protocol import Environment
from dpolicy.envs.vector import Step, Vector


def different(a: Any, b: Any, *, tolerance: float = 0.0) -> str:
    """Where two trees differ by more than `tolerance` (1 + |b|): the path of the first leaf; "" where nowhere."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
    for (path, *values), other in pairs:
        # What is no array yet is a number of Python.
        x, y = (v if hasattr(v, "dtype") else np.asarray(v) for v in (*values, other))
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        x, y = np.asarray(x), np.asarray(y)
        if not np.issubdtype(x.dtype, np.floating):
            same = x == y
        else:
            with np.errstate(invalid="ignore"):
                same = (x == y) | (np.abs(x - y) <= tolerance * (1 + np.abs(y))) | (np.isnan(x) & np.isnan(y))
        if not np.all(same):
            return jax.tree_util.keystr(path) or " "
    return ""


class Recorded(NamedTuple):
    """Episodes of random actions, `[time, copy, ...]`.

    Attributes:
        obs: What each step started from.
        step: What it showed.
        following: What the next step starts from.
        starts: Observations of the pre-drawn starts; None where there are none.
        running: States of the copies at the end.
        ended: For terminations and for truncations: right before the last one of each copy the state, the action and
            the observation, and the successor that was shown; and whether there was one at all.
    """

    obs: np.ndarray
    step: Step
    following: np.ndarray
    starts: Any
    running: Any
    ended: tuple[Any, Any]


def record(vector: Vector, key: Key, steps: int) -> Recorded:
    """Play `steps` steps of uniformly random actions in every copy."""
    spec, num = vector.env.spec, vector.num

    def keep(done: Array, new: Any, old: Any) -> Any:
        pick = lambda a, b: jnp.where(done.reshape(done.shape + (1,) * (b.ndim - 1)), a, b)
        return (*jax.tree.map(pick, new, old[:-1]), old[-1] | done)

    def one(carry: Any, key: Key) -> tuple[Any, Any]:
        state, terminations, truncations = carry
        action_key, step_key = jax.random.split(key)
        action = jax.random.uniform(action_key, (num, spec.action_size), minval=-1.0, maxval=1.0)
        new, step = vector.step(state, action, step_key)
        end = (state.env, action, state.obs, step.next_obs)
        terminations = keep(step.terminated, end, terminations)
        truncations = keep(step.truncated, end, truncations)
        return (new, terminations, truncations), (state.obs, step, new.obs)

    def play(key: Key) -> Any:
        init_key, run_key = jax.random.split(key)
        state = vector.init(init_key)
        none = (state.env, jnp.zeros((num, spec.action_size)), state.obs, state.obs, jnp.zeros(num, bool))
        return jax.lax.scan(one, (state, none, none), jax.random.split(run_key, steps))

    (last, *ended), seen = jax.jit(play)(key)
    starts = None if last.pool is None else np.asarray(last.pool[1])
    obs, step, following = jax.tree.map(np.asarray, seen)
    return Recorded(obs, step, following, starts, last.env, tuple(ended))


def _check_finite(recorded: Recorded) -> str:
    for name, values in (
        ("observation", recorded.obs),
        ("observation", recorded.step.next_obs),
        ("reward", recorded.step.reward),
    ):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            raise Violation(
                f"numbers must be finite: a random policy finds a {name} of {values[tuple(bad[0])]}."
            )
    if recorded.step.diverged.any():
        count = int(recorded.step.diverged.sum())
        raise Violation(
            "numbers must be finite: a random policy comes to ends with an observation or a reward that is not "
            f"({count:,} of {int(recorded.step.terminated.sum()):,} terminations)."
        )
    return f"over {recorded.obs.shape[0]:,} steps of {recorded.obs.shape[1]} copies"


def _check_flags(recorded: Recorded) -> str:
    terminated, truncated = recorded.step.terminated, recorded.step.truncated
    if (terminated & truncated).any():
        raise Violation("terminated and truncated must never be set together: an end is one or the other.")
    return f"{terminated.sum():,} terminations, {truncated.sum():,} truncations, never both"


def _counted(done: np.ndarray) -> np.ndarray:
    """Steps since the last end, counted from the start of each column."""
    lengths, running = np.zeros(done.shape, int), np.zeros(done.shape[1], int)
    for t, row in enumerate(done):
        running = running + 1
        lengths[t] = running
        running = np.where(row, 0, running)
    return lengths


def _check_limit(recorded: Recorded, limit: int) -> str:
    step = recorded.step
    lengths = _counted(step.terminated | step.truncated)
    if (lengths > limit).any():
        raise Violation(f"an episode must end at its time limit of {limit} steps, but one goes on.")
    early = step.truncated & (lengths != limit)
    if early.any():
        raise Violation(
            f"an episode must be truncated at its time limit of {limit} steps exactly, but one was after "
            f"{lengths[early][0]}."
        )
    at_limit = lengths == limit
    if not at_limit.any():
        return f"no episode came to its limit of {limit}"
    if step.terminated[at_limit].all():
        return f"every episode that came to its limit of {limit} TERMINATES there: right if the task is over then"
    return f"{step.truncated.sum():,} episodes were cut after exactly {limit} steps"


def _check_clocks(recorded: Recorded) -> str:
    step = recorded.step
    lengths = _counted(step.terminated | step.truncated)
    if (step.episode_length != lengths).any():
        raise Violation(
            "episode_length must count the steps since the last start, but it does not start anew."
        )
    returns = np.zeros(lengths.shape[1])
    for t in range(lengths.shape[0]):
        returns = np.where(lengths[t] == 1, 0.0, returns) + step.reward[t]
        if different(step.episode_return[t], returns, tolerance=1e-3):
            raise Violation(
                "episode_return must be the sum of the rewards since the last start, but it is not."
            )
    return "lengths and returns start anew with each episode"


def _check_starts(recorded: Recorded) -> str:
    done = recorded.step.terminated | recorded.step.truncated
    after = recorded.following[done]
    if not len(after):
        return "not seen: no episode ended"
    if recorded.starts is not None:
        fresh = (after[:, None] == recorded.starts[None]).all(axis=-1).any(axis=-1)
        if not fresh.all():
            raise Violation(
                "the observation after an end must be the first of a fresh start, but one is not."
            )
    unbroken = recorded.following[~done] == recorded.step.next_obs[~done]
    if not unbroken.all():
        raise Violation(
            "while an episode runs, a step must start from where the last one led, but one does not."
        )
    return f"after all of {len(after):,} ends"


def _check_terminal(env: Environment, recorded: Recorded) -> str:
    """The observations that end episodes, against the environment's own answer from the same state."""
    step = jax.jit(jax.vmap(env.step, in_axes=(0, 0, None)))
    keys = jax.random.split(jax.random.key(1), 2)
    mistaken = (
        "a step that ends an episode must show the true successor, but shows the first observation of another"
    )
    # Where ordinary steps do not depend on the key, those that end an episode have no reason to.
    ordinary = [step(recorded.running, recorded.ended[0][1], key)[1:] for key in keys]
    if different(*ordinary):
        return "not compared: steps are random"
    count = 0
    for states, actions, _, shown, any_end in recorded.ended:
        again = [np.asarray(step(states, actions, key)[1])[any_end] for key in keys]
        if different(*again):
            raise Violation(f"{mistaken} episode, drawn by the key: leave resets to Vector.")
        if different(np.asarray(shown)[any_end], again[0], tolerance=1e-3):
            raise Violation(f"{mistaken} episode: next_obs must be from before the reset.")
        count += int(np.sum(any_end))
    shown, starts = recorded.step.next_obs, recorded.starts
    done = recorded.step.terminated | recorded.step.truncated
    if starts is not None and (starts == starts[0]).all() and (shown[~done] != starts[0]).any():
        for ends in (recorded.step.terminated, recorded.step.truncated):
            if ends.any() and (shown[ends] == starts[0]).all():
                raise Violation(f"{mistaken} episode, always the same: leave resets to Vector.")
    return f"the true successor at {count} ends" if count else "not seen: no episode ended"


def episode_checks(env: Environment, recorded: Recorded) -> Iterator[tuple[str, str]]:
    """The checks of whole episodes that pass, in order; raises at the first that does not."""
    yield "finite numbers", _check_finite(recorded)
    yield "flags", _check_flags(recorded)
    yield "time limit", _check_limit(recorded, env.spec.time_limit)
    yield "clocks", _check_clocks(recorded)
    yield "starts", _check_starts(recorded)
    yield "terminal observations", _check_terminal(env, recorded)
