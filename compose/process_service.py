"""One child process of the process runtime."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from compose.runtime import NodeState, Role
from compose.signals import deferred

STOP_WAIT_S = 5.0  # an agent says goodbye within two seconds


PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> None:
    """In the child: SIGKILL when the runner dies, however it dies. A killed run leaves no process behind.

    SIGTERM would wait for ever in a child that a pause fault has stopped; all of them bear a kill.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Service:
    """One child process with its log file, in its own session so that Ctrl-C reaches the runner alone."""

    def __init__(self, name: str, role: Role, command: Sequence[str], log: Path) -> None:
        self.name, self.role, self.command, self.log = name, role, list(command), log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as output, deferred():
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"},
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.running:
            self.process.send_signal(number)

    def state(self) -> NodeState:
        code = self.process.poll() if self.process else None
        return NodeState(name=self.name, role=self.role, running=self.running, exit_code=code)
