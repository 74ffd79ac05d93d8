"""Where does each off-policy method go when Q is known? Stationary samples against exp(Q / T) / Z and its own law.

The critics are replaced by the bandit's Q itself: what is measured is the policy improvement alone, with the method's
own proposals, averages and temperatures, in double precision. "Own law" is what the method's documentation says its
fixed point is, computed on a grid without any network: exp(Q / T) / Z where it samples that, else the iteration of its
improvement step (`laws.py`). Those that climb Q at their own action have none: where they end depends on where they
began. BRO's improvement is SAC's, FastTD3's TD3's and DSAC-D's DACER's; the joint critics of CrossQ and DIME cannot be
exchanged for a function. Samples are of the policy as it explores, without additive noise, one candidate, by the
method's own sampler. KL is of histograms, from the samples to the law; the floor is that of exact samples. The share of
a mode is that of the samples to which it is the nearest, in the mean over seeds. A run that was cut short goes on with
the methods that are missing; with --tasks or --only, the other rows of the table in --out stay.

    python benchmarks/fixed_points.py --out benchmarks/results/fixed_points
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from command_line import parser_for
from kept import kept, merged
from laws import Grid, mode_shares, qsm_fixed_point, shares_text, wasserstein
from matplotlib.figure import Figure

from dpolicy._types import Transition
from dpolicy.algorithms import ALGORITHMS
from dpolicy.envs import make
from dpolicy.learning import Parts
from dpolicy.networks import GaussianValue
from dpolicy.optimisers import adam, learner
from dpolicy.train.intervals import interval_text

TEMPERATURE = {"double_well": 0.25, "eight_gaussians": 1.0, "faces": 0.5, "unequal_modes": 1.0}
STATES, POOL, SAMPLES, UPDATES = 64, 4_096, 4_000, 4_000
NOISE = 0.1  # additive noise of the methods whose own law depends on it
# The rate falls to nearly nothing, so that the end is a fixed point and not a walk around it.
NET: dict[str, Any] = {
    "hidden": (64, 64, 64),
    "learning_rate": 1e-2,
    "decay_updates": UPDATES,
    "decay_share": 0.01,
    "decay_shape": "cosine",
}


class Known(eqx.Module):
    """The twin critics of a bandit whose Q is known, or its return's law; it has nothing to train."""

    function: Callable[[Any], Any] = eqx.field(static=True)
    law: bool = eqx.field(static=True)

    def __call__(self, obs: Any, action: Any) -> Any:
        values = jnp.full(2, self.function(action))
        return GaussianValue(values, jnp.ones(2)) if self.law else values


def pathwise(temperature: float) -> dict[str, tuple[str, dict[str, Any], str]]:
    """`methods` that climb Q at their own action; the noise that holds DACER's entropy is a part of its law."""
    noisy = {"entropy_interval": 250, **NET}
    prompt = {"target_interval": 1, "target_after": 0, "candidates": 1, "max_grad_norm": None, **NET}
    random = {"average_interval": 1, "average_after": 0, "random_updates": 1, "random_share": 0.0}
    started = {"candidates": 1, "max_grad_norm": None, **random, **NET}
    return {
        "sac": ("sac", {"temperature": temperature, "tune_temperature": False, **NET}, "none"),
        "td3": ("td3", {"exploration_noise": 0.0, **NET}, "none"),
        "dacer": ("dacer", noisy, "none"),
        "dacerv2": ("dacerv2", noisy, "none"),
        "cpql": ("cpql", prompt, "none"),
        "cpql (inward)": ("cpql", {"inward": True, **prompt}, "none"),
        "consistency_ac": ("consistency_ac", started, "none"),
        "consistency_ac (inward)": ("consistency_ac", {"inward": True, **started}, "none"),
    }


