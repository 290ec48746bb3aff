"""hostd's end of the delay process: start it, give it queues, ask for its counters."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from typing import Any

import msgspec

from emulation.links.delay_line import LineShape

ANSWER_WAIT_S = 10.0  # it answers within a millisecond; a machine that swaps may need longer
STOP_WAIT_S = 3.0
CONTROL_BYTES = 196_608  # one command; the answer to `stats` of 400 lines is about 80 kB


class DelayProcessError(RuntimeError):
    """The delay process refused a command or is gone: links have no delay, jitter or loss until it is back."""


class DelayClient:
    """Safe to call from any thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._lock = threading.Lock()
        self.scheduling = ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Idempotent: a process that is gone is replaced, with no lines."""
        if self.running:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_WAIT_S)
        command = [sys.executable, "-m", "emulation.links.delay_process", str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        theirs.close()
        self._control = ours
        self.scheduling = str(self._ask({"op": "hello"})["scheduling"])

    def bind(
        self, line: str, handle: socket.socket, queue: int, shape: LineShape, length: int, seed: str
    ) -> None:
        """Hand over a queue's socket; the caller closes its own copy. `length`: packets that may wait."""
        command = {"op": "bind", "line": line, "queue": queue, "shape": shape, "length": length, "seed": seed}
        self._ask(command, handle)

    def change(self, line: str, shape: LineShape, length: int) -> None:
        self._ask({"op": "change", "line": line, "shape": shape, "length": length})

    def unbind(self, line: str) -> None:
        self._ask({"op": "unbind", "line": line})

    def stats(self) -> dict[str, dict[str, Any]]:
        """Counters and shape in force of every line by name."""
        lines: dict[str, dict[str, Any]] = self._ask({"op": "stats"})["lines"]
        return lines

    def stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_WAIT_S)
            self._process = None

    def _ask(self, command: dict[str, Any], handle: socket.socket | None = None) -> dict[str, Any]:
        with self._lock:
            if self._control is None:
                raise DelayProcessError("the delay process was not started")
            try:
                data = msgspec.json.encode(command)
                socket.send_fds(self._control, [data], [handle.fileno()] if handle else [])
                answer = self._control.recv(CONTROL_BYTES)
            except OSError as error:
                raise DelayProcessError(f"no answer to {command['op']!r}: {error}") from None
        if not answer:
            raise DelayProcessError("the delay process has ended")
        decoded: dict[str, Any] = msgspec.json.decode(answer)
        if not decoded["ok"]:
            raise DelayProcessError(f"{command['op']}: {decoded['error']}")
        return decoded
