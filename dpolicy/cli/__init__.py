"""The command line. Each command imports what it needs when it runs, so that `dpolicy --help` is quick."""

import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from dpolicy.cli._cache import keep_compiled
from dpolicy.cli._signals import interruptible, process
from dpolicy.cli._usage import UsageError as UsageError
from dpolicy.cli._usage import os_sentence, unicode_sentence

_HELP = """\
dpolicy: reinforcement learning with diffusion and flow policies

usage: dpolicy COMMAND ...

  train ALGORITHM --env FAMILY/TASK   train; for example
                                      dpolicy train sdac --env multigoal
  train --resume DIR                  go on with a run that was stopped
  evaluate DIR                        returns of a trained policy
  record DIR --out FILE.npz           its episodes as a data set
  data info PATH, data make NAME      what a data set holds; sets made here
  plot DIR [DIR ...]                  learning curves with intervals over seeds
  algorithms [WORD ...]               the algorithms and what each is
  taxonomy [WORD ...]                 which blocks each algorithm is made of
  envs [WORD ...]                     the environments, their sizes and needs
  audit A B [C ...]                   whether actor losses are one mechanism
  check-env FAMILY/TASK               whether an environment (of your own, too)
                                      keeps what it promises

"dpolicy COMMAND --help" explains a command,
"dpolicy train ALGORITHM --help" every hyperparameter with its default.
"dpolicy --version" prints the version.
"""


def _command(name: str, args: list[str]) -> int:
    if name == "train":
        from dpolicy.cli.train import train as run
    elif name == "evaluate":
        from dpolicy.cli.runs import evaluate as run
    elif name == "record":
        from dpolicy.cli.record import record as run
    elif name == "data":
        from dpolicy.cli.data import data as run
    elif name == "plot":
        from dpolicy.cli.runs import plot as run
    elif name == "algorithms":
        from dpolicy.cli.catalogue import algorithms as run
    elif name == "taxonomy":
        from dpolicy.cli.catalogue import taxonomy as run
    elif name == "envs":
        from dpolicy.cli.catalogue import envs as run
    elif name == "audit":
        from dpolicy.cli.audit import audit as run
    elif name == "check-env":
        from dpolicy.cli.check_env import check_env as run
    else:
        commands = (
            "train",
            "evaluate",
            "record",
            "data",
            "plot",
            "algorithms",
            "taxonomy",
            "envs",
            "audit",
            "check-env",
        )
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"the command must be one of {', '.join(commands)}; got {name!r}.{hint}")
    keep_compiled()
    return run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after `dpolicy`; those of this process by default.

    Returns:
        The exit code: 0, or 1 if every seed of a run failed or a checked environment is broken, 2 for a mistake in the
        words or a full disk (one sentence on standard error says which), 130 if interrupted, 143 if terminated.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    with contextlib.suppress(AttributeError, ValueError):
        # A path need not be text that standard output can show.
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        try:
            with _warnings_as_lines(), interruptible("dpolicy"):
                return _dispatch(args)
        finally:
            sys.stdout.flush()
    except UsageError as error:
        where = "dpolicy" if error.prog is None else error.prog
        print(f"{where}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.code
    except BrokenPipeError:
        # The reader, e.g. `head`, has seen enough.
        _give_up_output()
        return 0
    except OSError as error:
        print(f"dpolicy: {os_sentence(error)}", file=sys.stderr)
        with contextlib.suppress(OSError):
            _give_up_output()
        return 2
    except UnicodeEncodeError as error:
        print(f"dpolicy: {unicode_sentence(error)}", file=sys.stderr)
        return 2


def command() -> NoReturn:
    """What the shell's `dpolicy` is: `main` as a process, which Ctrl-C and SIGTERM end at once."""
    process(main)


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """What the library warns of is one line on standard error; other packages' warnings are as they are."""
    from dpolicy._places import RunWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, RunWarning):
                print(f"dpolicy: {message}", file=sys.stderr)
            else:
                usual(message, category, *where)

        warnings.showwarning = show
        yield


def _give_up_output() -> None:
    # What Python still buffers must go nowhere, or it fails at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(args: list[str]) -> int:
    if args[1:] and args[0] in ("--help", "-h", "help", "--version"):
        raise UsageError(f"unexpected {args[1]!r} after {args[0]}.")
    if not args or args[0] in ("--help", "-h", "help"):
        print(_HELP, end="")
        return 0
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"dpolicy {version('dpolicy')}")
        return 0
    return _command(args[0], args[1:])
