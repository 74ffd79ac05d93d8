"""How many faults of one line the tests catch.

Faults are planted one at a time in a copy of the repository (see `fault_operators`, which takes most of them from
cosmic-ray), and the test files that concern the module run against each, in a process of its own, up to the first
failure. Of the thousands that there are a sample is drawn, from every module in proportion to what it has.

    pip install -e '.[test,faults]'
    python benchmarks/faults.py --sample 300 --seed 0

It goes on where it was stopped while sources and tests are the same. After writing a test, `--again FILE` plants what
survived according to that file of outcomes once more. `--only` and `--operator` narrow the choice, as in
`--operator '*/OneSided' --sample 999`, all of one kind.

What can make no difference is no fault: changes of docstrings, annotations and the texts of errors are never planted;
those of `EQUIVALENT`, which someone has looked at, are counted apart.
"""

import argparse
import hashlib
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from command_line import parser_for
from cosmic_ray.testing import run_tests
from cosmic_ray.work_item import TestOutcome
from fault_operators import Fault, check_operators, faults_in, planted
from fault_tables import EQUIVALENT, EVERYWHERE, TESTS

ROOT = Path(__file__).resolve().parent.parent


def concerning(module: str) -> list[str]:
    """The names of the test files that concern a module, without those that there are not."""
    names = next(names for pattern, names in TESTS.items() if fnmatch(module, pattern))
    names = f"{names} {EVERYWHERE}".split()
    return list(dict.fromkeys(name for name in names if (ROOT / f"tests/test_{name}.py").exists()))


def modules() -> list[str]:
    """Those in which faults are planted, as paths from the repository's root."""
    found = {path.relative_to(ROOT).as_posix() for pattern in TESTS for path in ROOT.glob(pattern)}
    return sorted(name for name in found if name.endswith(".py") and not name.endswith("__init__.py"))


def drawn(pool: dict[str, list[Fault]], size: int, seed: int) -> list[tuple[Fault, str]]:
    """A sample of distinct faults with the changed source: from each module in proportion, in random order."""
    chance, total = random.Random(seed), sum(map(len, pool.values()))
    # The largest remainders get what rounding down leaves.
    exact = {module: min(size / total, 1) * len(faults) for module, faults in pool.items()}
    quota = {module: int(share) for module, share in exact.items()}
    left = round(sum(exact.values())) - sum(quota.values())
    for module in sorted(exact, key=lambda module: (quota[module] - exact[module], module))[:left]:
        quota[module] += 1
    sample: list[tuple[Fault, str]] = []
    for module, faults in sorted(pool.items()):
        source, seen = (ROOT / module).read_text(), set()
        for fault in chance.sample(faults, len(faults)):
            if len(seen) == quota[module]:
                break
            changed = planted(fault, source)
            if changed is not None and changed not in seen:
                seen.add(changed)
                sample.append((fault, changed))
    chance.shuffle(sample)
    return sample


def wilson(caught: int, planted: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share, in Wilson's form."""
    if not planted:
        return 0.0, 1.0
    share, square = caught / planted, z**2 / planted
    half = z * math.sqrt(share * (1 - share) / planted + square / planted / 4)
    return (share + square / 2 - half) / (1 + square), (share + square / 2 + half) / (1 + square)


def digest() -> str:
    """Of every Python file that an outcome depends on."""
    total = hashlib.sha256()
    for folder in ("dpolicy", "losses", "samplers", "envs", "tests"):
        for path in sorted((ROOT / folder).rglob("*.*")):
            if path.suffix in (".py", ".txt"):
                total.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return total.hexdigest()[:12]


def copied(work: Path) -> Path:
    """A copy of the tracked files as they now are, in which faults are planted."""
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    return tree


def command(module: str, files: list[str]) -> str:
    """What runs test files up to the first that fails; for a recipe, without what concerns another one alone."""
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--no-header",
        "--tb=short",
        "-p",
        "no:cacheprovider",
    ]
    if module.startswith("dpolicy/algorithms/"):
        recipes = {path.stem for path in (ROOT / "dpolicy/algorithms").glob("[a-z]*.py")}
        others = " or ".join(f"[{name}]" for name in sorted(recipes - {Path(module).stem}))
        words += ["-k", f"'not ({others})'"]
    return " ".join([*words, *(f"tests/test_{name}.py" for name in files)])


