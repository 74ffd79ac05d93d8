"""What more seeds cost: seconds of the same training for 1, 2, 4, 8 and 16 seeds in one vmapped program.

Each number of seeds runs in a process of its own: methods of both families on Pendulum with their presets' networks
and batches, one call of the training program after compiling it. "Of one" is the time beside that of a single
seed: its own number of seeds if vmapping gained nothing, one if seeds were free.

    python benchmarks/seeds.py --out benchmarks/results/seeds
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from command_line import parser_for

METHODS = ("sac", "sdac", "qsm", "ppo", "dp_cppo")
COUNTS = (1, 2, 4, 8, 16)
ENV = "gymnax/Pendulum-v1"
SMALLER: dict[str, dict[str, Any]] = {
    "off_policy": {"warmup": 512, "evaluation_interval": 256, "evaluation_episodes": 1},
    "on_policy": {"iterations_per_evaluation": 1, "evaluation_episodes": 1},
}


def measure(name: str, seeds: int, calls: int) -> dict[str, float]:
    """Compile a program for this many seeds and time its calls, the median of them."""
    import jax

    from dpolicy.algorithms import ALGORITHMS
    from dpolicy.presets import resolve
    from dpolicy.train.building import build

    family = ALGORITHMS[name].family
    _, _, program = build(resolve(name, ENV, SMALLER[family]) | {"seeds": seeds, "seed": 0})
    begun = time.perf_counter()
    state = jax.jit(jax.vmap(program.init))(jax.random.split(jax.random.key(0), seeds))
    run = jax.jit(jax.vmap(program.step), donate_argnums=0).lower(state).compile()
    compiled = time.perf_counter() - begun
    times: list[float] = []
    for _ in range(calls):
        begun = time.perf_counter()
        state = jax.block_until_ready(run(state))[0]
        times.append(time.perf_counter() - begun)
    return {"compile": compiled, "seconds": statistics.median(times), "steps": program.steps_per_call}


def in_a_process(name: str, seeds: int, calls: int) -> dict[str, float]:
    """The measurement in a new interpreter."""
    command = [sys.executable, __file__, "--measure", name, str(seeds), "--calls", str(calls)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{name}, {seeds} seeds: {result.stderr[-2_000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def draw(times: dict[str, dict[int, float]], path: Path) -> None:
    """Time over that of one seed against seeds, and the line of no gain."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, of in times.items():
        axes.plot(list(of), [seconds / of[1] for seconds in of.values()], "o-", label=name)
    axes.plot(COUNTS, COUNTS, "k--", linewidth=1, label="one after the other")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
    axes.set_yticks(COUNTS, [str(count) for count in COUNTS])
    axes.set(xlabel="seeds in one program", ylabel="time, of one seed's", title=f"Seeds side by side, {ENV}")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = parser_for(
        __doc__, out="directory for the table and the picture", only="algorithms", choices=METHODS
    )
    parser.add_argument("--calls", type=int, default=7, help="timed calls, of which the median is taken")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, seeds = arguments.measure
        print(json.dumps(measure(name, int(seeds), arguments.calls)))
        return
    lines = [
        f"Command: `python benchmarks/seeds.py`; {os.cpu_count()} cores; median of {arguments.calls} calls.",
        "",
        "| method | seeds | compile s | ms per step of all seeds | time, of one seed's | seeds' steps per second |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    times: dict[str, dict[int, float]] = {}
    for name in arguments.only or METHODS:
        for seeds in COUNTS:
            found = in_a_process(name, seeds, arguments.calls)
            of = times.setdefault(name, {})
            of[seeds] = found["seconds"]
            lines.append(
                f"| {name} | {seeds} | {found['compile']:.1f} | {1e3 * found['seconds'] / found['steps']:.3g} | "
                f"{found['seconds'] / of[1]:.2f} | {seeds * found['steps'] / found['seconds']:,.0f} |"
            )
            print(lines[-1], flush=True)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        draw(times, arguments.out / "seeds.png")
        text = "\n".join([*lines, "", "![Time against seeds](seeds.png)"]) + "\n"
        (arguments.out / "seeds.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
