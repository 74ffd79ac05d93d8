"""Checkpoints: the whole training state and the host's counters, written atomically with Orbax, with digests."""

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from dpolicy import _checks

_Read = TypeVar("_Read")
_TRIES = 20  # at reading while checkpoints are replaced
_PARTS = ("leaves", "generators", "host")  # of a checkpoint's description
_SEALED = (*_PARTS, "digests", "digest")


class _OfAnotherProgram(ValueError):
    """A checkpoint that is whole but does not fit; reading another one would not help."""


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _on_host(leaf: jax.Array) -> np.ndarray:
    # Through a view of the one shard: on a CPU, a numpy view cached by the array itself would keep its buffer from
    # being donated to the next chunk, and so double the memory of a replay buffer.
    data = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return np.asarray(data.addressable_data(0) if len(data.devices()) == 1 else data)


def _described(tree: PyTree) -> list[list[Any]]:
    """Path, shape and type of every leaf, in order: what a checkpoint must share with the program it is read into."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [[jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves]


def _check_fits(saved: list[list[Any]], wanted: list[list[Any]], where: Path) -> None:
    for old, new in zip(saved, wanted, strict=False):
        if old != new:
            old_text, new_text = (f"{path} {dtype}{shape}" for path, shape, dtype in (old, new))
            raise _OfAnotherProgram(
                f"the checkpoint in {where} is of another program: it has {old_text}, not {new_text}."
            )
    if len(saved) != len(wanted):
        raise _OfAnotherProgram(
            f"the checkpoint in {where} is of another program: it has {len(saved)} arrays, not {len(wanted)}."
        )


def check_text(directory: Path) -> None:
    """Refuse a directory whose name is no text, as the file names of arrays must be.

    Raises:
        ValueError: If it does not encode as UTF-8.
    """
    try:
        str(Path(directory).absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the directory of a run must have a name in UTF-8, got {str(directory)!r}."
        ) from None


def _digest(data: np.ndarray | str) -> int:
    """The CRC-32 of a text, or of an array's type, shape and bytes: any flipped bit changes it."""
    if isinstance(data, str):
        return zlib.crc32(data.encode())
    kind = zlib.crc32(f"{data.dtype}{data.shape}".encode())
    return zlib.crc32(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data, kind)


def _digests(arrays: Mapping[str, np.ndarray], count: int) -> list[int | None]:
    """By the number of the leaf, None without elements; side by side, as a gigabyte takes half a second."""
    with ThreadPoolExecutor() as pool:
        found = dict(zip(arrays, pool.map(_digest, arrays.values()), strict=True))
    return [found.get(str(i)) for i in range(count)]


def _whole(about: Any) -> dict[str, Any]:
    """The description of a checkpoint as it was written; without digests where it is of a time before there were any.

    Raises:
        ValueError: For anything else.
    """
    changed = ValueError("its description is not as it was written")
    if not isinstance(about, dict):
        raise changed
    if set(about) == set(_SEALED):
        about = dict(about)
        if about.pop("digest") != _digest(json.dumps(about)):
            raise changed
    elif set(about) != set(_PARTS):
        raise changed
    if len(about["generators"]) != len(about["leaves"]) or not isinstance(about["host"], dict):
        raise changed
    for path, shape, dtype in about["leaves"]:
        if not (isinstance(path, str) and isinstance(shape, list) and isinstance(dtype, str)):
            raise changed
    return about


def _refused_by_system(error: BaseException) -> int | None:
    """The number of the operating system's error behind one of Orbax's, which is a text at times; None for another."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno
        named = re.search(r"os_error_code='(\d+)'", str(cause))
        if named:
            return int(named[1])
        cause = cause.__cause__ or cause.__context__
    return None


def _listed(read: Callable[[], _Read]) -> _Read:
    """What `read` makes of the list of checkpoints, from which one may vanish while it is looked at."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return read()
    return read()


