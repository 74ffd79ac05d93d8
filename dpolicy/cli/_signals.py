"""Ctrl-C and SIGTERM: one sentence, and an end at once whatever the process is doing.

Python hands a signal to its main thread, which hears nothing while it compiles, or waits for a chunk, outside of
Python. So a second thread reads the signals as well, and ends the process if the first has not done so soon. That is
safe at any moment: whatever a run has written survives even `kill -9`.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from dpolicy.cli._usage import UsageError

_GRACE = 0.5  # seconds for the main thread to tidy up
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, as what Ctrl-C is."""


# Who is interrupted, and how to go on then; the innermost is last.
_stack: list[tuple[str, Callable[[], str]]] = [("dpolicy", lambda: "")]


def _sentence(number: int) -> tuple[str, str]:
    prog, hint = _stack[-1]
    return prog, f"{_WORDS[signal.Signals(number)]}{hint()}."


@contextlib.contextmanager
def interruptible(prog: str, hint: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn an interruption into a `UsageError` with exit code 130, or 143 for SIGTERM.

    Args:
        prog: The command that is interrupted.
        hint: How to go on then, to follow "interrupted".
    """
    _stack.append((prog, hint))
    try:
        yield
    except KeyboardInterrupt as error:
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        _, sentence = _sentence(number)
        raise UsageError(sentence, prog=prog, code=128 + number) from None
    finally:
        _stack.pop()


def process(main: Callable[[], int]) -> NoReturn:
    """Call `main` and end this process with the code it returns, or as a signal asks, within half a second."""
    received: list[int] = []
    ended = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # What is ignored, as in a shell's background, stays ignored.
    mine = [number for number in _WORDS if signal.getsignal(number) is not signal.SIG_IGN]

    def hear(number: int, frame: object) -> None:
        received.append(number)
        for each in mine:
            signal.signal(each, signal.SIG_IGN)
        # Raised while rubbish is collected, it is not heard but shown; the other thread then ends the process.
        sys.unraisablehook = lambda _: None
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def watch() -> None:
        while data := reader.recv(1):
            if data[0] in mine and not ended.wait(_GRACE):
                _give_up(data[0])

    for each in mine:
        signal.signal(each, hear)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    try:
        code = main()
        ended.set()
    except BaseException:
        if not received:
            raise
        code = 0  # what an interruption has become on its way
    if not received:
        signal.set_wakeup_fd(-1)
        sys.exit(code)
    if code != 128 + received[0]:
        _give_up(received[0])
    # Without waiting for threads that compile.
    os._exit(code)


def _give_up(number: int) -> NoReturn:
    """End the process from whatever thread, with the sentence."""
    from rich.console import Console

    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        Console().show_cursor()  # a live display hides it
    with contextlib.suppress(OSError):
        os.write(2, "{}: {}\n".format(*_sentence(number)).encode(errors="backslashreplace"))
    os._exit(128 + number)
