"""`dpolicy check-env`: whether an environment keeps what it promises."""

from dpolicy import _checks
from dpolicy.cli._flags import Flag, parse
from dpolicy.cli._usage import UsageError, explained
from dpolicy.cli.catalogue import table, terminal_width
from dpolicy.cli.train import ENV_FLAGS, env_options

_PROG = "dpolicy check-env"


def check_env(args: list[str]) -> int:
    """Run `dpolicy check-env`; a broken promise is exit code 1."""
    flags = [
        Flag(
            "env",
            str,
            help="FAMILY/TASK, or where an environment of your own is: path/to/file.py:NAME or module:NAME, the "
            "environment itself, or a class or function that makes it.",
            positional=True,
        ),
        Flag(
            "steps", int | None, None, "Steps of each copy; by default a few more than the time limit.", "N"
        ),
        Flag("seed", int, 0, "What the random keys are made from."),
    ]
    description = (
        "Check what every environment promises: sizes, types, purity, vmap, determinism, action bounds, finite "
        "numbers, time limits, starts and terminal observations. The first broken promise is named."
    )
    values, _ = parse({"check": flags, "environment": ENV_FLAGS}, args, prog=_PROG, description=description)
    import jax

    from dpolicy import envs
    from dpolicy.envs._check import default_steps
    from dpolicy.train.configuration import MOST_SEED
    from dpolicy.train.memory import check_room

    with explained(_PROG):
        _checks.integer("seed", values["seed"], 0, MOST_SEED)
        env = envs.make(values["env"], **env_options(values, _PROG))
        spec = env.spec
        steps = default_steps(spec.time_limit) if values["steps"] is None else values["steps"]
        _checks.integer("steps", steps)
        # Of four copies what they saw and did, and as much again to compare it.
        check_room("steps", steps, 32 * (2 * spec.obs_size + spec.action_size + 8))
        found = envs.check(env, jax.random.key(values["seed"]), steps=steps)
    if found.violation is not None:
        raise UsageError(found.violation, prog=_PROG, code=1)
    print(table(("check", "what was seen"), found.passed, width=terminal_width()))
    print(f"\n{found.env}: {len(found.passed)} checks passed.")
    return 0
