"""`dpolicy algorithms`, `dpolicy taxonomy`, `dpolicy envs`: what there is."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from dpolicy.cli._flags import Flag, parse
from dpolicy.cli._usage import UsageError

_COLUMNS = ("family", "guidance", "reference", "transforms", "sampler", "critic", "selection", "source")
_GAP = "  "


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None where it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    markdown: bool = False,
    width: int | None = None,
) -> str:
    """Rows in aligned columns, as plain text or as a Markdown table; nothing is cut off.

    With a `width`, no line of plain text is longer: cells are broken between words, and where there are too many
    columns for that, each row becomes a paragraph with a line for each column.
    """
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    if markdown:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if width is not None:
        room = width - len(_GAP) * (len(widths) - 1)
        least = [max(map(_longest_word, column)) for column in zip(*cells, strict=True)]
        if sum(least) > room:
            return "\n\n".join(_paragraph(header, row, width) for row in cells[1:])
        while sum(widths) > room:
            widest = max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))
            widths[widest] -= 1
    cells.insert(1, ["-" * size for size in widths])
    if markdown:
        lines = [[cell.ljust(size) for cell, size in zip(row, widths, strict=True)] for row in cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join(line for row in cells for line in _lines(row, widths))


def _longest_word(cell: str) -> int:
    return max(map(len, cell.split()), default=0)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]


def _lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One row of a plain table, as many lines as its tallest cell takes."""
    columns = [_wrapped(cell, size) for cell, size in zip(row, widths, strict=True)]
    lines = []
    for i in range(max(map(len, columns))):
        parts = [
            (column[i] if i < len(column) else "").ljust(s) for column, s in zip(columns, widths, strict=True)
        ]
        lines.append(_GAP.join(parts).rstrip())
    return lines


def _paragraph(header: Sequence[str], row: Sequence[str], width: int) -> str:
    """One row with a line for each column but the first, which is its title."""
    indent = max(map(len, header[1:])) + 2 * len(_GAP)
    lines = [row[0]]
    for name, cell in zip(header[1:], row[1:], strict=True):
        first, *others = _wrapped(cell, width - indent)
        lines.append(f"{_GAP}{name}".ljust(indent) + first)
        lines += [" " * indent + other for other in others]
    return "\n".join(line.rstrip() for line in lines)


def _words(what: str) -> Flag:
    return Flag("words", tuple[str, ...], (), f"Show only {what} with all of these words.", positional=True)


def _matching(rows: Sequence[tuple[Any, ...]], words: Sequence[str], prog: str) -> list[tuple[Any, ...]]:
    """The rows in which each of the words stands somewhere, in whatever case.

    Raises:
        UsageError: If there is none.
    """
    texts = [" ".join(map(str, row)).lower() for row in rows]
    found = [
        row for row, text in zip(rows, texts, strict=True) if all(word.lower() in text for word in words)
    ]
    if not found:
        raise UsageError(
            f"nothing has {' and '.join(map(repr, words))} in it; without words, all are shown.", prog=prog
        )
    return found


def algorithms(args: list[str]) -> int:
    """Run `dpolicy algorithms`."""
    prog = "dpolicy algorithms"
    flags = [_words("algorithms")]
    values, _ = parse({"filter": flags}, args, prog=prog, description="List the algorithms and what each is.")
    from dpolicy.algorithms import ALGORITHMS

    rows = [(name, entry.family, entry.summary) for name, entry in ALGORITHMS.items()]
    print(
        table(
            ("name", "family", "what it is"), _matching(rows, values["words"], prog), width=terminal_width()
        )
    )
    print(
        '\n"dpolicy train NAME --help" explains its hyperparameters,\n"dpolicy taxonomy" shows what it is made of.'
    )
    return 0


def taxonomy(args: list[str]) -> int:
    """Run `dpolicy taxonomy`."""
    prog = "dpolicy taxonomy"
    flags = [_words("algorithms"), Flag("markdown", bool, False, "Print a Markdown table.")]
    description = (
        "Show which blocks each algorithm is made of: how its critic guides it, what it stays close to, ..."
    )
    values, _ = parse({"output": flags}, args, prog=prog, description=description)
    from dpolicy.algorithms import ALGORITHMS

    rows = [(name, *(getattr(entry, column) for column in _COLUMNS)) for name, entry in ALGORITHMS.items()]
    rows = _matching(rows, values["words"], prog)
    print(table(("name", *_COLUMNS), rows, markdown=values["markdown"], width=terminal_width()))
    return 0


def envs(args: list[str]) -> int:
    """Run `dpolicy envs`."""
    prog = "dpolicy envs"
    description = "List the environments with their sizes, time limits and what must be installed for them."
    values, _ = parse({"filter": [_words("environments")]}, args, prog=prog, description=description)
    from dpolicy.envs import FAMILIES

    rows = [
        (
            f"{name}/{task}",
            spec.obs_size,
            spec.action_size,
            spec.time_limit,
            family.requirement,
            family.summary,
        )
        for name, family in FAMILIES.items()
        for task, spec in family.tasks.items()
    ]
    rows = _matching(rows, values["words"], prog)
    sizes = table(("environment", "obs", "action", "limit"), [row[:4] for row in rows]).splitlines()
    print("\n".join(sizes[:2]))
    about = None
    for row, line in zip(rows, sizes[2:], strict=True):
        # What all tasks of a family share is said once, above them.
        if row[4:] != about:
            about = row[4:]
            family, needs, summary = row[0].partition("/")[0], *about
            print("\n" + "\n".join(_wrapped(f"{family}: {summary} ({needs})", terminal_width() or 10**6)))
        print(line)
    print("\nobs, action: how many numbers; limit: steps of an episode.")
    return 0
