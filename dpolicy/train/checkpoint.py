"""Checkpoints: the whole training state and the host's counters, written atomically with Orbax."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from dpolicy import _checks


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
            raise ValueError(
                f"the checkpoint in {where} is of another program: it has {old_text}, not {new_text}."
            )
    if len(saved) != len(wanted):
        raise ValueError(
            f"the checkpoint in {where} is of another program: it has {len(saved)} arrays, not {len(wanted)}."
        )


def check_text(directory: Path) -> None:
    """Refuse a directory whose name is no text, as the file names of arrays must be.

    Raises:
        ValueError: if it does not encode as UTF-8.
    """
    try:
        str(Path(directory).absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the directory of a run must have a name in UTF-8, got {str(directory)!r}."
        ) from None


class Checkpoints:
    """The newest checkpoints of a run.

    Each is a directory of its own that appears under its final name only when complete (a rename), so whatever
    moment a process is killed at, the newest one listed is whole. Leaves are stored as host arrays without device
    placement, so a run can go on, or be evaluated, on another device. Typed PRNG keys are stored as their data and
    the name of their generator.

    Args:
        directory: Where they are; created if need be, unless `read_only`.
        keep: How many to keep.
        read_only: Only `latest` and `restore` will be used; nothing is created or cleaned up.
    """

    def __init__(self, directory: Path, *, keep: int = 2, read_only: bool = False):
        _checks.integer("keep", keep)
        check_text(directory)
        # Imported here: it takes longer than everything else a short command needs.
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp = ocp
        self._directory = Path(directory).resolve()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep,
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                enable_async_checkpointing=False,
            ),
        )

    def save(self, number: int, state: PyTree, host: dict[str, Any]) -> None:
        """Write checkpoint `number`, which must exceed the newest one's, then drop those that are too old.

        Args:
            number: Its number.
            state: A pytree of arrays, typed keys included.
            host: JSON values to keep with it.
        """
        leaves = jax.tree.leaves(state)
        generators = [str(jax.random.key_impl(leaf)) if _is_key(leaf) else None for leaf in leaves]
        # Orbax refuses arrays without elements; their shape alone brings them back.
        arrays = {str(i): _on_host(leaf) for i, leaf in enumerate(leaves) if leaf.size}
        about = {"leaves": _described(state), "generators": generators, "host": host}
        args = self._ocp.args
        self._manager.save(
            number, args=args.Composite(state=args.PyTreeSave(arrays), about=args.JsonSave(about)), force=True
        )

    def latest(self) -> int | None:
        """The number of the newest complete checkpoint; None when there is none."""
        return self._manager.latest_step()

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """The newest checkpoint's state, bit by bit, and its host values.

        Args:
            like: The state's structure, with a `jax.ShapeDtypeStruct` at every leaf.

        Raises:
            ValueError: if there is no checkpoint, or it is damaged or of a program with another state.
        """
        number = self.latest()
        if number is None:
            raise ValueError(f"{self._directory} holds no checkpoint.")
        try:
            about = self._about(number)
        except Exception as error:
            raise self._damaged(number, error) from error
        _check_fits(about["leaves"], _described(like), self._directory)
        try:
            return self._state(number, like, about["generators"]), about["host"]
        except Exception as error:
            raise self._damaged(number, error) from error

    def arrays(self) -> dict[str, np.ndarray]:
        """The newest checkpoint's arrays by their path in the state, such as ".steps", with the leading axis of seeds.

        Typed keys are their data; arrays without elements are left out.

        Raises:
            ValueError: if there is no checkpoint, or it is damaged.
        """
        number = self.latest()
        if number is None:
            raise ValueError(f"{self._directory} holds no checkpoint.")
        try:
            leaves = self._about(number)["leaves"]
            stored = {i: path for i, (path, shape, _) in enumerate(leaves) if 0 not in shape}
            found = self._stored(number, set(stored))
            return {path: found[str(i)] for i, path in stored.items()}
        except Exception as error:
            raise self._damaged(number, error) from error

    def _about(self, number: int) -> dict[str, Any]:
        args = self._ocp.args
        about = self._manager.restore(number, args=args.Composite(about=args.JsonRestore()))["about"]
        host = about["host"]
        if len(about["generators"]) != len(about["leaves"]) or not isinstance(host, dict):
            raise ValueError("its description is not as it was written")
        for path, shape, dtype in about["leaves"]:
            if not (isinstance(path, str) and isinstance(shape, list) and isinstance(dtype, str)):
                raise ValueError("its description is not as it was written")
        return about

    def _stored(self, number: int, leaves: set[int]) -> dict[str, np.ndarray]:
        """The arrays of the leaves that have elements, by the leaf's number."""
        args = self._ocp.args
        as_numpy = {str(i): self._ocp.RestoreArgs(restore_type=np.ndarray) for i in leaves}
        return self._manager.restore(
            number, args=args.Composite(state=args.PyTreeRestore(restore_args=as_numpy))
        )["state"]

    def _state(self, number: int, like: PyTree, generators: list[str | None]) -> PyTree:
        wanted, structure = jax.tree.flatten(like)
        stored = {i for i, leaf in enumerate(wanted) if leaf.size}
        arrays = self._stored(number, stored)

        def leaf(i: int) -> jax.Array:
            if i not in stored:
                return jnp.zeros(wanted[i].shape, wanted[i].dtype)
            # A copy: the array will be donated, and must not share its memory with numpy.
            array = jnp.array(arrays[str(i)], copy=True)
            array = array if generators[i] is None else jax.random.wrap_key_data(array, impl=generators[i])
            if (array.shape, array.dtype) != (wanted[i].shape, wanted[i].dtype):
                raise ValueError(f"array {i} is not as it was written")
            return array

        return structure.unflatten([leaf(i) for i in range(len(wanted))])

    def _damaged(self, number: int, error: Exception) -> Exception:
        # Removing a checkpoint is no cure for a file that may not be read or for too little memory.
        if isinstance(error, (PermissionError, MemoryError)):
            return error
        older = [step for step in self._manager.all_steps() if step < number]
        cure = f"remove it to go on from {max(older)}" if older else "there is no older one to go on from"
        return ValueError(f"checkpoint {number} in {self._directory} is damaged; {cure}.")

    def close(self) -> None:
        """Let go of the files."""
        self._manager.close()


def newest_arrays(directory: Path) -> dict[str, np.ndarray]:
    """The `arrays` of the newest checkpoint of the run in a directory.

    Raises:
        ValueError: if there is none yet, or it is damaged.
    """
    if not (directory / "checkpoints").is_dir():
        raise ValueError(f"{directory} holds no checkpoint yet.")
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    try:
        return checkpoints.arrays()
    finally:
        checkpoints.close()
