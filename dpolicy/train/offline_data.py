"""The data of an offline run: read, treated and checked, once, before anything is compiled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.core

from dpolicy import _checks
from dpolicy._order import check_follow
from dpolicy._types import Transition
from dpolicy.algorithm import Horizon
from dpolicy.data import DataSet, check_order, located
from dpolicy.data.reading import is_made, load_set, stored_form
from dpolicy.data.scores import check_reference
from dpolicy.data.sets import EXTRAS, is_mapped
from dpolicy.data.sources import check_extras, checked, columns
from dpolicy.envs import Environment
from dpolicy.train.memory import check_room, machine_memory, memory_limit, size_of
from dpolicy.train.progress import byte_text
from dpolicy.train.streaming import Streamed, Streaming, bytes_of

_SHARE = 4  # of the memory that a set may take before it is streamed, one of so many
DISCOUNT = 0.99  # of Monte-Carlo returns, by default
SIZE, TEMPERATURE = 20_000, 0.25  # by default, of exact samples; and rows of a maze


class Given(NamedTuple):
    """What an offline run learns from.

    Attributes:
        rows: Transitions with one leading axis, or what reads them.
        reference: Returns (R_min, R_max) that its scores are normalised by; None for no scores.
        remarks: Sentences to be said of it.
    """

    rows: Transition | Streamed
    reference: tuple[float, float] | None
    remarks: tuple[str, ...] = ()


def given_data(
    env: Environment,
    dataset: Any,
    data: str,
    horizon: Horizon | None,
    *,
    size: int,
    temperature: Any,
    rewards: Any,
    action_clip: float | None,
    extras: Sequence[str],
    discount: Any,
    reference: Any,
    needed: tuple[str, ...] = (),
    streaming: Streaming = "off",
    whole: str = "",
    **settings: Any,
) -> Given:
    """The transitions that `dataset` or `data` and the settings of `dpolicy.train.offline` mean.

    Args:
        env: Where the policy is evaluated.
        dataset: Transitions or a `DataSet`; None for what `data` means.
        data: A path, a name, or "exact".
        horizon: Of the algorithm.
        size: Exact samples to draw.
        temperature: Their temperature.
        rewards: The reward treatment.
        action_clip: Where actions are clipped; None for nowhere.
        extras: What goes into the extras.
        discount: Of the Monte-Carlo returns.
        reference: Two returns in the place of those of the set; None for those.
        needed: Extras that the algorithm needs, which are read with these.
        streaming: Whether the set stays on the host; "auto" where it takes more than a quarter of the memory.
        whole: What looks at the whole set, which must then be in memory; nothing by default.
        **settings: Of `dpolicy.data.read`.

    Raises:
        ValueError: For anything that is no data or no setting, for data that do not fit into memory, or out of order
            where the algorithm learns from windows, for sizes that differ from the environment's, and for a size or
            temperature of data that are not made.
    """
    name = "data" if dataset is None else "dataset"
    _checks.integer("data_size", size)
    _checks.positive("data_temperature", temperature)
    if action_clip is not None:
        _checks.in_range("data_action_clip", action_clip, 0.0, 1.0, open_low=True)
    _checks.fraction("data_discount", discount)
    if reference is not None:
        reference = check_reference(
            tuple(reference) if isinstance(reference, list) else reference, "data_reference"
        )
    _check_made(None if dataset is not None else data, size, temperature)
    _checks.one_of("data_streaming", streaming, ("auto", "on", "off"))
    if streaming == "on" and whole:
        raise ValueError(
            f"data_streaming must be auto or off for {whole}, which looks at the whole data set."
        )
    remarks: tuple[str, ...] = ()
    if isinstance(dataset, Transition):
        untouched = {
            "data_rewards": rewards == "none",
            "data_action_clip": action_clip is None,
            "data_extras": not extras,
            "data_discount": discount == DISCOUNT,
            "data_streaming": streaming != "on",
        }
        for setting, unset in untouched.items():
            if not unset:
                raise ValueError(
                    f"{setting} is for data that are read, or a DataSet: dataset is given as Transitions."
                )
        rows = dataset
    elif dataset is None or isinstance(dataset, DataSet):
        mapped = streaming != "off" and not whole
        found = _read(env, data, size, temperature, settings, mapped=mapped) if dataset is None else dataset
        reference = found.reference if reference is None else reference
        found = found.rewarded(rewards) if rewards != "none" else found
        found = found if action_clip is None else found.clipped(action_clip)
        # What comes along with another one is no name of its own.
        extras = tuple(dict.fromkeys([*extras, *(each for each in needed if each in EXTRAS)]))
        if discount != DISCOUNT and "mc_return" not in extras:
            raise ValueError(
                f"data_discount is of the extra mc_return, which is not asked for, got {discount!r}."
            )
        if streaming == "on" or (mapped and not _easily(bytes_of(found, extras))):
            rows = Streamed(found, extras, discount)
            remarks = (f"data: {byte_text(bytes_of(found, extras))}, streamed from {_where(found)}",)
        else:
            rows = found.transitions(extras, discount=discount)  # pyright: ignore[reportArgumentType]
    else:
        raise ValueError(f"dataset must be a Transition, a DataSet or None, got {type(dataset).__name__}.")
    _check_rows(rows, env, name, horizon, given=dataset is not None)
    return Given(rows, reference, remarks)


def _check_made(data: Any, size: int, temperature: Any) -> None:
    """Refuse what sets are made with where one is read, or given (None): it would be ignored."""
    made = isinstance(data, str) and is_made(data)
    given = {"data_size": (size, SIZE, made), "data_temperature": (temperature, TEMPERATURE, data == "exact")}
    for name, (value, default, used) in given.items():
        if not used and (isinstance(value, jax.core.Tracer) or value != default):
            whose = "'exact' samples" + " and 'maze/KIND', which are made" * (name == "data_size")
            source = "a dataset, which is given" if data is None else repr(data)
            raise ValueError(f"{name} is for {whose}, got {value!r} for {source}.")


def _read(
    env: Environment, data: str, size: int, temperature: Any, settings: dict[str, Any], *, mapped: bool
) -> DataSet:
    if isinstance(data, str) and is_made(data):
        check_room("data_size", size, 8 * (env.spec.obs_size + env.spec.action_size + 1))
    elif isinstance(data, str):
        path = located(data).path
        stored = path.stat().st_size
        # One of our own stays in its file where it is large; others are read, into the memory of the machine.
        if mapped and not _easily(stored) and stored_form(path) == "dpolicy":
            settings = {**settings, "mapped": True}
        elif mapped:
            _check_fits(stored, f"the file of {data}", machine_memory())
        else:
            _check_fits(stored, f"the file of {data}", memory_limit())
    return load_set(data, env, size=size, temperature=temperature, **settings)


def _easily(size: int) -> bool:
    """Whether so many bytes are small beside the memory there is: a constant of a program is held more than once."""
    limit = memory_limit()
    return limit is None or _SHARE * size <= limit


def _where(data: DataSet) -> str:
    return "its file" if is_mapped(data.obs) else "the machine's memory"


def _check_fits(size: int, what: str, limit: int | None) -> None:
    if limit is not None and size > limit:
        raise ValueError(
            f"data must fit into the {byte_text(limit)} of memory there is: {what} takes {byte_text(size)}. What "
            "dpolicy.data.save_npz has written need not, unless data_streaming is off; a part of this set would do."
        )


def _check_rows(
    rows: Transition | Streamed, env: Environment, name: str, horizon: Horizon | None, *, given: bool
) -> None:
    held = rows.data if isinstance(rows, Streamed) else rows
    if isinstance(rows, Streamed):
        if horizon is not None and horizon.steps > 1:
            data = rows.data
            check_follow(data.obs, data.next_obs, data.end | data.terminated, name)
    elif not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(rows)):
        if given:
            checked(columns(rows), name)
            check_extras(rows.extras, rows.action, name)
        if horizon is not None and horizon.steps > 1:
            check_order(rows, name)
        _check_fits(size_of(rows), "it", memory_limit())
    sizes = held.obs.shape[-1], held.action.shape[-1]
    if sizes != (env.spec.obs_size, env.spec.action_size):
        raise ValueError(
            f"dataset must have observations and actions of sizes {env.spec.obs_size, env.spec.action_size} "
            f"({env.spec.name}), got {sizes}."
        )


def digested(path: Path) -> list[Path]:
    """The files whose bytes are the data in `path`: of a folder in Arrow all of them, else the file itself.

    Beside Minari's HDF5 its metadata, which say the bounds of the actions.
    """
    if path.name != "metadata.json":
        beside = path.with_name("metadata.json")
        return [path, beside] if path.name == "main_data.hdf5" and beside.is_file() else [path]
    return sorted(each for each in path.parent.rglob("*") if each.is_file())
