"""Find the setting in which DP-CPPO stays multimodal on Multi-Goal: one vmapped sweep, its table committed.

The paper gives neither the environment's constants nor the start distribution nor some coefficients. Every row of the
table is one setting of those, for four seeds; all rows train in one compiled program.

    python benchmarks/multigoal_sweep.py --out benchmarks/results/multigoal_sweep.md
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpolicy.algorithms import dp_cppo, ppo
from dpolicy.envs import MultiGoal
from dpolicy.presets import defaults, preset
from dpolicy.reports.modes import find_modes
from dpolicy.reports.multigoal import rollouts
from dpolicy.train import bootstrap_interval, on_policy, policy_of

CHUNK = 5  # iterations per call of the program
ENVIRONMENT = ("action_cost", "distance_cost", "start_std", "start_range")


def program_of(algorithm: str, setting: dict[str, Any]) -> tuple[Any, MultiGoal]:
    """The training program of one setting; its numbers may be traced."""
    recipe: Any = {"dp_cppo": dp_cppo, "ppo": ppo}[algorithm]
    values = {
        k: v for k, v in preset(algorithm, "multigoal/multigoal").items() if k not in ("source", "steps")
    }
    values |= {k: v for k, v in setting.items() if k not in ENVIRONMENT}
    recipe_names = defaults(recipe)
    env = MultiGoal(**{k: v for k, v in setting.items() if k in ENVIRONMENT})
    made = recipe(**{k: v for k, v in values.items() if k in recipe_names})
    settings: dict[str, Any] = {k: v for k, v in values.items() if k not in recipe_names} | {
        "evaluation_episodes": 1,
        "iterations_per_evaluation": CHUNK,
    }
    return on_policy(made, env, **settings), env


def sweep(
    algorithm: str,
    settings: list[dict[str, Any]],
    modes: tuple[str, ...],
    *,
    seeds: int,
    iterations: int,
    episodes: int,
) -> dict[str, Any]:
    """Train every setting for every seed in one jit; returns, goals and first actions per acting mode and saddle."""
    table = {name: jnp.asarray([float(s[name]) for s in settings]) for name in settings[0]}

    def run(setting: dict[str, Any], key: Any) -> Any:
        program, env = program_of(algorithm, setting)
        state = program.init(key)
        state, _ = jax.lax.scan(lambda s, _: program.step(s), state, None, length=iterations // CHUNK)
        found = {}
        for mode in modes:
            policy = policy_of(program.algorithm, state, mode)
            measure = partial(rollouts, env, policy, key=jax.random.key(1), episodes=episodes)
            result = jax.vmap(lambda start, measure=measure: measure(start=start))(env.saddle_points)
            found[mode] = (jnp.mean(result.returns, axis=-1), result.goals, result.actions)
        return found

    keys = jax.random.split(jax.random.key(0), seeds)
    return jax.device_get(jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(table, keys))


def rows(algorithm: str, settings: list[dict[str, Any]], found: dict[str, Any]) -> list[str]:
    """One Markdown row per setting and acting mode."""
    lines = []
    for i, setting in enumerate(settings):
        for mode, (returns, goals, actions) in found.items():
            mean = bootstrap_interval(returns[i].T).mean
            counts = np.asarray([[find_modes(cloud).count for cloud in of_seed] for of_seed in actions[i]])
            reached = [int((of_seed[0] > 0.02).sum()) for of_seed in goals[i]]
            numbers = [f"{setting[k]:g}" if k in setting else "-" for k in COLUMNS]
            lines.append(
                "| "
                + " | ".join(
                    [
                        f"{algorithm}, {mode}",
                        *numbers,
                        *(f"{x:.1f}" for x in mean),
                        *(", ".join(map(str, counts[:, s])) for s in range(3)),
                        ", ".join(map(str, reached)),
                    ]
                )
                + " |"
            )
    return lines


COLUMNS = (
    "action_cost",
    "distance_cost",
    "start_std",
    "start_range",
    "entropy_coefficient",
    "score_coefficient",
    "ema_decay",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="Markdown file for the table; printed in any case")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=95)
    parser.add_argument("--episodes", type=int, default=500)
    arguments = parser.parse_args()
    common = {"seeds": arguments.seeds, "iterations": arguments.iterations, "episodes": arguments.episodes}
    head = ["policy", *COLUMNS, "(0,0)", "(2.5,2.5)", "(-2.5,2.5)", "modes (0,0)", "modes (2.5,2.5)"]
    head += ["modes (-2.5,2.5)", "goals reached from (0,0)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    print("\n".join(lines), flush=True)
    ways = ("flow", "flow+residual")
    base = {"entropy_coefficient": 0.05, "score_coefficient": 0.1, "ema_decay": 0.99}
    soft = {"action_cost": 1.0, "distance_cost": 1.0}
    wide, narrow = {"start_range": 6.0}, {"start_std": 0.1}
    change = [{}, *({"entropy_coefficient": x} for x in (0.005, 0.02, 0.2))]
    change += [{"score_coefficient": x} for x in (0.03, 0.3)] + [{"ema_decay": 0.999}]
    cost = [{"distance_cost": 0.1}, {"distance_cost": 0.3}, {"action_cost": 30.0}]
    jobs = [
        ("ppo", [{**soft, **wide, "entropy_coefficient": x} for x in (0.005, 0.02)], ("evaluate", "explore")),
        ("dp_cppo", [{**soft, **wide, **base, **one} for one in change + cost], ways),
        ("dp_cppo", [{**soft, **narrow, **base, **one} for one in change], ways),
    ]
    for algorithm, settings, modes in jobs:
        begun = time.perf_counter()
        found = sweep(algorithm, settings, modes, **common)
        new = rows(algorithm, settings, found)
        lines += new
        print("\n".join(new), f"\n({time.perf_counter() - begun:.0f} s)", flush=True)
    if arguments.out is not None:
        text = f"Command: `python benchmarks/multigoal_sweep.py`, {arguments.seeds} seeds, "
        text += f"{arguments.iterations} iterations of 4,096 steps.\n\n"
        arguments.out.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
