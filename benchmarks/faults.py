"""How many faults of one line the tests catch.

Faults are planted one at a time in a copy of the repository (see `fault_operators`, which takes most of them from
cosmic-ray) and the test files that concern the module run against each, in a process of its own, up to the first
failure. Of the thousands that there are a sample is drawn, from every module in proportion to what it has.

    pip install -e '.[test,faults]'
    python benchmarks/faults.py --sample 300 --seed 0

It goes on where it was stopped. After writing a test, `--again` plants what survived once more. What can make no
difference is no fault: changes of docstrings, annotations and the texts of errors are never planted, and those of
`EQUIVALENT`, which someone has looked at, are counted apart.
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
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cosmic_ray.testing import run_tests
from cosmic_ray.work_item import TestOutcome
from fault_operators import Fault, check_operators, faults_in, planted

ROOT = Path(__file__).resolve().parent.parent

# What concerns a module: the first line that matches it. Files run in this order, `tests/test_` and `.py` left out.
MATCHING = "matching_wiring matching_recipes algorithms_protocol"
OFF_POLICY = f"wiring_off_policy actor_critic {MATCHING}"
ON_POLICY = "wiring_on_policy on_policy_checks proximal algorithms_protocol"
FORMULAS = "losses_formulas losses_compose losses_matching losses_transforms checks"
TESTS = """
losses/gae.py                   losses_formulas wiring_on_policy proximal checks
losses/value.py                 losses_formulas losses_compose checks
losses/surrogates.py            losses_formulas losses_ratios losses_denoising on_policy_checks checks
losses/ratios.py                losses_ratios losses_denoising losses_formulas on_policy_checks checks
losses/entropy.py               losses_ratios losses_compose policies on_policy_checks checks
losses/change.py                wiring_on_policy proximal
losses/denoising.py             losses_denoising on_policy_checks
losses/invertible.py            samplers_coupled wiring_on_policy
losses/categorical.py           losses_formulas ddiffpg
losses/distillation.py          losses_compose checks
losses/pathwise.py              losses_compose matching_recipes checks
losses/compose.py               losses_compose losses_formulas checks
losses/tilt.py                  losses_tilt bad_functions matching_wiring
losses/truncated.py             losses_proposals truncation losses_matching
losses/mean_flow.py             mean_flow matching_recipes
losses/times.py                 losses_matching mean_flow proximal checks
losses/*                        losses_matching losses_transforms losses_proposals losses_tilt losses_compose """
TESTS += f"""bad_functions checks matching_laws {MATCHING}
samplers/coupled.py             samplers_coupled proximal checks
samplers/mmse.py                samplers_mmse
samplers/mean_flow.py           mean_flow matching_recipes
samplers/likelihood.py          samplers_likelihood samplers_selection checks
samplers/noise_free.py          dipo
samplers/best_of.py             samplers_selection samplers_gradients matching_wiring checks
samplers/batch.py               samplers_gradients samplers_selection
samplers/*                      samplers_orders samplers_selection samplers_moments samplers_gradients """
TESTS += f"""samplers_likelihood losses_denoising checks
dpolicy/algorithms/bc.py        defaults wiring_off_policy data algorithms_protocol checks
dpolicy/algorithms/sac.py       defaults {OFF_POLICY} checks
dpolicy/algorithms/dipo.py      defaults dipo {OFF_POLICY} audit
dpolicy/algorithms/ddiffpg.py   defaults ddiffpg mode_discovery algorithms_protocol
dpolicy/algorithms/ppo.py       defaults {ON_POLICY} policies
dpolicy/algorithms/dppo.py      defaults {ON_POLICY} losses_denoising dppo_pretrained
dpolicy/algorithms/[fg]po*.py   defaults {ON_POLICY} losses_ratios
dpolicy/algorithms/genpo.py     defaults {ON_POLICY} samplers_coupled
dpolicy/algorithms/dp_cppo.py   defaults {ON_POLICY}
dpolicy/algorithms/*            defaults {OFF_POLICY} bad_functions audit
dpolicy/actor_critic.py         defaults {OFF_POLICY} dipo audit
dpolicy/extras.py               defaults extras {OFF_POLICY}
dpolicy/mirror.py               defaults {OFF_POLICY}
dpolicy/noisy_best.py           defaults {OFF_POLICY}
dpolicy/field_policy.py         defaults {OFF_POLICY} dipo schedules
dpolicy/ema.py                  ema wiring_off_policy checks
dpolicy/modes.py                modes ddiffpg
dpolicy/novelty.py              defaults ddiffpg mode_discovery
dpolicy/learner.py              defaults actor_critic on_policy_checks wiring_off_policy proximal
dpolicy/minibatches.py          wiring_on_policy on_policy_checks proximal
dpolicy/matched.py              wiring_on_policy on_policy_checks proximal
dpolicy/cloning.py              wiring_on_policy data on_policy_checks
dpolicy/proximal.py             defaults {ON_POLICY}
dpolicy/train/off_policy.py     defaults train_wiring actor_critic dipo ddiffpg train_probes
dpolicy/train/on_policy.py      defaults train_wiring proximal truncation train_probes
dpolicy/train/offline.py        defaults train_wiring data
dpolicy/train/normalise.py      train_wiring actor_critic proximal
dpolicy/train/replay.py         actor_critic dipo ddiffpg mode_discovery checks
dpolicy/train/*                 train_wiring actor_critic proximal data
"""
RECIPES = {path.stem for path in (ROOT / "dpolicy/algorithms").glob("[a-z]*.py")}
# What survived and can make no difference: the fault, and why.
EQUIVALENT: dict[str, str] = {}


def concerning(module: str) -> list[str]:
    """The names of the test files that concern a module, without those that there are not."""
    rows = (line.split() for line in TESTS.strip().splitlines())
    names = next(names for pattern, *names in rows if fnmatch(module, pattern))
    return list(dict.fromkeys(name for name in names if (ROOT / f"tests/test_{name}.py").exists()))


def modules() -> list[str]:
    """Those in which faults are planted, as paths from the repository's root."""
    single = {line.split()[0] for line in TESTS.strip().splitlines()}
    folders = [
        path for name in ("losses", "samplers", "dpolicy/algorithms") for path in (ROOT / name).glob("*.py")
    ]
    named = [ROOT / name for name in single if "*" not in name]
    train = [ROOT / f"dpolicy/train/{name}.py" for name in ("evaluate", "program")]
    found = {str(path.relative_to(ROOT)) for path in (*folders, *named, *train) if path.name != "__init__.py"}
    return sorted(found)


def drawn(pool: dict[str, list[Fault]], size: int, seed: int) -> Iterator[tuple[Fault, str]]:
    """A sample of distinct faults with the changed source: from each module in proportion, in random order."""
    chance, total = random.Random(seed), sum(map(len, pool.values()))
    # The largest remainders get what rounding down leaves.
    exact = {module: size * len(faults) / total for module, faults in pool.items()}
    quota = {module: int(share) for module, share in exact.items()}
    by_remainder = sorted(exact, key=lambda module: (quota[module] - exact[module], module))
    for module in by_remainder[: size - sum(quota.values())]:
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
    yield from sample


def wilson(caught: int, planted: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share, in Wilson's form."""
    if not planted:
        return 0.0, 1.0
    share, square = caught / planted, z**2 / planted
    middle, half = share + square / 2, z * math.sqrt(share * (1 - share) / planted + square / planted / 4)
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def digest() -> str:
    """Of every Python file that the outcome depends on."""
    total = hashlib.sha256()
    folders = ("dpolicy", "losses", "samplers", "envs", "tests")
    for path in sorted(path for name in folders for path in (ROOT / name).rglob("*.py")):
        total.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return total.hexdigest()[:16]


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
    """What runs the tests of a module, up to the first that fails; of a recipe, without those of the others."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider"]
    own = Path(module).stem
    if module.startswith("dpolicy/algorithms/"):
        others = " or ".join(f"[{name}]" for name in sorted(RECIPES - {own}))
        words += ["-k", f"'not ({others})'"]
    return " ".join([*words, *(f"tests/test_{name}.py" for name in files)])


CRASH = re.compile(
    r"\b(TypeError|NameError|AttributeError|KeyError|IndexError|ImportError|TypeCheckError|\w+Tracer\w*)\b"
)


def outcome_of(fault: Fault, changed: str, tree: Path, timeout: float) -> dict[str, Any]:
    """Plant, test, mend."""
    target, source = tree / fault.module, (ROOT / fault.module).read_text()
    before, after = (next(iter({*one} - {*other}), "") for one, other in _pairs_of_lines(source, changed))
    target.write_text(changed)
    begun = time.monotonic()
    try:
        outcome, output = run_tests(command(fault.module, concerning(fault.module)), timeout)
    finally:
        target.write_text(source)
    text = output or ""
    said = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    return {
        "fault": fault.name,
        "module": fault.module,
        "operator": fault.operator,
        "occurrence": fault.occurrence,
        "line": fault.line,
        "before": before.strip(),
        "after": after.strip(),
        "outcome": "survived" if outcome == TestOutcome.SURVIVED else "caught",
        "by": " ".join(said)[-400:] or text[-200:],
        "crash": bool(CRASH.search(text[-2000:])),
        "seconds": round(time.monotonic() - begun, 1),
    }


def _pairs_of_lines(source: str, changed: str) -> list[tuple[list[str], list[str]]]:
    lines = source.splitlines(), changed.splitlines()
    return [lines, lines[::-1]]


def table(rows: list[dict[str, Any]], pool: dict[str, list[Fault]], title: str) -> str:
    """The score by module, and everything that survived."""
    left = [row for row in rows if row["outcome"] == "survived"]
    excluded = [row for row in left if row["fault"] in EQUIVALENT]
    counted = [row for row in rows if row not in excluded]
    caught = [row for row in counted if row["outcome"] == "caught"]
    low, high = wilson(len(caught), len(counted))
    lines = [title, ""]
    lines += [
        f"**{len(caught)} of {len(counted)} caught: {len(caught) / max(len(counted), 1):.3f}** (95 % interval {low:.3f} "
        f"to {high:.3f}), {sum(row['crash'] for row in caught)} of them by an error rather than by a wrong value; "
        f"{len(excluded)} more that can make no difference.",
        "",
    ]
    for heading, key in (("module", "module"), ("operator", "operator")):
        lines += [f"| {heading} | there are | planted | caught | survived |", "|---|---|---|---|---|"]
        there = Counter(getattr(fault, key) for faults in pool.values() for fault in faults)
        for name in sorted({row[key] for row in counted}):
            mine = [row for row in counted if row[key] == name]
            found = sum(row["outcome"] == "caught" for row in mine)
            lines.append(f"| `{name}` | {there[name]} | {len(mine)} | {found} | {len(mine) - found} |")
        lines.append("")
    for heading, some in (
        ("Survived", [row for row in left if row not in excluded]),
        ("Equivalent", excluded),
    ):
        lines += [f"{heading}:", ""] if some else []
        for row in sorted(some, key=lambda row: row["fault"]):
            reason = f": {EQUIVALENT[row['fault']]}" if row in excluded else ""
            lines.append(f"- `{row['fault']}`: `{row['before']}` became `{row['after']}`{reason}")
        lines += [""] if some else []
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=300, help="faults to plant")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default="*", help="pattern of modules, such as 'losses/*'")
    parser.add_argument(
        "--again", action="store_true", help="plant what survived once more, on the code as it is now"
    )
    parser.add_argument(
        "--timeout", type=float, default=1_800.0, help="seconds; what takes longer counts as caught"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs/faults", help="where the copy and the outcomes are"
    )
    parser.add_argument("--out", type=Path, help="Markdown file for the table; printed in any case")
    arguments = parser.parse_args()
    check_operators()
    chosen = [module for module in modules() if fnmatch(module, arguments.only)]
    pool = {module: list(faults_in(ROOT, module)) for module in chosen}
    sample = list(drawn(pool, arguments.sample, arguments.seed))
    work = arguments.work.resolve()
    kept = work / f"{arguments.sample}-{arguments.seed}-{digest()}.jsonl"
    work.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {row["fault"] for row in rows}
    tree = copied(work)
    os.chdir(tree)
    os.environ |= {
        "PYTHONPATH": str(tree),
        # Most programs are what they were without the fault: compiled once, they are read.
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    files = list(
        dict.fromkeys(name for module in {f.module for f, _ in sample} for name in concerning(module))
    )
    if not rows:
        print(f"without a fault: {len(files)} test files", flush=True)
        outcome, output = run_tests(command("", sorted(files)), 10 * arguments.timeout)
        if outcome != TestOutcome.SURVIVED:
            raise SystemExit(f"the tests fail without a fault:\n{output}")
    for number, (fault, changed) in enumerate(sample):
        if fault.name in done:
            continue
        row = outcome_of(fault, changed, tree, arguments.timeout)
        rows.append(row)
        with kept.open("a") as file:
            file.write(json.dumps(row) + "\n")
        survived = sum(row["outcome"] == "survived" for row in rows)
        change = f"{row['before']} -> {row['after']}" if row["outcome"] == "survived" else row["by"]
        print(
            f"{number + 1}/{len(sample)} ({survived} survived) {row['outcome']} {row['seconds']:.0f} s {fault.name}: "
            f"{change[:150]}",
            flush=True,
        )
    title = (
        f"Command: `python benchmarks/faults.py --sample {arguments.sample} --seed {arguments.seed}`: "
        f"{sum(map(len, pool.values()))} faults in {len(pool)} modules, of which {len(sample)} were drawn."
    )
    text = table(rows, pool, title)
    print("\n" + text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
