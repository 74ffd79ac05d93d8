"""Bias and standard deviation of every target form against the exact smoothed score, as the samples grow.

A matching loss regresses the noise field on an estimate of E[eps | x_t = x] under exp(Q / lambda). From n reverse
proposals a_i = (x - sigma e_i) / alpha with weights w = softmax(Q(a_i) / lambda) it is estimated by

    noise     sum_i w_i e_i                                        (SDAC, MaxEntDP)
    gradient  -(sigma / alpha) sum_i w_i grad Q(a_i) / lambda      (iDEM, DQS)
    mixture   eta noise + (1 - eta) gradient, eta the share of least variance over all x at this t and n, found on
              half of the draws and measured on the other half

with proposals that are Gaussian, truncated to the action box, or clipped to it afterwards. Four one-dimensional
problems with closed forms or quadrature for the truth: a Gaussian and a mixture on the line, a linear Q and a double
well on the box. All numbers are in units of the noise, root mean squares over x ~ p_t; what the draws alone would do to
a bias is subtracted.

    python benchmarks/targets.py --out benchmarks/results/targets
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

from dpolicy._types import Transition
from dpolicy.cli.catalogue import table
from dpolicy.fields import CosineVP
from dpolicy.losses import Match, Target, boltzmann, posterior_mean, reverse_sample, smoothed_score
from dpolicy.plots import COLOURS, new_figure, save

SCHEDULE = CosineVP()
TIMES = (0.1, 0.25, 0.5, 0.75, 0.9)
SAMPLES = (4, 16, 64, 256, 1024)
PROPOSALS = ("gaussian", "truncated", "clipped")
_FLOOR = 2e-3  # of the figure: about what is left of the draws in a bias
FORMS = ("noise", "gradient", "mixture")


class Problem(NamedTuple):
    """Q, its temperature, and the interval that its Boltzmann distribution lives on."""

    name: str
    q: Callable[[Any], Any]
    temperature: float
    bound: float


def _mixture(a: Any) -> Any:
    component = lambda mean, std: -((a - mean) ** 2) / (2 * std**2) - jnp.log(std)
    return jnp.logaddexp(component(-0.5, 0.1), component(0.5, 0.2))


PROBLEMS = (
    Problem("Gaussian", lambda a: -(a**2) / 2, 0.04, 4.0),
    Problem("mixture", _mixture, 1.0, 4.0),
    Problem("linear on the box", lambda a: a, 1.0, 1.0),
    Problem("double well on the box", lambda a: -8 * (a**2 - 0.36) ** 2 + 0.3 * a, 0.25, 1.0),
)


def truth(problem: Problem, t: float, points: int) -> tuple[np.ndarray, np.ndarray]:
    """`points` quantiles of p_t, and E[eps | x_t = x] at each, by quadrature in double precision."""
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
    grid = np.linspace(-problem.bound, problem.bound, 20_001)
    logs = np.asarray(jax.vmap(problem.q)(jnp.asarray(grid)), float) / problem.temperature
    density = np.exp(logs - logs.max())
    density[[0, -1]] /= 2  # the trapezoidal rule
    generator = np.random.default_rng(0)
    actions = generator.choice(grid, points, p=density / density.sum())
    x = (alpha * actions + sigma * generator.standard_normal(points)).astype(np.float32).astype(float)
    noise = (x[:, None] - alpha * grid) / sigma
    posterior = density * np.exp(-(noise**2) / 2)
    return x, (posterior * noise).sum(1) / posterior.sum(1)


@partial(jax.jit, static_argnums=(0, 1))
def estimates(proposal: str, draws: int, index: Any, x: Any, t: Any, key: Any) -> Any:
    """Noise and gradient form of problem number `index` at every x: two arrays [x, draws, len(SAMPLES)].

    The first n of the same proposals serve every n, and the problem is an argument: one compilation for each proposal.
    """
    branches = [lambda a, problem=problem: problem.q(a) / problem.temperature for problem in PROBLEMS]
    q = lambda obs, action: jax.lax.switch(index, branches, action[0])
    reverse = reverse_sample(SCHEDULE, SAMPLES[-1], proposal=proposal)
    weigh, gradient = boltzmann(q, 1.0), smoothed_score(q, 1.0)
    no = jnp.asarray(False)

    def one(x: Any, key: Any) -> Any:
        point = x[None, None]
        example = Transition(jnp.zeros(1), x[None], jnp.zeros(()), jnp.zeros(1), no, no)
        match = Match(point, point, t[None], Target(point, 0 * point), jnp.ones(1), SCHEDULE)
        match = reverse(example, match, key)
        found = []
        for n in SAMPLES:
            target = Target(match.target.data[:n], match.target.noise[:n])
            part = Match(match.action[:n], match.x, match.t, target, match.weight[:n], SCHEDULE, n)
            mean = posterior_mean()(example, weigh(example, part, key), key)
            found.append((mean.target.noise[0, 0], gradient(example, part, key).target.noise[0, 0]))
        return tuple(map(jnp.stack, zip(*found, strict=True)))

    keys = jax.random.split(key, (x.shape[0], draws))
    # One x at a time: the proposals of all of them at once would not fit into the processor's cache.
    return jax.lax.map(lambda row: jax.vmap(partial(one, row[0]))(row[1]), (x, keys))


def error(values: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """(bias, standard deviation), root mean squares over x; values are [x, draws]."""
    variance = values.var(axis=1, ddof=1)
    bias = (values.mean(axis=1) - exact) ** 2 - variance / values.shape[1]
    return float(np.sqrt(max(bias.mean(), 0.0))), float(np.sqrt(variance.mean()))


def measured(index: int, proposal: str, t: float, points: int, draws: int) -> dict[int, dict[str, Any]]:
    """n -> form -> (bias, standard deviation), and under "eta" the mixture's share of the noise form."""
    x, exact = truth(PROBLEMS[index], t, points)
    key = jax.random.fold_in(jax.random.key(index), round(1000 * t))
    given = jnp.asarray(index), jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.float32)
    found = [np.asarray(values, float) for values in estimates(proposal, draws, *given, key)]
    return {n: compared(found[0][..., i], found[1][..., i], exact) for i, n in enumerate(SAMPLES)}


