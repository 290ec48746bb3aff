"""kill: SIGKILL to the container's first process. What was not on disk is lost. Healing starts the
container again.
"""

from __future__ import annotations

from emulation.faults.base import Fault, Machines, Seen, find


class Kill(Fault):
    kind = "kill"
    restarts = True

    def apply(self, machines: Machines, target: str) -> None:
        container = find(machines, target)
        if container.running:
            machines.kill(container, "KILL")

    def verify(self, machines: Machines, target: str) -> Seen:
        container = find(machines, target)
        dead = not container.running
        return Seen(dead, f"{container.status}, exit code {container.exit_code}")

    def heal(self, machines: Machines, target: str) -> None:
        """A fresh namespace: hostd shapes and verifies it again before that boot's gate opens."""
        container = find(machines, target)
        if not container.running:
            machines.start(container)
