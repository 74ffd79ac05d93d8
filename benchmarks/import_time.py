"""What `import dpolicy` costs, relative to importing what it stands on: jax, equinox, optax and diffrax.

    python benchmarks/import_time.py [--runs 5]

Every run is two fresh interpreters, one after the other, and one ratio of their processor times (which, unlike wall
time, do not move with other load on the machine); the median of the ratios is what must not exceed 1.3.
"""

import argparse
import statistics
import subprocess
import sys

LIMIT = 1.3
BASE = "import jax, equinox, optax, diffrax"
OURS = "import dpolicy"


def seconds(statement: str) -> float:
    """Processor seconds that `statement` takes in a fresh interpreter."""
    program = f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(result.stdout)


def ratios(runs: int) -> list[tuple[float, float]]:
    """(base, ours) in processor seconds for each run, after one of each that fills the file cache."""
    for statement in (BASE, OURS):
        seconds(statement)
    return [(seconds(BASE), seconds(OURS)) for _ in range(runs)]


def slowest(count: int = 8) -> list[tuple[float, str]]:
    """The modules of ours that add most time of their own, in milliseconds, by `-X importtime`."""
    program = f"{BASE}; {OURS}"
    report = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, check=True
    ).stderr
    rows = (line.removeprefix("import time:").split("|") for line in report.splitlines() if "|" in line)
    ours = [(float(own) / 1000, name.strip()) for own, _, name in rows if name.strip().startswith("dpolicy")]
    return sorted(ours, reverse=True)[:count]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="pairs of interpreters to start (default 5)")
    runs = parser.parse_args().runs
    if runs < 1:
        parser.error(f"--runs must be at least 1, got {runs}.")
    pairs = ratios(runs)
    base, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(ours / base for base, ours in pairs)
    print(f"{BASE:<40} {base:6.2f} s")
    print(f"{OURS:<40} {ours:6.2f} s")
    print(f"{'ratio, median of ' + str(runs) + ' runs':<40} {ratio:6.2f}   (limit {LIMIT})")
    for own, name in slowest():
        print(f"    {name:<36} {own:6.1f} ms")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
