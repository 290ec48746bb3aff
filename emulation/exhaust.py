"""Take a container's memory until the kernel kills what runs in it (faults.out_of_memory)."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

from emulation.cgroup import Cgroup

FIRST_CHOICE = "1000"  # oom_score_adj(5): the largest, so the agent is preferred to the process that takes
SPARE_BYTES = 256 << 20  # of the host's memory that must be left when the container's limit is full


PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> None:
    """In the child: SIGKILL when hostd dies, however it dies."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def exhaust(pid: int, limit_bytes: int) -> subprocess.Popen[bytes]:
    """Start taking the memory of the container whose first process is `pid`.

    Raises CgroupError, OSError, and ValueError where there is no limit or the host has less than it.
    """
    if not limit_bytes:
        raise ValueError("it has no memory limit")
    if limit_bytes + SPARE_BYTES > available_bytes():
        raise ValueError(
            f"the host has {available_bytes() >> 20} MB left, its limit is {limit_bytes >> 20} MB"
        )
    group = Cgroup.of_pid(pid)
    for victim in group.processes():
        try:
            Path(f"/proc/{victim}/oom_score_adj").write_text(FIRST_CHOICE)
        except FileNotFoundError:
            continue  # it has just ended
    hog = subprocess.Popen(
        [sys.executable, "-m", "emulation.hog", str(limit_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_end_with_parent,
    )
    try:
        group.attach_memory(hog.pid)
        assert hog.stdin is not None
        hog.stdin.write(b"go\n")
        hog.stdin.close()
    except BaseException:
        hog.kill()
        hog.wait()
        raise
    return hog
