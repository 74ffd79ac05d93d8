"""`dpolicy record`: a data set from the policy of a run."""

from pathlib import Path

from dpolicy import _checks
from dpolicy.cli._flags import Flag, parse
from dpolicy.cli._usage import explained


def record(args: list[str]) -> int:
    """Run `dpolicy record`."""
    prog = "dpolicy record"
    flags = [
        Flag("dir", Path, help="the directory of the run.", positional=True),
        Flag("out", Path, help="The file to write, .npz.", metavar="FILE"),
        Flag("episodes", int, 100, "Episodes of each seed that has not failed."),
        Flag(
            "mode",
            str,
            "evaluate",
            "How the policy acts: evaluate, explore, or a further mode of the algorithm.",
        ),
        Flag(
            "noise",
            float,
            0.0,
            "Standard deviation of Gaussian noise on its actions, in units of [-1, 1].",
            "STD",
        ),
        Flag("seed", int, 0, "What the random keys of the episodes are made from."),
        Flag(
            "action_chunk",
            int,
            1,
            "Actions in a row that are stored as one, for training with the same --action-chunk.",
            "N",
        ),
        Flag("overwrite", bool, False, "Replace the file if there is one."),
    ]
    description = (
        "Record episodes of the policy in a run's last checkpoint as a data set, e.g. for dpolicy train bc --data "
        "FILE. Observations are stored as the environment gives them, actions as they were executed, noise included."
    )
    values, _ = parse({"recording": flags}, args, prog=prog, description=description)

    from dpolicy.data import episode_returns, in_chunks, save_npz
    from dpolicy.data.saving import check_target
    from dpolicy.envs import ActionChunk
    from dpolicy.train import load_run, record_run
    from dpolicy.train.configuration import env_title

    size = values["action_chunk"]
    with explained(prog):
        _checks.integer("action_chunk", size)
        path = check_target(values["out"], overwrite=values["overwrite"])
        run = load_run(values["dir"])
        # Refuses a chunk that the environment itself would refuse.
        ActionChunk(run.env, size)
        settings = {name: values[name] for name in ("episodes", "mode", "noise", "seed")}
        data = in_chunks(record_run(run, **settings), size)
        save_npz(path, data, overwrite=values["overwrite"])
    returns, living = episode_returns(data), int(run.state.alive.sum())
    rows = f"{len(data.reward):,} transitions" + f" of {size} actions each" * (size > 1)
    print(
        f"{path}: {rows}, {len(returns):,} episodes, mean return {returns.mean():.5g} "
        f"({run.algorithm_name} on {env_title(run.config)}, {living} of {run.config['seeds']} seeds)"
    )
    return 0
