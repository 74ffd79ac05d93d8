"""Does every recipe learn control? Presets, three seeds, against the random policy, with curves and a table.

A run that was cut short goes on where it stopped; finished ones are only read again.

    python benchmarks/learning.py --out benchmarks/results/learning
"""

import shlex
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from command_line import parser_for
from kept import seconds_of

from dpolicy.algorithms import ALGORITHMS
from dpolicy.envs import Environment, evaluate_episodes
from dpolicy.plots import learning_curve
from dpolicy.presets import preset, resolve
from dpolicy.train import History, train_config
from dpolicy.train.building import build
from dpolicy.train.intervals import interquartile_interval, interval_text

# DDiffPG learns from episodes that succeed, of which Pendulum has none; see `ddiffpg_modes.py`.
OFF_POLICY = tuple(
    name for name, entry in ALGORITHMS.items() if entry.family == "off_policy" and name != "ddiffpg"
)
JOBS = {
    "gymnax/Pendulum-v1": (*OFF_POLICY, "ppo", "fpo", "dppo", "dp_cppo"),
    "multigoal/multigoal": OFF_POLICY,
    **{f"brax/{task}": OFF_POLICY for task in ("hopper", "walker2d", "halfcheetah", "ant")},
    "brax/hopper, longer": ("sac", "ppo"),
    **{
        f"playground/{task}": ("sac", "td3", "crossq", "dacer", "dime", "sdac")
        for task in ("CartpoleBalance", "CheetahRun", "WalkerWalk")
    },
}
# For a GPU, where they are named: `--env "playground/CheetahRun, long" "playground/WalkerWalk, long" --seeds 8`.
LONG = {
    f"playground/{task}, long": ("sac", "td3", "dacer", "dime", "sdac")
    for task in ("CheetahRun", "WalkerWalk")
}
# The published presets of these tasks need a larger machine. All methods have the networks, batches and samples of
# their presets for Pendulum instead, and these settings.
SMALL: dict[str, Any] = {
    "num_envs": 16,
    "updates_per_step": 4,
    "replay_size": 48_000,
    "warmup": 4_000,
    "resets": "pool",
    "evaluation_episodes": 8,
    "reward_scale": 1.0,
    "discount": 0.99,
    "normalise_observations": True,
}
# What counts as solved: the return usually quoted for a swing-up that is held (an optimal policy makes about -150).
SOLVED = {"gymnax/Pendulum-v1": -200.0}

NOTES = {
    "gymnax": "Pendulum counts as solved at a mean of -200 or better; the starts are random, so single evaluations "
    "vary by tens.",
    "brax": "Brax runs on its spring backend, whose returns must not be compared with other backends; there all "
    f"off-policy methods have their presets for Pendulum with {SMALL}, but for the rows named longer.",
    "playground": f"All methods have their presets for Pendulum with {SMALL}; returns are of 1,000 steps, of at most "
    "1 each.",
}


def random_return(env: Environment, episodes: int = 64) -> float:
    """Mean return of uniformly random actions."""

    def policy(obs: Any, key: Any) -> Any:
        return jax.random.uniform(key, (env.spec.action_size,), minval=-1.0, maxval=1.0)

    run = jax.jit(lambda key: evaluate_episodes(env, policy, key, episodes, env.spec.time_limit)[0])
    return float(np.mean(run(jax.random.key(0))))


def aggregate(finals: dict[str, dict[str, np.ndarray]], randoms: dict[str, float]) -> list[str]:
    """Rows of the off-policy methods over all tasks that they were trained on, SAC among them."""
    tasks = [
        env for env in randoms if set(OFF_POLICY) <= set(JOBS.get(env, ())) and env in finals.get("sac", {})
    ]
    rows = []
    for name, of in finals.items():
        if len(tasks) > 1 and set(tasks) <= set(of):
            top = {env: finals["sac"][env].mean() for env in tasks}
            scores = np.stack([(of[env] - randoms[env]) / (top[env] - randoms[env]) for env in tasks])
            middle, low, high = (float(number) for number in interquartile_interval(scores))
            rows.append(f"| {name} | {middle:.3f} [{low:.3f}, {high:.3f}] |")
    if not rows:
        return []
    head = f"Final returns over {', '.join(tasks)}: 0 is the random policy, 1 the mean of SAC; interquartile mean over"
    return [
        "",
        f"{head} tasks and seeds, 95 % stratified bootstrap.",
        "",
        "| algorithm | score |",
        "|---|---|",
        *rows,
    ]


def _plain(env_name: str) -> str:
    """For the names of files."""
    return env_name.replace("/", "-").replace(", ", "-")


