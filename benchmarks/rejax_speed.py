"""Whole training programs of SAC and PPO, beside rejax (github.com/keraJLi/rejax), on one machine in one run.

Pendulum, networks of 256 x 256, equal settings: SAC takes 1,024 updates of 256 after 256 steps, PPO 8 rollouts of 64
steps in 64 environments in 4 passes over 16 minibatches, both without statistics of observations and at fixed rates.
The third row, `adaptive`, is PPO as it is here by default, with statistics and a rate that adapts to the KL. From a key
to the trained state and one episode that is played with it, compiled once. The two alternate, each in a new process,
and the ratio is of the least seconds. `--measure products` times the matrix products of the hidden layers of SAC's
updates and nothing else: no program of these networks takes less. rejax (0.1.3) has an environment of its own, with the
gymnax it was written for:

    python3 -m venv rejax && rejax/bin/pip install rejax 'gymnax<1'
    python benchmarks/rejax_speed.py --rejax rejax/bin/python --out benchmarks/results/rejax_speed.md
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from command_line import parser_for
from rejax_peer import timed

HERE = Path(__file__).resolve().parent
COMMON = {"learning_rate": 3e-4, "gamma": 0.99, "skip_initial_evaluation": True}
# What rejax is given, by its own names.
THEIRS: dict[str, dict[str, Any]] = {
    "sac": {
        **COMMON,
        "hidden_layer_sizes": [256, 256],
        "num_envs": 1,
        "batch_size": 256,
        "buffer_size": 8192,
        "fill_buffer": 256,
        "num_epochs": 1,
        "polyak": 0.995,
        "total_timesteps": 1280,
        "eval_freq": 1280,
    },
    "ppo": {
        **COMMON,
        "agent_kwargs": {"hidden_layer_sizes": [256, 256], "activation": "tanh"},
        "num_envs": 64,
        "num_steps": 64,
        "num_epochs": 4,
        "num_minibatches": 16,
        "max_grad_norm": 0.5,
        "total_timesteps": 32768,
        "eval_freq": 32768,
    },
}
ROWS = {"sac": "sac", "ppo": "ppo", "adaptive": "ppo"}


def program(row: str) -> Any:
    """The training program of a row of the table."""
    from dpolicy.algorithms import ppo, sac
    from dpolicy.envs import make
    from dpolicy.train import off_policy, on_policy

    env = make("gymnax/Pendulum-v1")
    if row == "sac":
        algorithm = sac(hidden=(256, 256), critic_hidden=(256, 256), learning_rate=3e-4)
        sizes: Any = {"replay_size": 8192, "warmup": 256, "evaluation_interval": 1024}
        return off_policy(algorithm, env, num_envs=1, batch_size=256, evaluation_episodes=1, **sizes)
    plain = row == "ppo"
    fixed: Any = {"target_kl": None} if plain else {}
    networks: Any = {"hidden": (256, 256), "value_hidden": (256, 256), "activation": "tanh"}
    algorithm = ppo(learning_rate=3e-4, epochs=4, minibatches=16, max_grad_norm=0.5, **networks, **fixed)
    sizes = {"num_envs": 64, "rollout": 64, "iterations_per_evaluation": 8, "evaluation_episodes": 1}
    return on_policy(algorithm, env, normalise_observations=not plain, **sizes)


def products(updates: int = 1024, width: int = 256) -> Any:
    """The sixteen products of hidden layers that an update of SAC has, so many times, on batches as wide as they are.

    Eight forward (the actor twice, two critics twice, their targets), five back to a layer's input (two critics twice,
    the actor), three back to weights (two critics, the actor).
    """
    import jax
    import jax.numpy as jnp

    def update(carry: Any, _: None) -> tuple[Any, None]:
        x, w, actor = carry  # [2, width, width] of two critics, [width, width] of the actor
        back, rows = w.swapaxes(1, 2), x.swapaxes(1, 2)
        # Each takes what another gave, so that all are needed and none is the same as another.
        drawn = actor @ actor
        following = (x + drawn) @ w
        value = (x + following) @ w
        to_input, to_weights = value @ back, rows @ value
        again = value[0] @ actor
        guide = (x + again) @ w
        to_action = guide @ back
        to_actor = to_action[0] @ actor.T, again.T @ to_action[1]
        size = lambda leaf: leaf / jnp.max(jnp.abs(leaf))
        return (size(to_input + to_action), size(to_weights), size(sum(to_actor))), None

    def run(key: Any) -> Any:
        x, w, actor = (jax.random.normal(k, (2, width, width)) for k in jax.random.split(key, 3))
        return jax.lax.scan(update, (x, w, actor[0]), length=updates)[0]

    return jax.jit(run)


def measure(row: str, calls: int) -> dict[str, float]:
    """The times of a row's program, or of `products`, in this process."""
    import jax

    if row == "products":
        return timed(products(), calls)
    run = program(row)
    return timed(jax.jit(lambda key: jax.tree.leaves(run.step(run.init(key))[0])), calls)


def in_a_process(command: list[str], path: str) -> dict[str, float]:
    """What a command prints last, in a new interpreter."""
    environment = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def table(rows: list[str], rejax: Path, rounds: int, calls: int) -> Iterator[str]:
    """The lines of the table, as they are measured."""
    times = "dpolicy s | rejax s | rejax / dpolicy"
    yield f"| program | {times} | processors: {times} | compile s | rejax |"
    yield "|---" * 9 + "|"
    for row in rows:
        name = ROWS[row]
        ours: list[dict[str, float]] = []
        theirs: list[dict[str, float]] = []
        for _ in range(rounds):
            mine = [sys.executable, __file__, "--measure", row, "--calls", str(calls)]
            peer = [str(rejax), str(HERE / "rejax_peer.py"), name, str(calls), json.dumps(THEIRS[name])]
            ours.append(in_a_process(mine, str(HERE.parent)))
            theirs.append(in_a_process(peer, ""))
        least = lambda found, what: min(one[what] for one in found)
        cells = []
        for what in ("seconds", "processors"):
            a, b = least(ours, what), least(theirs, what)
            cells += [f"{a:.2f}", f"{b:.2f}", f"{b / a:.2f}"]
        cells += [f"{least(found, 'compile'):.1f}" for found in (ours, theirs)]
        yield f"| {row} | {' | '.join(cells)} |"


def main() -> None:
    parser = parser_for(__doc__, out="Markdown file for the table", only="rows", choices=tuple(ROWS))
    parser.add_argument("--rejax", type=Path, help="the interpreter of an environment that has rejax")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each")
    parser.add_argument("--calls", type=int, default=5, help="calls that are timed in each")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.calls)))
        return
    if arguments.rejax is None:
        parser.error("--rejax must be the interpreter of an environment that has rejax")
    import jax

    lines = [
        f"Command: `python benchmarks/rejax_speed.py --rejax PYTHON --rounds {arguments.rounds} --calls "
        f"{arguments.calls}`; {jax.default_backend()}, {os.cpu_count()} cores, JAX {jax.__version__}.",
        "",
    ]
    print("\n".join(lines))
    # The link of an environment's interpreter is what finds its packages: it is not resolved.
    rows = list(arguments.only or ROWS)
    for line in table(rows, arguments.rejax.absolute(), arguments.rounds, arguments.calls):
        print(line, flush=True)
        lines.append(line)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
