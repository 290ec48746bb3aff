"""Faults of the process runtime: what a signal can do to a process. Everything else needs containers."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from compose.process_service import STOP_WAIT_S, Service
from emulation.faults.core import Apply, Heal
from history.writer import HistoryWriter
from topology.plan import FaultPlan, Plan

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGTERM, "pause": signal.SIGSTOP}


def unsupported(plan: Plan) -> list[tuple[int, str]]:
    """Index and kind of each planned fault that this runtime cannot do."""
    return [(number, fault.kind) for number, fault in enumerate(plan.faults) if fault.kind not in SIGNALS]


class FaultExecutor:
    """Does what the fault core decided, verifies that it took, and records both."""

    def __init__(self, services: Mapping[str, Service], history: HistoryWriter) -> None:
        self._services, self._history = services, history

    def perform(self, actions: Sequence[Apply | Heal], *, restart: bool = True) -> None:
        """`restart=False`: the run is being torn down, what was killed stays dead."""
        for action in actions:
            if isinstance(action, Apply):
                self._apply(action)
            else:
                self._heal(action.fault, restart)

    def _apply(self, action: Apply) -> None:
        fault = action.fault
        for target in fault.targets:
            self._services[target].send(SIGNALS[fault.kind])
        late = round(action.lateness_s, 4)
        self._history.append(
            "fault_applied", fault=fault.id, kind=fault.kind, targets=list(fault.targets), lateness_s=late
        )
        failed = [target for target in fault.targets if not self._took(fault.kind, target)]
        detail = f"no effect on {', '.join(failed)}" if failed else f"{fault.kind}: verified"
        self._history.append("fault_verified", fault=fault.id, ok=not failed, detail=detail)

    def _took(self, kind: str, target: str) -> bool:
        process = self._services[target].process
        if process is None:
            return False
        if kind == "pause":
            return _stopped(process.pid)
        try:
            code = process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            return False
        self._history.append("container_died", node=target, exit_code=code)
        return True

    def _heal(self, fault: FaultPlan, restart: bool) -> None:
        for target in fault.targets:
            service = self._services[target]
            if fault.kind == "pause":
                service.send(signal.SIGCONT)
            elif restart and not service.running:
                service.start()
                self._history.append("container_started", node=target, pid=service.pid)
        self._history.append("fault_healed", fault=fault.id, targets=list(fault.targets), wall_s=0.0)


def _stopped(pid: int) -> bool:
    """Whether the process has stopped; the kernel needs a moment on a busy machine."""
    deadline = time.monotonic() + STOP_WAIT_S
    while _state(pid) not in ("T", "t"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _state(pid: int) -> str:
    """The process's state letter (proc(5), stat, field 3); "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
