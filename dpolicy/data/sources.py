"""Where data sets come from: a file of arrays, or the exact distribution of a bandit."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpolicy import _checks
from dpolicy._parts import in_parts
from dpolicy._types import Number, Transition
from dpolicy.data.places import named
from dpolicy.data.scores import check_reference
from dpolicy.envs import Bandit

_NAME_AT = 26  # where the header of a member of a zip file says how long its name is
_REQUIRED = ("obs", "action")
_OPTIONAL = ("reward", "next_obs", "terminated", "truncated")


def exact_samples(env: Bandit, size: int, temperature: Number, *, seed: int = 0) -> Transition:
    """`size` one-step episodes of the exact Boltzmann policy exp(Q / temperature) / Z of a bandit.

    Raises:
        ValueError: For something that is no bandit, a size below 1, a seed that is no integer from 0 to 2^32 - 1, or a
            temperature that is not above zero.
    """
    _checks.instance("env", env, Bandit, "a Bandit, whose distribution is known")
    _checks.count("size", size)
    _checks.integer("seed", seed, 0, 2**32 - 1)
    action = env.sample(jax.random.key(seed), size, temperature)
    zeros, yes = jnp.zeros((size, env.spec.obs_size)), jnp.ones(size, bool)
    return Transition(zeros, action, jax.vmap(env.energy)(action), zeros, yes, ~yes)


def existing(data: str | Path) -> Path:
    """The path of a data file.

    Raises:
        ValueError: If there is no such file.
    """
    path = named("data", data)
    if not path.is_file():
        raise ValueError(f"data must be an .npz file or 'exact', got {str(data)!r}, which does not exist.")
    return path


def flags(name: str, values: Any, where: str) -> np.ndarray:
    """Booleans, also where they are stored as numbers.

    Raises:
        ValueError: For anything but 0 and 1.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "buif" or not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name!r} in {where} must hold booleans, or 0 and 1.")
    return array.astype(bool)


def _numbers(name: str, values: Any, where: str) -> np.ndarray:
    """Real, finite numbers in single precision, or booleans where flags belong."""
    array = np.asarray(values)
    if array.dtype.kind not in "buif" and str(array.dtype) != "bfloat16":
        raise ValueError(f"{name!r} in {where} must hold real numbers, got {array.dtype}.")
    if name in ("terminated", "truncated"):
        return flags(name, array, where)
    with np.errstate(over="ignore"):
        # What is mapped from a file in single precision stays there.
        array = array.astype(np.float32, copy=False)
    if not all(np.isfinite(part).all() for part in in_parts(np.atleast_1d(array))):
        raise ValueError(f"{name!r} in {where} must be finite in single precision.")
    return array


def check_actions(action: np.ndarray, where: str) -> None:
    """Refuse actions outside [-1, 1].

    Raises:
        ValueError: With how far they go.
    """
    most = np.abs(action).max(initial=0.0)
    if most > 1 + 1e-6:
        raise ValueError(
            f"'action' in {where} must lie in [-1, 1]: map it from the environment's own bounds first, or, where what "
            f"is beyond is no more than rounding or noise, clip it (data_action_clip); the largest is {most:.6g}."
        )


def checked(arrays: Mapping[str, Any], where: str, *, bounded: bool = True) -> dict[str, np.ndarray]:
    """The arrays of a data set: `obs` [n, o], `action` [n, a] and, where given, the others of `load_npz`.

    Args:
        arrays: By name.
        where: What they are in, for messages.
        bounded: Whether actions must lie in [-1, 1].

    Raises:
        ValueError: If an array is missing, unknown, misshapen, empty, not finite or out of range, or there are rewards
            of steps that go on without what they lead to.
    """
    for name in arrays:
        if name not in (*_REQUIRED, *_OPTIONAL):
            listing = ", ".join((*_REQUIRED, *_OPTIONAL))
            raise ValueError(f"{where} must hold arrays among {listing}; got {name!r}.")
    for name in _REQUIRED:
        if name not in arrays or np.ndim(arrays[name]) != 2:
            raise ValueError(f"{where} must hold a two-dimensional array {name!r}.")
        if not np.shape(arrays[name])[1]:
            raise ValueError(f"{name!r} in {where} must hold at least one number a row, got none.")
    found = {name: _numbers(name, values, where) for name, values in arrays.items()}
    size = len(found["action"])
    if size == 0:
        raise ValueError(f"{where} must hold at least one transition, got none.")
    shapes = {"obs": (size, *found["obs"].shape[1:]), "next_obs": (size, *found["obs"].shape[1:])}
    for name, array in found.items():
        shape = shapes.get(name, found["action"].shape if name == "action" else (size,))
        if array.shape != shape:
            raise ValueError(
                f"{name!r} in {where} must be as long as 'action', of shape {shape}, got {array.shape}."
            )
    if bounded:
        check_actions(found["action"], where)
    if (found.get("terminated", False) & found.get("truncated", np.zeros(size, bool))).any():
        raise ValueError(f"'terminated' and 'truncated' in {where} must not be set together.")
    ended = found.get("terminated", np.zeros(size, bool))
    if "reward" in found and "next_obs" not in found and not ended.all():
        raise ValueError(
            f"{where} must hold 'next_obs' where it holds 'reward', unless every step is 'terminated': values are "
            "learned from what a step leads to (cloning needs neither)."
        )
    return found


