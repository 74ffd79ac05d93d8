"""`dpolicy evaluate` and `dpolicy plot`: what a run has learned."""

from pathlib import Path

from dpolicy.cli._flags import Flag, parse
from dpolicy.cli._usage import explained
from dpolicy.cli.catalogue import table, terminal_width


def evaluate(args: list[str]) -> int:
    """Run `dpolicy evaluate`."""
    prog = "dpolicy evaluate"
    flags = [
        Flag("dir", Path, help="the directory of the run.", positional=True),
        Flag("episodes", int, 10, "Episodes per seed."),
        Flag(
            "mode",
            str,
            "evaluate",
            "How the policy acts: evaluate, explore, or a further mode of the algorithm.",
        ),
        Flag("seed", int, 0, "What the random keys of the evaluation are made from."),
    ]
    description = "Undiscounted returns of the policy in a run's last checkpoint, for each of its seeds."
    values, _ = parse({"evaluation": flags}, args, prog=prog, description=description)

    from dpolicy.train.configuration import env_title
    from dpolicy.train.intervals import interval_text
    from dpolicy.train.runs import evaluate_run, load_run

    with explained(prog):
        run = load_run(values["dir"])
        result = evaluate_run(run, episodes=values["episodes"], mode=values["mode"], seed=values["seed"])
    failed = run.state.failed_at.tolist()
    rows = [
        (
            seed,
            f"{result.returns[seed].mean():.5g}",
            f"{result.returns[seed].std():.3g}",
            f"{result.lengths[seed].mean():.4g}",
            _remark(step, int(result.diverged[seed].sum())),
        )
        for seed, step in enumerate(failed)
    ]
    header = ("seed", "mean return", "std over episodes", "mean length", "")
    print(table(header, rows, width=terminal_width()))
    good = [step < 0 for step in failed]
    means = result.returns.mean(axis=1)[good]
    rates = 100 * result.terminated.mean(axis=1)[good]
    success = f", success {interval_text(rates)} %" if run.env.spec.success else ""
    print(
        f"\n{run.algorithm_name} on {env_title(run.config)}, mode {values['mode']}: return {interval_text(means)}"
        f"{success} ({len(means)} seed{'s' * (len(means) > 1)} x {values['episodes']} episodes"
        f"{', 95 % interval over seeds' if len(means) > 1 else ''})"
    )
    return 0


def _remark(failed_at: int, diverged: int) -> str:
    """What a reader of a seed's row must know."""
    failed = f"failed at step {failed_at:,}, not in the mean below" if failed_at >= 0 else ""
    ended = f"the simulation diverged in {diverged:,}" if diverged else ""
    return "; ".join(filter(None, (failed, ended)))


def plot(args: list[str]) -> int:
    """Run `dpolicy plot`."""
    prog = "dpolicy plot"
    flags = [
        Flag("dirs", tuple[Path, ...], help="the directories of one run or more.", positional=True),
        Flag("out", Path, Path("curves.png"), "The figure: .png, .pdf or .svg.", "FILE"),
        Flag("metric", str | None, None, "A column of metrics.csv; by default the return.", "NAME"),
    ]
    description = (
        "Draw learning curves of one run or several: mean over seeds with a bootstrap 95 % interval, one line per run "
        "and one panel per environment."
    )
    values, _ = parse({"figure": flags}, args, prog=prog, description=description)

    from dpolicy.plots import learning_curve

    with explained(prog):
        path = learning_curve(list(values["dirs"]), values["out"], metric=values["metric"])
    print(path)
    return 0
