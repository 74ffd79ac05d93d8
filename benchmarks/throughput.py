"""What an update of every recipe costs: seconds to compile, updates per second, memory.

Each recipe runs in a process of its own with its defaults, on random transitions of a task with 17 observations and 6
actions: batches of 256 off policy and offline, rollouts of 6,144 steps on policy (one update is then all its epochs).
Updates run in a `lax.scan`, as in training, with what a method rewrites in the replay (DIPO, DDiffPG); updates per
second is the median over repeats. Memory is what the compiled program asks for (arguments, results and temporaries);
the process's peak also holds the libraries and the compiler.

    python benchmarks/throughput.py --out benchmarks/results/throughput.md

Whether a change made anything slower shows beside another checkout of this project: both are measured at the same time,
each on a core of its own, which they then exchange.

    git worktree add ../before COMMIT && python benchmarks/throughput.py --beside ../before
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from command_line import parser_for


class Size(NamedTuple):
    obs_size: int = 17
    action_size: int = 6


ROOT = Path(__file__).resolve().parent.parent
BATCH, TIME, ENVS = 256, 24, 256
MIB = 2**20


def measure_algorithm(
    algorithm: Any, seconds: float, repeat: int = 20, size: Size = Size()
) -> dict[str, float]:
    """Compile and time the updates of one algorithm in this process, off policy `repeat` to a call."""
    import jax

    from dpolicy._types import Transition

    on_policy, memory = algorithm.family == "on_policy", algorithm.memory
    repeat = 1 if on_policy else repeat
    lead = (TIME, ENVS) if on_policy else (BATCH,)
    count = TIME * ENVS if on_policy else BATCH

    def experience(state: Any, key: Any) -> Transition:
        keys = jax.random.split(key, 4)
        obs = jax.random.normal(keys[0], (count, size.obs_size))
        action, extras = jax.vmap(algorithm.act, in_axes=(None, 0, 0, None))(
            state, obs, jax.random.split(keys[1], count), "explore"
        )
        ends = jax.random.bernoulli(keys[2], 0.01, (2, count))
        reward = jax.random.normal(keys[3], (count,))
        batch = Transition(
            obs, action, reward, obs[::-1], ends[0], ends[1] & ~ends[0], extras if on_policy else {}
        )
        if memory is not None:
            batch = dataclasses.replace(batch, extras=jax.vmap(memory.start)(batch))
        return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), batch)

    def update(state: Any, key: Any, batch: Transition) -> Any:
        if memory is None:
            return algorithm.update(state, batch, key)
        revise_key, key = jax.random.split(key)
        return algorithm.update(state, memory.revise(state, batch, revise_key), key)

    def updates(state: Any, batch: Transition, key: Any) -> Any:
        state, metrics = jax.lax.scan(partial(update, batch=batch), state, jax.random.split(key, repeat))
        return state, jax.tree.map(lambda values: values[-1], metrics)

    state = jax.jit(lambda key: algorithm.init(key, size))(jax.random.key(0))
    batch = jax.jit(experience)(state, jax.random.key(1))
    begun = time.perf_counter()
    run = jax.jit(updates, donate_argnums=0).lower(state, batch, jax.random.key(2)).compile()
    compiled = time.perf_counter() - begun
    memory: Any = run.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    peak -= memory.alias_size_in_bytes
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        begun = time.perf_counter()
        state, metrics = run(state, batch, jax.random.key(len(times)))
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - begun)
    return {
        "compile": compiled,
        "updates per second": repeat / statistics.median(times[1:]),
        "program MiB": peak / MIB,
        "process MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure(name: str, seconds: float) -> dict[str, float]:
    """Compile and time the updates of one recipe with its defaults in this process."""
    begun = time.perf_counter()
    import jax  # noqa: F401

    from dpolicy.algorithms import ALGORITHMS

    imported = time.perf_counter() - begun
    return {"import": imported, **measure_algorithm(ALGORITHMS[name].recipe(), seconds)}


def in_a_process(
    name: str, seconds: float, checkout: Path = ROOT, core: int | None = None
) -> dict[str, float]:
    """The measurement of one recipe of a checkout in a new interpreter, where asked on one core alone."""
    command = [sys.executable, __file__, "--measure", name, "--seconds", str(seconds)]
    if core is not None:
        command = ["taskset", "--cpu-list", str(core), *command]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        raise RuntimeError(f"{name}: {result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def alone(names: list[str], seconds: float) -> Iterator[str]:
    """The lines of a table: what each recipe of this checkout costs, as they are measured."""
    from dpolicy.algorithms import ALGORITHMS

    yield "| recipe | family | import s | compile s | updates/s | ms per update | program MiB | process MiB |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in names:
        found = in_a_process(name, seconds)
        speed, family = found["updates per second"], ALGORITHMS[name].family.replace("_", " ")
        yield (
            f"| {name} | {family} | {found['import']:.1f} | {found['compile']:.1f} | "
            f"{speed:.3g} | {1000 / speed:.3g} | {found['program MiB']:.0f} | {found['process MiB']:.0f} |"
        )


def side_by_side(names: list[str], seconds: float, before: Path, rounds: int = 2) -> Iterator[str]:
    """The lines of a table: the recipes of this checkout beside those of another, as they are measured."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    yield "| recipe | updates/s before | now | now / before | compile s before | now | now / before |"
    yield "|---|---|---|---|---|---|---|"
    ratios = []
    with ThreadPoolExecutor(2) as pool:
        for name in names:
            found: tuple[list[Any], list[Any]] = ([], [])
            for turn in range(rounds):
                swapped = cores if turn % 2 == 0 else cores[::-1]
                places = zip((before, ROOT), swapped, strict=True)
                running = [pool.submit(in_a_process, name, seconds, *place) for place in places]
                for kept, future in zip(found, running, strict=True):
                    kept.append(future.result())
            speed, compiling = (
                [statistics.mean(one[what] for one in kept) for kept in found]
                for what in ("updates per second", "compile")
            )
            ratios.append(speed[1] / speed[0])
            yield (
                f"| {name} | {speed[0]:.3g} | {speed[1]:.3g} | {ratios[-1]:.2f} | {compiling[0]:.1f} | "
                f"{compiling[1]:.1f} | {compiling[1] / compiling[0]:.2f} |"
            )
    yield ""
    yield f"Geometric mean of now / before: {statistics.geometric_mean(ratios):.3f}."


def main() -> None:
    parser = parser_for(__doc__, out="Markdown file for the table", only="recipes")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each recipe is timed")
    parser.add_argument("--beside", type=Path, help="another checkout of this project to compare with")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.seconds)))
        return
    import jax

    from dpolicy.algorithms import ALGORITHMS

    names = [name for name in ALGORITHMS if not arguments.only or name in arguments.only]
    beside = " --beside CHECKOUT" if arguments.beside else ""
    head = (
        f"Command: `python benchmarks/throughput.py --seconds {arguments.seconds:g}{beside}`; "
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, JAX {jax.__version__}. "
        f"One update: a batch of {BATCH}, or all epochs over {TIME * ENVS:,} steps on policy."
    )
    lines = [head, ""]
    print(head + "\n")
    table = (
        side_by_side(names, arguments.seconds, arguments.beside.resolve())
        if arguments.beside
        else alone(names, arguments.seconds)
    )
    for line in table:
        print(line, flush=True)
        lines.append(line)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
