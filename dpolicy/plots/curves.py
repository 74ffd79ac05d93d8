"""Learning curves: the mean over seeds with a bootstrap interval, several runs side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpolicy import _checks
from dpolicy._files import as_path
from dpolicy.plots.style import band, check_path, labels, line_style, new_figure, save, step_unit
from dpolicy.train.configuration import algorithm_title, env_title, read_config
from dpolicy.train.intervals import bootstrap_interval
from dpolicy.train.metrics_log import History, read_history
from dpolicy.train.progress import main_metric


class Curve(NamedTuple):
    """One metric of one run over its steps.

    Attributes:
        step: Steps taken.
        mean: Mean over the seeds that were finite then.
        low: Lower end of the interval; nan with fewer than two seeds.
        high: Upper end.
        seeds: Seeds at the start.
        failed: Seeds that failed on the way, and are left out from there on.
    """

    step: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int
    failed: int


def curve(history: History, metric: str, *, level: float = 0.95) -> Curve:
    """The mean of `metric` over seeds with its bootstrap interval; chunks without a finite value are left out.

    Raises:
        ValueError: If the run did not measure `metric` (near matches are named).
    """
    _checks.one_of("metric", metric, history.metrics)
    values = np.where(history.alive, history.metrics[metric], np.nan)
    shown = np.isfinite(values).any(axis=1)
    mean, low, high = bootstrap_interval(values[shown], level=level)
    seeds = history.alive.shape[1]
    return Curve(history.step[shown], mean, low, high, seeds, int(seeds - history.alive[-1].sum()))


def learning_curve(
    runs: History | Mapping[str, History] | Sequence[Path | str] | Path | str,
    path: Path | str,
    *,
    metric: str | None = None,
    level: float = 0.95,
    title: str = "",
) -> Path:
    """Draw learning curves: one line per run, its interval shaded; one panel per environment.

    The legend says what a line and its band are, and of how many seeds.

    Args:
        runs: A history, histories by label, or the directory of a run or those of several (labelled with their
            algorithm, and drawn in the panel of their environment, as it was wrapped).
        path: The figure to write: .png, .pdf or .svg.
        metric: What to draw; by default the evaluation return, or the training return where there is none.
        level: Coverage of the intervals.
        title: The task, for histories, which do not know theirs; runs are titled with their environment.

    Returns:
        The path written.

    Raises:
        ValueError: For another suffix, no run, a run without chunks or metrics, or a metric that a run did not
            measure.
    """
    path = check_path(path)
    panels = _panels(runs, title)
    if not panels:
        raise ValueError("learning_curve needs at least one run.")
    crowded = max(map(len, panels.values())) > 5  # the legend then stands beside the curves, not on them
    figure, axes = new_figure(1, len(panels), width=7.0 if crowded else 5.0)
    for panel, (task, histories) in zip(axes[0], panels.items(), strict=True):
        last = max((history.step.max(initial=1) for _, history in histories), default=1)
        size, unit = step_unit(float(last))
        names = labels([name for name, _ in histories])
        for i, (name, (_, history)) in enumerate(zip(names, histories, strict=True)):
            if not len(history.step) or not history.metrics:
                raise ValueError(
                    f"learning_curve needs runs with chunks and metrics; {name or 'this one'} has none."
                )
            chosen = metric
            if chosen is None:
                chosen = main_metric(history.metrics) or next(iter(history.metrics))
            line = curve(history, chosen, level=level)
            colour, dash = line_style(i)
            panel.plot(
                line.step / size, line.mean, dash, color=colour, label=_label(name, line), linewidth=1.8
            )
            band(panel, line.step / size, line.low, line.high, colour)
            panel.set_ylabel(chosen)
        panel.set_xlabel(unit)
        panel.set_title(task, fontsize="medium")
        place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if crowded else {}
        several = any(history.alive.shape[1] > 1 for _, history in histories)
        meaning = f"mean over seeds, shaded: {100 * level:g} % interval" if several else None
        panel.legend(
            frameon=False, fontsize="small", title=meaning, title_fontsize="small", alignment="left", **place
        )
    return save(figure, path)


def _label(name: str, line: Curve) -> str:
    seeds = f"{line.seeds} seed{'s' * (line.seeds > 1)}"
    failed = f", {line.failed} failed" if line.failed else ""
    return f"{name} ({seeds}{failed})" if name else f"{seeds}{failed}"


def _panels(
    runs: History | Mapping[str, History] | Sequence[Path | str] | Path | str, title: str
) -> dict[str, list[tuple[str, History]]]:
    """Panel title -> labelled histories."""
    if isinstance(runs, History):
        return {title: [("", runs)]}
    if isinstance(runs, Mapping):
        return {title: list(runs.items())} if runs else {}
    panels: dict[str, list[tuple[str, History]]] = {}
    if isinstance(runs, (str, bytes)) or not isinstance(runs, Sequence):
        runs = [runs]
    for directory in runs:
        directory = as_path("the directory of a run", directory)
        config = read_config(directory)
        name = algorithm_title(config) or directory.name
        panels.setdefault(env_title(config), []).append(
            (name, read_history(directory, seeds=config["seeds"]))
        )
    return panels
