"""Seconds to compile and per update, beside flow-rl (arXiv 2603.27450), on one machine in one run.

flow-rl runs unchanged from a checkout (its release on the package index lacks modules that it imports), in a virtual
environment that is made here with the versions it asks for, and is called as its own trainer calls it, with data that
lie on the device already. dpolicy runs the preset `flowrl` of the same method, its defaults where there is none, in a
`lax.scan`, as in training. Random transitions: batches of 256 with 17 observations and 6 actions off policy and
offline, there past the phases in which one network alone is fitted; 6,144 steps with 60 observations and 8
actions (Isaac Lab's Ant) in 4 passes over 4 minibatches on policy. The two alternate, each in a new process; the ratio
is of medians over rounds.

    python benchmarks/flowrl_speed.py --flowrl path/to/flow-rl --out benchmarks/results/flowrl_speed.md
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from command_line import parser_for
from flowrl_peer import OFF_POLICY, OFFLINE, ON_POLICY, SIZES
from throughput import Size, measure_algorithm

HERE = Path(__file__).resolve().parent
PACKAGES = (
    "jax==0.5.3",
    "flax==0.10.5",
    "orbax-checkpoint==0.11.23",
    "optax",
    "distrax",
    "hydra-core",
    "omegaconf",
    "gymnasium",
    "scikit-learn",
    "tqdm",
)
# What each is here: recipe, settings beyond the preset `flowrl`.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "sac": ("sac", {}),
    "td3": ("td3", {}),
    "dacer": ("dacer", {}),
    "qsm": ("qsm", {}),
    "idem": ("idem", {}),
    "sdac": ("sdac", {}),
    "qvpo": ("qvpo", {}),
    "gempo": ("gempo", {}),
    "dpmd": ("gempo", {"weight": "exponential"}),
    "iql": ("iql", {}),
    "dql": ("diffusion_ql", {}),
    "dac": ("dac", {}),
    "fql": ("fql", {}),
    "bdpo": ("bdpo", {"behaviour_updates": 1, "critic_updates": 1}),
    "dtql": ("dtql", {"pretraining_updates": 0}),
    "ppo": ("ppo", {}),
    "dppo": ("dppo", {}),
    "genpo": ("genpo", {}),
    "fpopp": (
        "fpopp",
        {
            "draws": 16,
            "hidden": (256, 256, 256),
            "value_hidden": (256, 256, 256),
            "epochs": 4,
            "minibatches": 4,
        },
    ),
}


def ours(name: str, seconds: float, size: Size) -> dict[str, Any]:
    """dpolicy's side, in this process."""
    import jax

    from dpolicy.algorithms import ALGORITHMS
    from dpolicy.presets import presets_for, resolve

    recipe, changes = OURS[name]
    env = "isaaclab/Isaac-Ant-v0" if name in ON_POLICY else "brax/halfcheetah"
    choose = "flowrl" if "flowrl" in presets_for(recipe, env) else "none"
    config = resolve(recipe, env, changes, choose=choose)
    # Few to a call, as some take a second each.
    algorithm = ALGORITHMS[recipe].recipe(**config["hyperparameters"])
    found = measure_algorithm(algorithm, seconds, repeat=5, size=size)
    return {
        "compile": found["compile"],
        "update": 1 / found["updates per second"],
        "jax": jax.__version__,
    }


def measured(command: list[str], name: str) -> dict[str, Any]:
    """The last line that a process prints, as JSON."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{name}: {result.stderr[-2_000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def make_environment(directory: Path) -> str:
    """A virtual environment with what flow-rl needs; its interpreter."""
    python = directory / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return str(python)


def main() -> None:
    parser = parser_for(__doc__, out="Markdown file for the table", only="methods", choices=OURS)
    parser.add_argument("--flowrl", type=Path, help="a checkout of flow-rl")
    parser.add_argument(
        "--venv", type=Path, help="where its environment is made, or is already; else temporary"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each process is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--sizes",
        nargs=2,
        type=int,
        metavar=("OBS", "ACTION"),
        help="numbers of an observation and an action",
    )
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        print(json.dumps(ours(arguments.ours, arguments.seconds, Size(*arguments.sizes))))
        return
    if arguments.flowrl is None or not (arguments.flowrl / "flowrl" / "flow").is_dir():
        parser.error(
            f"--flowrl must be a checkout of flow-rl with its package flowrl/, got {arguments.flowrl}."
        )
    with tempfile.TemporaryDirectory() as temporary:
        python = make_environment((arguments.venv or Path(temporary) / "venv").absolute())
        only = f" --only {' '.join(arguments.only)}" if arguments.only else ""
        lines = [
            f"Command: `python benchmarks/flowrl_speed.py --flowrl CHECKOUT{only}`; {os.cpu_count()} cores, medians of "
            f"{arguments.rounds} rounds. Above 1: dpolicy is faster; sizes of an observation and an action.",
            "",
            "| method | sizes | flow-rl, ms an update | dpolicy, ms | ratio | flow-rl, compile s | dpolicy | ratio |",
            "|---|---|---|---|---|---|---|---|",
        ]
        print("\n".join(lines), flush=True)
        for name in arguments.only or [*OFF_POLICY, *OFFLINE, *ON_POLICY]:
            theirs, mine = [], []
            sizes = [str(size) for size in arguments.sizes or SIZES[name in ON_POLICY]]
            for _ in range(arguments.rounds):
                peer = [python, str(HERE / "flowrl_peer.py"), str(arguments.flowrl.absolute()), name]
                theirs.append(measured([*peer, str(arguments.seconds), *sizes], f"flow-rl {name}"))
                own = [sys.executable, __file__, "--ours", name, "--sizes", *sizes]
                own += ["--seconds", str(arguments.seconds)]
                mine.append(measured(own, name))
            middle = lambda runs, what: statistics.median(run[what] for run in runs)
            update = middle(theirs, "update"), middle(mine, "update")
            compile = middle(theirs, "compile"), middle(mine, "compile")
            lines.append(
                f"| {name} | {', '.join(sizes)} | {1e3 * update[0]:.3g} | {1e3 * update[1]:.3g} | "
                f"{update[0] / update[1]:.2f} | {compile[0]:.1f} | {compile[1]:.1f} | {compile[0] / compile[1]:.2f} |"
            )
            print(lines[-1], flush=True)
            versions = (
                f"JAX {theirs[-1]['jax']} for flow-rl, as it asks for, and {mine[-1]['jax']} for dpolicy."
            )
            if arguments.out is not None:
                arguments.out.write_text("\n".join([*lines, "", versions]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
