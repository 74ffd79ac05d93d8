"""What a run on a particular environment shows beyond its learning curve."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

# Environment -> the function that reports on it, named so that nothing heavy is imported until it is wanted; and the
# files that it writes.
_MAZE = ("dpolicy.reports.maze:report", ("maze.md", "maze.json", "routes.png"))
_REPORTS = {
    "maze/four": _MAZE,
    "maze/large": _MAZE,
    "multigoal/multigoal": (
        "dpolicy.reports.multigoal_report:report",
        ("multigoal.md", "multigoal.json", "trajectories.png", "first_actions.png", "references"),
    ),
}


def report_for(env_name: str) -> Callable[..., Any] | None:
    """The report of an environment, `report(run, directory, *, progress=True)`, or None where there is none."""
    if env_name not in _REPORTS:
        return None
    module, function = _REPORTS[env_name][0].split(":")
    return getattr(import_module(module), function)


def report_files(env_name: str) -> tuple[str, ...]:
    """What the report of an environment writes into the directory of a run."""
    return _REPORTS[env_name][1] if env_name in _REPORTS else ()
