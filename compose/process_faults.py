"""Faults of the process runtime: what a signal, a new start or a hook file can do. Everything else needs containers."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from compose.process_service import STOP_WAIT_S, Service
from emulation.behaviours import HookFiles
from emulation.control import FaultRequest
from emulation.faults import telling
from emulation.faults.base import FaultProblem
from emulation.faults.behaviour import SEEN_EVENT, Behaviour
from emulation.faults.core import Apply, Heal
from history.fields import strings
from history.writer import HistoryWriter
from topology.plan import FaultPlan, Plan
from topology.plan.faults import BEHAVIOURS, HOSTD

SIGNALS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGTERM,
    "restart": signal.SIGTERM,
    "pause": signal.SIGSTOP,
}
SUPPORTED = (*SIGNALS, *BEHAVIOURS)


def unsupported(plan: Plan) -> list[tuple[int, str, str]]:
    """Place in the file, key and reason of each planned fault that this runtime cannot do."""
    found = []
    for fault in plan.faults:
        if fault.kind not in SUPPORTED:
            found.append((fault.entry, fault.kind, "the process runtime cannot do this fault"))
        elif HOSTD in fault.targets:
            found.append((fault.entry, fault.kind, "the process runtime has no hostd"))
        elif fault.trigger.bytes_share is not None:
            found.append((fault.entry, "when", "the process runtime does not count a link's bytes"))
    return sorted(set(found))


def refusal(services: Mapping[str, Service], request: FaultRequest) -> str:
    """Why a fault by hand cannot be done here, or an empty string."""
    if request.kind not in SUPPORTED:
        return f"the process runtime cannot do {request.kind}; it can do {', '.join(SUPPORTED)}"
    unknown = [target for target in request.targets if target not in services]
    return f"there is no process {', '.join(unknown[:5])} in this run" if unknown else ""


class FaultExecutor:
    """Does what the fault core decided, verifies that it took, and records both."""

    def __init__(
        self, services: Mapping[str, Service], history: HistoryWriter, nodes: Path | None = None
    ) -> None:
        self._services, self._history = services, history
        self._hooks = HookFiles(nodes) if nodes is not None else None
        self._waiting: dict[str, tuple[FaultPlan, float]] = {}  # told, but the agent has not said so yet
        self.on_seen: Callable[[str, bool, str], None] = lambda fault, ok, detail: None

    def arm(self, faults: Sequence[FaultPlan]) -> None:
        telling.armed(self._history, faults)

    def perform(self, actions: Sequence[Apply | Heal], *, restart: bool = True) -> None:
        """`restart=False`: the run is being torn down, what was killed stays dead."""
        for action in actions:
            if isinstance(action, Apply):
                self._apply(action)
            else:
                self._heal(action, restart)

    def tick(self, now: float) -> None:
        """Look whether agents have said that they do as they were told."""
        for fault, deadline in list(self._waiting.values()):
            lacking = [target for target in fault.targets if not self._says(target, fault.id)]
            if not lacking or now >= deadline:
                del self._waiting[fault.id]
                detail = f"no sign from {', '.join(lacking)}" if lacking else "in force, say the agents"
                self._verified(fault, ok=not lacking, detail=detail)

    def _apply(self, action: Apply) -> None:
        fault, began = action.fault, time.monotonic()
        problems = [text for target in fault.targets if (text := self._strike(fault, target))]
        telling.applied(self._history, action, lateness_s=action.lateness_s)
        if fault.kind in BEHAVIOURS and not problems:
            self._waiting[fault.id] = (fault, time.monotonic() + Behaviour.verify_wait_s)
            return
        if not problems:
            failed = [target for target in fault.targets if not self._took(fault.kind, target)]
            problems = [f"no effect on {', '.join(failed)}"] if failed else []
        self._verified(fault, ok=not problems, detail="; ".join(problems) or f"{fault.kind}: verified")
        if fault.kind == "restart":
            self._settled(fault, began, final=False, left_stopped=False)

    def _strike(self, fault: FaultPlan, target: str) -> str:
        """What went wrong, or an empty string."""
        try:
            if fault.kind in SIGNALS:
                self._services[target].send(SIGNALS[fault.kind])
            elif self._hooks is not None:
                self._hooks.tell(target, fault.id, fault.kind, fault.params)
        except (FaultProblem, KeyError) as error:
            return f"{target}: {error}"
        return ""

    def _says(self, target: str, fault_id: str) -> bool:
        said = self._hooks.says(target, SEEN_EVENT) if self._hooks is not None else []
        return bool(said) and fault_id in strings(said[-1], "active")

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
        if kind == "restart":
            self._start(target)
        return True

    def _verified(self, fault: FaultPlan, *, ok: bool, detail: str) -> None:
        telling.verified(self._history, fault, ok=ok, detail=detail)
        self.on_seen(fault.id, ok, detail[: telling.DETAIL_MAX])

    def _heal(self, action: Heal, restart: bool) -> None:
        fault, began = action.fault, time.monotonic()
        if fault.kind == "restart":
            return  # it healed itself
        if self._waiting.pop(fault.id, None) is not None:
            self._verified(fault, ok=False, detail="healed before the agents said that it was in force")
        for target in fault.targets:
            if fault.kind in BEHAVIOURS:
                if self._hooks is not None:
                    self._hooks.untell(target, fault.id)
            elif fault.kind == "pause":
                self._services[target].send(signal.SIGCONT)
            elif restart and not self._services[target].running:
                self._start(target)
        left = not restart and fault.kind in ("kill", "stop")
        self._settled(fault, began, final=action.final, left_stopped=left)

    def _settled(self, fault: FaultPlan, began: float, *, final: bool, left_stopped: bool) -> None:
        wall_s = time.monotonic() - began
        telling.healed(self._history, fault, wall_s=wall_s, final=final, left_stopped=left_stopped)

    def _start(self, target: str) -> None:
        service = self._services[target]
        service.start()
        self._history.append("container_started", node=target, pid=service.pid)


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
