"""`dpolicy train`: from words to a resolved configuration, and on to the host loop."""

import inspect
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpolicy import _checks, _places
from dpolicy._files import naming
from dpolicy.cli._flags import Flag, flags_of, parse
from dpolicy.cli._signals import interruptible
from dpolicy.cli._usage import UsageError, explained
from dpolicy.cli.catalogue import table, terminal_width

_PROG = "dpolicy train"

_HELP = """\
usage: dpolicy train ALGORITHM --env FAMILY/TASK [--seeds N] [--seed S]
                     [--steps N] [--out DIR] [--SETTING VALUE ...]
       dpolicy train --resume DIR [--steps N]

Train an algorithm in an environment; all seeds train side by side on one
device. Settings are, from weakest to strongest, the algorithm's own defaults,
the preset for this environment, and what you type.

  # 4 seeds, the preset's settings
  dpolicy train sdac --env multigoal --seeds 4
  # one hyperparameter changed
  dpolicy train sdac --env multigoal --temperature 0.1
  # show all settings, train nothing
  dpolicy train sdac --env multigoal --print-config
  # decide on 4 actions at once
  dpolicy train ppo --env gymnax/Pendulum-v1 --action-chunk 4 --frame-stack 2
  # go on where the last checkpoint is
  dpolicy train --resume runs/sdac-multigoal-0

"dpolicy train ALGORITHM --help" lists every setting of an algorithm; with
--env, the preset's values are shown.

"""


def _run_flags(steps: int, presets: tuple[str, ...] = ()) -> list[Flag]:
    known = f": {', '.join(presets)} (the first by default)" if presets else ", of which there are none here"
    return [
        Flag(
            "env",
            str,
            help='Environment: "dpolicy envs" lists them, and path/to/file.py:NAME is one of your own.',
            metavar="FAMILY/TASK",
        ),
        Flag("seeds", int, 1, "How many independent copies to train side by side."),
        Flag("seed", int, 0, "What the seeds' random keys are made from."),
        Flag("steps", int, steps, "Steps of each seed (offline: gradient steps)."),
        Flag(
            "preset",
            str | None,
            None,
            f"Which published settings to start from{known}; none for none.",
            "NAME",
        ),
        Flag("out", Path | None, None, "Directory of the run; by default a new one in runs/.", "DIR"),
        Flag("checkpoint_every", int, 1, "Chunks of training between two checkpoints."),
        Flag("progress", bool, True, "Show progress."),
        Flag(
            "report",
            bool,
            True,
            "After training, report what this environment is about, where there is such a report.",
        ),
        Flag("print_config", bool, False, "Print the resolved configuration and stop."),
    ]


# What `dpolicy.envs.make` calls them. Only what differs from these defaults enters the configuration.
_WRAPPERS = [
    Flag("action_chunk", int, 1, "Actions that the policy decides at once, executed in a row.", "N"),
    Flag(
        "action_repeat",
        int | None,
        None,
        "How often each action is executed; by default as the task itself says (mostly once).",
        "N",
    ),
    Flag("frame_stack", int, 1, "Observations that the policy sees at once, the newest last.", "N"),
    Flag(
        "time_limit",
        int | None,
        None,
        "Steps after which an episode is cut, each a whole chunk of repeated actions; by default the task's own.",
        "N",
    ),
]
ENV_FLAGS = [
    *_WRAPPERS,
    Flag(
        "env_option",
        tuple[str, ...],
        (),
        "An argument of the environment itself, such as impl=jax or length=0.5; may be given several times.",
        "NAME=VALUE",
        repeated=True,
    ),
]
_RESERVED = {flag.name for flag in [*_run_flags(0), *ENV_FLAGS]} | {"resume", "help", "version"}


def env_options(values: Mapping[str, Any], prog: str) -> dict[str, Any]:
    """What the values of `ENV_FLAGS` say beside the name of an environment: those that are not their defaults.

    Raises:
        UsageError: For an `--env-option` that is not name=value, is given twice or has a flag of its own.
    """
    options = {flag.name: values[flag.name] for flag in _WRAPPERS if values[flag.name] != flag.default}
    own = {flag.name: flag.dashed for flag in _WRAPPERS}
    for word in values["env_option"]:
        name, equals, text = word.partition("=")
        if not equals or not all(part.isidentifier() for part in name.split(".")):
            raise UsageError(f"--env-option must be NAME=VALUE, got {word!r}.", prog=prog)
        if name in own:
            raise UsageError(f"{name} has a flag of its own: {own[name]} {text}", prog=prog)
        if name in options:
            raise UsageError(f"--env-option {name} was given twice.", prog=prog)
        options[name] = _option_value(text)
    return options


