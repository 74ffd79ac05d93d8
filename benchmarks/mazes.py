"""The maze's data sets, and what cloning makes of each: how often the goal is reached, and by which routes.

Five data sets of a maze with four equally long routes (`dpolicy.data.maze_data`, 20,000 rows each), cloned by a flow
(`bc`). Experts take the four routes in equal shares: a policy that is asked what they do must keep all four. The other
sets show ways to anywhere; whoever clones them walks about, and reaches the goal by chance within the time limit.

    python benchmarks/mazes.py --out benchmarks/results/maze
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command_line import parser_for

from dpolicy.algorithms import bc
from dpolicy.data import maze_data
from dpolicy.data.mazes import KINDS
from dpolicy.envs import Maze
from dpolicy.plots import maze_figure
from dpolicy.reports.maze import Walks, measure, row
from dpolicy.train import offline, policy_of, train_loop

ROWS = 20_000
SHARED: dict[str, Any] = {"hidden": (128, 128), "learning_rate": 1e-3}


def trajectories(data: Any) -> list[np.ndarray]:
    """The positions of each episode of a data set, whether or not it passed the goal."""
    obs, led_to = np.asarray(data.obs), np.asarray(data.next_obs)
    last = np.append(np.flatnonzero((led_to[:-1] != obs[1:]).any(axis=1)), len(obs) - 1)
    first = np.append(0, last[:-1] + 1)
    return [np.concatenate([obs[a : b + 1], led_to[b : b + 1]]) for a, b in zip(first, last, strict=True)]


def cloned(env: Maze, kind: str, data: Any, seeds: int, updates: int, directory: Path) -> Walks:
    """What the clones of a data set do, by seed."""
    algorithm = bc(**SHARED)
    program = offline(algorithm, env, dataset=data, updates_per_evaluation=1_000, evaluation_episodes=32)
    config = {"data": kind, "rows": ROWS, "env": env.spec.name}
    result = train_loop(
        program, seeds=seeds, steps=updates, directory=directory, config=config, resume=True, progress=False
    )
    return measure(env, result.state, partial(policy_of, algorithm), episodes=400)


def main() -> None:
    parser = parser_for(
        __doc__,
        out="directory for the table and the pictures",
        runs=("runs", "maze"),
        seeds=3,
        only="data sets",
        choices=KINDS,
    )
    parser.add_argument("--layout", default="four", help="of the maze: four or large")
    parser.add_argument("--updates", type=int, default=6_000, help="of each seed, batches of 256")
    arguments = parser.parse_args()
    env = Maze(arguments.layout)
    asked = "" if arguments.layout == "four" else f" --layout {arguments.layout}"
    asked += f" --only {' '.join(arguments.only)}" if arguments.only else ""
    lines = [
        f"Command: `python benchmarks/mazes.py{asked}`, {env.spec.name}, {ROWS:,} rows, {arguments.seeds} seeds, "
        f"{arguments.updates:,} updates; 400 episodes of each seed from the start, at most {env.spec.time_limit} "
        "steps; mean and 95 % bootstrap interval over seeds. Routes: by which they arrive, % of all episodes.",
        "",
        "| data | its episodes | at the goal | success of the clone, % | steps | routes, by seed |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    recorded, walked = [], []
    for kind in arguments.only or KINDS:
        data = maze_data(kind, env, steps=ROWS)
        paths = trajectories(data)
        found = cloned(
            env, kind, data, arguments.seeds, arguments.updates, arguments.runs / arguments.layout / kind
        )
        reached = sum(bool(np.asarray(jax.vmap(env.arrived)(jnp.asarray(path))).any()) for path in paths)
        cells = [kind, f"{len(paths):,}", f"{reached:,}", *row(kind, found, env)[1:]]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        recorded.append((f"{kind}: {min(len(paths), 40)} episodes of the data", paths[:40]))
        walked.append((f"{kind}: 40 episodes of a clone", list(found.paths[0][:40])))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        name, note = env.spec.name, "a colour for the gate that is entered first"
        maze_figure(env, recorded, arguments.out / "data.png", title=f"{name}: data sets,\n{note}")
        maze_figure(
            env, walked, arguments.out / "clones.png", title=f"{name}: cloned by bc, first seed,\n{note}"
        )
        text = "\n".join([*lines, "", "![Data sets](data.png)", "", "![Clones](clones.png)"]) + "\n"
        (arguments.out / "maze.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
