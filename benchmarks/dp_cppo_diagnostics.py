"""DP-CPPO looked at from inside, on Multi-Goal: the diagnostics of its appendix C.3 (arXiv 2603.04790).

- Fitting error (figure 7): the return of the improved policy (last flow, new residual, noise) minus that of the flow
  fitted to it.
- Monotonic improvement (figure 8): the return of the policy that samples the next rollout (flow, residual, noise) minus
  that of the flow alone.
- Entropy (figure 10): of the actions at (0, 0), by a Gaussian mixture fitted to 1,000 of them, beside its lower bound,
  the residual's entropy; for several entropy coefficients, with and without the score term.

    python benchmarks/dp_cppo_diagnostics.py --out benchmarks/results/dp_cppo_diagnostics
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from command_line import parser_for

from dpolicy.plots.style import line_style, new_figure, save, step_unit
from dpolicy.presets import resolve
from dpolicy.reports.modes import find_modes
from dpolicy.train import Chunk, build, policy_of, train_loop
from dpolicy.train.intervals import interval_text

ENV, MODES = "multigoal/multigoal", ("evaluate", "flow", "flow+residual+noise", "improved")


class Trace(NamedTuple):
    """What one setting showed, every array [evaluation, seed]."""

    label: str
    step: np.ndarray
    fitting: np.ndarray
    gain: np.ndarray
    entropy: np.ndarray
    bound: np.ndarray


def observe(label: str, changes: dict[str, Any], seeds: int, steps: int | None) -> Trace:
    """Train one setting and measure it at every evaluation."""
    overrides = {**changes, "evaluation_modes": MODES, "evaluation_episodes": 256}
    config = resolve("dp_cppo", ENV, overrides | ({} if steps is None else {"steps": steps}))
    algorithm, env, program = build(config)

    @jax.jit
    @jax.vmap
    def look(state: Any) -> Any:
        policy = policy_of(algorithm, state, "flow+residual+noise")
        keys = jax.random.split(jax.random.key(1), 1_000)
        actions = jax.vmap(lambda key: policy(jnp.zeros(env.spec.obs_size), key))(keys)
        return actions, state.algorithm.policy.entropy()

    entropies, bounds = [], []

    def on_chunk(chunk: Chunk) -> None:
        actions, bound = jax.device_get(look(chunk.state))
        entropies.append([find_modes(cloud, floor=0.01).entropy for cloud in actions])
        bounds.append(bound)

    result = train_loop(program, seeds=seeds, steps=config["steps"], on_chunk=on_chunk, progress=False)
    returns = {mode: result.history.metrics[f"evaluate/{mode}/return"] for mode in MODES[1:]}
    return Trace(
        label,
        result.history.step,
        returns["improved"] - returns["flow"],
        returns["flow+residual+noise"] - returns["flow"],
        np.asarray(entropies),
        np.asarray(bounds),
    )


def draw(traces: list[Trace], path: Path) -> None:
    """The three figures side by side, means over seeds."""
    figure, axes = new_figure(1, 3)
    panels = [("improved - fitted flow, return", "fitting"), ("sampling policy - flow, return", "gain")]
    size, unit = step_unit(float(traces[0].step.max()))
    for i, trace in enumerate(traces):
        colour, _ = line_style(i)
        step = trace.step / size
        for panel, (title, name) in zip(axes[0], panels, strict=False):
            panel.plot(step, getattr(trace, name).mean(1), color=colour, label=trace.label)
            panel.set(title=title, xlabel=unit)
        axes[0, 2].plot(step, trace.entropy.mean(1), color=colour)
        axes[0, 2].plot(step, trace.bound.mean(1), color=colour, linestyle="--")
    axes[0, 2].set(title="entropy at (0, 0): mixture fit, and bound (dashed)", xlabel=unit, ylabel="nats")
    axes[0, 0].legend()
    figure.suptitle(f"DP-CPPO on Multi-Goal, means over {traces[0].entropy.shape[1]} seeds")
    save(figure, path)


def main() -> None:
    parser = parser_for(__doc__, seeds=3)
    parser.add_argument("--out", type=Path, help="path of the table and the figure, without their endings")
    parser.add_argument("--steps", type=int, help="of each seed; the preset's by default")
    arguments = parser.parse_args()
    lines = [
        f"Command: `python benchmarks/dp_cppo_diagnostics.py`; Multi-Goal's preset, {arguments.seeds} seeds, mean and "
        "95 % bootstrap interval over seeds of the mean over the second half of training.",
        "",
        "| setting | improved - fitted flow | sampling policy - flow | above 0 | entropy at (0,0) | its bound |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    traces = []
    for entropy in (0.02, 0.05, 0.1):
        for score in (0.1, 0.0):
            label = f"entropy {entropy}, score {score}"
            changes = {"entropy_coefficient": entropy, "score_coefficient": score}
            trace = observe(label, changes, arguments.seeds, arguments.steps)
            traces.append(trace)
            half = len(trace.step) // 2
            cells = [interval_text(values[half:].mean(0), digits=3) for values in trace[2:]]
            share = f"{100 * (trace.gain[half:] > 0).mean():.0f} %"
            lines.append(f"| {label} | {cells[0]} | {cells[1]} | {share} | {cells[2]} | {cells[3]} |")
            print(lines[-1], flush=True)
    if arguments.out is not None:
        draw(traces, arguments.out.with_suffix(".png"))
        text = "\n".join([*lines, "", f"![The three figures]({arguments.out.name}.png)"]) + "\n"
        arguments.out.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