def methods(temperature: float) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Label -> recipe, its settings, and which law it should have, if any."""
    entropic = {"temperature": temperature, "evaluation_candidates": 1, **NET}
    descent = {
        "candidates": 8,
        "noise_interval": 10**9,
        "initial_noise": 1.0,
        "exploration_noise": NOISE,
        **NET,
    }
    sampling = {
        "samples": 64,
        "initial_temperature": 10 * temperature,
        "final_temperature": temperature,
        "anneal_updates": UPDATES // 4,
        **NET,
    }
    return {
        "sdac": ("sdac", {"samples": 64, **entropic}, "boltzmann"),
        "maxentdp": ("maxentdp", {"samples": 64, "soft": False, **entropic}, "boltzmann"),
        "idem": (
            "idem",
            {"samples": 64, "normalise_temperature": False, "exploration_noise": 0.0, **entropic},
            "boltzmann",
        ),
        "dps": ("dps", {"proposal": "truncated", **sampling}, "boltzmann"),
        "dps (gaussian)": ("dps", {"proposal": "gaussian", **sampling}, "boltzmann"),
        "qsm (paper)": ("qsm", {"variant": "paper", "exploration_noise": 0.0, **entropic}, "qsm"),
        "qvpo": (
            "qvpo",
            {
                "candidates": 16,
                "uniform_weight": 0.02,
                "final_uniform_weight": 0.02,
                "exploration_candidates": 1,
                "max_grad_norm": None,
                **NET,
            },
            "qvpo",
        ),
        "dpmd": ("dpmd", {"temperature": 1.0, **descent}, "noise after"),
        "fpmd (rectified flow)": ("fpmd", {"temperature": 1.0, "q_clip": 3.0, **descent}, "noise before"),
        "gempo (linear)": (
            "gempo",
            {"candidates": 16, "reference_interval": 200, "target_kl": 0.5, **NET},
            "linear",
        ),
        "gempo (exponential)": (
            "gempo",
            {"weight": "exponential", "candidates": 16, "reference_interval": 200, "target_kl": 0.5, **NET},
            "exponential",
        ),
        "dipo": ("dipo", {"sampler_steps": 20, "max_grad_norm": None, **NET}, "ascent"),
        **pathwise(temperature),
    }


# The methods


def stationary(recipe: str, settings: dict[str, Any], env: Any, seeds: int, directory: Path) -> np.ndarray:
    """Samples `[seeds, n, d]` of the policy after `UPDATES` updates under the known Q, or those of an earlier run."""
    path = directory / f"{seeds}-seeds.npz"
    algorithm = ALGORITHMS[recipe].recipe(**settings)
    made_with = (recipe, settings, STATES, POOL, SAMPLES, UPDATES)
    return kept(path, lambda: {"samples": trained(algorithm, env, seeds)}, made_with)["samples"]


def trained(algorithm: Any, env: Any, seeds: int) -> np.ndarray:
    """Samples `[seeds, n, d]` of the policy that training comes to."""
    known = Known(env.function, law=algorithm.name.startswith("dacer"))

    def run(key: Any) -> Any:
        init_key, pool_key, scan_key, sample_key = jax.random.split(key, 4)
        state = algorithm.init(init_key, env.spec)
        critic = learner(known, adam(1e-3))
        state = Parts(state, critic=critic, target=known)
        actions = jax.random.uniform(pool_key, (POOL, env.spec.action_size), minval=-1.0)
        zeros, end = jnp.zeros((POOL, 1)), jnp.ones(POOL, bool)
        pool = Transition(zeros, actions, jax.vmap(env.energy)(actions), zeros, end, ~end)
        if algorithm.memory is not None:
            pool = dataclasses.replace(pool, extras=jax.vmap(algorithm.memory.start)(pool))

        def step(carry: Any, key: Any) -> tuple[Any, None]:
            state, pool = carry
            row_key, revise_key, update_key = jax.random.split(key, 3)
            rows = jax.random.randint(row_key, (STATES,), 0, POOL)
            batch = jax.tree.map(lambda leaf: leaf[rows], pool)
            if algorithm.memory is not None:
                batch = algorithm.memory.revise(state, batch, revise_key)
                pool = jax.tree.map(lambda leaf, new: leaf.at[rows].set(new), pool, batch)
            return (algorithm.update(state, batch, update_key)[0], pool), None

        (state, _), _ = jax.lax.scan(step, (state, pool), jax.random.split(scan_key, UPDATES))
        keys = jax.random.split(sample_key, SAMPLES)
        return jax.vmap(lambda key: algorithm.act(state, jnp.zeros(1), key, "explore")[0])(keys)

    return np.clip(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds)), -1, 1)


# How far apart


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The 2-Wasserstein distance: of quantiles in one dimension, by assignment of a thousand points in two."""
    if a.shape[-1] == 1:
        levels = (np.arange(SAMPLES) + 0.5) / SAMPLES
        return float(np.sqrt(np.mean((np.quantile(a, levels) - np.quantile(b, levels)) ** 2)))
    return wasserstein(a[:1_000], b[:1_000])


def divergence(samples: np.ndarray, law: np.ndarray) -> float:
    """KL(samples || law) of histograms, the law's from many draws with half a count in every empty cell."""
    d = samples.shape[-1]
    edges = [np.linspace(-1, 1, 51 if d == 1 else 21)] * d
    p = np.histogramdd(samples, edges)[0].ravel() / len(samples)
    counts = np.maximum(np.histogramdd(law, edges)[0].ravel(), 0.5)
    q = counts / counts.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


def modes_found(samples: np.ndarray, modes: np.ndarray) -> int:
    """Modes within 0.15 of which at least 2 % of the samples fall."""
    near = np.linalg.norm(samples[:, None] - modes, axis=-1) < 0.15
    return int((near.mean(0) >= 0.02).sum())


