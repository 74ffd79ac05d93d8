"""`dpolicy algorithms`, `dpolicy taxonomy`, `dpolicy envs`: what there is."""

from collections.abc import Sequence

from dpolicy.cli._flags import Flag, parse

_COLUMNS = ("family", "guidance", "reference", "transforms", "sampler", "critic", "selection", "source")


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, markdown: bool = False) -> str:
    """Rows in aligned columns, as plain text or as a Markdown table; nothing is cut off."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    if markdown:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    if markdown:
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def algorithms(args: list[str]) -> int:
    """Run `dpolicy algorithms`."""
    parse({}, args, prog="dpolicy algorithms", description="List the algorithms and what each is.")
    from dpolicy.algorithms import ALGORITHMS

    rows = [(name, entry.family, entry.summary) for name, entry in ALGORITHMS.items()]
    print(table(("name", "family", "what it is"), rows))
    print(
        '\n"dpolicy train NAME --help" explains its hyperparameters, "dpolicy taxonomy" shows what it is made of.'
    )
    return 0


def taxonomy(args: list[str]) -> int:
    """Run `dpolicy taxonomy`."""
    flags = [Flag("markdown", bool, False, "Print a Markdown table.")]
    description = (
        "Show which blocks each algorithm is made of: how its critic guides it, what it stays close to, ..."
    )
    values, _ = parse({"output": flags}, args, prog="dpolicy taxonomy", description=description)
    from dpolicy.algorithms import ALGORITHMS

    rows = [(name, *(getattr(entry, column) for column in _COLUMNS)) for name, entry in ALGORITHMS.items()]
    print(table(("name", *_COLUMNS), rows, markdown=values["markdown"]))
    return 0


def envs(args: list[str]) -> int:
    """Run `dpolicy envs`."""
    description = "List the environments with their sizes, time limits and what must be installed for them."
    parse({}, args, prog="dpolicy envs", description=description)
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
    print(table(("environment", "observation", "action", "time limit", "needs", "what it is"), rows))
    return 0
