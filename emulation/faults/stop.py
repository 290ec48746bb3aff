"""stop: SIGTERM, and SIGKILL after ten seconds: a device that is switched off properly. Healing starts it again."""

from __future__ import annotations

from emulation.faults.base import Seen, Tools, find
from emulation.faults.kill import Kill


class Stop(Kill):
    kind = "stop"

    def apply(self, tools: Tools, target: str) -> None:
        container = find(tools, target)
        if container.running:
            tools.machines.stop(container)

    def verify(self, tools: Tools, target: str) -> Seen:
        container = find(tools, target)
        return Seen(container.status == "exited", f"{container.status}, exit code {container.exit_code}")
