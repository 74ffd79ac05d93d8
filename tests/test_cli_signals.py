"""Ctrl-C and SIGTERM in processes of their own, each in the middle of something that does not hear them."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from dpolicy.cli import main
from dpolicy.cli._signals import Terminated, interruptible
from dpolicy.cli._usage import UsageError
from dpolicy.train.tracing import compiled

PROGRAM = """
import signal, sys, threading, time
from dpolicy.cli import _signals
from dpolicy.cli._usage import UsageError

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process ignores

def main():
    kind = sys.argv[1]
    try:
        with _signals.interruptible("dpolicy train toy", lambda: "; this goes on"):
            if kind == "deaf":
                # As if the main thread were compiling: a signal finds another thread.
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            if kind == "threads":
                threading.Thread(target=time.sleep, args=(60,)).start()
            if kind == "collected":
                class Rubbish:
                    def __del__(self):
                        print("ready", flush=True)
                        time.sleep(60)
                Rubbish()
            print("ready", flush=True)
            time.sleep(60)
    except UsageError as error:
        if kind == "slow":
            time.sleep(0.3)
        print(f"{error.prog}: {error}", file=sys.stderr)
        return error.code

_signals.process(main)
"""


@pytest.mark.parametrize(
    ("kind", "signals"),
    [
        ("slow", "INT INT"),
        ("threads", "TERM INT"),
        ("deaf", "TERM"),
        ("collected", "INT INT"),
    ],
)
def test_a_signal_is_one_sentence_and_the_end(kind, signals):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)  # until it sleeps
        numbers = [signal.Signals[f"SIG{name}"] for name in signals.split()]
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.1)
        begun = time.monotonic()
        _, err = process.communicate(timeout=40)
    finally:
        process.kill()
    assert time.monotonic() - begun < 20
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[numbers[0]]
    assert err == f"dpolicy train toy: {word}; this goes on.\n"
    assert process.returncode == 128 + numbers[0]


def test_the_innermost_command_says_how_to_go_on():
    with (
        pytest.raises(UsageError, match=r"^terminated, inside\.$") as caught,
        interruptible("outer", lambda: ", outside"),
        interruptible("inner", lambda: ", inside"),
    ):
        raise Terminated
    assert (caught.value.prog, caught.value.code) == ("inner", 143)


def test_a_termination_is_its_own_exit_code(capsys, monkeypatch):
    def terminate(args):
        raise Terminated

    monkeypatch.setattr("dpolicy.cli.catalogue.envs", terminate)
    assert main(["envs"]) == 143
    assert capsys.readouterr().err == "dpolicy: terminated.\n"


def test_an_error_does_not_wait_for_the_compiler():
    class Traced:
        def __init__(self, compile):
            self.compile = compile

        def lower(self):
            return self

    begins, ends = threading.Event(), threading.Event()

    def interrupted():
        begins.wait(60)
        raise KeyboardInterrupt

    def long():
        begins.set()
        ends.wait(60)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        compiled([Traced(interrupted), Traced(long)])
    assert time.monotonic() - begun < 30
    ends.set()
