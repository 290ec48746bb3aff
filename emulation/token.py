"""The boot token: names one boot of one container without talking to it (ARCHITECTURE.md, "Boot token").

`<inode of the network namespace>-<start time of the container's first process, in clock ticks since the host
booted>`. hostd reads both through `/proc/<pid>`, the container through `/proc/self/ns/net` and
`/proc/1/stat`; a restarted container has another start time, so a token of an earlier boot never opens the
gate of a later one.
"""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


class ProcessGone(RuntimeError):
    """The process whose token was asked for has ended."""


def start_time_ticks(stat: str) -> int:
    """Field 22 of `/proc/<pid>/stat`. The command (field 2) may hold spaces and brackets: count from the last
    one.
    """
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def boot_token(pid: int, *, proc: Path = PROC) -> str:
    """Token of the container whose first process is `pid` (as this process sees it). Raises ProcessGone."""
    try:
        inode = (proc / str(pid) / "ns" / "net").stat().st_ino
        ticks = start_time_ticks((proc / str(pid) / "stat").read_text())
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGone(f"process {pid} has ended: no boot token ({error})") from None
    return f"{inode}-{ticks}"
