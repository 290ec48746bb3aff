"""What throttling does not explain of a thread's waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulation.cgroup import Cgroup
from emulation.run_delay import RunDelay, thread_delays


def test_waiting_for_the_quota_is_not_the_hosts_fault() -> None:
    delay = RunDelay()
    assert delay.take({1: 10.0}, throttled_s=5.0) == 0.0
    assert delay.take({1: 18.0}, throttled_s=13.0) == 0.0
    assert delay.take({1: 29.0}, throttled_s=23.0) == pytest.approx(1.0)


def test_the_thread_that_waited_longest_counts_once() -> None:
    delay = RunDelay()
    delay.take({1: 0.0, 2: 0.0}, 0.0)
    assert delay.take({1: 3.0, 2: 4.0}, throttled_s=3.0) == pytest.approx(1.0)


def test_a_boot_begins_anew() -> None:
    delay = RunDelay()
    delay.take({1: 50.0}, 40.0)
    assert delay.take({9: 7.0}, 1.0) == 0.0
    assert delay.take({9: 9.0}, 2.0) == pytest.approx(1.0)


@pytest.mark.parametrize("v2", [True, False])
def test_threads_are_read_from_the_group(tmp_path: Path, v2: bool) -> None:
    group, proc = tmp_path / "group", tmp_path / "proc"
    group.mkdir()
    (group / ("cgroup.threads" if v2 else "tasks")).write_text("7\n8\n9\n")
    for tid, delay in ((7, "1 2000000000 3"), (8, "torn")):
        (proc / str(tid)).mkdir(parents=True)
        (proc / str(tid) / "schedstat").write_text(delay)
    assert thread_delays(Cgroup(group, group, group, v2), proc) == {7: 2.0}
