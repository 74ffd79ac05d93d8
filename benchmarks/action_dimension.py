"""More action dimensions under each kind of guidance (the question of FlowRL's figure 6), with a known answer.

Q is a sum over coordinates of one double well, so every coordinate of exp(Q / T) / Z has the same law, known on a grid,
and all coordinates are independent: 2^d modes. The critics are replaced by Q itself, as in `fixed_points.py`. Given are
the 1-Wasserstein distance of a coordinate's samples to its law, averaged over coordinates, and the value that the
policy gets beside that of the exact one, per coordinate. A run that was cut short goes on with what is missing.

    python benchmarks/action_dimension.py --out benchmarks/results/action_dimension
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from command_line import parser_for
from fixed_points import NET, stationary

from dpolicy.envs import Spec
from dpolicy.plots.style import line_style, new_figure, save
from dpolicy.train.intervals import interval_text

DIMENSIONS = (1, 2, 4, 8, 16)
TEMPERATURE = 0.25
_ONE = {"temperature": TEMPERATURE, "evaluation_candidates": 1, **NET}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sac": ("sac", {"temperature": TEMPERATURE, "tune_temperature": False, **NET}),
    "qsm": ("qsm", {"variant": "paper", "exploration_noise": 0.0, **_ONE}),
    "idem": ("idem", {"samples": 64, "normalise_temperature": False, "exploration_noise": 0.0, **_ONE}),
    "sdac": ("sdac", {"samples": 64, **_ONE}),
    "sdac, 500 samples": ("sdac", {"samples": 500, **_ONE}),
    "qvpo, 16 samples": (
        "qvpo",
        {"candidates": 16, "exploration_candidates": 1, "max_grad_norm": None, **NET},
    ),
    "gempo, 16 samples": ("gempo", {"candidates": 16, "reference_interval": 200, "target_kl": 0.5, **NET}),
}


def well(a: Any) -> Any:
    """One coordinate's share of Q, in JAX or NumPy."""
    return -8 * (a**2 - 0.36) ** 2 + 0.3 * a


def total(action: Any) -> Any:
    """Q(a)."""
    return jnp.sum(well(action))


class Wells(NamedTuple):
    """A bandit of independent double wells, in the names that `stationary` reads."""

    spec: Spec
    function: Any = total
    energy: Any = total


def draw(curves: dict[str, list[float]], seeds: int, path: Path) -> None:
    """Distance over dimensions, a line per method."""
    figure, axes = new_figure(width=6.4, height=3.8)
    axis = axes[0, 0]
    for i, (name, distances) in enumerate(curves.items()):
        colour, dash = line_style(i)
        axis.plot(DIMENSIONS, distances, marker="o", color=colour, linestyle=dash, label=name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(DIMENSIONS, map(str, DIMENSIONS))
    axis.set(xlabel="action dimensions", ylabel="W1 of a coordinate to exp(Q/T)/Z", ylim=(0, None))
    axis.set_title(f"Double wells, temperature {TEMPERATURE}: mean over {seeds} seeds", fontsize="medium")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    save(figure, path)


def main() -> None:
    arguments = parser_for(
        __doc__, out="directory for the table and the picture", runs=("samples", "action_dimension"), seeds=3
    ).parse_args()
    jax.config.update("jax_enable_x64", True)
    fine = np.linspace(-1, 1, 20_001)
    density = np.exp(well(fine) / TEMPERATURE)
    density /= density.sum()
    best = float((density * well(fine)).sum())
    lines = [
        f"Command: `python benchmarks/action_dimension.py`, {arguments.seeds} seeds; mean and 95 % bootstrap interval.",
        "",
        "| method | dimensions | W1 of a coordinate | value beside the exact, per coordinate |",
        "|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    curves: dict[str, list[float]] = {}
    for name, (recipe, settings) in METHODS.items():
        for d in DIMENSIONS:
            begun = time.perf_counter()
            env, directory = Wells(Spec("wells", 1, d, 1)), arguments.runs / f"{name}, {d}"
            samples = stationary(recipe, settings, env, arguments.seeds, directory)
            levels = (np.arange(samples.shape[1]) + 0.5) / samples.shape[1]
            quantiles = np.interp(levels, np.cumsum(density), fine)[None, :, None]
            distance = np.abs(np.sort(samples, axis=1) - quantiles).mean((1, 2))
            value = well(samples).mean((1, 2)) - best
            curves.setdefault(name, []).append(float(distance.mean()))
            lines.append(
                f"| {name} | {d} | {interval_text(distance, digits=3)} | {interval_text(value, digits=3)} |"
            )
            print(lines[-1], f"({time.perf_counter() - begun:.0f} s)", flush=True)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        draw(curves, arguments.seeds, arguments.out / "action_dimension.png")
        text = "\n".join([*lines, "", "![Distance over dimensions](action_dimension.png)"]) + "\n"
        (arguments.out / "action_dimension.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