def laws(env: Any, temperature: float) -> dict[str, np.ndarray]:
    """Many samples of each law."""
    grid = Grid(env)
    many = 50 * SAMPLES
    found = {
        "boltzmann": grid.boltzmann(temperature),
        "noise after": grid.descent(NOISE, noise_first=False),
        "noise before": grid.descent(NOISE, noise_first=True),
        "linear": grid.tilted("linear", 0.5),
        "exponential": grid.tilted("exponential", 0.5),
        "qvpo": grid.qvpo(),
        "ascent": grid.ascent(env),
    }
    return {name: grid.draw(p, many, 0) for name, p in found.items()} | {
        "qsm": np.clip(qsm_fixed_point(env, temperature, 20 * SAMPLES), -1, 1)
    }


def draw(panels: dict[str, tuple[np.ndarray, np.ndarray | None]], path: Path, title: str) -> None:
    """Samples of every method beside its own law."""
    d = next(iter(panels.values()))[0].shape[-1]
    columns = 4
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.2 * rows if d == 1 else 3.0 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=d == 2)).ravel()
    for axis, (label, (samples, law)) in zip(axes, panels.items(), strict=False):
        axis.set_title(label, fontsize=9)
        if d == 1:
            bins = np.linspace(-1, 1, 51).tolist()
            axis.hist(samples[:, 0], bins, density=True, color="tab:blue", alpha=0.6, label="samples")
            if law is not None:
                axis.hist(law[:, 0], bins, density=True, histtype="step", color="black", label="its own law")
            axis.set_xlabel("action")
            axis.set_yticks([])
        else:
            if law is not None:
                axis.plot(*law[:1_500].T, ".", color="black", markersize=1.5, alpha=0.3, label="its own law")
            axis.plot(*samples[:1_500].T, ".", color="tab:blue", markersize=1.5, alpha=0.5, label="samples")
            axis.set_aspect("equal")
    axes[0].legend(fontsize=7, markerscale=1 if d == 1 else 6)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


HEAD = (
    "| task | method | own law | KL to exp(Q/T)/Z | KL to own law | floor | W2 to exp(Q/T)/Z | W2 to own law "
    "| floor | modes found | shares of the modes | exact shares |"
)


def compared(name: str, arguments: argparse.Namespace) -> list[str]:
    """The rows of one task, printed as they come; with `out`, its picture."""
    env: Any = make(f"bandit/{name}")
    temperature = TEMPERATURE[name]
    law = laws(env, temperature)
    fresh = Grid(env).draw(Grid(env).boltzmann(temperature), SAMPLES, 1)
    floors = divergence(fresh, law["boltzmann"]), distance(fresh, law["boltzmann"])
    panels, rows = {}, []
    for label, (recipe, settings, own) in methods(temperature).items():
        if arguments.only and label.split()[0] not in arguments.only:
            continue
        begun = time.perf_counter()
        samples = stationary(recipe, settings, env, arguments.seeds, arguments.runs / f"{name}, {label}")
        panels[label] = samples[0], law.get(own)

        def over_seeds(measure: Any, target: np.ndarray, samples: np.ndarray = samples) -> str:
            return interval_text(np.asarray([measure(cloud, target) for cloud in samples]), digits=3)

        found = ", ".join(str(modes_found(cloud, np.asarray(env.modes))) for cloud in samples)
        cells = [
            name,
            label,
            "exp(Q/T)/Z" if own == "boltzmann" else own,
            over_seeds(divergence, law["boltzmann"]),
            # Atoms have no density.
            "-" if own in ("ascent", "none") else over_seeds(divergence, law[own]),
            f"{floors[0]:.3g}",
            over_seeds(distance, law["boltzmann"]),
            "-" if own == "none" else over_seeds(distance, law[own]),
            f"{floors[1]:.3g}",
            f"{found} of {len(env.modes)}",
            shares_text(mode_shares(env, samples).mean(axis=0)),
            shares_text(np.asarray(env.mode_shares(temperature))),
        ]
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], f"({time.perf_counter() - begun:.0f} s)", flush=True)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        draw(panels, arguments.out / f"{name}.png", f"{name}, temperature {temperature}, first seed")
    return rows


def main() -> None:
    parser = parser_for(
        __doc__,
        out="directory for the table and the pictures",
        runs=("samples", "fixed_points"),
        seeds=3,
        only="methods, by their label's first word",
    )
    parser.add_argument("--tasks", nargs="*", choices=[[], *TEMPERATURE], help="all by default")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    command = (
        f"Command: `python benchmarks/fixed_points.py`, {arguments.seeds} seeds, {UPDATES} updates of {STATES} states; "
        "mean and 95 % bootstrap interval. Q is known: no critic is learned."
    )
    print(f"{command}\n\n{HEAD}", flush=True)
    rows = [row for name in arguments.tasks or TEMPERATURE for row in compared(name, arguments)]
    if arguments.out is not None:
        path = arguments.out / "fixed_points.md"
        pictures = [f"![{name}]({name}.png)" for name in TEMPERATURE]
        text = "\n".join([command, "", *merged(path, HEAD, rows, 2), "", *pictures]) + "\n"
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
