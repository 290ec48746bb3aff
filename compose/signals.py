"""Ctrl-C, SIGTERM and SIGHUP of the runner: which exception they become, when, and when they have to wait.

A signal raises where the interpreter happens to be. Some places swallow what is raised there (hooks of a fork, a
`__del__`), and some must not be left half done. So what came is noted first: a safe point (`check`) raises it again,
a second signal raises too where the first was swallowed, and neither cuts short the cleaning up after the first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from compose.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Inbox:
    """What has come and not been answered. `held`: it waits.

    CPython looks for signals when it calls and when it jumps back, not when it stores an attribute. A `finally` whose
    work must be done whatever comes begins with a plain store to `held`; a context manager would come too late, as
    the signals of all the time that freeing a run's record takes arrive at its call.
    """

    def __init__(self) -> None:
        self.seen = ""
        self.held = False
        self.in_run = False
        self.verdict: int | None = None

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        again, self.seen = bool(self.seen), self.seen or signal.Signals(number).name
        if self.verdict is None:
            self.check()
        elif again:  # the result is being printed, and its reader may have stopped reading
            os._exit(self.verdict)

    def check(self) -> None:
        """Raise what has come, unless it has to wait or is being answered just now."""
        if not self.seen or self.held or self.verdict is not None or _being_answered():
            return
        raise Interrupted(self.seen) if self.in_run else KeyboardInterrupt


def _being_answered() -> bool:
    """Whether the code that runs now does so because of an earlier signal (an `except` or a `finally`)."""
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, Interrupted | KeyboardInterrupt):
            return True
        error = error.__context__
    return False


_of_main_thread = Inbox()


def of_this_thread() -> Inbox:
    """Signals reach the main thread alone; every other one has an inbox that stays empty."""
    is_main = threading.current_thread() is threading.main_thread()
    return _of_main_thread if is_main else Inbox()


def check() -> None:
    """A safe point. Raises Interrupted within `interruptible` when a signal has come that nobody answered."""
    of_this_thread().check()


def _ignored(number: signal.Signals) -> bool:
    """As nohup asks for, and a shell for what it starts in the background."""
    return signal.getsignal(number) is signal.SIG_IGN


def install() -> None:
    """From here on no signal ends the process in its own way: outside a run each is a KeyboardInterrupt."""
    for number in SIGNALS:
        if not _ignored(number):
            signal.signal(number, _of_main_thread.on_signal)


def let_go() -> None:
    """The exit code stands and the interpreter ends: a signal now must not replace the code by its own number."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def settle(code: int) -> None:
    """The run has its verdict. From here on a signal changes nothing; a second one skips the rest of the printing."""
    inbox = of_this_thread()
    inbox.seen, inbox.verdict = "", code


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGINT, SIGTERM and SIGHUP raise Interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    inbox = of_this_thread()
    inbox.in_run, inbox.held, inbox.verdict = True, False, None
    taken = [number for number in SIGNALS if number != signal.SIGHUP or not _ignored(number)]
    before = [(number, signal.signal(number, inbox.on_signal)) for number in taken]
    try:
        inbox.check()
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        inbox.in_run, inbox.held, inbox.seen = False, False, ""


@contextmanager
def deferred() -> Iterator[None]:
    """Within, they wait, and they are answered at its end.

    For the start of a process: Python runs hooks around a fork and swallows what is raised there, and a process whose
    start is cut short is one that nobody ends. What must happen whatever comes sets `held` itself (Inbox).
    """
    inbox = of_this_thread()
    before, inbox.held = inbox.held, True
    try:
        yield
    finally:
        inbox.held = before
    inbox.check()
