"""pause: the freezer stops every process where it stands; connections stay open and time out at the other end."""

from __future__ import annotations

from emulation.faults.base import FaultBase, Seen, Tools, find, runs_again


class Pause(FaultBase):
    kind = "pause"

    def apply(self, tools: Tools, target: str) -> None:
        container = find(tools, target)
        if container.status != "paused":
            tools.machines.pause(container)

    def verify(self, tools: Tools, target: str) -> Seen:
        status = find(tools, target).status
        return Seen(status == "paused", status)

    def heal(self, tools: Tools, target: str) -> None:
        container = find(tools, target)
        if container.status == "paused":
            tools.machines.unpause(container)

    def healed(self, tools: Tools, target: str) -> Seen:
        return runs_again(tools, target)
