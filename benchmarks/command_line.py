"""The command lines of the benchmarks: what each says about itself, and the arguments that many of them take."""

import argparse
from collections.abc import Iterable
from pathlib import Path


def parser_for(
    text: str | None,
    *,
    out: str | None = None,
    runs: tuple[str, str] | None = None,
    seeds: int | None = None,
    only: str | None = None,
    choices: Iterable[str] | None = None,
) -> argparse.ArgumentParser:
    """A parser that shows `text`, a module's docstring; those of the shared arguments that are not None are added.

    Args:
        text: What `--help` says first.
        out: What is written to `--out`, and printed in any case.
        runs: What is kept in `--runs`, and the folder under runs/ that it is by default.
        seeds: `--seeds` by default.
        only: What `--only` chooses some of.
        choices: What there is to choose from.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    if out is not None:
        parser.add_argument("--out", type=Path, help=f"{out}; printed in any case")
    if runs is not None:
        kept, folder = runs
        parser.add_argument(
            "--runs", type=Path, default=Path("runs", folder), help=f"where the {kept} are kept"
        )
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds)
    if only is not None:
        # argparse holds what it gets for no names, an empty list, against the choices as well.
        allowed = None if choices is None else [[], *choices]
        parser.add_argument("--only", nargs="*", choices=allowed, help=f"{only}; all by default")
    return parser
