"""kill: SIGKILL to the container's first process. What was not on disk is lost. Healing starts the container again."""

from __future__ import annotations

from emulation.faults.base import FaultBase, Seen, Tools, find, runs_again


class Kill(FaultBase):
    kind = "kill"
    restarts = True

    def apply(self, tools: Tools, target: str) -> None:
        container = find(tools, target)
        if container.running:
            tools.machines.kill(container, "KILL")

    def verify(self, tools: Tools, target: str) -> Seen:
        container = find(tools, target)
        return Seen(not container.running, f"{container.status}, exit code {container.exit_code}")

    def heal(self, tools: Tools, target: str) -> None:
        """A fresh namespace: hostd shapes and verifies it again before that boot's gate opens."""
        container = find(tools, target)
        if not container.running:
            tools.machines.start(container)

    def healed(self, tools: Tools, target: str) -> Seen:
        return runs_again(tools, target)
