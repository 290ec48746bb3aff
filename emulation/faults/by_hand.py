"""Requests that come in by hand, turned into faults like those of the plan, and answered when they are seen to take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from emulation.control import Answer, Client, ControlServer, FaultRequest, HealRequest, Request
from emulation.faults.base import Fault
from emulation.faults.core import Apply, FaultCore, Heal
from history.writer import HistoryWriter
from topology.plan import FaultPlan, Plan, Trigger
from topology.plan.faults import BROKER, COORDINATOR, HOSTD

BY_HAND_MAX = 1_000  # of one run: somebody's loop, not somebody


class ByHand:
    """`refuse(kind, targets)` says why this runtime cannot do it, or an empty string. `arm` records it as planned."""

    def __init__(
        self,
        server: ControlServer,
        core: FaultCore,
        history: HistoryWriter,
        *,
        refuse: Callable[[FaultRequest], str],
        arm: Callable[[tuple[FaultPlan, ...]], None],
        taken: Collection[str] = (),
    ) -> None:
        self._server, self._core, self._history = server, core, history
        self._refuse, self._arm = refuse, arm
        self._made = sum(name.startswith("by-hand-") for name in taken)
        self._waiting: dict[str, list[Client]] = {}

    def poll(self, now: float) -> list[Apply | Heal]:
        """What is to be done now; `settled` answers."""
        found: list[Apply | Heal] = []
        for client, request in self._server.poll():
            action, answer = self._take(request, now)
            if action is None:
                client.answer(answer)
                continue
            found.append(action)
            if isinstance(action, Heal):
                client.answer(answer)
            else:
                self._waiting.setdefault(action.fault.id, []).append(client)
        return found

    def settled(self, fault: str, ok: bool, detail: str) -> None:
        """A fault has been seen to take, or not to; whoever asked for it is told."""
        for client in self._waiting.pop(fault, []):
            client.answer(Answer(ok=ok, detail=detail, fault=fault))

    def _take(self, request: Request, now: float) -> tuple[Apply | Heal | None, Answer]:
        if isinstance(request, HealRequest):
            heal = self._core.heal_now(request.fault)
            names = ", ".join(fault.id for fault in self._core.active) or "none"
            detail = "healed" if heal else f"no fault {request.fault!r} is in force; in force: {names}"
            return heal, Answer(ok=heal is not None, detail=detail, fault=request.fault)
        problem = self._refuse(request)
        if not problem and self._made >= BY_HAND_MAX:
            problem = f"{BY_HAND_MAX} faults by hand are enough for one run"
        if problem:
            return None, Answer(ok=False, detail=problem)
        self._made += 1
        fault = FaultPlan(
            id=f"by-hand-{self._made}",
            kind=request.kind,
            trigger=Trigger(),
            targets=request.targets,
            heal_after_s=request.heal_after_s,
            params=request.params,
        )
        self._arm((fault,))
        return self._core.inject(fault, now), Answer(ok=True, detail="")

    def close(self) -> None:
        for name in list(self._waiting):
            self.settled(name, ok=False, detail="the run ended before it was seen to take")
        self._server.close()


def refusal(plan: Plan, registry: Mapping[str, Fault], request: FaultRequest) -> str:
    """Why hostd will not do it, or an empty string. What needs more than the plan to know is found when it is done."""
    fault, devices = registry.get(request.kind), {device.name for device in plan.devices}
    if fault is None:
        return f"no fault is called {request.kind!r}; there are {', '.join(sorted(registry))}"
    allowed = devices if fault.devices_only else devices | {BROKER, COORDINATOR}
    allowed = allowed | {HOSTD} if request.kind == "kill" else allowed
    unknown = [target for target in request.targets if target not in allowed]
    if unknown:
        return (
            f"{request.kind} cannot hit {', '.join(unknown[:5])}: {len(devices)} devices or a service it fits"
        )
    if request.kind == "link_change" and not (
        request.params.links or request.params.up or request.params.down
    ):
        return "link_change: nothing would change"
    return ""
