"""How long a device waited for a CPU without its own quota being the reason: the host was too busy.

The kernel counts per thread how long it was runnable and did not run (`/proc/<pid>/task/<tid>/schedstat`, second
figure, Documentation/scheduler/sched-stats.rst). Two things explain such a wait and are no fault of the host: waiting
for the next quota period, which is in `throttled_time` per cgroup; and waiting early in a period in which the device
had its whole quota in the end, as ten devices do that share two cores. What is left put the device behind: at most by
the time in which its quota would have given what it did not use of it in those periods in which it had work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
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


@dataclass(frozen=True)
class Counters:
    """What the kernel has counted for one device so far, and its quota: `cores` (None for no limit)."""

    usage_s: float
    throttled_s: float
    periods: int  # in which it had something to run
    cores: float | None = None
    period_s: float = 0.1

    @classmethod
    def of(cls, group: Cgroup) -> Counters:
        throttling, (cores, period_us) = group.throttling(), group.quota()
        return cls(group.usage_s(), throttling.throttled_s, throttling.periods, cores, period_us / 1e6)


class RunDelay:
    """Adds up, over the samples of one device, the delay that its quota does not explain."""

    def __init__(self) -> None:
        self.unexplained_s = 0.0
        self._threads: dict[int, float] = {}
        self._before: Counters | None = None

    def take(self, delays: Mapping[int, float], now: Counters) -> float:
        """The total after this sample.

        Of the interval counts the thread that waited longest: the others of a device wait for the same quota, and
        the sum would count one throttled period once per thread.
        """
        waited = max(
            (d - self._threads[tid] for tid, d in delays.items() if tid in self._threads), default=0.0
        )
        before, self._before = self._before, now
        self._threads = dict(delays)
        if before is not None and now.throttled_s >= before.throttled_s:  # a boot begins its counters at zero
            unexplained = waited - (now.throttled_s - before.throttled_s)
            self.unexplained_s += max(0.0, min(unexplained, behind_s(before, now)))
        return self.unexplained_s


def behind_s(before: Counters, now: Counters) -> float:
    """Time that the device's quota needs to give what it did not use between two samples; without one, any."""
    if before.cores is None or now.cores is None:
        return inf
    cores = min(before.cores, now.cores)  # changed in between: what it could count on
    active_s = (now.periods - before.periods) * now.period_s
    return max(0.0, active_s - (now.usage_s - before.usage_s) / cores)
