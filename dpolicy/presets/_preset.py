"""What a preset is."""

from typing import Any, NamedTuple, TypeAlias


class Preset(NamedTuple):
    """Overrides of a recipe's and a training program's defaults, and where they come from.

    Attributes:
        values: The overrides; `steps`, where given, is how long a run lasts unless told otherwise.
        source: A page of this project, or a paper and its table.
        name: What it is chosen by where an algorithm has several for a task.
    """

    values: dict[str, Any]
    source: str
    name: str = "tuned"


# Algorithm: patterns of `family/task`, each with its preset; the first that matches is used.
Table: TypeAlias = dict[str, list[tuple[str, Preset]]]


def joined(*tables: Table) -> Table:
    """One table with the rows of all, in their order."""
    rows: Table = {}
    for table in tables:
        for algorithm, of_table in table.items():
            rows.setdefault(algorithm, []).extend(of_table)
    return rows
