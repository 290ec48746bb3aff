"""Be scheduled before ordinary processes: a delay kept, or measured, by a thread that must wait its turn is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT_CPU_GROUP = Path("/sys/fs/cgroup/cpu/cgroup.procs")
DELAY_PRIORITY = 2  # the process that holds packets goes before the one that measures them
MEASURE_PRIORITY = 1


def go_first(priority: int) -> str:
    """Give the calling thread real-time scheduling; what was reached, in words for the record. Never raises.

    With cgroup v1 and RT_GROUP_SCHED a container's group has no real-time budget but the root group has: the
    whole process is moved there then. The kernel keeps 5 % of every core for ordinary processes whatever a
    real-time one does.
    """
    wanted = os.sched_param(priority)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, wanted)
        return "SCHED_RR"
    except PermissionError:
        pass
    try:
        ROOT_CPU_GROUP.write_text(str(os.getpid()))
        os.sched_setscheduler(0, os.SCHED_RR, wanted)
        return "SCHED_RR in the root cpu group"
    except OSError:
        pass
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        return "nice -20"
    except OSError as error:
        return f"default ({error.strerror}; CAP_SYS_NICE would help)"


@contextmanager
def going_first(priority: int) -> Iterator[str]:
    """`go_first` for the length of a block; then ordinary scheduling again."""
    reached = go_first(priority)
    try:
        yield reached
    finally:
        if reached.startswith("SCHED_RR"):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        elif reached.startswith("nice"):
            os.setpriority(os.PRIO_PROCESS, 0, 0)
