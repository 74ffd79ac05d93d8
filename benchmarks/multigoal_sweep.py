"""What Multi-Goal takes: settings of PPO, and those in which DP-CPPO stays multimodal; each a vmapped sweep.

The paper gives neither the environment's constants nor the start distribution nor some coefficients. Every row of the
tables is one setting of those, for four seeds; all numbers of a group train in one compiled program.

    python benchmarks/multigoal_sweep.py
    python benchmarks/multigoal_sweep.py --only ppo
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from command_line import parser_for

from dpolicy.algorithms import dp_cppo, ppo
from dpolicy.envs import MultiGoal
from dpolicy.presets import defaults, preset
from dpolicy.reports.modes import find_modes
from dpolicy.reports.multigoal import rollouts
from dpolicy.train import bootstrap_interval, on_policy, policy_of

CHUNK = 5  # iterations per call of the program
ENVIRONMENT = ("action_cost", "distance_cost", "start_std", "start_range")
RESULTS = Path(__file__).parent / "results"


class Group(NamedTuple):
    """Settings that one compiled program trains: what is fixed in it, and the numbers that it is mapped over."""

    algorithm: str
    fixed: dict[str, Any]
    settings: list[dict[str, Any]]
    ways: tuple[str, ...]


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


def sweep(group: Group, *, seeds: int, iterations: int, episodes: int) -> dict[str, Any]:
    """Train every setting for every seed in one jit; returns, goals and first actions per acting mode and start."""
    settings = group.settings
    table = {name: jnp.asarray([float(s[name]) for s in settings]) for name in settings[0]}

    def run(setting: dict[str, Any], key: Any) -> Any:
        program, env = program_of(group.algorithm, group.fixed | setting)
        state = program.init(key)
        state, _ = jax.lax.scan(lambda s, _: program.step(s), state, None, length=iterations // CHUNK)
        found = {}
        for mode in group.ways:
            policy = policy_of(program.algorithm, state, mode)
            measure = partial(rollouts, env, policy, key=jax.random.key(1), episodes=episodes)
            result = jax.vmap(lambda start, measure=measure: measure(start=start))(env.saddle_points)
            everywhere = jnp.mean(measure(start=None).returns)
            found[mode] = (jnp.mean(result.returns, axis=-1), everywhere, result.goals, result.actions)
        return found

    keys = jax.random.split(jax.random.key(0), seeds)
    return jax.device_get(jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(table, keys))


def rows(group: Group, columns: tuple[str, ...], found: dict[str, Any]) -> list[str]:
    """One Markdown row per setting and acting mode."""
    lines = []
    for i, setting in enumerate(group.settings):
        setting = group.fixed | setting
        for mode, (returns, everywhere, goals, actions) in found.items():
            mean = bootstrap_interval(returns[i].T).mean
            counts = np.asarray([[find_modes(cloud).count for cloud in of_seed] for of_seed in actions[i]])
            reached = [int((of_seed[0] > 0.02).sum()) for of_seed in goals[i]]
            cells = [f"{group.algorithm}, {mode}", *(_cell(setting.get(name)) for name in columns)]
            cells += [f"{x:.1f}" for x in (*mean, everywhere[i].mean())]
            cells += [", ".join(map(str, counts[:, s])) for s in range(3)] + [", ".join(map(str, reached))]
            lines.append(_row(cells))
    return lines


def _cell(value: Any) -> str:
    return "-" if value is None else str(value) if isinstance(value, bool | str) else f"{value:g}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


STARTS = ("(0,0)", "(2.5,2.5)", "(-2.5,2.5)")
SOFT = {"action_cost": 1.0, "distance_cost": 1.0}
WIDE, NARROW = {"start_range": 6.0}, {"start_std": 0.1}
BASE = {"entropy_coefficient": 0.05, "score_coefficient": 0.1, "ema_decay": 0.99}
FLOW = ("flow", "flow+residual")


def ppo_groups() -> list[Group]:
    """PPO with both conventions for observations and weights, over entropy and learning rate, beside DP-CPPO."""
    numbers = [
        {"entropy_coefficient": entropy, "learning_rate": rate}
        for entropy in (0.005, 0.02, 0.05)
        for rate in (3e-4, 1e-3)
    ]
    fixed = [
        {"normalise_observations": standardised, "initialisation": weights}
        for standardised in (False, True)
        for weights in ("torch", "orthogonal")
    ]
    return [Group("ppo", one, numbers, ("evaluate", "explore")) for one in fixed] + [
        Group("dp_cppo", {}, [BASE], FLOW)
    ]


def dp_cppo_groups() -> list[Group]:
    """DP-CPPO over its coefficients, the environment's costs and its starts."""
    change = [{}, *({"entropy_coefficient": x} for x in (0.005, 0.02, 0.2))]
    change += [{"score_coefficient": x} for x in (0.03, 0.3)] + [{"ema_decay": 0.999}]
    cost = [{"distance_cost": 0.1}, {"distance_cost": 0.3}, {"action_cost": 30.0}]
    return [
        Group("dp_cppo", {}, [SOFT | WIDE | BASE | one for one in change + cost], FLOW),
        Group("dp_cppo", {}, [SOFT | NARROW | BASE | one for one in change], FLOW),
    ]


# Name: what it trains, and the settings that its table shows.
SWEEPS: dict[str, tuple[Callable[[], list[Group]], tuple[str, ...]]] = {
    "ppo": (
        ppo_groups,
        ("normalise_observations", "initialisation", "learning_rate", "entropy_coefficient"),
    ),
    "dp_cppo": (dp_cppo_groups, (*ENVIRONMENT, *BASE)),
}


def main() -> None:
    parser = parser_for(__doc__, seeds=4)
    parser.add_argument("--only", choices=tuple(SWEEPS), help="one of the tables; both without it")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for multigoal_sweep_NAME.md")
    parser.add_argument("--iterations", type=int, default=95)
    parser.add_argument("--episodes", type=int, default=500)
    arguments = parser.parse_args()
    common = {"seeds": arguments.seeds, "iterations": arguments.iterations, "episodes": arguments.episodes}
    for name in [arguments.only] if arguments.only else SWEEPS:
        groups, columns = SWEEPS[name]
        head = ["policy", *columns, *STARTS, "all starts", *(f"modes {start}" for start in STARTS)]
        head += ["goals reached from (0,0)"]
        lines = [_row(head), "|" + "---|" * len(head)]
        print("\n".join(lines), flush=True)
        for group in groups():
            begun = time.perf_counter()
            new = rows(group, columns, sweep(group, **common))
            lines += new
            print("\n".join(new), f"\n({time.perf_counter() - begun:.0f} s)", flush=True)
        text = f"Command: `python benchmarks/multigoal_sweep.py --only {name}`, {arguments.seeds} seeds, "
        text += f"{arguments.iterations} iterations of 4,096 steps.\n\n"
        target = arguments.out / f"multigoal_sweep_{name}.md"
        target.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