def _option_value(text: str) -> Any:
    """What is typed as JSON is a number, True, a list, ...; anything else is a word."""
    from dpolicy.train.naming import tuples

    try:
        return tuples(json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text)))
    except (ValueError, RecursionError):
        return text


def _prefixed(flags: list[Flag], prefix: str) -> dict[str, Flag]:
    """Parameter name -> flag; a name that the run itself uses gets a prefix (`--algorithm-steps`)."""
    return {
        flag.name: flag._replace(name=f"{prefix}_{flag.name}") if flag.name in _RESERVED else flag
        for flag in flags
    }


def _defaulting(flags: dict[str, Flag], values: Mapping[str, Any]) -> dict[str, Flag]:
    return {name: flag._replace(default=values.get(name, flag.default)) for name, flag in flags.items()}


def _word_after(args: list[str], flag: str) -> str | None:
    """The value of a flag that decides which other flags there are."""
    for i, word in enumerate(args):
        if word.startswith(flag + "="):
            return word.partition("=")[2]
        if word == flag and i + 1 < len(args) and not args[i + 1].startswith("--"):
            return args[i + 1]
    return None


def _overview() -> str:
    from dpolicy.algorithms import ALGORITHMS

    rows = [(name, entry.summary) for name, entry in ALGORITHMS.items()]
    return f"{_HELP}{table(('algorithm', 'what it is'), rows, width=terminal_width())}\n"


