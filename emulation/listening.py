"""Whether something listens on a TCP port of another network namespace, without sending it anything."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

LISTEN = "0A"  # the state in the fourth field of /proc/net/tcp (include/net/tcp_states.h)
# Addresses as in the second field of /proc/net/tcp and tcp6 that a connection to 127.0.0.1 can reach.
LOOPBACK = (f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}", "0" * 8, "0" * 32)


def listens(pid: int, port: int, proc: Path = Path("/proc")) -> bool:
    """False too while the process or its namespace is gone."""
    return bool(listeners(pid, port, proc=proc))


def listeners(
    pid: int, port: int, addresses: Collection[str] = (), *, proc: Path = Path("/proc")
) -> set[str]:
    """Inodes of the sockets that listen on a port in the process's network namespace, on any of these addresses."""
    tables = [proc / str(pid) / "net" / name for name in ("tcp", "tcp6")]
    return {inode for table in tables for inode in _in_table(table, port, addresses)}


def _in_table(table: Path, port: int, addresses: Collection[str]) -> Iterator[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for words in (line.split() for line in lines):
        if len(words) > 9 and words[3] == LISTEN:
            address, _, found = words[1].partition(":")
            if found == f"{port:04X}" and (not addresses or address in addresses):
                yield words[9]


def holds(pid: int, inodes: Collection[str], proc: Path = Path("/proc")) -> bool:
    """Whether one of these sockets is the process's own."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        return any(_target(entry) in wanted for entry in (proc / str(pid) / "fd").iterdir())
    except OSError:
        return False


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except OSError:
        return ""  # closed meanwhile


def await_listener(
    pid: int, port: int, wait_s: float, *, clock: Callable[[], float], sleep: Callable[[float], None]
) -> bool:
    """Whether it listens before `wait_s` has passed."""
    deadline = clock() + wait_s
    while not listens(pid, port):
        if clock() >= deadline:
            return False
        sleep(0.02)
    return True
