"""What do the offline methods make of data that a half-trained agent left?

SAC on Pendulum, stopped early, is recorded with noise; every method learns from the same episodes, one program over all
seeds of the learner. Networks, batches and updates are the same for all, the rest are the methods' own defaults but for
`SETTINGS`. A run that was cut short goes on where it stopped; finished ones are only read again.

    python benchmarks/offline.py --out benchmarks/results/offline
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from command_line import parser_for
from kept import seconds_of

from dpolicy.algorithms import ALGORITHMS
from dpolicy.data import episode_returns, load_npz, save_npz
from dpolicy.plots import learning_curve
from dpolicy.presets import resolve
from dpolicy.train import History, record_run, train_config
from dpolicy.train.intervals import interval_text

ENV = "gymnax/Pendulum-v1"
EPISODES, NOISE = 100, 0.3
EXPERT = {"steps": 5_000}  # of a preset that solves the task at 8,000
COMMON: dict[str, Any] = {
    "steps": 10_000,
    "updates_per_evaluation": 2_500,
    "evaluation_episodes": 32,
    "hidden": (64, 64),
    "learning_rate": 1e-3,
    "data_rewards": "white",
}
CRITICS: dict[str, Any] = {"critic_hidden": (64, 64), "critic_learning_rate": 1e-3}
# The weight of FQL must be chosen; of 10, 1 and .1 the last earned most, and 10 was cloning.
SETTINGS: dict[str, dict[str, Any]] = {
    # Temperatures in units of these rewards: with the authors', of returns in the hundreds, all four are near cloning.
    "sql": {"temperature": 0.1},
    "eql": {"temperature": 0.2},
    "edp_crr": {"temperature": 0.1, "selection_temperature": 0.1},
    "edp_iql": {"temperature": 0.1, "selection_temperature": 0.1},
    "dac": {"critics": 5},
    "sfbc": {"behaviour_updates": 5_000, "critic_updates": 2_500},
    "qgpo": {
        **{"behaviour_updates": 2_000, "critic_updates": 8_000},
        **{"temperature": 0.1, "support_temperature": 0.1},
        **{"energy_hidden": (64, 64), "energy_learning_rate": 1e-3, "sampler_steps": 8},
        **{"embedding": "fourier_mlp", "energy_embedding": "fourier_mlp"},
    },
    "qipo": {
        **{"behaviour_updates": 2_000, "critic_updates": 5_000, "renewal_updates": 1_000},
        **{"temperature": 0.1, "support_temperature": 0.1, "sampler_steps": 8, "embedding": "fourier_mlp"},
    },
    "bdpo": {
        **{"critics": 5, "behaviour_updates": 3_000, "critic_updates": 1_000},
        "behaviour_learning_rate": 1e-3,
    },
    "diffusion_dice": {
        **{"behaviour_updates": 3_000, "temperature": 0.1},
        **{"energy_hidden": (64, 64), "energy_learning_rate": 1e-3},
    },
    "fql": {"normalise_q": True, "distillation_weight": 0.1},
    "rebrac": {"actor_penalty": 0.1, "critic_penalty": 0.1},
    "dtql": {
        "trust_weight": 0.3,
        "pretraining_updates": 1_000,
        "behaviour_hidden": (64, 64),
        "evaluation_candidates": 64,
    },
    "pa_rl": {
        **{"critic": "scalar", "critic_low": None, "critic_high": None, "critic_atoms": None},
        **{"critics": 2, "critic_subset": None, "candidates": 8, "kept_candidates": 2, "ascent_steps": 2},
        **{"ascent_rate": 0.01, "cloning_updates": 1_000, "distillation_after": 5_000},
    },
}
# A picture of the methods that have these ways of guidance in the table of all methods.
PICTURES = {
    "weighed": ("none", "weighted matching", "best of N"),
    "climbing": ("reparameterisation", "action gradient"),
    "guided": ("Q-value guidance",),
}
METHODS = tuple(name for name, entry in ALGORITHMS.items() if entry.family == "offline")


def recorded(runs: Path) -> Path:
    """The file of the data, recorded where it is not there yet."""
    file = runs / "half-trained.npz"
    if not file.exists():
        config = resolve("sac", ENV, EXPERT) | {"seeds": 1, "seed": 1}
        run, _ = train_config(config, runs / "expert", resume=True, progress=False)
        save_npz(file, record_run(run, episodes=EPISODES, noise=NOISE, seed=1))
    return file


def trained(name: str, file: Path, seeds: int, runs: Path) -> tuple[History, Path]:
    """All evaluations of a method, and the directory of its run."""
    critics = {} if name == "bc" else CRITICS
    config = resolve(name, ENV, {**COMMON, **critics, **SETTINGS.get(name, {}), "data": str(file)})
    directory = runs / name
    _, history = train_config(
        config | {"seeds": seeds, "seed": 0}, directory, resume=True, progress=False, checkpoint_every=5
    )
    return history, directory


def main() -> None:
    arguments = parser_for(
        __doc__,
        out="directory for the table and the curves",
        runs=("runs", "offline"),
        seeds=3,
        only="methods",
    ).parse_args()
    file = recorded(arguments.runs)
    returns = episode_returns(load_npz(file))
    lines = [
        f"Command: `python benchmarks/offline.py`, {ENV}, {arguments.seeds} seeds of the learner on one data set, "
        f"{COMMON['steps']:,} updates of 256; return of {COMMON['evaluation_episodes']} episodes at the last "
        "evaluation, mean and 95 % bootstrap interval over seeds. An optimal policy makes about "
        "-150, random actions -1224. What is not a method's default stands in `SETTINGS` of the script.",
        "",
        "| policy | best of | last | best evaluation | compile + train, s |",
        "|---|---|---|---|---|",
        f"| the data: SAC after {EXPERT['steps']:,} steps, noise {NOISE} | - | {returns.mean():.4g} | - | - |",
    ]
    directories: dict[str, list[Path]] = defaultdict(list)
    for name in METHODS:
        if arguments.only and name not in arguments.only:
            continue
        history, directory = trained(name, file, arguments.seeds, arguments.runs)
        found = history.metrics["evaluate/return"]
        compile, training = seconds_of(directory)
        given = resolve(name, ENV, {**SETTINGS.get(name, {}), "data": str(file)})["hyperparameters"]
        tried = given.get("evaluation_candidates", given.get("candidates", 1))
        lines.append(
            f"| {name} | {tried} | {interval_text(found[-1])} | {found.mean(axis=1).max():.4g} | "
            f"{compile:.0f} + {training:.0f} |"
        )
        directories[ALGORITHMS[name].guidance].append(directory)
        print(lines[-1], flush=True)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        lines.append("")
        for picture, guidances in PICTURES.items():
            if shown := [each for guidance in guidances for each in directories[guidance]]:
                learning_curve(shown, arguments.out / f"{picture}.png")
                lines.append(f"![Returns while learning from data: {', '.join(guidances)}]({picture}.png)")
        text = "\n".join(lines) + "\n"
        (arguments.out / "offline.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
