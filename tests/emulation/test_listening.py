"""Finding a listener by reading the kernel's table."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

from emulation.listening import await_listener, listens


def test_a_listener_is_seen_and_a_closed_one_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens(os.getpid(), port)
    assert not listens(os.getpid(), port)


def test_a_process_that_is_gone_listens_nowhere(tmp_path: Path) -> None:
    assert not listens(1, 8883, tmp_path)


def test_waiting_ends() -> None:
    ticks = itertools.count()
    slept: list[float] = []
    found = await_listener(2**22 + 1, 1, 5.0, clock=lambda: float(next(ticks)), sleep=slept.append)
    assert not found
    assert len(slept) == 5 - 1
