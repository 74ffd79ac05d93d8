"""`dpolicy data`: what a data set holds and what is wrong with it, and the sets that are made here."""

from pathlib import Path
from typing import Any, Literal

from dpolicy import _checks
from dpolicy.cli._flags import Flag, parse
from dpolicy.cli._usage import UsageError, explained
from dpolicy.cli.catalogue import table, terminal_width

_HELP = """\
usage: dpolicy data info PATH|NAME [--timeouts ...] [--keys ...] [--task N]
       dpolicy data make NAME [--size N] [--seed S] [--out FILE] [--overwrite]
       dpolicy data make

What a data set holds and what is wrong with it; or one of the sets that this
project makes itself, as an .npz file, and without a name the list of them.
Sets of agents ("pendulum/medium", or "pendulum" for all of them) are recorded
from SAC, which is trained first; cut short, it goes on where it was.

"dpolicy data info --help" and "dpolicy data make --help" explain the flags.
"""


def data(args: list[str]) -> int:
    """Run `dpolicy data` with these words; returns the exit code."""
    if not args or args[0] in ("--help", "-h"):
        print(_HELP, end="")
        return 0
    if args[0] == "info":
        return _info(args[1:])
    if args[0] == "make":
        return _make(args[1:])
    raise UsageError(f"what to do must be one of info, make; got {args[0]!r}.", prog="dpolicy data")


def _info(args: list[str]) -> int:
    prog = "dpolicy data info"
    flags = [
        Flag(
            "data",
            str,
            help="a file (.npz, .hdf5), a folder of Minari, or the name of a set.",
            positional=True,
        ),
        Flag(
            "timeouts",
            Literal["drop", "drop_unless_terminal", "terminate", "stored"],
            "drop",
            "Of D4RL's files, what becomes of rows with a time-out.",
        ),
        Flag("keys", tuple[str, ...], (), "Of Minari's dictionaries, which entries are put side by side."),
        Flag(
            "task",
            int | None,
            None,
            "Of OGBench's sets, whose task's rewards are shown; 0 for the default one.",
        ),
        Flag(
            "time_limit", int | None, None, "Steps of a trajectory, where a file of D4RL marks no time-outs."
        ),
    ]
    description = "Show what a data set holds, row by row of training, and what is wrong with it."
    values, _ = parse({"set": flags}, args, prog=prog, description=description)
    from dpolicy.data import findings, located, read, stored_form

    settings = {name: values[name] for name in ("timeouts", "keys", "task", "time_limit")}
    with explained(prog):
        place = located(values["data"])
        form = stored_form(place.path)
        found = read(values["data"], **settings)
    width = terminal_width()
    print(f"{found.name}: {place.path} ({form})\n")
    print(table(("what", "how many", "from", "to", "mean"), _measured(found), width=width))
    if found.reference is not None:
        low, high = found.reference
        print(f"\nscores: 100 (R - {low:g}) / ({high:g} - {low:g})")
    sentences = findings(found)
    print("\nnothing is odd." if not sentences else "")
    if sentences:
        print(
            table(("what is odd, and what was done",), [(sentence,) for sentence in sentences], width=width)
        )
    return 0


def _measured(found: Any) -> list[tuple[str, ...]]:
    """Rows of the table of a set."""
    import numpy as np

    from dpolicy.data import normalised_score

    number = lambda value: f"{float(value):.5g}"
    returns, lengths = found.trajectory_returns(), np.diff(np.flatnonzero(found.end), prepend=-1)
    parts = {
        "rows": (f"{len(found):,}", None),
        "trajectories, steps": (f"{len(returns):,}", lengths),
        "  terminated": (f"{int((found.end & found.terminated).sum()):,}", None),
        "  cut": (f"{int((found.end & ~found.terminated).sum()):,}", None),
        "returns": (f"{len(returns):,}", returns),
        "rewards": (f"{len(np.unique(found.reward)):,} different", found.reward),
        "observations": (f"{found.obs.shape[1]} numbers", found.obs),
        "actions": (f"{found.action.shape[1]} numbers", found.action),
    }
    if found.reference is not None:
        parts["normalised scores"] = (f"{len(returns):,}", normalised_score(returns, found.reference))
    ends = lambda x: ("", "", "") if x is None else (number(x.min()), number(x.max()), number(x.mean()))
    return [(name, count, *ends(values)) for name, (count, values) in parts.items()]


def _make(args: list[str]) -> int:
    prog = "dpolicy data make"
    flags = [
        Flag("names", tuple[str, ...], (), "the set; without one, all are listed.", positional=True),
        Flag("size", int | None, None, "Rows; by default the set's own number.", "N"),
        Flag("seed", int, 0, "What everything drawn is made from."),
        Flag(
            "out",
            Path | None,
            None,
            "The file to write, .npz; by default where names are looked for, data/NAME.npz or in $DPOLICY_DATA.",
            "FILE",
        ),
        Flag("overwrite", bool, False, "Replace the file if there is one."),
        Flag("progress", bool, True, "Show the training of agents that are recorded."),
    ]
    description = "Make one of the sets of this project; the same name, size and seed give the same file."
    values, _ = parse({"set": flags}, args, prog=prog, description=description)
    from dpolicy.data import AGENTS, MADE, MIXTURE_KINDS, MIXTURES
    from dpolicy.data.places import folder
    from dpolicy.data.saving import check_target

    names = values["names"]
    if len(names) > 1:
        raise UsageError(f"unexpected {names[1]!r}.", prog=prog)
    if not names:
        rows = [(name, f"{made.size:,}", made.about) for name, made in MADE.items()]
        rows += [(name, f"{made.rows:,}", MIXTURE_KINDS[made.kind]) for name, made in MIXTURES.items()]
        print(table(("name", "rows", "what it is"), rows, width=terminal_width()))
        return 0
    with explained(prog):
        whole = names[0] in AGENTS
        wanted = [name for name, made in MIXTURES.items() if whole and made.agent == names[0]] or names
        if whole and (given := [name for name in ("size", "out") if values[name] is not None]):
            raise UsageError(
                f"{given[0]} is for one set, and {names[0]} is {len(wanted)} of them.", prog=prog
            )
        places = {name: values["out"] or folder("DPOLICY_DATA") / f"{name}.npz" for name in wanted}
        for path in places.values():
            check_target(path, overwrite=values["overwrite"])
        for name, path in places.items():
            _write(name, path, values)
    return 0


def _write(name: str, path: Path, values: dict[str, Any]) -> None:
    from dpolicy.data import MADE, MIXTURES, make_set, save_npz

    if name in MIXTURES:
        from dpolicy.mixtures import make_mixture

        shown = {"progress": values["progress"], "say": print}
        found = make_mixture(name, values["size"], seed=values["seed"], **shown)
    else:
        _checks.one_of("name", name, [*MADE, *MIXTURES])
        found = make_set(name, values["size"], seed=values["seed"])
    save_npz(path, found.transitions(), overwrite=values["overwrite"], reference=found.reference)
    print(f"{path}: {len(found):,} transitions, {int(found.end.sum()):,} trajectories ({found.name})")
