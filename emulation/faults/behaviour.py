"""Faults of what a device does: its agent is told through its hook file, and says itself that it has begun.

One class for all of them, since what differs happens in the agent (`edge_agent.misbehaviour`). An agent whose plan has
no such fault has no hook and reads no such file.
"""

from __future__ import annotations

from emulation.faults.base import FaultBase, Seen, Tools
from history.fields import strings

SEEN_EVENT = "misbehaviour"  # the agent writes it whenever what is in force on it has changed


class Behaviour(FaultBase):
    devices_only = True
    verify_wait_s = 15.0  # an agent looks once a second; a throttled one that is encoding takes its time

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def apply(self, tools: Tools, target: str) -> None:
        tools.behaviours.tell(target, tools.fault, self.kind, tools.params)

    def verify(self, tools: Tools, target: str) -> Seen:
        said = tools.behaviours.says(target, SEEN_EVENT)
        active = strings(said[-1], "active") if said else []
        ok = tools.fault in active
        return Seen(
            ok, "in force, says the agent" if ok else f"the agent says: {', '.join(active) or 'nothing'}"
        )

    def heal(self, tools: Tools, target: str) -> None:
        tools.behaviours.untell(target, tools.fault)