def changed_lines(source: str, changed: str) -> tuple[str, str]:
    """The lines in which they differ, of each."""
    before, after = source.splitlines(), changed.splitlines()
    start = next(
        i for i, pair in enumerate(zip([*before, None], [*after, None], strict=False)) if pair[0] != pair[1]
    )
    while min(len(before), len(after)) > start and before[-1] == after[-1]:
        del before[-1], after[-1]
    joined = lambda lines: " ".join(line.strip() for line in lines[start:])
    return joined(before), joined(after)


# The ends of a test that did not come to compare a value.
CRASH = re.compile(r"^E +(\w+\.)*(\w*(Error|Warning|Exception))\b", re.MULTILINE)


def outcome_of(fault: Fault, changed: str, tree: Path, timeout: float) -> dict[str, Any]:
    """Plant, test, mend."""
    target, source = tree / fault.module, (ROOT / fault.module).read_text()
    before, after = changed_lines(source, changed)
    target.write_text(changed)
    begun = time.monotonic()
    try:
        outcome, output = run_tests(command(fault.module, concerning(fault.module)), timeout)
    finally:
        target.write_text(source)
    said, text = [], output or ""
    if outcome != TestOutcome.SURVIVED:
        said = [
            line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))
        ] or text.splitlines()[-1:]
    kinds = [match.group(2) for match in CRASH.finditer(text)]
    return {
        **fault._asdict(),
        "before": before,
        "after": after,
        "outcome": "survived" if outcome == TestOutcome.SURVIVED else "caught",
        "by": " ".join(said)[:200],
        "crash": bool(kinds) and "AssertionError" not in kinds,
        "seconds": round(time.monotonic() - begun, 1),
    }


def name_of(row: dict[str, Any]) -> str:
    """What a fault is called where it is excluded: it does not change with the lines above it."""
    return f"{row['module']} {row['operator'].split('/')[1]}: {row['before']} -> {row['after']}"


def table(rows: list[dict[str, Any]], pool: dict[str, list[Fault]], title: str) -> str:
    """The score by module and by operator, and everything that survived."""
    excluded = [row for row in rows if row["outcome"] == "survived" and name_of(row) in EQUIVALENT]
    counted = [row for row in rows if row not in excluded]
    caught = [row for row in counted if row["outcome"] == "caught"]
    low, high = wilson(len(caught), len(counted))
    score, crashed = len(caught) / max(len(counted), 1), sum(row["crash"] for row in caught)
    lines = [
        title,
        "",
        f"**{len(caught)} of {len(counted)} caught: {score:.3f}** (95 % interval {low:.3f} to {high:.3f}), {crashed} "
        f"of them by an error, the others by a wrong value. {len(excluded)} more can make no difference.",
        "",
    ]
    for key in ("module", "operator"):
        there = Counter(getattr(fault, key) for faults in pool.values() for fault in faults)
        lines += [f"| {key} | there are | planted | caught | survived |", "|---|---|---|---|---|"]
        for name in sorted({row[key] for row in counted}):
            mine = [row["outcome"] == "caught" for row in counted if row[key] == name]
            lines.append(
                f"| `{name}` | {there[name]} | {len(mine)} | {sum(mine)} | {len(mine) - sum(mine)} |"
            )
        lines.append("")
    for heading, some in (("Survived", [r for r in counted if r not in caught]), ("Equivalent", excluded)):
        lines += [f"{heading}:", ""] if some else []
        reason = lambda row: f": {EQUIVALENT[name_of(row)]}" if row in excluded else ""
        lines += [f"- `{name_of(row)}`{reason(row)}" for row in sorted(some, key=name_of)]
        lines += [""] if some else []
    return "\n".join(lines)


