"""Recording a data set: whole episodes of a policy, as one row of transitions after the other."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from dpolicy import _checks
from dpolicy._types import Action, Key, Number, Observation, Transition
from dpolicy.envs import Environment
from dpolicy.envs.protocol import check_environment, clip_action
from dpolicy.envs.stepping import decided, start, take

_AT_ONCE = 128  # episodes; more are played in turns, so that memory does not grow with their number


# Compiled once for all policies that differ in their arrays only, such as the seeds of a run.
@eqx.filter_jit
def _played(
    env: Environment, policy: Callable[[Observation, Key], Action], noise: Array, keys: Array
) -> tuple[Transition, Bool[Array, "n time"]]:
    """One episode per key, to the time limit; and which of its steps were taken before it terminated."""
    limit = env.spec.time_limit

    def episode(key: Key) -> tuple[Transition, Array]:
        reset_key, run_key = jax.random.split(key)

        def one(carry: Any, count: Array) -> tuple[Any, Any]:
            state, obs, playing = carry
            act_key, noise_key, step_key = jax.random.split(jax.random.fold_in(run_key, count), 3)
            action = decided(policy, env, obs, act_key)
            draw = jax.random.normal(noise_key, action.shape, action.dtype)
            action = clip_action(action + noise.astype(action.dtype) * draw)
            taken = take(env, state, obs, action, step_key)
            truncated = (count + 1 >= limit) & ~taken.terminated
            seen = Transition(obs, action, taken.reward, taken.obs, taken.terminated, truncated)
            return (taken.state, taken.obs, playing & ~taken.terminated), (seen, playing)

        begin = (*start(env, reset_key), jnp.asarray(True))
        return jax.lax.scan(one, begin, jnp.arange(limit))[1]

    return jax.vmap(episode)(keys)


def record(
    env: Environment,
    policy: Callable[[Observation, Key], Action],
    key: Key,
    *,
    episodes: int = 100,
    noise: Number = 0.0,
) -> Transition:
    """Whole episodes of `policy` as a data set, with one leading axis: episode after episode, in the order of time.

    Stored is what was executed, clip(policy(obs) + noise eps, -1, 1) with eps ~ N(0, I), and observations as the
    environment gave them. The last step of an episode is `terminated` or, at the time limit, `truncated`; where the
    simulation diverged at it, the observation before it and a reward of zero are stored as what it led to. Episode i is
    the same whatever the number of episodes.

    Args:
        env: The environment.
        policy: `(obs, key) -> action` for ONE observation. It is compiled here; a pytree (a module, a
            `jax.tree_util.Partial`) is compiled once for all its values.
        key: Random key.
        episodes: How many.
        noise: Standard deviation of the Gaussian exploration noise.

    Raises:
        ValueError: For something that is no environment or function, no episodes or negative noise; and for an
            environment or a policy that returns something of another size or type than it promises.
    """
    check_environment("env", env)
    _checks.function("policy", policy, "(obs, key) -> action")
    _checks.count("episodes", episodes)
    _checks.non_negative("noise", noise)
    turns = -(-episodes // _AT_ONCE)
    size = -(-episodes // turns)
    parts = []
    for turn in range(turns):
        numbers = jnp.arange(turn * size, (turn + 1) * size)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
        seen, playing = _played(env, policy, jnp.asarray(noise, float), keys)
        kept = np.array(playing)
        kept[max(episodes - turn * size, 0) :] = False  # the turns are equally large
        parts.append(jax.tree.map(lambda leaf, kept=kept: np.asarray(leaf)[kept], seen))
    return joined(parts)


def joined(parts: list[Transition]) -> Transition:
    """Data sets one after the other."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *parts)


def _check_rows(data: Any) -> None:
    """Refuse what is no data set: transitions with one leading axis."""
    _checks.instance("data", data, Transition, "a Transition")
    rows = np.shape(data.reward)
    parts = (data.obs, data.action, data.next_obs, data.terminated, data.truncated)
    shapes = [np.shape(part) for part in parts]
    if len(rows) != 1 or not rows[0] or any(shape[:1] != rows for shape in shapes):
        raise ValueError(
            f"data must be transitions with one leading axis, the same of all, got reward of shape {rows} and "
            f"{', '.join(map(str, shapes))}."
        )


def _ends(data: Transition) -> np.ndarray:
    """Where each row's episode ends; for rows of an episode that the data cut off, the last row."""
    rows = np.arange(len(data.reward))
    ends = np.where(np.asarray(data.done), rows, len(rows) - 1)
    return np.minimum.accumulate(ends[::-1])[::-1]


def episode_returns(data: Transition) -> np.ndarray:
    """Undiscounted return of every episode that ends in the data, in order: `[episodes]`.

    Raises:
        ValueError: For data that are not transitions with one leading axis.
    """
    _check_rows(data)
    totals = np.cumsum(np.asarray(data.reward, np.float64))[np.asarray(data.done)]
    return np.diff(totals, prepend=0.0)


def in_chunks(data: Transition, size: int) -> Transition:
    """The data set that the same episodes are in an environment with action chunks, `make(name, action_chunk=size)`.

    `size` consecutive actions of an episode become one, `[size * a]`, with the observation before the first, the sum
    of the rewards, and successor and flags of the last. Where an episode terminates within a chunk its last action
    fills the rest: the environment ignores what comes after the end, and a cloned policy is asked for nothing that
    the recorded one would not do. A rest that was cut (by the time limit, or by the end of the data) before the chunk
    was full is left out, as nobody knows where the whole chunk would have led.

    Args:
        data: Transitions with one leading axis, episode after episode, as `record` gives them. Extras are left out.
        size: Actions in a chunk.

    Raises:
        ValueError: For data that are not transitions with one leading axis, a size below 1, or one that no episode of
            the data fills.
    """
    _check_rows(data)
    _checks.count("size", size)
    ends, rows = _ends(data), np.arange(len(data.reward))
    last_ones = np.unique(ends)
    firsts = np.concatenate([[0], last_ones[:-1] + 1])[np.searchsorted(last_ones, rows)]
    begin = rows[(rows - firsts) % size == 0]
    index = begin[:, None] + np.arange(size)
    within = index <= ends[begin][:, None]
    whole = within[:, -1] | np.asarray(data.terminated)[ends[begin]]
    if not whole.any():
        raise ValueError(f"size must be at most the length of an episode of the data, got {size}.")
    index, within = np.minimum(index, ends[begin][:, None])[whole], within[whole]
    reward = np.asarray(data.reward)
    # One by one, in the order of time: the very sum that the environment makes.
    total = np.zeros(len(index), reward.dtype)
    for step in range(size):
        total = total + np.where(within[:, step], reward[index[:, step]], 0)
    last = index[:, -1]
    action = np.asarray(data.action)[index].reshape(len(index), -1)
    return Transition(
        data.obs[index[:, 0]],
        jnp.asarray(action),
        jnp.asarray(total),
        data.next_obs[last],
        data.terminated[last],
        data.truncated[last],
    )
