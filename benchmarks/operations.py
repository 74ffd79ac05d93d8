"""How many operations a compiled update takes: the kernels in the body of the loop that learns.

Where networks are small the number of kernels is the time: on a GPU each costs a few microseconds whatever it does. The
training programs of SAC, SDAC and PPO are compiled with small settings, as training compiles them, and the instructions
of the loop whose body holds most matrix products are counted: off policy one step of the environments and the update
after it, with its draw, guard and metrics; on policy one minibatch. What is called from the body counts, and the bodies
of loops within it count once, as random bits on a CPU and samplers do. On a CPU fusions and loops are counted, on a GPU
fusions are kernels.

    python benchmarks/operations.py --beside ../before --out benchmarks/results/operations.md

compares with another checkout of this project, such as `git worktree add ../before COMMIT`.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from command_line import parser_for

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("fusions", "loops", "dots", "others")
RECIPES = ("sac", "sdac", "ppo")

# Instructions that move nothing.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "add-dependency",
    "opt-barrier",
    "partition-id",
}
_HEAD = re.compile(r"^(?:ENTRY )?%(\S+) \(")
# A type may be a tuple, whose text holds spaces.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%\S+ = (?:\([^()]*\)|\S+) ([\w\-]+)\(")
_PRODUCTS = re.compile(r'custom_call_target="[^"]*(?:gemm|matmul|dot|cublas)')


class Instruction(NamedTuple):
    """What it does, and the computations it runs: by a call, as a fusion, as a loop's body, as branches."""

    opcode: str
    runs: tuple[str, ...]
    is_product: bool


def computations(text: str) -> dict[str, list[Instruction]]:
    """The instructions of every computation in the text of a compiled program, by its name."""
    found: dict[str, list[Instruction]] = {}
    name = None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            found[name := head.group(1)] = []
        elif name is not None and (match := _INSTRUCTION.match(line)):
            opcode = match.group(1)
            key = {"call": "to_apply", "fusion": "calls", "while": "body"}.get(opcode)
            runs = re.findall(rf"{key}=%([^\s,)}}]+)", line) if key else []
            if opcode == "conditional":
                listed = re.search(r"branch_computations=\{([^}]*)\}", line)
                runs = re.findall(r"%([^\s,]+)", listed.group(1)) if listed else []
                runs += re.findall(r"(?:true|false)_computation=%([^\s,]+)", line)
            is_product = opcode in ("dot", "convolution") or (
                opcode == "custom-call" and bool(_PRODUCTS.search(line))
            )
            found[name].append(Instruction(opcode, tuple(runs), is_product))
    return found


def counted(
    parts: dict[str, list[Instruction]], name: str, *, within: bool = True
) -> collections.Counter[str]:
    """Instructions of a computation by kind, with those it calls and, where `within`, the bodies of its loops."""
    total: collections.Counter[str] = collections.Counter()
    for opcode, runs, is_product in parts[name]:
        if opcode in _FREE:
            continue
        if opcode == "fusion":
            # A library's product may be one, with what comes after it.
            is_product = any(part.is_product for called in runs for part in parts[called])
            total["dots" if is_product else "fusions"] += 1
            continue
        if opcode != "call":
            total["loops" if opcode == "while" else "dots" if is_product else "others"] += 1
        if opcode != "while" or within:
            for called in runs:
                total += counted(parts, called, within=within)
    return total


def of_update(text: str) -> dict[str, int]:
    """The counts of the loop body with most products of its own."""
    parts = computations(text)
    bodies = {
        name
        for part in parts.values()
        for instruction in part
        if instruction.opcode == "while"
        for name in instruction.runs
    }
    learning = max(bodies, key=lambda name: counted(parts, name, within=False)["dots"])
    total = counted(parts, learning)
    return {kind: total[kind] for kind in KINDS}


def program(name: str) -> Any:
    """The training program of a recipe with small networks."""
    from dpolicy.algorithms import ALGORITHMS
    from dpolicy.envs import make
    from dpolicy.train import off_policy, on_policy

    recipe, env = ALGORITHMS[name].recipe, make("multigoal")
    if name == "ppo":
        algorithm = recipe(hidden=(64, 64), value_hidden=(64, 64), epochs=2, minibatches=4)
        sizes: Any = {"num_envs": 16, "rollout": 16, "iterations_per_evaluation": 4, "evaluation_episodes": 2}
        return on_policy(algorithm, env, **sizes)
    algorithm = recipe(hidden=(64, 64), critic_hidden=(64, 64))
    sizes: Any = {
        "num_envs": 2,
        "batch_size": 64,
        "replay_size": 1024,
        "warmup": 64,
        "evaluation_interval": 64,
    }
    return off_policy(algorithm, env, evaluation_episodes=2, **sizes)


def measure(name: str) -> dict[str, int]:
    """The counts of a recipe's update, compiled in this process."""
    import jax

    run = program(name)
    state = jax.eval_shape(run.init, jax.random.key(0))
    compiled: Any = jax.jit(run.step, donate_argnums=0).lower(state).compile()
    return of_update(compiled.as_text())


def in_a_process(name: str, checkout: Path) -> dict[str, int]:
    """The counts of a recipe of a checkout, in a new interpreter."""
    command = [sys.executable, __file__, "--measure", name]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        raise RuntimeError(f"{name}: {result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def table(names: list[str], beside: Path | None) -> Iterator[str]:
    """The lines of the table, as they are measured."""
    head = "| recipe | " + " | ".join(KINDS) + " | in all |"
    yield head + (" before | now / before |" if beside else "")
    yield "|---" * (head.count("|") - 1 + 2 * (beside is not None)) + "|"
    for name in names:
        found = in_a_process(name, ROOT)
        now, before = sum(found.values()), in_a_process(name, beside) if beside else None
        shown = [
            f"{found[kind]}" if before is None else f"{found[kind]} (was {before[kind]})" for kind in KINDS
        ]
        line = f"| {name} | {' | '.join(shown)} | {now} |"
        yield (
            line if before is None else f"{line} {sum(before.values())} | {now / sum(before.values()):.2f} |"
        )


def main() -> None:
    parser = parser_for(__doc__, out="Markdown file for the table", only="recipes", choices=RECIPES)
    parser.add_argument("--beside", type=Path, help="another checkout of this project to compare with")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    import jax

    beside = " --beside CHECKOUT" if arguments.beside else ""
    lines = [
        f"Command: `python benchmarks/operations.py{beside}`; {jax.default_backend()}, JAX {jax.__version__}. "
        "Instructions in the body of the loop that learns.",
        "",
    ]
    print("\n".join(lines))
    for line in table(list(arguments.only or RECIPES), arguments.beside and arguments.beside.resolve()):
        print(line, flush=True)
        lines.append(line)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
