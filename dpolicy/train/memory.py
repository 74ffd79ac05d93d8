"""Whether a run fits into memory, asked before it is compiled; and what would fit."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from dpolicy.train.progress import byte_text
from dpolicy.train.replay import Replay

# Where Linux says how much a container, or a job of a cluster, may use.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_limit() -> int | None:
    """Bytes of the memory that a run's state lives in, an accelerator's own or the machine's; None where unknown."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    return machine_memory()


def machine_memory() -> int | None:
    """Bytes of the machine's own memory, as far as it may be used; None where unknown."""
    return min(_of_the_machine(), default=None)


def _of_the_machine() -> Iterator[int]:
    if hasattr(os, "sysconf"):
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in map(Path, _LIMITS):
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():  # else "max"
            yield int(text)


def size_of(tree: PyTree) -> int:
    """Bytes of a tree of arrays or their shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check_memory(state: PyTree) -> None:
    """Refuse a run whose state alone is larger than the memory it would live in.

    Args:
        state: Its state, or the shapes in it; every leaf with a leading axis of seeds.

    Raises:
        ValueError: With how many seeds, or what `replay_size`, would fit.
    """
    total, limit = size_of(state), memory_limit()
    if limit is None or total <= limit:
        return
    seeds = jax.tree.leaves(state)[0].shape[0]
    fits = []
    if 0 < limit // (total // seeds) < seeds:
        fits.append(f"{limit // (total // seeds)} of the {seeds} seeds")
    if (rows := _rows_that_fit(state, total, limit)) > 0:
        fits.append(f"a replay_size of {rows:,}")
    cure = (
        f"at most {' or '.join(fits)} would"
        if fits
        else "fewer environments or frames, or smaller networks, may"
    )
    raise ValueError(
        f"the state of this run takes {byte_text(total)} ({seeds} x {byte_text(total // seeds)}, one per seed), more "
        f"than the {byte_text(limit)} of memory there is: {cure} fit."
    )


def check_room(name: str, count: int, each: int) -> None:
    """Refuse `count` things of `each` bytes that are more than there is memory for.

    Raises:
        ValueError: With how many would fit.
    """
    limit = memory_limit()
    if limit is not None and count * each > limit:
        raise ValueError(
            f"{name} must fit into the {byte_text(limit)} of memory there is, at most {limit // each:,}, got {count:,}."
        )


def check_compiled(step: Any) -> None:
    """Refuse a compiled chunk of training that needs more memory than there is, before it is run.

    Raises:
        ValueError: With what it needs beside its state.
    """
    found, limit = step.memory_analysis(), memory_limit()
    if found is None or limit is None:
        return
    state, working = found.argument_size_in_bytes, found.temp_size_in_bytes
    if state + working > limit:
        raise ValueError(
            f"one chunk of this run takes {byte_text(working)} to compute beside the {byte_text(state)} of its state, "
            f"more than the {byte_text(limit)} of memory there is: fewer seeds or environments, a shorter rollout, or "
            "smaller batches or networks may fit."
        )


def _rows_that_fit(state: Any, total: int, limit: int) -> int:
    """Transitions that a replay may hold in what memory the rest leaves, to two digits; 0 where there is no replay."""
    replay = getattr(getattr(state, "experience", None), "replay", None)
    if not isinstance(replay, Replay):
        return 0
    stored = size_of(replay.data)
    rows = replay.capacity * (limit - (total - stored)) // stored
    digits = 10 ** max(len(str(rows)) - 2, 0)
    return rows // digits * digits
