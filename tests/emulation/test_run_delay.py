"""What throttling does not explain of a thread's waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulation.cgroup import Cgroup
from emulation.run_delay import Counters, RunDelay, thread_delays


def counters(
    throttled_s: float, *, usage_s: float = 0.0, periods: int = 0, cores: float | None = None
) -> Counters:
    return Counters(usage_s, throttled_s, periods, cores, period_s=0.1)


def test_waiting_for_the_quota_is_not_the_hosts_fault() -> None:
    delay = RunDelay()
    assert delay.take({1: 10.0}, counters(5.0)) == 0.0
    assert delay.take({1: 18.0}, counters(13.0)) == 0.0
    assert delay.take({1: 29.0}, counters(23.0)) == pytest.approx(1.0)


def test_the_thread_that_waited_longest_counts_once() -> None:
    delay = RunDelay()
    delay.take({1: 0.0, 2: 0.0}, counters(0.0))
    assert delay.take({1: 3.0, 2: 4.0}, counters(3.0)) == pytest.approx(1.0)


def test_a_boot_begins_anew() -> None:
    delay = RunDelay()
    delay.take({1: 50.0}, counters(40.0))
    assert delay.take({9: 7.0}, counters(1.0)) == 0.0
    assert delay.take({9: 9.0}, counters(2.0)) == pytest.approx(1.0)


def test_who_had_its_whole_quota_in_the_end_lost_nothing() -> None:
    delay = RunDelay()
    delay.take({1: 0.0}, counters(0.0, cores=0.15))
    after = counters(0.5, usage_s=0.15, periods=10, cores=0.15)
    assert delay.take({1: 0.8}, after) == 0.0


def test_what_the_host_withheld_put_it_behind() -> None:
    """A second at 0.15, of which it used 0.12: 0.2 s behind, of 0.3 s that it waited beyond throttling."""
    delay = RunDelay()
    delay.take({1: 0.0}, counters(0.0, cores=0.15))
    after = counters(0.5, usage_s=0.12, periods=10, cores=0.15)
    assert delay.take({1: 0.8}, after) == pytest.approx(0.2)


def test_who_did_not_wait_lost_nothing() -> None:
    delay = RunDelay()
    delay.take({1: 0.0}, counters(0.0, cores=0.15))
    after = counters(0.0, usage_s=0.01, periods=10, cores=0.15)
    assert delay.take({1: 0.0}, after) == 0.0


@pytest.mark.parametrize("v2", [True, False])
def test_threads_are_read_from_the_group(tmp_path: Path, v2: bool) -> None:
    group, proc = tmp_path / "group", tmp_path / "proc"
    group.mkdir()
    (group / ("cgroup.threads" if v2 else "tasks")).write_text("7\n8\n9\n")
    for tid, delay in ((7, "1 2000000000 3"), (8, "torn")):
        (proc / str(tid)).mkdir(parents=True)
        (proc / str(tid) / "schedstat").write_text(delay)
    assert thread_delays(Cgroup(group, group, group, v2), proc) == {7: 2.0}
