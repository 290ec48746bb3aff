"""Finding a listener by reading the kernel's table."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

from emulation.listening import LOOPBACK, await_listener, holds, listeners, listens


def test_a_listener_is_seen_and_a_closed_one_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens(os.getpid(), port)
    assert not listens(os.getpid(), port)


def test_a_process_that_is_gone_listens_nowhere(tmp_path: Path) -> None:
    assert not listens(1, 8883, tmp_path)


def test_whose_listener_it_is_and_on_which_address() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.2", 0)) as elsewhere,
    ):
        mine = listeners(os.getpid(), server.getsockname()[1], LOOPBACK)
        assert len(mine) == 1
        assert holds(os.getpid(), mine)
        assert not holds(os.getppid(), mine)
        assert not holds(os.getpid(), set())
        port = elsewhere.getsockname()[1]
        assert listeners(os.getpid(), port)
        assert not listeners(os.getpid(), port, LOOPBACK)
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        assert listeners(os.getpid(), everywhere.getsockname()[1], LOOPBACK)


def test_waiting_ends() -> None:
    ticks = itertools.count()
    slept: list[float] = []
    found = await_listener(2**22 + 1, 1, 5.0, clock=lambda: float(next(ticks)), sleep=slept.append)
    assert not found
    assert len(slept) == 5 - 1
