"""Faults of the process runtime: what a signal, a new start or a hook file can do. Everything else needs containers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
STOPPED = ("T", "t")  # state letters of proc(5)
ENDING = ("kill", "stop")  # heals by starting the process again
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


@dataclass
class _Struck:
    """A fault that was done and has not been seen to take on `waiting`. `heal` is one that came meanwhile."""

    fault: FaultPlan
    since_s: float
    deadline_s: float
    waiting: list[str]
    problems: list[str] = field(default_factory=list)
    heal: Heal | None = None
    heal_since_s: float = 0.0


class FaultExecutor:
    """Does what the fault core decided, verifies that it took, and records both.

    Nothing here waits: what has not taken yet is looked at again with every `tick`. Times are the caller's.
    """

    def __init__(
        self, services: Mapping[str, Service], history: HistoryWriter, nodes: Path | None = None
    ) -> None:
        self._services, self._history = services, history
        self._hooks = HookFiles(nodes) if nodes is not None else None
        self._struck: dict[str, _Struck] = {}
        self._closing = False
        self.on_seen: Callable[[str, bool, str], None] = lambda fault, ok, detail: None

    def arm(self, faults: Sequence[FaultPlan]) -> None:
        telling.armed(self._history, faults)

    def perform(self, actions: Sequence[Apply | Heal], now: float) -> None:
        for action in actions:
            if isinstance(action, Apply):
                self._apply(action, now)
            else:
                self._heal(action, now)

    def close(self, heals: Sequence[Heal], now: float) -> None:
        """The run is being torn down: what was killed stays dead, and what has not taken by now has not taken."""
        self._closing = True
        for struck in list(self._struck.values()):
            struck.deadline_s = now
            self._look(struck, now)
        for heal in heals:
            self._heal(heal, now)

    def tick(self, now: float) -> None:
        """Look again at what has not taken yet."""
        for struck in list(self._struck.values()):
            self._look(struck, now)

    # --- strike and look --------------------------------------------------------------------------------------

    def _apply(self, action: Apply, now: float) -> None:
        fault = action.fault
        wait_s = Behaviour.verify_wait_s if fault.kind in BEHAVIOURS else STOP_WAIT_S
        struck = self._struck[fault.id] = _Struck(fault, now, now + wait_s, list(fault.targets))
        for target in fault.targets:
            if problem := self._strike(fault, target):
                struck.problems.append(problem)
                struck.waiting.remove(target)
        telling.applied(self._history, action, lateness_s=action.lateness_s)
        self._look(struck, now)

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

    def _look(self, struck: _Struck, now: float) -> None:
        struck.waiting = [target for target in struck.waiting if not self._took(struck.fault, target)]
        if not struck.waiting or now >= struck.deadline_s:
            self._judge(struck, now)
            if struck.heal is not None:
                self._carry_out(struck.heal, now, struck.heal_since_s)

    def _took(self, fault: FaultPlan, target: str) -> bool:
        if fault.kind in BEHAVIOURS:
            return self._says(target, fault.id)
        process = self._services[target].process
        if process is None:
            return False
        if fault.kind == "pause":
            return _state(process.pid) in STOPPED
        if (code := process.poll()) is None:
            return False
        self._history.append("container_died", node=target, exit_code=code)
        if fault.kind == "restart" and not self._closing:
            self._start(target)
        return True

    def _says(self, target: str, fault_id: str) -> bool:
        said = self._hooks.says(target, SEEN_EVENT) if self._hooks is not None else []
        return bool(said) and fault_id in strings(said[-1], "active")

    def _judge(self, struck: _Struck, now: float) -> None:
        """The verdict on whether it took, once; a restart is over with it."""
        fault, problems = self._struck.pop(struck.fault.id).fault, list(struck.problems)
        says = fault.kind in BEHAVIOURS
        if struck.waiting:
            problems.append(f"{'no sign from' if says else 'no effect on'} {', '.join(struck.waiting)}")
        detail = "; ".join(problems) or ("in force, say the agents" if says else f"{fault.kind}: verified")
        telling.verified(self._history, fault, ok=not problems, detail=detail)
        self.on_seen(fault.id, not problems, detail[: telling.DETAIL_MAX])
        if fault.kind == "restart":
            self._settled(fault, now - struck.since_s, final=False, left_stopped=self._closing)

    # --- heal -------------------------------------------------------------------------------------------------

    def _heal(self, action: Heal, now: float) -> None:
        """One that comes before its fault has taken waits for it: what is still ending cannot be started again."""
        struck = self._struck.get(action.fault.id)
        if struck is not None and action.fault.kind in ENDING:
            struck.heal, struck.heal_since_s = action, now
            return
        if struck is not None and action.fault.kind != "restart":
            self._judge(struck, now)
        if action.fault.kind != "restart":  # that one heals itself
            self._carry_out(action, now, now)

    def _carry_out(self, action: Heal, now: float, since_s: float) -> None:
        fault = action.fault
        for target in fault.targets:
            self._heal_one(fault, target)
        left = self._closing and fault.kind in ENDING
        self._settled(fault, now - since_s, final=action.final, left_stopped=left)

    def _heal_one(self, fault: FaultPlan, target: str) -> None:
        if fault.kind in BEHAVIOURS:
            if self._hooks is not None:
                self._hooks.untell(target, fault.id)
        elif fault.kind == "pause":
            self._services[target].send(signal.SIGCONT)
        elif not self._closing and not self._services[target].running:
            self._start(target)

    def _settled(self, fault: FaultPlan, wall_s: float, *, final: bool, left_stopped: bool) -> None:
        telling.healed(self._history, fault, wall_s=wall_s, final=final, left_stopped=left_stopped)

    def _start(self, target: str) -> None:
        service = self._services[target]
        service.start()
        self._history.append("container_started", node=target, pid=service.pid)


def _state(pid: int) -> str:
    """The process's state letter (proc(5), stat, field 3); "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
