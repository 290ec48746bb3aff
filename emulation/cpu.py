"""Measure CPU quotas: every device burns at once, and what each really got is counted by its own cgroup.

A burner is a shell in an endless loop, moved into the container's CPU group, so the image needs nothing
for it and the agent (waiting at its gate) is not disturbed. Shares are counted over whole quota periods:
from the first turn of the period counter after the warm-up to one at the end, because a quota is a duty
cycle and half a period says nothing.
"""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emulation.cgroup import Cgroup, CgroupError

WARM_UP_S = 0.4  # slices handed out before the burners came are used up
MEASURE_S = 2.5  # 25 periods of 100 ms; half a period of error is then 2 %
POLL_S = 0.004
OVERTIME_S = 1.0  # for a long period's counter to turn
BURNER_CPU_S = 60  # a burner that outlives hostd ends by itself after so much CPU time
# pdeathsig: the burner dies with hostd. The shell's own limit is the second belt.
BURNER = ("setpriv", "--pdeathsig", "KILL", "sh", "-c", f"ulimit -t {BURNER_CPU_S}; while :; do :; done")


@dataclass(frozen=True)
class CpuShare:
    """`requested` and `effective` in cores; `readback` is the quota the kernel has."""

    requested: float
    readback: float | None
    effective: float
    periods: int
    throttled_periods: int
    others_cores: float = 0.0  # what everything else on the host used meanwhile: whose fault a shortfall is

    @property
    def error(self) -> float:
        return self.effective / self.requested - 1

    def ok(self, tolerance: float) -> bool:
        written = self.readback is not None and abs(self.readback / self.requested - 1) < 0.005
        return written and abs(self.error) <= tolerance


@dataclass
class _Watch:
    group: Cgroup
    began: tuple[float, float, int, int] | None = None  # time, usage, periods, throttled
    ended: tuple[float, float, int, int] | None = None
    seen_periods: int = -1

    def poll(self, now: float, start: float, end: float) -> None:
        """Note the first turn of the period counter after `start`, and the first after `end`."""
        if now < start or self.ended is not None:
            return
        state = self.group.throttling()
        turned = self.seen_periods >= 0 and state.periods != self.seen_periods
        self.seen_periods = state.periods
        late = now > end + OVERTIME_S / 2  # no quota, no periods: then the clock decides
        if self.began is None and (turned or now > start + OVERTIME_S / 2):
            self.began = (now, self.group.usage_s(), state.periods, state.throttled_periods)
        elif now >= end and (turned or late):
            self.ended = (now, self.group.usage_s(), state.periods, state.throttled_periods)


def measure_shares(
    groups: Mapping[str, tuple[Cgroup, float]], *, seconds: float = MEASURE_S
) -> dict[str, CpuShare]:
    """Burn in all groups at once; `groups` maps a name to its cgroup and the requested cores. Raises
    CgroupError.
    """
    watches = {name: _Watch(group) for name, (group, _) in groups.items()}
    busy_began, used_began, wall_began = host_busy_s(), _used_s(groups), time.monotonic()
    with burners(groups):
        start = time.monotonic() + WARM_UP_S
        end = start + seconds
        while time.monotonic() < end + OVERTIME_S and any(watch.ended is None for watch in watches.values()):
            for watch in watches.values():
                watch.poll(time.monotonic(), start, end)
            time.sleep(POLL_S)
        others_s = (host_busy_s() - busy_began) - (_used_s(groups) - used_began)
        others = max(0.0, others_s / (time.monotonic() - wall_began))
    return {name: _share(watches[name], requested, others) for name, (_, requested) in groups.items()}


def _used_s(groups: Mapping[str, tuple[Cgroup, float]]) -> float:
    return sum(group.usage_s() for group, _ in groups.values())


def host_busy_s(stat: str = "/proc/stat") -> float:
    """CPU seconds all cores have spent on anything but idling (fields user, nice, system, irq, softirq)."""
    words = Path(stat).read_text().split("\n", 1)[0].split()[1:]
    ticks = [int(word) for word in words]
    return (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / os.sysconf("SC_CLK_TCK")


def _share(watch: _Watch, requested: float, others_cores: float) -> CpuShare:
    if watch.began is None or watch.ended is None:
        raise CgroupError(f"{watch.group.cpu}: the counters could not be read for a whole measurement")
    wall_s, used_s = watch.ended[0] - watch.began[0], watch.ended[1] - watch.began[1]
    return CpuShare(
        requested=requested,
        readback=watch.group.quota()[0],
        effective=used_s / wall_s,
        periods=watch.ended[2] - watch.began[2],
        throttled_periods=watch.ended[3] - watch.began[3],
        others_cores=others_cores,
    )


@contextmanager
def burners(groups: Mapping[str, tuple[Cgroup, float]]) -> Iterator[None]:
    """As many burners per group as it has cores, rounded up, while the block runs; then all are gone."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for group, cores in groups.values():
            for _ in range(max(1, math.ceil(cores))):
                burner = subprocess.Popen(BURNER, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                running.append(burner)
                group.attach(burner.pid)
        yield
    finally:
        for burner in running:
            burner.kill()
        for burner in running:
            burner.wait()
