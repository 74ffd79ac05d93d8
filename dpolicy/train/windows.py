"""Stretches of several steps of one environment, from a replay or a data set, and the n-step transitions they make."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from dpolicy import _checks
from dpolicy._types import Number, Transition
from dpolicy.algorithm import Horizon, Stored


def ring_windows(
    stored: Stored, rows: Int[Array, " batch"], steps: int
) -> tuple[Transition, Bool[Array, "batch {steps}"]]:
    """What the environment of each of these rows showed from there on, for `steps` steps, in the order of time.

    Windows overlap where rows are close to each other. A window ends, before its `steps` steps are full, with the last
    step of an episode, whether it was terminated or truncated, and with the newest transition that is stored: what lies
    behind it in the ring is the oldest one. Its first step always counts.

    Args:
        stored: The ring.
        rows: Rows in which transitions are stored.
        steps: Steps of a window.

    Returns:
        The transitions `[batch, steps]`, and which of them belong to the window: the first so many of each row. The
        others are steps of other episodes, or of none, and mean nothing.

    Raises:
        ValueError: For fewer steps than one.
    """
    _checks.integer("steps", steps)
    capacity, n = stored.items.reward.shape[0], stored.num_envs
    lines, filled = capacity // n, stored.size // n
    ahead = jnp.arange(steps)
    # All environments write one line at a time; the oldest line that is stored has the age 0.
    age = (rows // n - stored.cursor // n + filled) % lines
    written = age[:, None] + ahead[None] < filled
    windows = jax.tree.map(lambda leaf: leaf[(rows[:, None] + ahead[None] * n) % capacity], stored.items)
    return windows, _until_done(windows.done, written)


def data_windows(
    data: Transition, rows: Int[Array, " batch"], steps: int
) -> tuple[Transition, Bool[Array, "batch {steps}"]]:
    """The `steps` rows of a data set from each of these rows on, which must be in order of time.

    One environment's, episode after episode, each ended by a row that is terminated or truncated, as
    `dpolicy.data.record` gives them (`dpolicy.data.check_order` looks whether they are). The end of the data ends the
    last episode.

    Args:
        data: Transitions with one leading axis.
        rows: Rows of it.
        steps: Steps of a window.

    Returns:
        As `ring_windows`.

    Raises:
        ValueError: For fewer steps than one.
    """
    index, there = window_rows(rows, steps, data.reward.shape[0])
    windows = jax.tree.map(lambda leaf: leaf[index], data)
    return windows, _until_done(windows.done, there)


def window_rows(
    rows: Int[Array, "*batch"], steps: int, count: int
) -> tuple[Int[Array, "*batch {steps}"], Bool[Array, "*batch {steps}"]]:
    """The rows of a data set of `count` that make windows, and which of them there are.

    Raises:
        ValueError: For fewer steps than one.
    """
    _checks.integer("steps", steps)
    index = rows[..., None] + jnp.arange(steps).reshape((1,) * rows.ndim + (steps,))
    # Rows past the end read the last one, and do not count.
    return jnp.minimum(index, count - 1), index < count


def _until_done(done: Bool[Array, "b h"], there: Bool[Array, "b h"]) -> Bool[Array, "b h"]:
    """Which steps of a window count: those that are there, up to and with the first that is done."""
    # Without its own end: the step that is done still counts. The first step counts in any case, so that no window is
    # empty, whatever its row holds.
    ended_before = jnp.cumsum(done, axis=1) - done
    return (there & (ended_before == 0)).at[:, 0].set(True)


def n_step(
    windows: Transition, valid: Bool[Array, "b h"], discount: Number, *, chunk: bool = False
) -> Transition:
    """One transition of several steps from each window.

        reward = sum_k gamma^k r_k  over its steps,   discount = gamma^(their number)

    `next_obs`, `terminated` and `truncated` are those of its last step, everything else is that of its first. What is
    bootstrapped from the successor is weighed with `discount` and, as ever, cut by `terminated`. A window that an
    episode's end or the newest transition has cut short is a transition of fewer steps, with the discount of those.

    Args:
        windows: Transitions `[b, h]`, as `ring_windows` and `data_windows` give them.
        valid: Which of them count: the first so many of each window, at least one.
        discount: gamma, of one step.
        chunk: Whether the extras are given the actions of all h steps, "actions" `[b, h, a]`, which are zero where they
            do not count, and "actions_valid" `[b, h]`, where they do.

    Returns:
        Transitions `[b]`.

    Raises:
        ValueError: For a discount outside [0, 1].
    """
    _checks.fraction("discount", discount)
    _checks.boolean("chunk", chunk)
    steps = valid.shape[1]
    # By multiplication: a power of traced numbers would be rounded otherwise, and 0^0 be left to the device.
    powers: list[Any] = [1.0]
    for _ in range(steps):
        powers.append(powers[-1] * discount)
    weights = jnp.stack([jnp.asarray(power, windows.reward.dtype) for power in powers])
    count = jnp.sum(valid, axis=1)
    row = jnp.arange(count.shape[0])
    # A window that was cut short ends where it was cut.
    of_last = lambda leaf: leaf[row, count - 1]
    first = jax.tree.map(lambda leaf: leaf[:, 0], windows)
    extras = dict(first.extras)
    if chunk:
        extras["actions"] = jnp.where(valid[..., None], windows.action, 0)
        extras["actions_valid"] = valid
    return dataclasses.replace(
        first,
        reward=jnp.sum(jnp.where(valid, weights[None, :steps] * windows.reward, 0), axis=1),
        next_obs=of_last(windows.next_obs),
        terminated=of_last(windows.terminated),
        truncated=of_last(windows.truncated),
        extras=extras,
        discount=weights[count],
    )


def stored_steps(stored: Stored, rows: Int[Array, " batch"], horizon: Horizon | None) -> Transition:
    """The transitions in these rows of a ring, each with as many steps as the horizon asks for; None for one."""
    if horizon is None:
        return jax.tree.map(lambda ring: ring[rows], stored.items)
    windows, valid = ring_windows(stored, rows, horizon.steps)
    return n_step(windows, valid, horizon.discount, chunk=horizon.chunk)


def data_steps(data: Transition, rows: Int[Array, " batch"], horizon: Horizon | None) -> Transition:
    """The transitions in these rows of a data set, each with as many steps as the horizon asks for; None for one."""
    if horizon is None:
        return jax.tree.map(lambda leaf: leaf[rows], data)
    windows, valid = data_windows(data, rows, horizon.steps)
    return n_step(windows, valid, horizon.discount, chunk=horizon.chunk)


def read_steps(windows: Transition, there: Bool[Array, "b h"], horizon: Horizon) -> Transition:
    """As `data_steps`, of windows that have been read: those of `window_rows`."""
    valid = _until_done(windows.done, there)
    return n_step(windows, valid, horizon.discount, chunk=horizon.chunk)
