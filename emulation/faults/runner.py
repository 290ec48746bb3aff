"""Carry out what the fault core decides: apply, verify, heal on containers, on disk before and recorded after.

Nothing here waits for a fault to take: what is not verified at once is looked at again with every `tick`, so that one
slow fault does not make the next one late.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from msgspec import to_builtins

from emulation.docker_host import DockerProblem
from emulation.faults import telling
from emulation.faults.base import Behaviours, Fault, FaultProblem, Links, Machines, Seen, Tools
from emulation.faults.core import Apply, Heal
from emulation.link_keeper import VANISHED
from emulation.links.delay_client import DelayProcessError
from emulation.undo import UndoFile
from history.writer import HistoryWriter
from topology.plan import DevicePlan, FaultPlan
from topology.plan.faults import HOSTD, contradict

VERIFY_WAIT_S = 5.0  # a killed container is dead within a tenth of a second, a paused one at once
VERIFY_GAP_S = 0.2  # looking whether a cut link passes anything takes as long
TROUBLE = (DockerProblem, FaultProblem, DelayProcessError, KeyError, *VANISHED)


@dataclass
class _Active:
    """A fault in force. `waiting`: targets on which it has not been seen to take."""

    plan: FaultPlan
    since_s: float
    waiting: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    next_look_s: float = 0.0
    ticking: bool = True


class FaultRunner:
    """`end_self` is how a fault kills hostd itself."""

    def __init__(
        self,
        registry: Mapping[str, Fault],
        devices: Iterable[DevicePlan],
        machines: Machines,
        links: Links,
        behaviours: Behaviours,
        history: HistoryWriter,
        undo: UndoFile,
        *,
        end_self: Callable[[], None],
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._history, self._undo = registry, history, undo
        self._machines, self._links, self._behaviours = machines, links, behaviours
        self._quotas = {device.name: (device.cpus, device.cpu_period_us) for device in devices}
        self._active: dict[str, _Active] = {}
        self._end_self, self._mono = end_self, mono
        self._numbers: dict[str, int] = {}
        self.on_seen: Callable[[str, bool, str], None] = lambda fault, ok, detail: None

    @property
    def in_force(self) -> list[FaultPlan]:
        return [active.plan for active in self._active.values()]

    def arm(self, faults: tuple[FaultPlan, ...]) -> None:
        telling.armed(self._history, faults)

    def perform(self, action: Apply | Heal) -> None:
        if isinstance(action, Apply):
            self.apply(action)
        else:
            self.heal(action)

    # --- apply ----------------------------------------------------------------------------------------------

    def apply(self, action: Apply) -> None:
        """The undo entry is durable before the fault; what cannot be applied is recorded as not taken."""
        fault, began = action.fault, self._mono()
        refused = self._contradicted(fault)
        if refused:
            self._verified(fault, ok=False, detail=refused)
            return
        # The whole plan of it: a fault by hand is in no plan that a later hostd could look into.
        self._numbers[fault.id] = self._undo.begin("fault", {"fault": fault.id, "plan": to_builtins(fault)})
        active = self._active[fault.id] = _Active(fault, began)
        for target in fault.targets:
            try:
                if target != HOSTD:
                    self._registry[fault.kind].apply(self._tools(fault), target)
                active.waiting.append(target)
            except TROUBLE as error:
                active.seen.append(Seen(False, f"{target}: {error}"))
        telling.applied(self._history, action, lateness_s=action.lateness_s + self._mono() - began)
        if HOSTD in fault.targets:
            self._end_self()
        self._look(active)

    def _contradicted(self, fault: FaultPlan) -> str:
        """Why it cannot strike now: another one is in force on a target, and the two contradict."""
        for active in self._active.values():
            common = [target for target in fault.targets if target in active.plan.targets]
            if common and contradict(fault.kind, active.plan.kind):
                return f"contradicts {active.plan.id}, which is in force on {', '.join(common)}"
        return ""

    # --- verify ---------------------------------------------------------------------------------------------

    def _look(self, active: _Active, *, last: bool = False) -> None:
        """Look at every target that has not been seen to take; the verdict is recorded once, when all is known."""
        if not active.waiting and not active.seen:
            return
        late = last or self._mono() >= active.since_s + self._wait_s(active.plan)
        for target in list(active.waiting):
            seen = self._seen(active.plan, target)
            if seen.ok or late:
                active.waiting.remove(target)
                active.seen.append(Seen(seen.ok, f"{target}: {seen.detail}"))
        active.next_look_s = self._mono() + VERIFY_GAP_S
        if not active.waiting:
            self._judge(active)

    def _wait_s(self, fault: FaultPlan) -> float:
        return self._registry[fault.kind].verify_wait_s or VERIFY_WAIT_S

    def _seen(self, fault: FaultPlan, target: str) -> Seen:
        try:
            return self._registry[fault.kind].verify(self._tools(fault), target)
        except TROUBLE as error:
            return Seen(False, str(error))

    def _judge(self, active: _Active) -> None:
        fault, seen = active.plan, active.seen
        active.seen = []
        detail = "; ".join(one.detail for one in seen)
        if not all(one.ok for one in seen):
            self._verified(fault, ok=False, detail=detail)
            return
        self._verified(fault, ok=True, detail=detail)
        if self._registry[fault.kind].one_shot:
            self._settle(fault, active.since_s, final=False, left_stopped=False)

    def _verified(self, fault: FaultPlan, *, ok: bool, detail: str) -> None:
        telling.verified(self._history, fault, ok=ok, detail=detail)
        self.on_seen(fault.id, ok, detail[: telling.DETAIL_MAX])

    # --- heal -----------------------------------------------------------------------------------------------

    def heal(self, action: Heal, *, run_over: bool = False) -> None:
        """A fault whose heal starts containers leaves them stopped when the run is over, and says so."""
        fault, began = action.fault, self._mono()
        active = self._active.get(fault.id)
        if active is None:
            return  # it healed itself, or never struck
        self._look(active, last=True)
        if fault.id not in self._active:
            return
        kind, problems = self._registry[fault.kind], []
        left_stopped = run_over and kind.restarts
        for target in () if left_stopped else fault.targets:
            try:
                if target != HOSTD:
                    kind.heal(self._tools(fault), target)
                    seen = kind.healed(self._tools(fault), target)
                    problems += [] if seen.ok else [f"{target}: the heal did not take: {seen.detail}"]
            except TROUBLE as error:
                problems.append(f"{target}: {error}")
        self._settle(fault, began, final=action.final, left_stopped=left_stopped, keep_undo=bool(problems))
        for problem in problems:
            telling.lapse(self._history, "heal_failed", fault.targets[0], problem)

    def adopt(self, number: int, fault: FaultPlan) -> None:
        """A fault applied by a hostd before this one: its undo entry is this runner's to close."""
        self._numbers[fault.id] = number
        self._active[fault.id] = _Active(fault, self._mono())
        if HOSTD in fault.targets:
            detail = f"{HOSTD}: killed, and back as another process"
            telling.verified(self._history, fault, ok=True, detail=detail)

    def _settle(
        self, fault: FaultPlan, began: float, *, final: bool, left_stopped: bool, keep_undo: bool = False
    ) -> None:
        self._active.pop(fault.id, None)
        number = self._numbers.pop(fault.id, None)
        if number is not None and not keep_undo:
            self._undo.done(number)
        wall_s = self._mono() - began
        telling.healed(self._history, fault, wall_s=wall_s, final=final, left_stopped=left_stopped)

    # --- meanwhile ------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look again at what has not taken yet, and let faults in force do what they do meanwhile."""
        for active in list(self._active.values()):
            if active.waiting and self._mono() >= active.next_look_s:
                self._look(active)
            if active.ticking and active.plan.id in self._active:
                self._tick(active)

    def _tick(self, active: _Active) -> None:
        """What fails is on record once and not tried again."""
        fault = active.plan
        for target in fault.targets:
            if target == HOSTD:
                continue
            try:
                since_s = self._mono() - active.since_s
                self._registry[fault.kind].tick(self._tools(fault), target, since_s)
            except TROUBLE as error:
                active.ticking = False
                telling.lapse(self._history, "fault_tick_failed", target, str(error))
                return

    def _tools(self, fault: FaultPlan) -> Tools:
        return Tools(
            self._machines,
            self._links,
            fault.params,
            self._quotas,
            behaviours=self._behaviours,
            fault=fault.id,
        )
