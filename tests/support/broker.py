"""A real broker for tests that need one and no Docker: amqtt in a process of its own, on a free loopback port.

Passwords are checked and the client id must be the user name, as in the runs; there is no TLS. `Broker.kill` and
`Broker.start` on the same port make it forget everything, as an amnesiac broker does.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

START_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """`passwords`: user -> password, written to a file that only the broker's process reads."""

    def __init__(self, folder: Path, users: Iterable[str]) -> None:
        self.port = free_port()
        self.passwords = {user: f"secret-of-{user}" for user in users}
        self._file = folder / "passwords.json"
        self._file.write_text(json.dumps(self.passwords))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Broker:
        program = Path(__file__).with_name("broker_process.py")
        self._process = subprocess.Popen([sys.executable, str(program), str(self.port), str(self._file)])
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"the test broker ended with {self._process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"no test broker on port {self.port} within {START_S:g} s")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Broker:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.kill()