def compared(noise: np.ndarray, gradient: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """The two forms [x, draws] and their mixture against the truth [x]."""
    half = noise.shape[1] // 2
    centred = [values[:, :half] - values[:, :half].mean(1, keepdims=True) for values in (noise, gradient)]
    difference = centred[1] - centred[0]
    # Where both forms are the same number there is nothing to choose.
    eta = float((centred[1] * difference).sum() / max((difference**2).sum(), 1e-12))
    mixture = eta * noise[:, half:] + (1 - eta) * gradient[:, half:]
    values = {"noise": noise, "gradient": gradient, "mixture": mixture}
    return {form: error(value, exact) for form, value in values.items()} | {"eta": eta}


def draw(results: dict[tuple[Any, ...], Any], t: float, path: Path) -> Path:
    """Bias above, standard deviation below, one column per problem."""
    figure, axes = new_figure(2, len(PROBLEMS), width=3.1, height=2.7)
    dashes = dict(zip(PROPOSALS, (":", "-", "--"), strict=True))
    for column, problem in enumerate(PROBLEMS):
        for row, what in enumerate(("|bias|", "standard deviation")):
            ax = axes[row, column]
            for proposal in PROPOSALS:
                for colour, form in zip(COLOURS, FORMS, strict=False):
                    values = [results[problem.name, proposal, t, n][form][row] for n in SAMPLES]
                    shown = np.maximum(values, _FLOOR)
                    label = f"{form}, {proposal}"
                    ax.plot(
                        SAMPLES,
                        shown,
                        dashes[proposal],
                        color=colour,
                        marker="o",
                        markersize=2.5,
                        label=label,
                    )
            if row == 1:
                scale = results[problem.name, "truncated", t, SAMPLES[0]]["noise"][1] * SAMPLES[0] ** 0.5
                ax.plot(
                    SAMPLES,
                    scale * np.asarray(SAMPLES) ** -0.5,
                    color="0.7",
                    linewidth=0.8,
                    label="$n^{-1/2}$",
                )
                ax.set_xlabel("proposals n")
            else:
                ax.set_title(problem.name, fontsize=10)
            ax.set(xscale="log", yscale="log", ylim=(_FLOOR, 30))
            if column == 0:
                ax.set_ylabel(what, fontsize=9)
    handles, names = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(
        f"Targets of the noise field at t = {t:g}, in units of the noise (cosine schedule)", fontsize=11
    )
    return save(figure, path)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/targets"))
    parser.add_argument("--points", type=int, default=128, help="x per problem and t")
    parser.add_argument("--draws", type=int, default=128, help="estimates per x")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    results = {
        (problem.name, proposal, t, n): value
        for index, problem in enumerate(PROBLEMS)
        for proposal in PROPOSALS
        for t in TIMES
        for n, value in measured(index, proposal, t, arguments.points, arguments.draws).items()
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Bias and standard deviation of target forms",
        f"`python benchmarks/targets.py`: {arguments.points} x per t and {arguments.draws} estimates per x, in single "
        "precision; |bias| / standard deviation in units of the noise (root mean squares over x ~ p_t). A bias of less "
        "than its own error, about std / sqrt(points draws), is noise. Eta is the mixture's share of the noise form.",
        "![Bias and standard deviation over the number of proposals](targets.png)",
    ]
    header = ("problem", "proposal", "t", "n", *FORMS, "eta")
    for n in (64, 1024):
        rows = []
        for problem in PROBLEMS:
            for proposal in PROPOSALS:
                for t in TIMES:
                    value = results[problem.name, proposal, t, n]
                    cells = [cell(value[form]) for form in FORMS]
                    rows.append((problem.name, proposal, t, n, *cells, f"{value['eta']:.2f}"))
        lines.append(f"## {n} proposals\n\n{table(header, rows, markdown=True)}")
    (arguments.out / "targets.md").write_text("\n\n".join(lines) + "\n")
    print("\n\n".join(lines))
    print(draw(results, 0.5, arguments.out / "targets.png"))
    print(f"{time.perf_counter() - begun:.0f} seconds")


def cell(value: tuple[float, float]) -> str:
    """Bias and standard deviation in a table."""
    return f"{value[0]:.3f} / {value[1]:.3f}"


if __name__ == "__main__":
    main()