def columns(data: Transition) -> dict[str, Any]:
    """The arrays of single steps by name, as `checked` takes them: no extras, and `discount` only where it is given."""
    left_out = ("extras", "discount") if data.discount is None else ("extras",)
    return {name: value for name, value in vars(data).items() if name not in left_out}


def mapped_arrays(path: Path) -> dict[str, np.ndarray]:
    """As `npz_arrays`, without reading them: those that are stored as they are stay in the file.

    Raises:
        ValueError: As `npz_arrays`.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            stored = [info for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED]
            for info in stored:
                # Behind its own header, whose extra field may be longer than that of the list.
                file.seek(info.header_offset + _NAME_AT)
                name_size, extra_size = np.frombuffer(file.read(4), "<u2").tolist()
                file.seek(name_size + extra_size, 1)
                shape, fortran, kind = _header(file)
                if kind.hasobject or fortran or not all(shape):
                    continue
                found[info.filename.removesuffix(".npy")] = np.memmap(
                    path, kind, "r", offset=file.tell(), shape=shape
                )
        with np.load(path, allow_pickle=False) as rest:
            return {name: found[name] if name in found else rest[name] for name in rest.files}
    except Exception:
        raise ValueError(f"data must be an .npz file of numeric arrays, got {str(path)!r}.") from None


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def check_extras(extras: Any, action: Any, where: str) -> None:
    """Refuse extras that are not of these rows: of another length, not finite, or a known one of another shape.

    Args:
        extras: Arrays by name, of which any may be a tree.
        action: Of the rows, [n, a].
        where: What they are in, for messages.

    Raises:
        ValueError: With the first that is not as it must be.
    """
    row = np.shape(action)[:1]
    shapes = {
        "next_action": np.shape(action),
        **dict.fromkeys(("next_action_known", "mc_return", "trajectory"), row),
    }
    for path, leaf in jax.tree_util.tree_flatten_with_path(extras)[0]:
        name = f"extras{jax.tree_util.keystr(path)} in {where}"
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            raise ValueError(f"{name} must be an array with a row for each transition, got {leaf!r}.")
        shape = shapes.get(getattr(path[0], "key", "")) if len(path) == 1 else None
        if (leaf.shape if shape else leaf.shape[:1]) != (shape or row):
            wanted = f"of shape {shape}" if shape else f"of {row[0]:,} rows, as 'action'"
            raise ValueError(f"{name} must be an array {wanted}, got shape {leaf.shape}.")
        if jax.dtypes.issubdtype(leaf.dtype, np.floating) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"{name} must be finite.")
    if "next_action_known" in extras:
        flags("next_action_known", extras["next_action_known"], where)


def npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; what would have to be unpickled is refused.

    Raises:
        ValueError: For a file that is none, or damaged.
    """
    with open(path, "rb") as file:
        try:
            stored = np.load(file, allow_pickle=False)
            return {name: stored[name] for name in stored.files}
        # numpy raises what its parsers do: of a zip file, of a header, of a shape that is too large, ...
        except Exception:
            raise ValueError(f"data must be an .npz file of numeric arrays, got {str(path)!r}.") from None


def load_npz(path: str | Path) -> Transition:
    """A data set from an .npz file.

    The file holds `obs` [n, o] and `action` [n, a] in [-1, 1]; and, for methods that learn values, `reward` [n],
    `next_obs` [n, o], `terminated` [n] and `truncated` [n] (booleans). `reference` [2], the returns that scores are
    normalised by, is not read here. What is missing is filled with zeros, `next_obs`
    with `obs`; beside rewards it must be given, unless every step is terminated.

    Raises:
        ValueError: If the file is missing, is no such file, or its arrays are misshapen, not finite, out of range, or
            rewards without `next_obs`.
    """
    arrays, _ = stored(existing(path))
    size = len(arrays["action"])
    zeros, no = np.zeros(size), np.zeros(size, bool)
    return Transition(
        jnp.asarray(arrays["obs"], float),
        jnp.asarray(arrays["action"], float),
        jnp.asarray(arrays.get("reward", zeros), float),
        jnp.asarray(arrays.get("next_obs", arrays["obs"]), float),
        jnp.asarray(arrays.get("terminated", no), bool),
        jnp.asarray(arrays.get("truncated", no), bool),
    )


def stored(path: Path, *, mapped: bool = False) -> tuple[dict[str, np.ndarray], tuple[float, float] | None]:
    """What a file of this project holds: its arrays, as `checked` gives them, and its reference returns, if any.

    Args:
        path: The file.
        mapped: Whether they stay in it, but for those that are compressed.

    Raises:
        ValueError: As `load_npz`.
    """
    arrays = npz_arrays(path) if not mapped else mapped_arrays(path)
    reference = arrays.pop("reference", None)
    if reference is not None:
        reference = check_reference(reference.tolist(), f"'reference' in {path}")
    return checked(arrays, str(path)), reference