def small_settings(env_name: str) -> dict[str, Any]:
    """`SMALL` with the steps of a task, which are fewest where all methods are trained on a slow simulator."""
    if env_name.endswith(", long"):
        loop = {"num_envs": 128, "updates_per_step": 16, "replay_size": 1_024_000, "warmup": 8_192}
        return SMALL | loop | {"steps": 8_192 + 1_024_000, "evaluation_interval": 128_000}
    training = (
        64_000 if env_name.startswith("playground") else 40_000 if env_name == "brax/hopper" else 19_200
    )
    return SMALL | {"steps": SMALL["warmup"] + training, "evaluation_interval": training // 4}


def run(algorithm: str, env_name: str, seeds: int, runs: Path) -> tuple[History, dict[str, Any], Path]:
    """Train a preset (or with `small_settings`), or read the finished run."""
    name, *longer = env_name.split(", ")
    if name.startswith(("brax", "playground")) and longer != ["longer"]:
        small = preset(algorithm, "gymnax/Pendulum-v1", "tuned")
        del small["source"]
        config = resolve(algorithm, name, small | small_settings(env_name), choose="none")
    else:
        config = resolve(algorithm, name)
    config |= {"seeds": seeds, "seed": 0}
    directory = runs / f"{algorithm}-{_plain(env_name)}"
    _, history = train_config(config, directory, resume=True, checkpoint_every=5)
    return history, config, directory


def main() -> None:
    parser = parser_for(
        __doc__,
        out="directory for the table and the curves",
        runs=("runs", "learning"),
        seeds=3,
        only="algorithms",
    )
    parser.add_argument(
        "--env", nargs="*", choices=[[], *JOBS, *LONG], help="all but the long ones by default"
    )
    arguments = parser.parse_args()
    flags = [
        f" --{name} {shlex.join(getattr(arguments, name))}"
        for name in ("env", "only")
        if getattr(arguments, name)
    ]
    lines = [
        f"Command: `python benchmarks/learning.py{''.join(flags)}`, {arguments.seeds} seeds; evaluation return, mean "
        "and 95 % bootstrap interval over seeds, final (the last evaluation) and best along the curve; in evaluation "
        "an action is the best of so many by the critic.",
        "",
        "| environment | algorithm | steps | best of | random | final | best mean | solved at | compile + train, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    pictures = []
    finals: dict[str, dict[str, np.ndarray]] = {}
    randoms: dict[str, float] = {}
    jobs = {name: (JOBS | LONG)[name] for name in arguments.env or JOBS}
    for env_name, algorithms in jobs.items():
        directories: dict[str, list[Path]] = {}  # by family: their steps differ by an order of magnitude
        for algorithm in algorithms:
            if arguments.only and algorithm not in arguments.only:
                continue
            begun = time.perf_counter()
            history, config, directory = run(algorithm, env_name, arguments.seeds, arguments.runs)
            if env_name not in randoms:
                randoms[env_name] = random_return(build(config)[1])
            returns = history.metrics["evaluate/return"]
            finals.setdefault(algorithm, {})[env_name] = returns[-1]
            mean = returns.mean(axis=1)
            level = SOLVED.get(env_name)
            reached = [] if level is None else history.step[mean >= level]
            solved = "-" if level is None else (f"{reached[0]:,}" if len(reached) else "not")
            compile, training = seconds_of(directory)
            final = interval_text(returns[-1])
            tried = config["hyperparameters"].get("evaluation_candidates", 1)
            line = (
                f"| {env_name} | {algorithm} | {config['steps']:,} | {tried} | {randoms[env_name]:.0f} | {final} | "
                f"{mean.max():.4g} | {solved} | {compile:.0f} + {training:.0f} |"
            )
            lines.append(line)
            directories.setdefault(ALGORITHMS[algorithm].family, []).append(directory)
            print(line, f"({time.perf_counter() - begun:.0f} s)", flush=True)
        for family, trained in directories.items():
            if arguments.out is not None:
                arguments.out.mkdir(parents=True, exist_ok=True)
                picture = f"{_plain(env_name)}-{family}.png"
                learning_curve(trained, arguments.out / picture)
                pictures.append(f"![{env_name}, {family.replace('_', ' ')}]({picture})")
    together = aggregate(finals, randoms)
    families = {env.split("/")[0] for env in randoms}
    notes = [line for family, note in NOTES.items() if family in families for line in ("", note)]
    print("\n".join(together))
    if arguments.out is not None:
        text = "\n".join([*lines, *together, *notes, "", *pictures]) + "\n"
        (arguments.out / "learning.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
