"""Whether something listens on a TCP port of another network namespace, without sending it anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

LISTEN = "0A"  # the state in the fourth field of /proc/net/tcp (include/net/tcp_states.h)


def listens(pid: int, port: int, proc: Path = Path("/proc")) -> bool:
    """False too while the process or its namespace is gone."""
    return any(_in_table(proc / str(pid) / "net" / name, port) for name in ("tcp", "tcp6"))


def _in_table(table: Path, port: int) -> bool:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return False
    wanted = f":{port:04X}"
    return any(
        words[1].endswith(wanted) and words[3] == LISTEN for line in lines if len(words := line.split()) > 3
    )


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