def _unsaid(record: logging.LogRecord) -> bool:
    """Whether a record of a log is more than the traceback of what Orbax and TensorStore also raise."""
    error = record.exc_info[1] if record.exc_info else None
    return "orbax" not in record.pathname and "tensorstore_spec" not in str(error)


@functools.cache
def _keep_quiet() -> None:
    """Let a failed read or write be one error.

    Not a logged traceback as well, nor one for each other array that was under way, which finds its event loop closed.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_unsaid)
    shown = sys.unraisablehook

    def show(event: Any) -> None:
        late = isinstance(event.exc_value, RuntimeError) and str(event.exc_value) == "Event loop is closed"
        if not (late and event.object is None):
            shown(event)

    sys.unraisablehook = show


class Checkpoints:
    """The newest checkpoints of a run.

    Each is a directory of its own that appears under its final name only when complete (a rename), so whatever
    moment a process is killed at, the newest one listed is whole. Leaves are stored as host arrays without device
    placement, so a run can go on, or be evaluated, on another device. Typed PRNG keys are stored as their data and
    the name of their generator. A digest of every array, and one of all else, is checked on reading, so a checkpoint
    that has changed on disk in whatever way is refused. (One from before there were digests is read without.)

    Args:
        directory: Where they are; created if need be, unless `read_only`.
        keep: How many to keep.
        read_only: It will only be read; nothing is created or cleaned up, and another
            process may be writing checkpoints.
    """

    def __init__(self, directory: Path, *, keep: int = 2, read_only: bool = False):
        _checks.integer("keep", keep)
        check_text(directory)
        # Imported here: it takes longer than everything else a short command needs.
        import orbax.checkpoint as ocp

        _keep_quiet()
        self._ocp = ocp
        self._directory = Path(directory).resolve()
        if not read_only:
            self._remove_unfinished()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            create=not read_only,
            read_only=read_only,
            enable_async_checkpointing=False,
        )
        self._manager = _listed(lambda: ocp.CheckpointManager(self._directory, options=options))

    def _remove_unfinished(self) -> None:
        for path in self._directory.glob(f"*{self._ocp.utils.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(path, ignore_errors=True)

    def save(self, number: int, state: PyTree, host: dict[str, Any]) -> None:
        """Write checkpoint `number`, which must exceed the newest one's, then drop those that are too old.

        Args:
            number: Its number.
            state: A pytree of arrays, typed keys included.
            host: JSON values to keep with it.

        Raises:
            OSError: If the disk is full, or the operating system refuses for another reason; the checkpoints before
                are as they were.
        """
        leaves = jax.tree.leaves(state)
        generators = [str(jax.random.key_impl(leaf)) if _is_key(leaf) else None for leaf in leaves]
        # Orbax refuses arrays without elements; their shape alone brings them back.
        arrays = {str(i): _on_host(leaf) for i, leaf in enumerate(leaves) if leaf.size}
        about = {
            "leaves": _described(state),
            "generators": generators,
            "host": host,
            "digests": _digests(arrays, len(leaves)),
        }
        sealed = {**about, "digest": _digest(json.dumps(about))}
        args = self._ocp.args
        try:
            self._manager.save(
                number,
                args=args.Composite(state=args.PyTreeSave(arrays), about=args.JsonSave(sealed)),
                force=True,
            )
        except Exception as error:
            code = _refused_by_system(error)
            if code is None:
                raise
            newest = self.latest()
            left = "there is none before it" if newest is None else f"a resume goes on from {newest}"
            what = f"{os.strerror(code)}, so checkpoint {number} could not be written ({left})"
            raise OSError(code, what, str(self._directory)) from error

    def latest(self) -> int | None:
        """The number of the newest complete checkpoint; None when there is none."""
        return self._manager.latest_step()

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """The newest checkpoint's state, bit by bit, and its host values.

        Args:
            like: The state's structure, with a `jax.ShapeDtypeStruct` at every leaf.

        Raises:
            ValueError: If there is no checkpoint, or it is damaged or of a program with another state.
        """

        def read(number: int) -> tuple[PyTree, dict[str, Any]]:
            about = self._about(number)
            _check_fits(about["leaves"], _described(like), self._directory)
            return self._state(number, like, about), about["host"]

        return self._newest(read)

    def host(self) -> dict[str, Any]:
        """The newest checkpoint's host values.

        Raises:
            ValueError: If there is no checkpoint, or its description is damaged.
        """
        return self._newest(lambda number: self._about(number)["host"])

    def arrays(self) -> dict[str, np.ndarray]:
        """The newest checkpoint's arrays by their path in the state, such as ".steps", with the leading axis of seeds.

        Typed keys are their data; arrays without elements are left out.

        Raises:
            ValueError: If there is no checkpoint, or it is damaged.
        """

        def read(number: int) -> dict[str, np.ndarray]:
            about = self._about(number)
            found = self._stored(number, about)
            return {about["leaves"][int(i)][0]: array for i, array in found.items()}

        return self._newest(read)

    def _newest(self, read: Callable[[int], _Read]) -> _Read:
        """What `read` makes of the newest checkpoint; of the next one where it is deleted under the reader's hands."""
        for _ in range(_TRIES):
            number = self.latest()
            if number is None:
                raise ValueError(f"{self._directory} holds no checkpoint.")
            try:
                return read(number)
            # Removing a checkpoint is no cure for a file that may not be read or for too little memory.
            except (_OfAnotherProgram, PermissionError, MemoryError):
                raise
            except Exception as error:
                _listed(self._manager.reload)
                if self.latest() == number:
                    raise self._damaged(number) from error
        raise ValueError(f"the checkpoints in {self._directory} are replaced faster than they can be read.")

    def _damaged(self, number: int) -> ValueError:
        sound = next(self._sound_before(number), None)
        cure = "there is no older one to go on from" if sound is None else f"remove it to go on from {sound}"
        return ValueError(f"checkpoint {number} in {self._directory} is damaged; {cure}.")

    def _sound_before(self, number: int) -> Iterator[int]:
        for older in sorted((step for step in self._manager.all_steps() if step < number), reverse=True):
            try:
                self._stored(older, self._about(older))
            except Exception:
                continue
            yield older

    def _about(self, number: int) -> dict[str, Any]:
        args = self._ocp.args
        return _whole(self._manager.restore(number, args=args.Composite(about=args.JsonRestore()))["about"])

    def _stored(self, number: int, about: dict[str, Any]) -> dict[str, np.ndarray]:
        """The arrays that have elements, by their number as a text, as they were written."""
        args = self._ocp.args
        stored = [str(i) for i, (_, shape, _) in enumerate(about["leaves"]) if 0 not in shape]
        as_numpy = {name: self._ocp.RestoreArgs(restore_type=np.ndarray) for name in stored}
        found = self._manager.restore(
            number, args=args.Composite(state=args.PyTreeRestore(restore_args=as_numpy))
        )["state"]
        arrays = {name: found[name] for name in as_numpy}
        if "digests" in about and _digests(arrays, len(about["leaves"])) != about["digests"]:
            raise ValueError("its arrays are not as they were written")
        return arrays

    def _state(self, number: int, like: PyTree, about: dict[str, Any]) -> PyTree:
        wanted, structure = jax.tree.flatten(like)
        arrays, generators = self._stored(number, about), about["generators"]

        def leaf(i: int) -> jax.Array:
            if str(i) not in arrays:
                return jnp.zeros(wanted[i].shape, wanted[i].dtype)
            # A copy: the array will be donated, and must not share its memory with numpy.
            array = jnp.array(arrays.pop(str(i)), copy=True)
            array = array if generators[i] is None else jax.random.wrap_key_data(array, impl=generators[i])
            if (array.shape, array.dtype) != (wanted[i].shape, wanted[i].dtype):
                raise ValueError(f"array {i} is not as it was written")
            return array

        return structure.unflatten([leaf(i) for i in range(len(wanted))])

    def close(self) -> None:
        """Let go of the files."""
        self._manager.close()
