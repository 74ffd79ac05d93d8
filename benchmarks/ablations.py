"""Ablations of the methods on one task each: a table and curves per ablation.

    python benchmarks/ablations.py --list
    python benchmarks/ablations.py fpo_draws --out benchmarks/results/ablations
    python benchmarks/ablations.py dp_cppo_terms --env brax/inverted_pendulum

Settings are the presets of the task, or `SETTINGS` below; a variant changes what its label says. On Multi-Goal the
columns are the mean returns from its three saddle points, and at (0,0) how many modes the action has and how many goals
are reached, by seed; elsewhere the last evaluation. A finished run is only read again.
"""

from pathlib import Path
from typing import Any, NamedTuple

from command_line import parser_for
from throughput import measure_algorithm

from dpolicy.algorithms import ALGORITHMS
from dpolicy.plots import learning_curve
from dpolicy.presets import resolve
from dpolicy.reports.multigoal import measure
from dpolicy.samplers import tied_mixing
from dpolicy.train import policy_of, train_config
from dpolicy.train.intervals import interval_text


class Ablation(NamedTuple):
    """One question: an algorithm, and the settings (or the algorithm) that are changed under each label.

    `timed` adds what an update of each costs (`throughput.py`).
    """

    question: str
    algorithm: str
    variants: dict[str, dict[str, Any]]
    timed: bool = False


# On Pendulum, by its preset: rewards of -1.63 or better, discounted by .95, and the entropy of SAC.
_BOUNDS: dict[str, Any] = {"critic_low": -35.0, "critic_high": 5.0}
_CRITICS: dict[str, dict[str, Any]] = {
    "scalar": {},
    "c51": {"critic": "c51", **_BOUNDS},
    "hl_gauss": {"critic": "hl_gauss", **_BOUNDS},
    "quantile": {"critic": "quantile"},
    "gaussian": {"critic": "gaussian"},
    "2 of 5": {"critics": 5, "critic_subset": 2},
}

ABLATIONS = {
    "methods": Ablation(
        "The six on-policy methods",
        "ppo",
        {name: {"algorithm": name} for name in ("ppo", "fpo", "fpopp", "dppo", "genpo", "dp_cppo")},
    ),
    "fpo_draws": Ablation(
        "Pairs (t, eps) per action (FPO, table 1)", "fpo", {f"{n} draws": {"draws": n} for n in (1, 4, 8)}
    ),
    "fpo_clip": Ablation(
        "Clip range (FPO, table 1)", "fpo", {f"clip {c}": {"clip": c} for c in (0.05, 0.1, 0.2)}
    ),
    "fpo_negative": Ablation(
        "What is done where the advantage is negative",
        "fpo",
        {
            "as the reference": {},
            "aspo": {"surrogate": "aspo"},
            "positive advantages": {"advantages": "positive"},
        },
    ),
    "genpo_steps": Ablation(
        "Coupled steps, the mixing fixed (review, table 6) or tied to them",
        "genpo",
        {f"{k} steps, p 0.9": {"sampler_steps": k, "mixing": 0.9} for k in (5, 10, 20)}
        # 50 steps at p = 0.9 lose too much to rounding in single precision, and are refused.
        | {"50 steps, p 0.95": {"sampler_steps": 50, "mixing": 0.95}}
        | {f"{k} steps, p {tied_mixing(k):.3f}": {"sampler_steps": k, "mixing": None} for k in (10, 20, 50)},
    ),
    "dp_cppo_terms": Ablation(
        "Entropy, score term and moving average (DP-CPPO, figures 8 and 9)",
        "dp_cppo",
        {
            "all": {},
            "no entropy": {"entropy_coefficient": 0.0},
            "no score term": {"score_coefficient": 0.0},
            "neither": {"entropy_coefficient": 0.0, "score_coefficient": 0.0},
            "no moving average": {"ema_decay": 0.0},
        },
    ),
    "diffusion_steps": Ablation(
        "Sampler steps (FlowRL, figure 7)",
        "sdac",
        {
            f"{name}, {k} steps": {"algorithm": name, "sampler_steps": k}
            for name in ("sdac", "qsm")
            for k in (2, 5, 10, 50)
        },
    ),
    "schedules": Ablation(
        "Noise schedule (FlowRL, figure 9)",
        "sdac",
        {
            f"{name}, {schedule}": {"algorithm": name, "schedule": schedule}
            for name in ("sdac", "qsm")
            for schedule in ("cosine", "linear")
        },
    ),
    "differentiated_steps": Ablation(
        "Sampler steps that the gradient passes (FlowRL, figure 7; review, table 6)",
        "dacer",
        {f"{k} steps": {"sampler_steps": k} for k in (2, 5, 10, 20, 50)}
        | {f"20 steps, the last {k}": {"sampler_steps": 20, "gradient_steps": k} for k in (1, 5)},
        timed=True,
    ),
    "critics": Ablation(
        "What critics give, and are fitted by",
        "sac",
        {
            f"{name}, {kind}": {"algorithm": name, **of}
            for name in ("sac", "qsm")
            for kind, of in _CRITICS.items()
        },
    ),
    "critic_networks": Ablation(
        "Networks of the critics, two blocks or layers",
        "sac",
        {
            f"{name}, {network}": {"algorithm": name, "critic_network": network}
            for name in ("sac", "qsm")
            for network in ("mlp", "simba", "bronet")
        },
    ),
    "noise_repeats": Ablation(
        "Steps that exploration keeps its noise for, at most (FlashSAC)",
        "sac",
        {
            f"{name}, {most}": {"algorithm": name, "noise_repeats": most}
            for name in ("sac", "fast_td3", "qsm")
            for most in (1, 16)
        },
    ),
    "dp_cppo_flow_steps": Ablation(
        "Flow steps (DP-CPPO, figure 11)", "dp_cppo", {f"{k} flow steps": {"flow_steps": k} for k in (8, 16)}
    ),
}

