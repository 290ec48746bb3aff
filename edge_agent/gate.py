"""The link gate: an emulated device may not connect before its link is shaped and measured (ARCHITECTURE.md)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.1  # a stat of a file; the gate opens once per boot
TOKEN_BYTES_MAX = 64


class GateClosed(RuntimeError):
    """The gate did not open in time."""


def boot_token(proc: Path = Path("/proc")) -> str:
    """`<inode of /proc/self/ns/net>-<start time of process 1>`: another one after every restart of a container."""
    inode = os.stat(proc / "self" / "ns" / "net").st_ino
    # The second field is the command in parentheses and may hold spaces; field 22 is the 20th after it.
    after_command = (proc / "1" / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    return f"{inode}-{after_command.split()[19]}"


def is_open(file: Path, token: str) -> bool:
    try:
        with open(file, "rb") as handle:
            return handle.read(TOKEN_BYTES_MAX).decode("ascii", "replace").strip() == token
    except OSError:
        return False  # not there yet, or half written


def wait_for_gate(
    file: Path,
    wait_s: float,
    *,
    stopped: Callable[[], bool] = lambda: False,
    token: Callable[[], str] = boot_token,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[str, float]:
    """Wait until the gate holds this boot's token; returns it and the seconds waited. Raises GateClosed."""
    mine, began = token(), clock()
    while not is_open(file, mine):
        if stopped():
            raise GateClosed("stopped while waiting for the link gate")
        if clock() - began > wait_s:
            raise GateClosed(
                f"the link gate {file} did not open within {wait_s:.0f} s: it must hold {mine!r}, this boot's token. "
                "hostd writes it once the device's link is shaped and measured; see what hostd says"
            )
        sleep(POLL_S)
    return mine, clock() - began
