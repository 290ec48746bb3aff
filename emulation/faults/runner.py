"""Carry out what the fault core decides: apply, verify, heal on containers, on disk before and recorded
after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from emulation.docker_host import DockerProblem
from emulation.faults.base import Fault, FaultProblem, Links, Machines, Seen, Tools
from emulation.faults.core import Apply, Heal
from emulation.link_keeper import VANISHED
from emulation.links.delay_client import DelayProcessError
from emulation.undo import UndoFile
from history.writer import HistoryWriter
from topology.plan import DevicePlan, FaultPlan

VERIFY_WAIT_S = 5.0  # a killed container is dead within a tenth of a second, a paused one at once
VERIFY_GAP_S = 0.05
TROUBLE = (DockerProblem, FaultProblem, DelayProcessError, KeyError, *VANISHED)


class FaultRunner:
    def __init__(
        self,
        registry: Mapping[str, Fault],
        devices: Iterable[DevicePlan],
        machines: Machines,
        links: Links,
        history: HistoryWriter,
        undo: UndoFile,
        *,
        mono: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registry, self._history, self._undo = registry, history, undo
        self._machines, self._links = machines, links
        self._quotas = {device.name: (device.cpus, device.cpu_period_us) for device in devices}
        self._active: dict[str, tuple[FaultPlan, float]] = {}
        self._mono, self._sleep = mono, sleep
        self._numbers: dict[str, int] = {}

    def arm(self, faults: tuple[FaultPlan, ...]) -> None:
        for fault in faults:
            self._history.append(
                "fault_armed",
                fault=fault.id,
                kind=fault.kind,
                trigger=fault.trigger,
                targets=list(fault.targets),
            )

    def perform(self, action: Apply | Heal) -> None:
        if isinstance(action, Apply):
            self.apply(action)
        else:
            self.heal(action)

    def apply(self, action: Apply) -> None:
        """The undo entry is durable before the fault; what cannot be applied is recorded as not taken."""
        fault, began = action.fault, self._mono()
        fields: dict[str, Any] = {"fault": fault.id, "fault_kind": fault.kind, "targets": list(fault.targets)}
        self._numbers[fault.id] = self._undo.begin("fault", fields)
        self._active[fault.id] = (fault, began)
        seen: list[Seen] = []
        for target in fault.targets:
            try:
                self._registry[fault.kind].apply(self._tools(fault), target)
            except TROUBLE as error:
                seen.append(Seen(False, f"{target}: {error}"))
        self._history.append(
            "fault_applied",
            fault=fault.id,
            kind=fault.kind,
            targets=list(fault.targets),
            lateness_s=round(action.lateness_s + self._mono() - began, 4),
            round=action.round,
            durable=True,
        )
        seen += [self._verify(fault, target) for target in fault.targets]
        detail = "; ".join(one.detail for one in seen)
        ok = all(one.ok for one in seen)
        self._history.append("fault_verified", fault=fault.id, ok=ok, detail=detail[:500])
        if self._registry[fault.kind].one_shot and ok:
            self._settle(fault, began, final=False, left_stopped=False)
        if not ok:
            self._history.append("lapse", what="fault_not_taken", node=fault.targets[0], detail=detail[:500])

    def heal(self, action: Heal, *, run_over: bool = False) -> None:
        """A fault whose heal starts containers leaves them stopped when the run is over, and says so."""
        fault, began = action.fault, self._mono()
        if fault.id not in self._active:
            return  # it healed itself
        kind, problems = self._registry[fault.kind], []
        left_stopped = run_over and kind.restarts
        for target in () if left_stopped else fault.targets:
            try:
                kind.heal(self._tools(fault), target)
            except TROUBLE as error:
                problems.append(f"{target}: {error}")
        self._settle(fault, began, final=action.final, left_stopped=left_stopped, keep_undo=bool(problems))
        for problem in problems:
            self._history.append("lapse", what="heal_failed", node=fault.targets[0], detail=problem[:500])

    def adopt(self, number: int, fault: FaultPlan) -> None:
        """A fault applied by a hostd before this one: its undo entry is this runner's to close."""
        self._numbers[fault.id] = number
        self._active[fault.id] = (fault, self._mono())

    def _settle(
        self, fault: FaultPlan, began: float, *, final: bool, left_stopped: bool, keep_undo: bool = False
    ) -> None:
        self._active.pop(fault.id, None)
        number = self._numbers.pop(fault.id, None)
        if number is not None and not keep_undo:
            self._undo.done(number)
        self._history.append(
            "fault_healed",
            fault=fault.id,
            targets=list(fault.targets),
            wall_s=round(self._mono() - began, 4),
            final=final,
            left_stopped=left_stopped,
            durable=True,
        )

    def tick(self) -> None:
        """Let the faults in force do what they do meanwhile; what fails is on record once and not tried again."""
        for fault, began in list(self._active.values()):
            for target in fault.targets:
                try:
                    self._registry[fault.kind].tick(self._tools(fault), target, self._mono() - began)
                except TROUBLE as error:
                    self._active.pop(fault.id, None)
                    self._history.append(
                        "lapse", what="fault_tick_failed", node=target, detail=str(error)[:500]
                    )

    def _tools(self, fault: FaultPlan) -> Tools:
        return Tools(self._machines, self._links, fault.params, self._quotas)

    def _verify(self, fault: FaultPlan, target: str) -> Seen:
        deadline = self._mono() + VERIFY_WAIT_S
        while True:
            try:
                seen = self._registry[fault.kind].verify(self._tools(fault), target)
            except TROUBLE as error:
                return Seen(False, f"{target}: {error}")
            if seen.ok or self._mono() >= deadline:
                return Seen(seen.ok, f"{target}: {seen.detail}")
            self._sleep(VERIFY_GAP_S)