# Where the published presets need a larger machine: what every method uses there instead of its preset.
_SMALL: dict[str, Any] = {
    "num_envs": 128,
    "rollout": 32,
    "resets": "pool",
    "evaluation_episodes": 32,
    "normalise_observations": True,
    "hidden": (64, 64),
    "value_hidden": (64, 64),
    "epochs": 4,
    "minibatches": 4,
    "reward_scale": 1.0,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "brax/inverted_pendulum": _SMALL | {"steps": 15 * 4_096, "iterations_per_evaluation": 5},
    "playground/PointMass": _SMALL | {"steps": 100 * 4_096, "iterations_per_evaluation": 20},
}

# How an algorithm acts where it has several ways to; its rows on Multi-Goal, the first is its evaluation.
MODES = {
    "ppo": ("evaluate", "explore"),
    "fpopp": ("zero", "random"),
    "dp_cppo": ("flow+residual", "flow"),
}


def row(label: str, env_name: str, run: Any, history: Any, mode: str = "evaluate") -> str:
    """One line of the table."""
    final = interval_text(history.metrics["evaluate/return"][-1])
    failed = int((~history.alive[-1]).sum())
    cells = [label, final, str(failed)]
    if env_name.startswith("multigoal"):
        policy = lambda state: policy_of(run.algorithm, state, mode)
        found = measure(label, run.env, run.state, policy, episodes=500, alive=history.alive[-1])
        cells += [interval_text(found.returns[:, i], digits=3) for i in range(3)]
        cells.append(", ".join(str(of_seed[0].count) for of_seed in found.modes))
        cells.append(", ".join(str(int((goals[0] > 0.02).sum())) for goals in found.goals))
    return f"| {' | '.join(cells)} |"


def cost(config: dict[str, Any]) -> str:
    """Of one update, its milliseconds and its memory, as two cells; its transitions are those of `throughput.py`."""
    recipe = ALGORITHMS[config["algorithm"]].recipe(**config["hyperparameters"])
    found = measure_algorithm(recipe, 3.0, repeat=5)
    return f" {1e3 / found['updates per second']:.3g} | {found['program MiB']:.3g} |"