def configuration_of(name: str, args: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration and the run's own flags that the words after `dpolicy train` mean.

    Args:
        name: The algorithm.
        args: The words after it.

    Returns:
        The configuration, as `dpolicy.presets.resolve` gives it, with `seeds` and `seed`; and the values of the run's
        flags.

    Raises:
        UsageError: With one sentence about what is wrong.
        SystemExit: After printing the help.
    """
    from dpolicy.blocks import CRITIC_KINDS
    from dpolicy.envs import full_name
    from dpolicy.presets import presets_for, resolve
    from dpolicy.train import PROGRAMS
    from dpolicy.train.building import family_of
    from dpolicy.train.configuration import MOST_SEED
    from dpolicy.train.naming import recipe_of

    prog = f"{_PROG} {name}"
    with explained(_PROG):
        make_algorithm, family = recipe_of(name), family_of(name)
    shown = _places.title(name).rpartition(":")[2]
    env_name, asked_for_help = _word_after(args, "--env"), "--help" in args or "-h" in args
    if env_name is not None:
        with explained(prog):
            env_name = full_name(env_name)
    # Without an environment there is no preset to find; parsing stops at the missing --env, or prints the help.
    chosen = None if env_name is None else _word_after(args, "--preset")
    with explained(prog):
        config = resolve(name, env_name or "", choose=chosen)
        # Atoms and bounds of a preset do not stay with another kind of critic, so they are no defaults of its flags.
        critic = _word_after(args, "--critic")
        if critic in CRITIC_KINDS and "critic" in config["hyperparameters"]:
            config = resolve(name, env_name or "", {"critic": critic}, choose=chosen)
    run = _run_flags(config["steps"], tuple(presets_for(name, env_name or "")))
    settings = [flag for flag in flags_of(make_algorithm) if flag.name in config["hyperparameters"]]
    recipe = _defaulting(_prefixed(settings, "algorithm"), config["hyperparameters"])
    program = _defaulting(_prefixed(flags_of(PROGRAMS[family]), "program"), config["program"])
    # A name that both have (a discount, say) is one flag that sets both.
    mine = {flag.name for flag in recipe.values()}
    groups = {
        "run": run,
        "environment": ENV_FLAGS,
        f"{shown} hyperparameters": list(recipe.values()),
        f"{family} training": [flag for flag in program.values() if flag.name not in mine],
    }
    description = (inspect.getdoc(make_algorithm) or "").split("Args:")[0].strip()
    if asked_for_help and config["source"]:
        description += f"\n\nThe defaults shown are for {env_name}, from {config['source']}."
    values, _ = parse(groups, args, prog=prog, description=description)
    with explained(prog):
        for flag in ("seeds", "steps", "checkpoint_every"):
            _checks.integer(flag, values[flag])
        _checks.integer("seed", values["seed"], 0, MOST_SEED)
    config["hyperparameters"] |= {parameter: values[flag.name] for parameter, flag in recipe.items()}
    config["program"] |= {parameter: values[flag.name] for parameter, flag in program.items()}
    config |= {key: values[key] for key in ("seeds", "seed", "steps")}
    options = env_options(values, prog)
    if options:
        config["env_options"] = options
    return config, {flag.name: values[flag.name] for flag in run}


def _new_directory(config: Mapping[str, Any]) -> Path:
    from dpolicy.train.configuration import algorithm_title

    env = _places.title(config["env"]).replace(".py:", "/").replace(":", "/")
    stem = f"{algorithm_title(config)}-{'-'.join(dict.fromkeys(env.split('/')))}"
    number = 0
    while (directory := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return directory


def _check_builds(config: Mapping[str, Any], prog: str) -> None:
    """Refuse what training would refuse before it compiles."""
    from dpolicy.train.preparing import built_and_traced
    from dpolicy.train.tracing import traced_step

    with explained(prog, any_origin=True):
        built = built_and_traced(config)
        traced_step(built.program, built.shapes)


def _train(
    config: dict[str, Any], directory: Path, run: Mapping[str, Any], *, prog: str, resume: bool
) -> int:
    """Build, train, report.

    Args:
        config: Complete, with seeds, seed and steps.
        directory: Of the run.
        run: Values of the flags `progress`, `checkpoint_every` and `report`.
        prog: The command, for messages.
        resume: Whether to go on with the run in the directory.
    """
    progress = run["progress"]
    from dpolicy.plots import learning_curve
    from dpolicy.reports import report_files, report_for
    from dpolicy.train.configuration import algorithm_title, env_title
    from dpolicy.train.loop import AllSeedsFailed, train_prepared
    from dpolicy.train.preparing import prepare

    with explained(prog, any_origin=True):
        reported = report_files(config["env"]) if run["report"] else ()
        prepared = prepare(config, directory, resume=resume, also=reported)
    if progress:
        seeds = f"{config['seeds']} seed{'s' * (config['seeds'] > 1)}"
        print(f"{algorithm_title(config)} on {env_title(config)}, {seeds}, in {directory}")
        if config.get("source"):
            print(f"settings from {config['source']}")
    place = shlex.quote(str(directory))
    resumes = f'; "dpolicy train --resume {place}" goes on'
    hint = lambda: resumes if (directory / "config.json").exists() else ""
    try:
        with explained(prog), naming(directory), interruptible(prog, hint):
            trained, _ = train_prepared(prepared, progress=progress, checkpoint_every=run["checkpoint_every"])
            learning_curve(directory, directory / "learning_curve.png")
            report = report_for(config["env"]) if run["report"] else None
            if report is not None:
                report(trained, directory, progress=progress)
    except AllSeedsFailed as error:
        good = any(path.name.isdigit() for path in (directory / "checkpoints").glob("*"))
        where = f" The last good checkpoint is in {directory}." if good else ""
        raise UsageError(f"{error}{where}", prog=prog, code=1) from error
    if progress:
        print(f"next: dpolicy plot {place}\n      dpolicy evaluate {place}")
    return 0


def _resume(args: list[str]) -> int:
    from dpolicy.train.configuration import read_config

    prog = f"{_PROG} --resume"
    flags = [
        Flag("resume", Path, help="Directory of the run to go on with.", metavar="DIR"),
        Flag("steps", int | None, None, "Steps at which it ends; by default as many as it was started with."),
        Flag(
            "checkpoint_every",
            int | None,
            None,
            "Chunks of training between two checkpoints; by default as it was started.",
        ),
        Flag("progress", bool, True, "Show progress."),
        Flag(
            "report",
            bool,
            True,
            "After training, report what this environment is about, where there is such a report.",
        ),
    ]
    values, _ = parse(
        {"run": flags}, args, prog=_PROG, description="Go on with a run from its last checkpoint."
    )
    directory = values["resume"]
    with explained(prog):
        config = read_config(directory)
    if "algorithm" not in config:
        raise UsageError(
            f"{directory} was not started by this command, so only its own script resumes it.", prog=prog
        )
    given = {name: values[name] for name in ("steps", "checkpoint_every") if values[name] is not None}
    with explained(prog):
        for name, value in given.items():
            _checks.integer(name, value)
    config |= given
    return _train(config, directory, values, prog=prog, resume=True)


def train(args: list[str]) -> int:
    """Run `dpolicy train` with these words; returns the exit code."""
    if any(word.partition("=")[0] == "--resume" for word in args):
        return _resume(args)
    if not args or args[0] in ("--help", "-h"):
        print(_overview(), end="")
        return 0
    name, rest = args[0], args[1:]
    if name.startswith("-"):
        raise UsageError("the algorithm comes first, as in: dpolicy train sdac --env multigoal.", prog=_PROG)
    config, run = configuration_of(name, rest)
    prog = f"{_PROG} {name}"
    if run["print_config"]:
        _check_builds(config, prog)
        json.dump(config, sys.stdout, indent=2)
        print()
        return 0
    directory = run["out"] or _new_directory(config)
    return _train(config, directory, run, prog=prog, resume=False)
