"""restart: stopped and started at once, as by a watchdog. Nothing to heal: the container is back by itself."""

from __future__ import annotations

from emulation.faults.base import FaultBase, FaultProblem, Seen, Tools, find


class Restart(FaultBase):
    kind = "restart"
    restarts = True
    one_shot = True

    def __init__(self) -> None:
        self._before: dict[str, str] = {}

    def apply(self, tools: Tools, target: str) -> None:
        container = find(tools, target)
        if not container.running:
            raise FaultProblem(f"{target} does not run ({container.status}): nothing to restart")
        self._before[target] = container.started_at
        tools.machines.restart(container)

    def verify(self, tools: Tools, target: str) -> Seen:
        container = find(tools, target)
        before = self._before.get(target, "")
        anew = container.running and container.started_at != before
        return Seen(anew, f"{container.status}, started {container.started_at}, before {before}")

    def heal(self, tools: Tools, target: str) -> None:
        """It heals itself; one that did not come back is started."""
        container = find(tools, target)
        if not container.running:
            tools.machines.start(container)
