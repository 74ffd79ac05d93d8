"""Does DDiffPG keep every mode that it discovers? Multi-Goal with nothing but a reward for arriving.

Four goals of equal reward, starts near the centre, and no hint of any of them on the way: a policy that maximises the
return may forget three. Compared are heights at which the clustering of episodes is cut, and SAC and DIPO, which have
no modes. For each seed: the share of 500 episodes from the centre that arrive, the goals that at least 5 % of them
arrive at, the modes in use at the end, and to how many goals those lead when each is asked for by its name.

    python benchmarks/ddiffpg_modes.py --out benchmarks/results/ddiffpg_modes
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from command_line import parser_for
from matplotlib.figure import Figure

from dpolicy.algorithms import ALGORITHMS
from dpolicy.envs import MultiGoal
from dpolicy.reports.multigoal import rollouts
from dpolicy.train import off_policy, policy_of, train_loop
from dpolicy.train.intervals import interval_text

EPISODES = 500
PLACES = 7  # for modes
SHARED: dict[str, Any] = {
    "hidden": (64, 64),
    "critic_hidden": (64, 64),
    "learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
}
MODES: dict[str, Any] = {
    "position": (0, 1),
    "path_points": 30,
    "clustered_episodes": 48,
    "remembered_episodes": 400,
    "discovery_interval": 125,
    "max_modes": PLACES,
    "novelty_hidden": (64, 64),
    "novelty_frequencies": 4,
    "embedding": "cos_sin",
    "ascent_steps": 10,
    "exploration_updates": 4_000,
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddiffpg, cut at 4": ("ddiffpg", MODES | {"cluster_distance": 4.0}),
    "ddiffpg, cut at 6": ("ddiffpg", MODES | {"cluster_distance": 6.0}),
    "ddiffpg, cut at 9": ("ddiffpg", MODES | {"cluster_distance": 9.0}),
    "ddiffpg, cut at .7 of the highest": ("ddiffpg", MODES),
    "dipo": ("dipo", {"sampler_steps": 10, "ascent_steps": 10}),
    "sac": ("sac", {}),
}

NOTE = """\
The costs of distance and of the action are zero, the bonus is 5, an episode ends after 12 steps, starts are normal
around the centre with deviation 0.5. A straight way to a goal takes four steps or more, of at most one unit per
coordinate. Heights are in units of dynamic time warping: the summed distance along two aligned paths."""


class Found(NamedTuple):
    """What one method has come to, by seed."""

    goals: np.ndarray  # [seeds, 4], share of episodes that arrive there
    live: np.ndarray  # [seeds], modes in use
    of_modes: np.ndarray  # [seeds, modes, 4], the same for each mode by its name; nan where it is not in use
    paths: np.ndarray  # [n, steps, 2], of the first seed
    seconds: float


def run(recipe: str, settings: dict[str, Any], seeds: int, chunks: int, directory: Path) -> Found:
    """Train, or read the finished run, and let it act."""
    env = MultiGoal(start_std=0.5, horizon=12, action_cost=0.0, distance_cost=0.0, bonus=5.0)
    algorithm = ALGORITHMS[recipe].recipe(**SHARED | settings)
    program = off_policy(
        algorithm,
        env,
        num_envs=16,
        batch_size=256,
        replay_size=64_000,
        warmup=16_000,
        evaluation_interval=4_000,
        evaluation_episodes=64,
    )
    config = {
        "recipe": recipe,
        **{name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()},
    }
    begun = time.perf_counter()
    result = train_loop(
        program,
        seeds=seeds,
        steps=16_000 + chunks * 4_000,
        directory=directory,
        config=config,
        resume=True,
        progress=False,
        checkpoint_every=5,
    )
    seconds = time.perf_counter() - begun
    centre, key = jnp.zeros(2), jax.random.key(1)

    def acted(state: Any) -> Any:
        return rollouts(env, policy_of(algorithm, state), centre, key, EPISODES)

    def asked_for(state: Any, mode: Any) -> Any:
        # Every mode in the place of the first, so that one program does for all.
        modes = lambda s: (s.algorithm.modes.embedding, s.algorithm.modes.live)
        first = [jnp.roll(leaf, 1 - mode, axis=0) for leaf in modes(state)]
        return rollouts(
            env, policy_of(algorithm, eqx.tree_at(modes, state, first), "mode_1"), centre, key, 100
        ).goals

    acting = jax.device_get(jax.jit(jax.vmap(acted))(result.state))
    paths = acting.paths[0, :100]
    if recipe != "ddiffpg":
        return Found(acting.goals, np.zeros(seeds, int), np.zeros((seeds, 0, 4)), paths, seconds)
    each = jax.vmap(asked_for, in_axes=(None, 0))
    of_modes = jax.jit(jax.vmap(lambda state: each(state, jnp.arange(1, PLACES + 1))))(result.state)
    live = np.asarray(result.state.algorithm.modes.live)[:, 1:]
    return Found(acting.goals, live.sum(1), np.where(live[:, :, None], of_modes, np.nan), paths, seconds)


def kept(goals: np.ndarray) -> list[int]:
    """Goals that at least one in twenty episodes arrives at, by seed."""
    return [int((shares >= 0.05).sum()) for shares in goals]


def named(of_modes: np.ndarray) -> list[int]:
    """Goals that some mode leads to in at least half of its episodes, by seed."""
    return [
        len({int(np.argmax(m)) for m in of_seed if np.nanmax(m, initial=0) >= 0.5}) for of_seed in of_modes
    ]


def draw(found: dict[str, Found], path: Path) -> None:
    """Paths of the first seed of every method."""
    figure = Figure(figsize=(3.2 * len(found), 3.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(found), sharex=True, sharey=True))
    for axis, (label, one) in zip(axes, found.items(), strict=True):
        for steps in one.paths:
            axis.plot(*steps.T, color="tab:blue", alpha=0.15, linewidth=0.8)
        axis.plot(*np.asarray(MultiGoal().goals).T, "*", color="tab:red", markersize=12)
        axis.set(title=label, aspect="equal", xlim=(-7, 7), ylim=(-7, 7))
        axis.title.set_fontsize(9)
    figure.suptitle("Multi-Goal, rewarded for arriving only: 100 episodes from the centre, first seed")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = parser_for(
        __doc__, out="directory for the table and the picture", runs=("runs", "ddiffpg_modes"), seeds=3
    )
    parser.add_argument(
        "--chunks", type=int, default=20, help="of 4,000 steps (and 250 updates) of each seed"
    )
    arguments = parser.parse_args()
    lines = [
        f"Command: `python benchmarks/ddiffpg_modes.py`, {arguments.seeds} seeds, {250 * arguments.chunks:,} updates; "
        "mean and 95 % bootstrap interval, or by seed.",
        "",
        "| method | episodes that arrive | goals kept | modes in use | goals of its modes | s |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    found: dict[str, Found] = {}
    listed = lambda counts: ", ".join(str(count) for count in counts)
    for label, (recipe, settings) in METHODS.items():
        directory = arguments.runs / label
        one = found[label] = run(recipe, settings, arguments.seeds, arguments.chunks, directory)
        modal = recipe == "ddiffpg"
        lines.append(
            f"| {label} | {interval_text(one.goals.sum(1), digits=3)} | {listed(kept(one.goals))} | "
            f"{listed(one.live) if modal else '-'} | {listed(named(one.of_modes)) if modal else '-'} | "
            f"{one.seconds:.0f} |"
        )
        print(lines[-1], flush=True)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        draw(found, arguments.out / "paths.png")
        text = "\n".join([*lines, "", NOTE, "", "![Paths of the first seed](paths.png)"]) + "\n"
        (arguments.out / "ddiffpg_modes.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
