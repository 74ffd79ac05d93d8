"""Where does each offline method go when the answer is known? The plane of contrastive energy prediction.

Points of the plane are actions of one-step episodes, and E(x) is their reward (`dpolicy.data.cep_set`): critics,
energies and policies are all learned from them. What a method that weighs, guides or resamples should sample is
p(x) exp(beta E(x)), which is drawn exactly; its distance is given with that of a second exact sample (floor) and of
the data themselves. The others, which trade the value of an action against the distance from the data in another way,
have no such law: their column says how far they are from it all the same. A share is that of the samples to which a
piece is the nearest, by its points in the data; "outside" is the share of samples farther from every point of the
data than one in a thousand of its own points is. Ways of acting are the methods' own in evaluation. A run that was cut
short goes on with what is missing; with --tasks or --only the other rows of the table stay.

    python benchmarks/cep.py --out benchmarks/results/cep
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command_line import parser_for
from kept import kept, merged
from laws import shares_text, wasserstein
from matplotlib.figure import Figure
from scipy.spatial import KDTree

from dpolicy.algorithms import ALGORITHMS
from dpolicy.data import CEP_SCALE, CEP_TOYS, cep_samples, cep_set
from dpolicy.envs import Bandit
from dpolicy.train import offline, policy_of
from dpolicy.train.intervals import interval_text

BETA = 3.0
POINTS, SAMPLES, UPDATES = 50_000, 1_000, 10_000
FIELD: dict[str, Any] = {"hidden": (128, 128, 128), "learning_rate": 1e-3}
CRITICS: dict[str, Any] = {"critic_hidden": (128, 128), "critic_learning_rate": 1e-3}
PHASES: dict[str, Any] = {"behaviour_updates": 5_000}


def settings(deviation: float) -> dict[str, dict[str, Any]]:
    """What is not a default, by method, for the inverse temperature `BETA`; `deviation` is that of the energies."""
    energy: dict[str, Any] = {"energy_hidden": (128, 128, 128), "energy_learning_rate": 1e-3}
    support: dict[str, Any] = {**PHASES, "critic_updates": 2_500, "temperature": 1 / BETA}
    return {
        "iql": {"temperature": 1 / BETA},
        "sql": {"temperature": 1 / BETA},
        "eql": {"temperature": 1 / BETA},
        "edp_crr": {"temperature": 1 / BETA},
        "edp_iql": {"temperature": 1 / BETA},
        "sfbc": {**PHASES, "critic_updates": 2_500, "selection_temperature": 1 / (BETA * deviation)},
        "qgpo": {**support, **energy},
        "qipo": {**support, "renewal_updates": 10_000},
        "diffusion_dice": {**PHASES, **energy, "temperature": 1 / BETA, "evaluation_candidates": 1},
        "dac": {"critics": 5},
        "bdpo": {
            **PHASES,
            "critics": 3,
            "critic_updates": 500,
            "eta": 1 / BETA,
            "pessimism": 0.0,
            "behaviour_learning_rate": 1e-3,
            "evaluation_candidates": 1,
        },
        "fql": {"normalise_q": True, "distillation_weight": 0.1},
        "dtql": {
            "pretraining_updates": 5_000,
            "behaviour_hidden": (128, 128, 128),
            "evaluation_candidates": 1,
        },
        "pa_rl": {
            **{
                "critic": "scalar",
                "critic_low": None,
                "critic_high": None,
                "critic_atoms": None,
                "critics": 2,
            },
            **{"critic_subset": None, "cloning_updates": 5_000, "distillation_after": 6_000},
            **{"candidates": 8, "kept_candidates": 2, "ascent_steps": 2},
        },
    }


# The methods that have p exp(beta E) for their law, with these settings: QIPO with its candidates drawn once.
AIMED = {"sfbc", "qgpo", "qipo", "bdpo"}
METHODS = tuple(name for name, entry in ALGORITHMS.items() if entry.family == "offline")


def plane() -> Bandit:
    """Where policies are asked: no observation to speak of, actions of two dimensions."""
    return Bandit(lambda action: jnp.sum(action), action_size=2, modes=np.zeros((1, 2)))


def measured(name: str, task: str, given: dict[str, Any], seeds: int) -> dict[str, np.ndarray]:
    """`samples` `[seeds, n, 2]` in units of the paper, and the `seconds` of training."""
    env, method = plane(), ALGORITHMS[name].recipe(**given)
    if method.phases >= UPDATES:
        raise ValueError(f"the last phase of {name} begins after {method.phases:,} updates, of {UPDATES:,}.")
    program = offline(
        method,
        env,
        dataset=cep_set(task, POINTS),
        updates_per_evaluation=UPDATES,
        evaluation_episodes=1,
    )
    state = jax.jit(jax.vmap(program.init))(jax.random.split(jax.random.key(0), seeds))
    step = jax.jit(jax.vmap(program.step), donate_argnums=0).lower(state).compile()
    begun = time.perf_counter()
    state, _ = jax.block_until_ready(step(state))
    seconds = time.perf_counter() - begun

    def sample(state: Any, key: Any) -> Any:
        act = policy_of(program.algorithm, state, "evaluate")
        return jax.lax.map(lambda key: act(jnp.zeros(1), key), jax.random.split(key, SAMPLES), batch_size=100)

    samples = jax.jit(jax.vmap(sample))(state, jax.random.split(jax.random.key(1), seeds))
    return {"samples": CEP_SCALE * np.asarray(samples), "seconds": np.asarray(seconds)}


class Reference:
    """What samples are compared with."""

    def __init__(self, task: str):
        data = cep_samples(task, POINTS)
        self.data, self.energy = data.x[:SAMPLES], data.energy
        self.target, second = (cep_samples(task, SAMPLES, BETA, seed=seed) for seed in (1, 2))
        self.floor = wasserstein(second.x, self.target.x)
        self.tree, self.label = KDTree(data.x), data.label
        self.pieces = int(data.label.max()) + 1
        self.width = np.quantile(self.tree.query(data.x[:5_000], k=2)[0][:, 1], 0.999)

    def row(self, name: str, samples: np.ndarray, seconds: str) -> list[str]:
        """The cells of a method after the task: distances, energies and shares of samples `[seeds, n, 2]`."""
        distance = np.asarray([wasserstein(cloud, self.target.x) for cloud in samples])
        away, nearest = self.tree.query(samples)
        shares = np.mean(self.label[nearest][..., None] == np.arange(self.pieces), axis=(0, 1))
        return [
            name,
            "yes" if name in AIMED else "-",
            interval_text(distance, digits=3),
            f"{self.energy[nearest].mean():.3f}",
            f"{100 * np.mean(away > self.width):.1f}",
            shares_text(shares),
            seconds,
        ]


HEAD = "| data | method | aims at it | W2 to p exp(beta E) | mean E | outside, % | shares of the pieces | train, s |"


def drawn(clouds: dict[str, np.ndarray], path: Path, title: str) -> None:
    """A picture of samples by method."""
    columns = min(len(clouds), 6)
    rows = -(-len(clouds) // columns)
    figure = Figure(figsize=(2.1 * columns, 2.2 * rows + 0.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    for axis in axes[len(clouds) :]:
        axis.axis("off")
    for axis, (name, cloud) in zip(axes, clouds.items(), strict=False):
        axis.scatter(*cloud.T, s=1, alpha=0.5)
        axis.set_title(name, fontsize=9)
        axis.set(xlim=(-CEP_SCALE, CEP_SCALE), ylim=(-CEP_SCALE, CEP_SCALE), aspect="equal")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = parser_for(
        __doc__,
        out="directory for the table and the pictures",
        runs=("samples", "cep"),
        seeds=3,
        only="methods",
    )
    parser.add_argument(
        "--tasks", nargs="*", choices=[[], *CEP_TOYS], default=["8gaussians"], help="of the suite"
    )
    arguments = parser.parse_args()
    command = (
        f"Command: `python benchmarks/cep.py --tasks {' '.join(arguments.tasks)}`, {arguments.seeds} seeds, beta "
        f"{BETA:g}, {POINTS:,} points, {UPDATES:,} updates of 256 (phases of methods that have them are within those); "
        f"distances of {SAMPLES:,} samples, mean and 95 % bootstrap interval."
    )
    print(f"{command}\n\n{HEAD}", flush=True)
    rows, pictures = [], []
    for task in arguments.tasks or CEP_TOYS:
        reference = Reference(task)
        clouds = {"the data": reference.data, "p exp(beta E)": reference.target.x}
        found = [
            [task, *reference.row("the data", reference.data[None], "-")],
            [
                task,
                "exact samples",
                "-",
                f"{reference.floor:.3g} (floor)",
                *reference.row("", reference.target.x[None], "-")[3:],
            ],
        ]
        for name in METHODS:
            given = {**FIELD, **({} if name == "bc" else CRITICS)}
            given |= settings(float(reference.energy.std())).get(name, {})
            if arguments.only and name not in arguments.only:
                continue
            result = kept(
                arguments.runs / task / name / f"{arguments.seeds}-seeds.npz",
                partial(measured, name, task, given, arguments.seeds),
                (given, POINTS, UPDATES),
            )
            found.append([task, *reference.row(name, result["samples"], f"{result['seconds']:.0f}")])
            clouds[name] = result["samples"][0]
            print(f"| {' | '.join(found[-1])} |", flush=True)
        rows += [f"| {' | '.join(cells)} |" for cells in found]
        pictures.append((task, clouds))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for task, clouds in pictures:
            drawn(clouds, arguments.out / f"{task}.png", f"{task}, beta {BETA:g}: samples of the first seed")
        file = arguments.out / "cep.md"
        shown = sorted(path.name for path in arguments.out.glob("*.png"))
        images = [f"![Samples by method, {name.removesuffix('.png')}]({name})" for name in shown]
        text = "\n".join([command, "", *merged(file, HEAD, rows, 2), "", *images]) + "\n"
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
