"""How far off is the entropy of samples? Every estimate against laws of known entropy in 1 to 20 dimensions.

The samples of a state are as many as DACER draws. Of three kinds of law: one Gaussian, which a policy is that has found
one good action; four Gaussians that hardly overlap, as of one that has found several; and the uniform law on the box,
which has the most entropy of all.

    python benchmarks/entropies.py --out benchmarks/results/entropies
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command_line import parser_for

from dpolicy.losses import gaussian_fit_entropy, knn_entropy, mixture_entropy
from dpolicy.plots.style import line_style, new_figure, save

DIMENSIONS = (1, 2, 3, 4, 6, 8, 12, 17, 20)
SAMPLES, STATES = 200, 32
ESTIMATES: dict[str, Callable[[Any, Any], Any]] = {
    "mixture, bound": mixture_entropy,
    "mixture, its value": partial(mixture_entropy, how="monte_carlo"),
    "one Gaussian": lambda points, key: gaussian_fit_entropy(points),
    "nearest neighbour": lambda points, key: knn_entropy(points),
    "4th neighbour": lambda points, key: knn_entropy(points, neighbours=4),
}
_STD, _NARROW = 0.3, 0.1


def one_gaussian(key: Any, d: int) -> Any:
    """N(0, .3^2)."""
    return _STD * jax.random.normal(key, (SAMPLES, d))


def four_gaussians(key: Any, d: int) -> Any:
    """Deviation .1, at .6 and -.6 of the first coordinate, and .2 and -.2 of it: 4 deviations apart."""
    which, noise = jax.random.split(key)
    centre = jnp.asarray([-0.6, -0.2, 0.2, 0.6])[jax.random.randint(which, (SAMPLES,), 0, 4)]
    points = _NARROW * jax.random.normal(noise, (SAMPLES, d))
    return points.at[:, 0].add(centre)


def uniform(key: Any, d: int) -> Any:
    """On [-1, 1]^d."""
    return jax.random.uniform(key, (SAMPLES, d), minval=-1.0, maxval=1.0)


def _gaussian(std: float) -> float:
    return 0.5 * math.log(2 * math.pi * math.e * std**2)


def _row_of_four() -> float:
    """Of the first coordinate of `four_gaussians`, by a sum over a fine grid."""
    x = np.linspace(-1.6, 1.6, 400_001)
    bumps = np.exp(-((x[:, None] - np.asarray([-0.6, -0.2, 0.2, 0.6])) ** 2) / (2 * _NARROW**2))
    density = bumps.mean(1) / (_NARROW * math.sqrt(2 * math.pi))
    return float(
        -np.sum(np.where(density > 0, density * np.log(np.maximum(density, 1e-300)), 0)) * (x[1] - x[0])
    )


LAWS: dict[str, tuple[Callable[[Any, int], Any], Callable[[int], float]]] = {
    "one Gaussian": (one_gaussian, lambda d: d * _gaussian(_STD)),
    "four Gaussians": (four_gaussians, lambda d: _row_of_four() + (d - 1) * _gaussian(_NARROW)),
    "uniform": (uniform, lambda d: d * math.log(2)),
}


def biases(law: str, d: int) -> dict[str, np.ndarray]:
    """Of every estimate, its error in each state."""
    draw, entropy = LAWS[law]

    def one(key: Any) -> list[Any]:
        draw_key, key = jax.random.split(key)
        points = draw(draw_key, d)
        return [estimate(points, key) for estimate in ESTIMATES.values()]

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(d), STATES))
    return {name: np.asarray(values) - entropy(d) for name, values in zip(ESTIMATES, found, strict=True)}


def main() -> None:
    arguments = parser_for(__doc__, out="directory for the table and the picture").parse_args()
    head = ["law", "dimensions", "entropy", *ESTIMATES]
    lines = [
        f"Command: `python benchmarks/entropies.py`; error in nats, mean (standard deviation) over {STATES} states of "
        f"{SAMPLES} samples each.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    print("\n".join(lines), flush=True)
    figure, axes = new_figure(1, len(LAWS), width=3.6, height=3.6)
    for axis, law in zip(axes[0], LAWS, strict=True):
        rows = [biases(law, d) for d in DIMENSIONS]
        for d, row in zip(DIMENSIONS, rows, strict=True):
            cells = [f"{error.mean():.2f} ({error.std():.2f})" for error in row.values()]
            lines.append(f"| {law} | {d} | {LAWS[law][1](d):.2f} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
        for i, name in enumerate(ESTIMATES):
            colour, dash = line_style(i)
            errors = [row[name].mean() for row in rows]
            axis.plot(DIMENSIONS, errors, marker="o", markersize=3, color=colour, linestyle=dash, label=name)
        axis.axhline(0, color="0.5", linewidth=0.8)
        axis.set(xlabel="dimensions", title=law)
    axes[0, 0].set_ylabel("estimate minus entropy, nats")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize="small",
    )
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        save(figure, arguments.out / "entropies.png")
        text = "\n".join([*lines, "", "![Error of each estimate over dimensions](entropies.png)"]) + "\n"
        (arguments.out / "entropies.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
