"""How long a device waited for a CPU without its own quota being the reason: the host was too busy.

The kernel counts per thread how long it was runnable and did not run (`/proc/<pid>/task/<tid>/schedstat`, second
figure, Documentation/scheduler/sched-stats.rst). Waiting for the next quota period counts there too, and per cgroup in
`throttled_time`; what is left is the host's. A device that waited for its host trained slower than it should have.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from emulation.cgroup import Cgroup

THREADS_MAX = 256  # pids_limit of an agent is below it


def thread_delays(group: Cgroup, proc: Path = Path("/proc")) -> dict[int, float]:
    """Seconds of run delay of each thread in the group; threads that end meanwhile are left out."""
    delays: dict[int, float] = {}
    for tid in _threads(group)[:THREADS_MAX]:
        try:
            words = (proc / str(tid) / "schedstat").read_text().split()
            delays[tid] = int(words[1]) / 1e9
        except (OSError, IndexError, ValueError):
            continue
    return delays


def _threads(group: Cgroup) -> list[int]:
    """Thread ids: `cgroup.threads` on version 2, `tasks` on version 1."""
    name = "cgroup.threads" if group.v2 else "tasks"
    try:
        return [int(word) for word in (group.cpu / name).read_text().split()]
    except (OSError, ValueError):
        return []


class RunDelay:
    """Adds up, over the samples of one device, the delay that throttling does not explain."""

    def __init__(self) -> None:
        self.unexplained_s = 0.0
        self._threads: dict[int, float] = {}
        self._throttled_s: float | None = None

    def take(self, delays: Mapping[int, float], throttled_s: float) -> float:
        """The total after this sample.

        Of the interval counts the thread that waited longest: the others of a device wait for the same quota, and
        the sum would count one throttled period once per thread.
        """
        waited = max(
            (d - self._threads[tid] for tid, d in delays.items() if tid in self._threads), default=0.0
        )
        before, self._throttled_s = self._throttled_s, throttled_s
        self._threads = dict(delays)
        if before is not None and throttled_s >= before:  # a boot begins its counters at zero
            self.unexplained_s += max(0.0, waited - (throttled_s - before))
        return self.unexplained_s