def ablate(
    name: str,
    env_name: str,
    seeds: int,
    runs: Path,
    out: Path | None,
    changes: dict[str, Any],
    only: list[str] | None,
) -> None:
    """Train the variants of one ablation and print, and write, its table and curves."""
    ablation = ABLATIONS[name]
    head = ["variant", "last evaluation", "failed seeds"]
    if env_name.startswith("multigoal"):
        head += ["(0,0)", "(2.5,2.5)", "(-2.5,2.5)", "modes at (0,0)", "goals from (0,0)"]
    if ablation.timed:
        head += ["ms an update", "MiB"]
    command = f"python benchmarks/ablations.py {name} --env {env_name}"
    command += f" --steps {changes['steps']}" if changes else ""
    command += f" --only {' '.join(map(repr, only))}" if only else ""
    settings = SETTINGS.get(env_name)
    choose = None if settings is None else "none"
    basis = "the presets" if settings is None else f"every method's defaults with {settings}"
    lines = [
        f"# {ablation.question}",
        "",
        f"Command: `{command}`; {seeds} seeds, mean and 95 % bootstrap interval. Settings: {basis}.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    print("\n".join(lines), flush=True)
    histories, tried = {}, set()
    for label, values in ablation.variants.items():
        if only and label not in only:
            continue
        algorithm = values.get("algorithm", ablation.algorithm)
        base = resolve(algorithm, env_name, (settings or {}) | changes, choose=choose)
        given = base["hyperparameters"] | base["program"]
        own = {k: v for k, v in values.items() if k != "algorithm" and v != given[k]}
        config = resolve(algorithm, env_name, (settings or {}) | own | changes, choose=choose)
        config |= {"seeds": seeds, "seed": 0}
        tried |= {config["hyperparameters"].get("evaluation_candidates", 1)}
        # Named by what it changes, so that ablations share the runs that they have in common.
        directory = runs / ", ".join(
            [env_name.replace("/", "-"), algorithm, *(f"{k} {v}" for k, v in own.items())]
        )
        run, history = train_config(config, directory, resume=True, checkpoint_every=1_000, progress=False)
        histories[label] = history
        several = MODES.get(algorithm, ()) if name == "methods" and env_name.startswith("multigoal") else ()
        for mode in several or ("evaluate",):
            lines.append(row(f"{label}, {mode}" if several else label, env_name, run, history, mode))
            lines[-1] += cost(config) if ablation.timed else ""
            print(lines[-1], flush=True)
    best = ", ".join(map(str, sorted(tried)))
    lines += [
        "",
        f"In evaluation an action is {f'the best of {best} by the critic' if best != '1' else 'a single draw'}.",
    ]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        picture = f"{name}-{env_name.replace('/', '-')}.png"
        learning_curve(histories, out / picture, title=env_name)
        text = "\n".join([*lines, "", f"![{ablation.question}]({picture})"]) + "\n"
        (out / picture.replace(".png", ".md")).write_text(text, encoding="utf-8")


def main() -> None:
    parser = parser_for(
        __doc__,
        out="directory for tables and curves",
        runs=("runs", "ablations"),
        seeds=3,
        only="labels of the variants, see --list",
    )
    parser.add_argument("names", nargs="*", choices=[[], *ABLATIONS], help="all by default")
    parser.add_argument("--env", default="multigoal/multigoal")
    parser.add_argument("--steps", type=int, help="of each seed; the preset's by default")
    parser.add_argument("--list", action="store_true", help="say what there is and stop")
    arguments = parser.parse_args()
    if arguments.list:
        for name, ablation in ABLATIONS.items():
            print(f"{name:<20} {ablation.question}: {', '.join(ablation.variants)}")
        return
    changes = {} if arguments.steps is None else {"steps": arguments.steps}
    for name in arguments.names or ABLATIONS:
        ablate(name, arguments.env, arguments.seeds, arguments.runs, arguments.out, changes, arguments.only)


if __name__ == "__main__":
    main()