def chosen_again(path: Path, pool: dict[str, list[Fault]]) -> list[tuple[Fault, str]]:
    """What survived according to a file of outcomes, where the sources still have it."""
    survived = [
        row for line in path.read_text().splitlines() if (row := json.loads(line))["outcome"] == "survived"
    ]
    names, found = {name_of(row) for row in survived}, []
    for fault in (fault for faults in pool.values() for fault in faults):
        if any(row["module"] == fault.module and row["operator"] == fault.operator for row in survived):
            source = (ROOT / fault.module).read_text()
            changed = planted(fault, source)
            if changed is not None:
                before, after = changed_lines(source, changed)
                if name_of({**fault._asdict(), "before": before, "after": after}) in names:
                    found.append((fault, changed))
    return found


def arguments_of() -> argparse.Namespace:
    parser = parser_for(__doc__, out="Markdown file for the table")
    parser.add_argument("--sample", type=int, default=300, help="faults to plant")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default="*", help="pattern of modules, such as 'losses/*'")
    parser.add_argument("--operator", default="*", help="pattern of operators, such as 'wiring/*'")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="plant what survived in FILE, an earlier .jsonl"
    )
    parser.add_argument(
        "--timeout", type=float, default=1_800.0, help="seconds; what takes longer counts as caught"
    )
    parser.add_argument(
        "--hours",
        type=float,
        default=math.inf,
        help="start no more faults after these; 0 shows what there is",
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs/faults", help="where copy and outcomes are kept"
    )
    return parser.parse_args()


def main() -> None:
    arguments = arguments_of()
    check_operators()
    pool = {
        name: list(faults_in(ROOT, name, arguments.operator))
        for name in modules()
        if fnmatch(name, arguments.only)
    }
    if arguments.again is None:
        sample = drawn(pool, arguments.sample, arguments.seed)
    else:
        sample = chosen_again(arguments.again, pool)
    settings = json.dumps(
        [arguments.sample, arguments.seed, arguments.only, arguments.operator, str(arguments.again)]
    )
    work = arguments.work.resolve()
    kept = (
        work
        / f"{arguments.sample}-{arguments.seed}-{hashlib.sha256((settings + digest()).encode()).hexdigest()[:12]}.jsonl"
    )
    work.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    print(f"outcomes in {kept}", flush=True)
    done = {(row["module"], row["operator"], row["occurrence"]) for row in rows}
    out = None if arguments.out is None else arguments.out.resolve()
    tree = copied(work)
    os.chdir(tree)
    os.environ |= {
        "PYTHONPATH": str(tree),
        # Most programs are what they were without the fault: compiled once, they are read.
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    files = sorted({name for fault, _ in sample for name in concerning(fault.module)})
    end = time.monotonic() + 3_600 * arguments.hours
    if not rows:
        print(f"{len(sample)} faults; without one: {len(files)} test files", flush=True)
        outcome, output = run_tests(command("", files), 20 * arguments.timeout)
        if outcome != TestOutcome.SURVIVED:
            raise SystemExit(f"the tests fail without a fault:\n{output}")
    for number, (fault, changed) in enumerate(sample, 1):
        if (fault.module, fault.operator, fault.occurrence) in done:
            continue
        if time.monotonic() >= end:
            # Those before it, in the random order of the draw, are a sample too.
            first = {tuple(fault[:3]) for fault, _ in sample[: number - 1]}
            rows = [row for row in rows if (row["module"], row["operator"], row["occurrence"]) in first]
            break
        row = outcome_of(fault, changed, tree, arguments.timeout)
        rows.append(row)
        with kept.open("a") as file:
            file.write(json.dumps(row) + "\n")
        survived = sum(row["outcome"] == "survived" for row in rows)
        by = f", {row['by'][:120]}" if row["by"] else ""
        print(
            f"{number}/{len(sample)}, {survived} survived: {row['outcome']} in {row['seconds']:.0f} s, "
            f"{name_of(row)}{by}",
            flush=True,
        )
    title = (
        f"Command: `python benchmarks/faults.py --sample {arguments.sample} --seed {arguments.seed}`: "
        f"{sum(map(len, pool.values()))} faults in {len(pool)} modules, of which {len(sample)} were drawn"
        + (f" and the first {len(rows)} planted." if len(rows) < len(sample) else ".")
    )
    text = table(rows, pool, title)
    print("\n" + text)
    if out is not None:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
