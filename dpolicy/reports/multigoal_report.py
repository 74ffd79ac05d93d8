"""Runs the Multi-Goal report: measures a finished run beside its references, prints the table, draws the figures."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dpolicy.presets import resolve
from dpolicy.reports.figures import first_actions, trajectories
from dpolicy.reports.multigoal import Measured, as_json, blocks, measure, plane_of, table
from dpolicy.train import Run, policy_of, train_config
from dpolicy.train.configuration import read_config

# How each algorithm acts in the table: (mode, label). PPO's mean is its usual evaluation; its samples are the policy.
WAYS = {
    "dp_cppo": (("flow", "DP-CPPO, flow"), ("flow+residual", "DP-CPPO, flow + residual")),
    "ppo": (("evaluate", "PPO, mean"), ("explore", "PPO, sampled")),
    "ppo-standardised": (
        ("evaluate", "PPO standardised, mean"),
        ("explore", "PPO standardised, sampled"),
    ),
    "sdac": (("explore", "SDAC, sampled"),),
}
# What stands beside a run: the name of each reference, its algorithm, and which of its presets.
REFERENCES = (("ppo", "ppo", "tuned"), ("ppo-standardised", "ppo", "standardised"), ("sdac", "sdac", "tuned"))


def _measure(name: str, run: Any, env: Any) -> list[Measured]:
    ways = WAYS.get(name, (("evaluate", f"{name}, evaluate"), ("explore", f"{name}, explore")))
    alive = np.asarray(run.state.alive)
    steps = int(np.max(run.state.steps))
    return [
        measure(
            label,
            env,
            run.state,
            partial(policy_of, run.program.algorithm, mode=mode),
            steps=steps,
            alive=alive,
        )
        for mode, label in ways
    ]


def _reference(name: str, algorithm: str, chosen: str, run: Run, directory: Path, progress: bool) -> Run:
    """Train a reference with its preset, the run's seeds and environment, or take the one trained before."""
    config = resolve(algorithm, run.config["env"], choose=chosen, env_options=run.config.get("env_options"))
    config |= {"seeds": run.config["seeds"], "seed": run.config["seed"]}
    place = directory / "references" / name
    if place.is_dir() and (place / "config.json").exists():
        config["steps"] = read_config(place)["steps"]
    return train_config(config, place, progress=progress, resume=True)[0]


def _print(rows: list[Measured], env: Any, console: Console) -> None:
    for block in blocks(rows, env):
        shown = Table(title=block.title, title_justify="left")
        for i, column in enumerate(block.header):
            shown.add_column(column, justify="right" if i else "left")
        for cells in block.rows:
            shown.add_row(*cells)
        console.print(shown)


def report(run: Run, directory: Path, *, progress: bool = True) -> list[Measured]:
    """Measure `run` from the saddle points, beside PPO (in two settings) and SDAC, trained on the same seeds.

    The references take their presets' steps; the table names the steps of each.

    Writes `multigoal.md` (the paper's Table 1 as measured here), `multigoal.json`, `trajectories.png` and
    `first_actions.png` into `directory`, and the references' own runs into `directory/references`.
    """
    console = Console()
    plane = plane_of(run.env)
    # What has been trained is measured while the next reference compiles and trains.
    with ThreadPoolExecutor(max_workers=1) as pool:
        measured = [pool.submit(_measure, run.algorithm_name, run, run.env)]
        for name, algorithm, chosen in REFERENCES:
            if name != run.algorithm_name:
                if progress:
                    console.print(f"Reference: {name}")
                trained = _reference(name, algorithm, chosen, run, directory, progress)
                measured.append(pool.submit(_measure, name, trained, run.env))
    rows = [row for future in measured for row in future.result()]
    text = table(rows, plane)
    (directory / "multigoal.md").write_text(text, encoding="utf-8")
    (directory / "multigoal.json").write_text(json.dumps(as_json(rows), indent=1) + "\n", encoding="utf-8")
    trajectories(rows, plane, directory / "trajectories.png")
    first_actions(rows, plane, directory / "first_actions.png")
    _print(rows, plane, console)
    return rows
